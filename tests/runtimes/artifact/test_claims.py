"""A manifest is believed only where it is plausible, and the graph says the same: every leaf of it, replaced by anything."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from json_leaves import VALUES, places, replaced
from onnx import TensorProto, numpy_helper

from runtimes.agreement import TOLERANCES
from runtimes.artifact.artifact import Artifact, artifact_of, read_artifact
from runtimes.artifact.claims import calibration_problem, check_beside, check_facts, check_graph, class_names
from runtimes.errors import PARITY, UserError
from runtimes.files.folder import read_json, write_manifest
from runtimes.models.graph_facts import onnx_facts
from runtimes.session import open_session
from runtimes.verify import verify

Exported = Callable[[Case], Path]
CASE = Case("multilabel", 3, input_size="40x56")
# What the graph itself does not say: how far its scores may lie from the golden ones.
UNTOLD = ("folder", "manifest", "tolerance")


@pytest.fixture
def artifact(exported: Exported, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(exported(CASE), tmp_path / "artifact"))


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any] = lambda manifest: None) -> None:
    """The manifest anew, as whoever can write files would write it."""
    manifest = read_json(folder / "manifest.json")
    change(manifest)
    write_manifest(folder, "artifact", {key: value for key, value in manifest.items() if key not in ("kind", "format", "files")})


def golden(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    path = folder / "test_data_set_0" / name
    tensor = TensorProto.FromString(path.read_bytes())
    path.write_bytes(numpy_helper.from_array(np.ascontiguousarray(change(numpy_helper.to_array(tensor))), tensor.name).SerializeToString())
    rewrite(folder)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_other_value_anywhere_is_the_same_artifact_or_a_user_error(exported: Exported, data: st.DataObject) -> None:
    folder = exported(CASE)
    manifest = read_json(folder / "manifest.json")
    told = onnx_facts(memoryview((folder / "model.onnx").read_bytes()))
    path = data.draw(st.sampled_from(list(places(manifest["artifact"]))))
    other = {**manifest, "artifact": replaced(manifest["artifact"], path, data.draw(VALUES))}
    try:
        found = artifact_of(folder, other)
        check_graph(other["artifact"], told, "folder")
    except UserError:
        return
    assert answers(found) == answers(artifact_of(folder, manifest))
    assert found.tolerance <= TOLERANCES[found.precision]


def answers(artifact: Artifact) -> dict[str, Any]:
    return {key: value for key, value in vars(artifact).items() if key not in UNTOLD}


@pytest.mark.parametrize(("key", "value", "word"), [
    ("classes", ["y", "x", "z"], "classes"), ("temperatures", [0.8, 1.0, 1.75], "temperatures"), ("thresholds", [], "thresholds"),
    ("graph_size", [32, 48], "graph_size"), ("precision", "int8", "precision"), ("synthetic", True, "synthetic"), ("opset", 20, "opset"),
    ("student", "another", "student"), ("input", "tensor", "input"), ("task", "multiclass", "do not fit"), ("parameters", 7, "parameters")])
def test_a_manifest_that_contradicts_its_graph_is_refused_by_every_reader(artifact: Path, key: str, value: Any, word: str) -> None:
    rewrite(artifact, lambda manifest: manifest["artifact"].update({key: value}))
    for reader in (read_artifact, open_session, verify):
        with pytest.raises(UserError, match=word):
            reader(artifact)


def test_an_ir_is_held_against_its_own_facts(exported: Exported, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported(Case(target="openvino")), tmp_path / "ir"))
    read_artifact(folder)
    rewrite(folder, lambda manifest: manifest["artifact"]["image"].update(mean=[0.5, 0.5, 0.5]))
    with pytest.raises(UserError, match=r"image\.mean \[0\.5, 0\.5, 0\.5\], the graph itself says \[0\.485"):
        open_session(folder)


@pytest.mark.parametrize("precision", TOLERANCES)
def test_no_artifact_allows_itself_more_than_its_precision_does(exported: Exported, precision: str) -> None:
    facts = {**read_json(exported(Case()) / "manifest.json")["artifact"], "precision": precision}
    check_facts({**facts, "tolerance": TOLERANCES[precision]}, "here")
    check_facts({**facts, "tolerance": TOLERANCES[precision] / 10}, "here")
    for tolerance in (TOLERANCES[precision] * 1.01, 0, -1, float("inf"), float("nan"), "0.1", True):
        with pytest.raises(UserError, match="tolerance"):
            check_facts({**facts, "tolerance": tolerance}, "here")


@pytest.mark.parametrize("names", [["a", "a"], ["a", ""], ["a", " "], ["a", "b\n"], ["a", "\x1b[2J"], ["a", 5], ["a", "\ud800"], "ab", [],
                                   ["a", "\u2028"], ["a", "b\x7f"]])
def test_classes_without_a_plain_name_of_their_own_are_refused(names: Any) -> None:
    assert class_names(names, "classes")


def test_names_in_any_script_are_names() -> None:
    assert class_names(["Glioma (III\N{DEGREE SIGN})", "\u0628\u0637\u0646", "\u0915\u094d\u200d\u0937", "a b", "A", "a"], "classes") == ""


@pytest.mark.parametrize(("task", "classes", "temperatures", "thresholds"), [
    ("binary", 3, [1.0], []), ("multiclass", 1, [1.0], []), ("multiclass", 3, [1.0] * 3, []), ("multiclass", 3, [1.0], [0.5] * 3),
    ("multilabel", 3, [1.0] * 2, []), ("multilabel", 3, [1.0], [0.5]), ("multilabel", 2, [0.0, 1.0], []), ("ordinal", 3, [], []),
    ("multilabel", 2, [1.0], [0.5, 1.5]), ("ordinal", 3, [float("nan")], [])])
def test_a_calibration_that_does_not_fit_is_told(task: str, classes: int, temperatures: list[float], thresholds: list[float]) -> None:
    assert calibration_problem(task, ["x"] * classes, temperatures, thresholds)


@pytest.mark.parametrize(("task", "classes", "temperatures", "thresholds"), [
    ("binary", 2, [0.05], []), ("multilabel", 1, [1], [0.5]), ("multilabel", 3, [20.0] * 3, []), ("ordinal", 5, [1.5], [])])
def test_a_calibration_that_fits_is_taken(task: str, classes: int, temperatures: list[float], thresholds: list[float]) -> None:
    assert calibration_problem(task, ["x"] * classes, temperatures, thresholds) == ""


@pytest.mark.parametrize(("name", "content", "word"), [
    ("config.json", {"id2label": {"0": "y", "1": "x", "2": "z"}}, "id2label"),
    ("config.json", {"rd": {"model": {"task": "binary"}}}, "task"),
    ("preprocessor_config.json", {"image_mean": [0.5] * 3}, "image_mean"), ("parity.json", {"passed": False}, "passed"),
    ("parity.json", {"passed": 1}, "passed"), ("latency.json", {"facts": {"precision": "fp16"}}, "precision")])
def test_a_file_beside_the_manifest_that_says_otherwise_is_refused(artifact: Path, name: str, content: dict[str, Any], word: str) -> None:
    facts = read_json(artifact / "manifest.json")["artifact"]
    check_beside(facts, name, read_json(artifact / name), "here")
    check_beside(facts, name, {}, "here")
    with pytest.raises(UserError, match=word):
        check_beside(facts, name, content, "here")
    (artifact / name).write_text(json.dumps({**read_json(artifact / name), **content}))
    rewrite(artifact)
    with pytest.raises(UserError, match=word):
        verify(artifact)


@pytest.mark.parametrize(("name", "change", "word"), [
    ("input_0.pb", lambda held: held[:0], "golden input"), ("input_0.pb", lambda held: np.repeat(held[:1], len(held), 0), "the same one"),
    ("input_0.pb", lambda held: held.astype(np.uint16), "golden input uint16"),
    ("input_0.pb", lambda held: held.repeat(2, axis=1), "golden input"), ("output_0.pb", lambda held: held[:, :2], "golden logits"),
    ("output_0.pb", lambda held: held * np.float32("inf"), "NaN or Inf"), ("output_1.pb", lambda held: held.astype("f8"), "probabilities")])
def test_golden_vectors_that_prove_nothing_are_refused(artifact: Path, name: str, change: Callable[[Any], Any], word: str) -> None:
    golden(artifact, name, change)
    with pytest.raises(UserError, match=word):
        verify(artifact)


def test_golden_probabilities_follow_from_the_golden_logits(artifact: Path) -> None:
    golden(artifact, "output_1.pb", lambda held: held * np.float32(0.99))
    code, report = verify(artifact)
    assert code == PARITY
    assert report["calibration_difference"] > 1e-3
