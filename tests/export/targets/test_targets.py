"""Every target and precision as artifact folders: complete, replayed, their decisions proven; sabotage fails, health passes."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from conftest import Case, image_set, tiny_model, write_student
from places import ROOT

from benchmarks.robustness.faults import FAULTS, edited
from distill.networks.checkpoint import Calibration
from export.commands import export
from export.config import ExportSettings
from export.options import Limits
from export.parity.check import parity
from export.targets.table import TARGETS
from runtimes.artifact.artifact import needed_files, read_artifact
from runtimes.artifact.targets import TARGETS as DEVICE
from runtimes.artifact.targets import Precision, Target, target_of
from runtimes.backends.ort import OrtSession
from runtimes.errors import BUDGET, MISSING, USAGE, UserError
from runtimes.files.folder import changed_files, read_json, read_manifest
from runtimes.session import CheckedSession, open_session
from runtimes.verify import verify

Exported = Callable[[Case], Path]
HALF = Case(channels=3, precision="fp16")
BAKED = Case(channels=3, precision="fp16", input_size="40x56")


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


@pytest.mark.parametrize("target", ["onnx", "openvino", "trt"])
@pytest.mark.parametrize(("fit", "size"), [("crop", None), ("crop", "40x56"), ("pad", None), ("pad", "40x56")])
def test_images_cropped_or_padded_decide_as_pytorch_does_on_every_target(exported: Exported, target: str, fit: str,
                                                                         size: str | None) -> None:
    if target == "trt":
        pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed; pip install '.[tensorrt]'")
    folder = exported(Case(target=target, fit=fit, input_size=size))
    assert read_json(folder / "parity.json")["passed"]
    assert read_manifest(folder, "artifact")["artifact"]["image"]["fit"] == fit
    if target != "trt":
        code, _ = verify(folder, threads=1)
        assert code == 0


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


def test_int8_for_an_engine_is_symmetric_and_judged_before_the_engine_is_built(exported: Exported) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed; pip install '.[tensorrt]'")
    folder = exported(Case(target="trt", precision="int8"))
    assert read_manifest(folder, "artifact")["engine"]["precision"] == "int8"
    assert read_json(folder / "parity.json")["precision_share"]["int8"] > 0.5


@pytest.mark.parametrize("target", get_args(Target))
def test_every_target_is_a_row_on_both_sides_and_agrees_with_itself(target: Target) -> None:
    row, settings = DEVICE[target], ExportSettings(target=(target,), precision=DEVICE[target].precisions[-1])
    assert set(TARGETS) == set(DEVICE) == set(get_args(Target))
    assert target_of(row.model) is row
    assert row.model in needed_files(row.model)
    assert set(row.libraries) <= {"onnxruntime", "openvino"}
    assert settings.kept()["target"] == [target]
    for precision in set(get_args(Precision)) - set(row.precisions):
        with pytest.raises(UserError, match=f"not one of --target {target}") as caught:
            ExportSettings(target=(target,), precision=precision)
        assert caught.value.exit_code == USAGE


def test_no_file_of_export_or_runtimes_asks_for_a_target_by_its_name() -> None:
    root = ROOT
    for path in (*(root / "export").rglob("*.py"), *(root / "runtimes").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare) and ("target" in (words := ast.unparse(node)) or ".runtime" in words):
                assert not any(f"'{name}'" in words for name in DEVICE), f"{path.name}: {words}"


def test_fp16_that_this_machine_computes_in_fp32_and_int8_that_is_slower_are_refused(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_student(tmp_path / "student", Case())
    settings = ExportSettings(student_dir=tmp_path / "student", out=tmp_path / "out", samples=5, precision="int8", max_flips="20%",
                              max_auc_drop=0.5, calibration="minmax")
    monkeypatch.setattr("export.targets.speed.pace", lambda one, other, batch: 1.2)
    with pytest.raises(UserError, match="--keep-slower") as caught:
        export(settings, "", lambda checkpoint: image_set(Case(), 40, train=16))
    assert caught.value.exit_code == BUDGET
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


@pytest.mark.parametrize("name", ["nothing", *(name for name in FAULTS if "0.001" not in name)])
def test_sabotage_fails_parity_in_fp16_and_a_healthy_graph_passes(exported: Exported, name: str) -> None:
    artifact, images = read_artifact(exported(BAKED)), image_set(BAKED, 24)
    data = artifact.model_path.read_bytes()
    session = CheckedSession(artifact, OrtSession(data if name == "nothing" else edited(data, FAULTS[name]), threads=1))
    proof = parity(tiny_model(BAKED), session, artifact, images.images, images.labels, max_batch=4, precision_share={},
                   calibration=Calibration((1.5,)), limits=Limits(0.01, 0.005))
    assert proof["passed"] == (name == "nothing"), proof["reasons"]


def test_one_target_that_fails_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openvino")
    write_student(tmp_path / "student", Case())

    def broken(*_: Any, **__: Any) -> None:
        raise UserError("OpenVINO cannot read the exported graph: no reason given")

    monkeypatch.setattr("export.targets.to_openvino.to_ir", broken)
    settings = ExportSettings(student_dir=tmp_path / "student", out=tmp_path / "out", samples=5, target=("openvino", "onnx"))
    with pytest.raises(UserError, match="1 of 2 targets failed: openvino"):
        export(settings, "", lambda checkpoint: image_set(Case()))
    assert "cannot read the exported graph" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["artifact-onnx-fp32"]
