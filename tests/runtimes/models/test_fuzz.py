"""S-4 in short: damaged ONNX files at our own door end as a UserError or as a model that runs.

The whole is benchmarks/robustness/fuzz_onnx.py.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Case, random_images
from onnx import TensorProto, helper
from places import ROOT

from runtimes.errors import UserError
from runtimes.files.folder import read_json, write_manifest
from runtimes.session import open_session

Exported = Callable[[Case], Path]


@pytest.fixture
def fuzzing() -> SimpleNamespace:
    """The benchmark's own modules."""
    from benchmarks.robustness import child, mutants

    return SimpleNamespace(child=child.Child, mutants=mutants.mutants, layout=mutants.layout)


def test_a_hundred_damaged_models_crash_nothing_hang_nothing_and_raise_one_kind_of_error(exported: Exported, tmp_path: Path) -> None:
    out = tmp_path / "fuzz.json"
    run = subprocess.run([sys.executable, "-m", "benchmarks.robustness.fuzz_onnx", "--artifact", str(exported(Case())), "--mutants", "100",
                          "--seed", "3", "--out", str(out)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads(out.read_text())
    assert sum(found["ends"].values()) == found["mutants"] == 100
    assert set(found["ends"]) == {"refused", "opened"}, "damage is found, and what runs is left to hashes and golden vectors"
    assert found["slowest_s"] <= 10
    assert found["peak_mb"] <= 2048
    assert all(sum(kind.values()) == 25 for kind in found["by_kind"].values())


def test_mutants_differ_from_the_whole_file_and_hit_every_length_field_and_no_weight(fuzzing: SimpleNamespace, exported: Exported) -> None:
    data = (exported(Case()) / "model.onnx").read_bytes()
    known = fuzzing.layout(data)
    model = onnx.load_from_string(data)
    assert sum(len(one) for one in known.weights) == sum(len(one.raw_data) for one in model.graph.initializer) + sum(
        len(one.t.raw_data) for node in model.graph.node for one in node.attribute)
    assert len(known.lengths) > 10 * len(model.graph.node)
    made = list(fuzzing.mutants(data, 200, 5))
    assert made == list(fuzzing.mutants(data, 200, 5))
    assert all(mutant != data for kind, _, mutant in made if kind != "a length that lies")
    inside = {at for stretch in known.weights for at in stretch}
    for kind, told, _ in made:
        if kind == "a byte outside the weights":
            assert int(told.split()[1].rstrip(":")) not in inside


@pytest.mark.parametrize(("code", "end", "told"), [
    ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crash", "SIGSEGV"), ("raise SystemExit(9)", "crash", "exit 9"),
    ("import time; time.sleep(60)", "hang", "")])
def test_a_child_that_crashes_or_hangs_is_counted_as_such(fuzzing: SimpleNamespace, code: str, end: str, told: str) -> None:
    child = fuzzing.child.__new__(fuzzing.child)
    child.process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    answer = child.answer(0.3 if end == "hang" else 30.0)
    assert (answer["end"], answer.get("told", "")) == (end, told)
    assert child.process.poll() is not None
    child.process.stdin.close()
    child.process.stdout.close()


def other_graph(change: str) -> onnx.ModelProto:
    """Graphs that open, and answer otherwise than the manifest says or not at all."""
    kind = TensorProto.DOUBLE if change == "another type" else TensorProto.FLOAT
    size = 2 if change == "another size" else 3
    # (N, 32, 32, 1) -> (N, size): by a mean, by a sum of pixels that is not there, by a concatenation
    nodes = [helper.make_node("Cast", ["image"], ["f"], to=kind), helper.make_node("ReduceMean", ["f", "axes"], ["m"], keepdims=1),
             helper.make_node("Reshape", ["m", "shape"], ["one"]), helper.make_node("Concat", ["one"] * size, ["logits"], axis=1),
             helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1)]
    shape = [7, -1] if change == "it cannot run" else [-1, 1]
    if change == "another batch":
        nodes[2] = helper.make_node("Reshape", ["m", "shape"], ["all"])
        nodes.insert(3, helper.make_node("Slice", ["all", "zero", "single"], ["one"]))
    inputs = [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 32, 32, 1])]
    if change == "another input":
        inputs.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["n"]))
        nodes.append(helper.make_node("Identity", ["more"], ["unused"]))
    values = {"axes": [1, 2, 3], "shape": shape, "zero": [0], "single": [1]}
    graph = helper.make_graph(
        nodes, "g", inputs, [helper.make_tensor_value_info(name, kind, None) for name in ("logits", "probabilities")],
        [helper.make_tensor(name, TensorProto.INT64, [len(value)], value) for name, value in values.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.parametrize(("change", "told"), [
    ("another type", "float64"), ("another size", r"\(5, 2\), expected float32 \(5, 3\)"), ("another batch", r"\(1, 3\), expected"),
    ("another input", "the graph itself has"), ("it cannot run", "Reshape does not fit its inputs")])
def test_a_graph_that_opens_and_then_fails_is_refused_in_the_same_words_as_any_other(exported: Exported, tmp_path: Path, change: str,
                                                                                   told: str) -> None:
    folder = Path(shutil.copytree(exported(Case()), tmp_path / "artifact"))
    model = other_graph(change)
    model.metadata_props.extend(onnx.load(folder / "model.onnx").metadata_props)
    onnx.save(model, folder / "model.onnx")
    held: dict[str, Any] = read_json(folder / "manifest.json")
    write_manifest(folder, "artifact", {key: value for key, value in held.items() if key not in ("kind", "format", "files")})
    with pytest.raises(UserError, match=told):
        open_session(folder).run(np.stack(random_images(Case(), 5)))
