"""Sessions answer like PyTorch, bit-stable and for every task, and refuse whatever is not an image of their model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import CLASSES, Case, random_images
from PIL import Image

from runtimes.artifact.artifact import read_artifact
from runtimes.backends.ort import OrtSession
from runtimes.errors import MISSING, USAGE, UserError
from runtimes.files.folder import read_json, write_json
from runtimes.images.decode import decode
from runtimes.images.spec import read_image
from runtimes.scores import calibrated
from runtimes.session import CheckedSession, as_batch, open_session

Exported = Callable[[Case], Path]
CASES = [Case(), Case("multilabel", 3), Case("ordinal", 1, "uint16", (100.0, 3000.0)), Case(input="tensor")]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_single_image_equals_the_same_image_in_a_batch_bit_for_bit(exported: Exported, case: Case) -> None:
    batch = np.stack(random_images(case, 5))
    together = {threads: open_session(exported(case), threads=threads) for threads in (1, 2)}
    whole = together[1].run(batch)
    alone = [together[1].run(image) for image in batch]
    assert np.array_equal(np.concatenate([one.logits for one in alone]), whole.logits)
    assert np.array_equal(np.concatenate([one.probabilities for one in alone]), whole.probabilities)
    assert np.array_equal(together[2].run(batch).logits, whole.logits)
    assert all(np.array_equal(together[1].run(batch).logits, whole.logits) for _ in range(20))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_scores_name_decisions_and_probabilities_of_their_task(exported: Exported, case: Case) -> None:
    scores = open_session(exported(case)).run(np.stack(random_images(case, 6)))
    count = len(CLASSES[case.task])
    assert scores.logits.shape == scores.probabilities.shape == (6, count)
    assert scores.logits.dtype == scores.probabilities.dtype == np.float32
    artifact = read_artifact(exported(case))
    assert np.abs(calibrated(scores.logits, artifact.task, artifact.temperatures) - scores.probabilities).max() < 1e-6
    if case.task == "multilabel":
        assert np.array_equal(scores.decisions, scores.probabilities >= np.asarray([0.3, 0.5, 0.6]))
        assert scores.labels[0] == [name for name, hit in zip(CLASSES[case.task], scores.decisions[0], strict=True) if hit]
    else:
        assert np.allclose(scores.probabilities.sum(axis=1), 1, atol=1e-6)
        assert scores.labels == [CLASSES[case.task][index] for index in scores.probabilities.argmax(axis=1)]


def test_paths_arrays_and_lists_give_the_same_scores(exported: Exported, tmp_path: Path) -> None:
    session = open_session(exported(Case()))
    raw = random_images(Case(), 3, ((40, 56), (32, 32)))
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for path, image in zip(paths, raw, strict=True):
        Image.fromarray(image[..., 0]).save(path)
    wanted = np.concatenate([session.run(image).logits for image in raw])
    assert np.array_equal(session.run(paths).logits, wanted)
    assert np.array_equal(session.run([str(path) for path in paths]).logits, wanted)
    assert np.array_equal(session.run(raw).logits, wanted)
    assert np.array_equal(session.run(raw[0][..., 0]).logits, wanted[:1])
    assert np.array_equal(session.run(np.stack([raw[0], raw[0]])).logits, wanted[[0, 0]])


@pytest.mark.parametrize("case", [Case(), Case("ordinal", 1, "uint16", (100.0, 3000.0))], ids=str)
def test_a_dicom_file_is_the_same_input_as_its_array_bit_for_bit(exported: Exported, tmp_path: Path, case: Case) -> None:
    from dicoms import write_dicom

    session, artifact = open_session(exported(case)), read_artifact(exported(case))
    stored = random_images(case, 1)[0][..., 0]
    tags = {} if case.dtype == "uint8" else {"WindowCenter": 1500, "WindowWidth": 4000, "PhotometricInterpretation": "MONOCHROME1"}
    path = write_dicom(tmp_path / "IM000001", stored, **tags)
    assert np.array_equal(as_batch(path, artifact), as_batch(decode(path), artifact))
    assert np.array_equal(session.run(path).logits, session.run(decode(path)).logits)
    assert np.array_equal(session.run([str(path)]).probabilities, session.run(read_image(path)).probabilities)


def test_files_get_the_channels_of_the_model(exported: Exported, tmp_path: Path) -> None:
    grey = random_images(Case(), 1)[0]
    Image.fromarray(grey[..., 0]).save(tmp_path / "grey.png")
    Image.fromarray(grey.repeat(3, axis=2)).save(tmp_path / "colour.png")
    for case in (Case(), Case("multilabel", 3)):
        session = open_session(exported(case))
        wanted = session.run(grey.repeat(case.channels, axis=2)).logits
        assert np.array_equal(session.run([tmp_path / "grey.png", tmp_path / "colour.png"]).logits, wanted[[0, 0]])


def test_an_array_at_graph_size_is_not_copied(exported: Exported) -> None:
    artifact = read_artifact(exported(Case()))
    batch = np.stack(random_images(Case(), 2))
    assert as_batch(batch, artifact) is batch or np.shares_memory(as_batch(batch, artifact), batch)
    assert np.shares_memory(as_batch(batch[0], artifact), batch)
    strided = np.asfortranarray(batch)
    assert np.array_equal(as_batch(strided, artifact), batch)


def test_images_of_another_size_are_resized_by_the_spec(exported: Exported) -> None:
    artifact = read_artifact(exported(Case()))
    raw = random_images(Case(), 1, ((50, 70),))[0]
    assert np.array_equal(as_batch(raw, artifact)[0], artifact.image_spec.resized(raw))


def test_a_baked_graph_takes_one_size_alone(exported: Exported, tmp_path: Path) -> None:
    case = Case("multilabel", 3, input_size="40x56")
    session = open_session(exported(case))
    raw = random_images(case, 1, ((40, 56),))[0]
    Image.fromarray(raw).save(tmp_path / "a.png")
    assert np.array_equal(session.run(tmp_path / "a.png").logits, session.run(raw).logits)
    for size in ((32, 32), (56, 40), (80, 112)):
        with pytest.raises(UserError, match="40x56"):
            session.run(random_images(case, 1, (size,))[0])


GOOD = random_images(Case(), 1)[0]
BAD_INPUTS = {
    "float32": GOOD.astype(np.float32), "float64": GOOD / 255, "int32": GOOD.astype(np.int32), "uint16": GOOD.astype(np.uint16),
    "bool": GOOD > 9, "object": GOOD.astype(object), "big endian": GOOD.astype(">u2"), "nan": np.full((32, 32, 1), np.nan, np.float32),
    "constant": np.full((32, 32, 1), 7, np.uint8), "zero": np.zeros((32, 32, 1), np.uint8),
    "saturated": np.full((64, 64, 1), 255, np.uint8), "one constant in a batch": np.stack([GOOD, np.zeros_like(GOOD)]),
    "three channels": GOOD.repeat(3, 2), "two channels": GOOD.repeat(2, 2), "channels first": GOOD.transpose(2, 0, 1),
    "1x1": np.ones((1, 1, 1), np.uint8), "1x10000": np.tile(np.arange(250, dtype=np.uint8), 40)[None, :, None],
    "thin": np.tile(GOOD[:4], (1, 99, 1)), "empty batch": np.zeros((0, 32, 32, 1), np.uint8), "empty image": np.zeros((0, 32, 1), np.uint8),
    "empty list": [], "five axes": GOOD[None, None], "one axis": GOOD.reshape(-1), "nothing": None, "number": 3, "bytes": b"123",
    "missing file": "nowhere.png", "list of numbers": [1, 2, 3], "scalar": np.uint8(3),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_what_is_no_image_of_this_model_is_refused(exported: Exported, name: str) -> None:
    artifact = read_artifact(exported(Case()))
    with pytest.raises(UserError):
        as_batch(BAD_INPUTS[name], artifact)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("everywhere", [True, False])
def test_values_that_are_not_finite_never_reach_the_runtime(exported: Exported, value: float, everywhere: bool) -> None:
    session = open_session(exported(Case(input="tensor")))
    values = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    assert session.run(values).logits.shape == (2, 3)
    bad = np.full_like(values, value) if everywhere else values.copy()
    bad[1, 2, 31, 31] = value
    with pytest.raises(UserError, match="NaN or Inf"):
        session.run(bad)


def test_large_finite_values_are_not_mistaken_for_infinite_ones(exported: Exported) -> None:
    artifact = read_artifact(exported(Case(input="tensor")))
    values = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32) * np.float32(1e30)
    assert np.array_equal(as_batch(values, artifact), values)


def test_tensor_graphs_refuse_other_shapes_and_take_images_too(exported: Exported) -> None:
    case = Case(input="tensor")
    artifact = read_artifact(exported(case))
    for shape in ((3, 31, 32), (1, 1, 32, 32), (32, 32, 3), (0, 3, 32, 32)):
        with pytest.raises(UserError):
            as_batch(np.random.default_rng(0).normal(size=shape).astype(np.float32), artifact)
    raw = random_images(case, 1, ((50, 60),))[0]
    spec = artifact.image_spec
    assert np.array_equal(as_batch(raw, artifact), spec.normalised(spec.stored(raw)[None]))


def test_a_file_of_another_depth_is_refused_with_its_path(exported: Exported, tmp_path: Path) -> None:
    Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)).save(tmp_path / "deep.png")
    with pytest.raises(UserError, match=r"deep\.png.*uint16"):
        open_session(exported(Case())).run(tmp_path / "deep.png")
    assert open_session(exported(CASES[2])).run(tmp_path / "deep.png").logits.shape == (1, 4)


def test_facts_say_what_really_runs(exported: Exported) -> None:
    import onnxruntime

    session = open_session(exported(Case()), threads=2)
    facts = session.facts()
    assert facts["provider"] == "CPUExecutionProvider"
    assert facts["version"] == onnxruntime.__version__
    assert (facts["threads"], facts["precision"], facts["opset"], facts["target"]) == (2, "fp32", 18, "onnx")
    assert facts["model_sha256"] == read_json(exported(Case()) / "manifest.json")["files"]["model.onnx"]
    session.close()
    with pytest.raises(UserError, match="closed"):
        session.run(GOOD)


def test_a_missing_device_is_an_error_that_names_what_there_is(exported: Exported) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has the provider")
    with pytest.raises(UserError, match="CPUExecutionProvider") as caught:
        open_session(exported(Case()), device="cuda")
    assert caught.value.exit_code == MISSING
    for wrong in ({"device": "tpu"}, {"threads": 0}):
        with pytest.raises(UserError) as caught:
            open_session(exported(Case()), **wrong)  # type: ignore[arg-type]
        assert caught.value.exit_code == USAGE


def test_a_provider_that_falls_back_silently_is_refused(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    model = exported(Case()) / "model.onnx"  # which itself wants a session that has not fallen
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])

    class Fallen:
        def __init__(self, *_: object, **__: object) -> None: ...

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Fallen)
    with pytest.raises(UserError, match="onnxruntime uses CPU") as caught:
        OrtSession(model, device="cuda")
    assert caught.value.exit_code == MISSING


def test_an_array_of_any_layout_and_length_is_checked_the_same_way(exported: Exported) -> None:
    session = open_session(exported(Case()), threads=1)
    batch = np.stack(random_images(Case(), 3))
    expected = session.run(batch).logits
    for same in (np.asfortranarray(batch), batch[:, ::-1][:, ::-1], batch.view(type("Own", (np.ndarray,), {})), list(batch)):
        assert np.array_equal(session.run(same).logits, expected)
    with pytest.raises(UserError, match="at least one"):
        session.run(batch[:0])
    flat = batch.copy()
    flat[1] = 7
    with pytest.raises(UserError, match="single value 7"):
        session.run(flat)
    flat[1, 0, 1] = 8  # one pixel that differs is an image
    session.run(flat)


def test_a_target_of_another_version_is_refused(exported: Exported, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(exported(Case()), tmp_path / "a"))
    manifest = read_json(folder / "manifest.json")
    manifest["artifact"]["precision"] = "int4"
    write_json(folder / "manifest.json", manifest)
    with pytest.raises(UserError, match="int4"):
        open_session(folder)


def test_a_file_that_is_no_model_is_one_user_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(UserError, match="cannot open"):
        OrtSession(tmp_path / "model.onnx")


def test_importing_runtimes_loads_no_runtime_and_no_torch() -> None:
    code = "import runtimes, sys; print([name for name in ('torch', 'onnxruntime', 'onnx', 'tyro', 'timm') if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_device_runs_without_torch_and_with_telemetry_off(exported: Exported) -> None:
    code = ("import sys, os, json, numpy as np\nfrom runtimes import open_session\nsession = open_session(sys.argv[1])\n"
            "raw = np.arange(1024, dtype=np.uint8).reshape(32, 32)\n"
            "print(json.dumps({'labels': session.run(raw).labels, 'loaded': [n for n in ('torch', 'onnx', 'tyro') if n in sys.modules],\n"
            "'off': [os.environ.get(n) for n in ('ORT_DISABLE_TELEMETRY', 'ORT_TELEMETRY_DISABLED')]}))")
    run = subprocess.run([sys.executable, "-c", code, str(exported(Case()))], capture_output=True, text=True, check=True)
    found = json.loads(run.stdout)
    assert found["loaded"] == []
    assert found["off"] == ["1", "1"]
    assert found["labels"][0] in CLASSES["multiclass"]


def test_telemetry_is_off_before_the_library_is_imported() -> None:
    code = ("import os, sys, types\nseen = {}\n"
            "class Finder:\n    def find_spec(self, name, path, target=None):\n"
            "        if name == 'onnxruntime': seen.update(os.environ)\n        return None\n"
            "sys.meta_path.insert(0, Finder())\nfrom runtimes.backends.ort import load_runtime\nload_runtime()\n"
            "assert seen['ORT_DISABLE_TELEMETRY'] == seen['ORT_TELEMETRY_DISABLED'] == '1'")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_onnxruntime_the_message_says_what_to_install() -> None:
    code = ("import sys; sys.modules['onnxruntime'] = None\nfrom runtimes.backends.ort import load_runtime\n"
            "from runtimes.errors import UserError\n"
            "try: load_runtime()\nexcept UserError as error: assert error.exit_code == 5 and 'pip install' in str(error)\n"
            "else: raise SystemExit(9)")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_answer_that_is_not_finite_is_an_error(exported: Exported) -> None:
    class Overflown:
        def run(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray, None]:
            return np.asarray([[np.inf, 0, 0]], np.float32), np.asarray([[1, 0, 0]], np.float32), None

    with pytest.raises(UserError, match="NaN or Inf"):
        CheckedSession(read_artifact(exported(Case())), Overflown()).run(GOOD)  # type: ignore[arg-type]


def test_the_session_is_the_composition_of_its_parts(exported: Exported) -> None:
    class Echo:
        """A five-line fake runtime."""

        def run(self, batch: np.ndarray) -> tuple[np.ndarray, None, None]:
            return np.eye(3, dtype=np.float32)[: len(batch)], None, None

    session = CheckedSession(read_artifact(exported(Case())), Echo())  # type: ignore[arg-type]
    assert session.run(np.stack(random_images(Case(), 3))).labels == ["a", "b", "c"]
