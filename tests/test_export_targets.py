"""Every target and precision as artifact folders: complete, replayed, their decisions proven; sabotage fails, health passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CLASSES, Case, image_set, image_spec, tiny_model, write_student

from distill.checkpoint import Calibration
from export.commands import export
from export.config import ExportSettings
from export.gate import Limits
from export.parity import parity
from runtimes.artifact import read_artifact
from runtimes.errors import BUDGET, MISSING, UserError
from runtimes.folder import changed_files, read_json, read_manifest
from runtimes.session import open_session
from runtimes.verify import verify

Exported = Callable[[Case], Path]
HALF = Case(channels=3, precision="fp16")


@pytest.mark.parametrize("case", [HALF, Case(precision="int8"), Case("multilabel", precision="int8"),
                                  Case(target="openvino", precision="bf16")], ids=str)
def test_an_artifact_of_lower_precision_is_whole_and_replays(exported: Exported, case: Case) -> None:
    if case.target == "openvino":
        pytest.importorskip("openvino")
    folder = exported(case)
    assert changed_files(folder, read_manifest(folder, "artifact")) == []
    code, report = verify(folder, threads=1)
    assert (code, report["precision"]) == (0, case.precision)
    proof = read_json(folder / "parity.json")
    assert proof["passed"]
    assert proof["decisions"] == proof["images"] * (3 if case.task == "multilabel" else 1)
    assert proof["executed_share"]
    facts = read_json(folder / "latency.json")["facts"]
    assert facts["times_over_fp32"][case.precision] == facts["time_over_fp32"]
    assert facts["advice"]["ship"] in {"fp32", *facts["times_over_fp32"]}
    if case.precision == "int8":
        record = read_manifest(folder, "artifact")["lowering"]
        assert record["calibration_images"] == 16, "the training images, and none of the others"
        assert {one["calibration"] for one in record["attempts"]} == {"minmax", "entropy", "percentile"}


def test_an_engine_lies_beside_the_onnx_that_proves_it_and_is_not_run_without_its_gpu(exported: Exported) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed; pip install '.[tensorrt]'")
    folder = exported(Case(target="trt"))
    manifest = read_manifest(folder, "artifact")
    assert {"model.onnx", "model.engine"} <= set(manifest["files"])
    assert manifest["engine"]["onnx_sha256"] == manifest["files"]["model.onnx"]
    assert manifest["engine"]["gpus"] == ["sm86"]
    assert read_json(folder / "parity.json")["passed"]
    assert read_json(folder / "latency.json")["samples_ns"] == []
    with pytest.raises(UserError, match=r"GPU|driver|cuda") as caught:
        open_session(folder)
    assert caught.value.exit_code == MISSING


def test_fp16_that_this_machine_computes_in_fp32_and_int8_that_is_slower_are_refused(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_student(tmp_path / "student", Case())
    settings = ExportSettings(student_dir=tmp_path / "student", out=tmp_path / "out", samples=5, precision="int8", max_flips="20%",
                              max_auc_drop=0.5, calibration="minmax")
    monkeypatch.setattr("export.pace.pace", lambda one, other, batch: 1.2)
    with pytest.raises(UserError, match="--keep-slower") as caught:
        export(settings, "", lambda checkpoint: image_set(Case(), 40, train=16))
    assert caught.value.exit_code == BUDGET
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def sabotaged(session: Any, name: str) -> Any:
    """A session with one fault between the file and the answer."""
    honest = session.runtime.run

    def run(batch: Any) -> Any:
        given = batch if isinstance(batch, np.ndarray) else batch[0]
        if name == "swapped channels":
            given = np.ascontiguousarray(given[..., ::-1])
        elif name == "wrong mean":
            given = np.clip(given.astype(int) + 20, 0, 255).astype(np.uint8)
        elif name == "no antialias":
            given = np.ascontiguousarray(given[:, ::2, ::2].repeat(2, 1).repeat(2, 2))
        logits, probabilities, rest = honest(given)
        if name == "nudged bias":
            logits = logits + np.asarray([0.3, 0, 0], dtype=np.float32)
            probabilities = np.exp(logits / 1.5) / np.exp(logits / 1.5).sum(axis=1, keepdims=True)
        elif name == "temperature of 1":
            probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        elif name == "class order":
            logits, probabilities = logits[:, ::-1], probabilities[:, ::-1]
        return logits, probabilities, rest

    session.runtime.run = run
    return session


@pytest.mark.parametrize("name", ["nothing", "swapped channels", "wrong mean", "no antialias", "nudged bias", "temperature of 1",
                                  "class order"])
def test_sabotage_fails_parity_in_fp16_and_a_healthy_graph_passes(exported: Exported, name: str) -> None:
    artifact, images = read_artifact(exported(HALF)), image_set(HALF, 24)
    session = sabotaged(open_session(exported(HALF), threads=1), name)
    proof = parity(tiny_model(HALF), session, artifact, images.images, images.labels, max_batch=4, precision_share={},
                   calibration=Calibration((1.5,)), limits=Limits(0.01, 0.005))
    assert proof["passed"] == (name == "nothing"), proof["reasons"]
    assert image_spec(HALF).channels == 3
    assert CLASSES["multiclass"] == artifact.classes


def test_one_target_that_fails_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openvino")
    write_student(tmp_path / "student", Case())

    def broken(*_: Any, **__: Any) -> None:
        raise UserError("OpenVINO cannot read the exported graph: no reason given")

    monkeypatch.setattr("export.to_openvino.to_ir", broken)
    settings = ExportSettings(student_dir=tmp_path / "student", out=tmp_path / "out", samples=5, target=("openvino", "onnx"))
    with pytest.raises(UserError, match="1 of 2 targets failed: openvino"):
        export(settings, "", lambda checkpoint: image_set(Case()))
    assert "cannot read the exported graph" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["artifact-onnx-fp32"]
