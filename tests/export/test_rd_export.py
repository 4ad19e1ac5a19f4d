"""rd-export as a user meets it: what is printed and written, what is refused with which exit code, the card's own code."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Case, image_set, random_images, write_student
from PIL import Image

from export.commands import export, parity_rows
from export.config import ExportSettings
from runtimes.commands.flags import parse
from runtimes.errors import MISSING, PARITY, USAGE, UserError
from runtimes.files.folder import changed_files, read_json, read_manifest, sha256_file
from runtimes.session import open_session

Exported = Callable[[Case], Path]
FILES = {"README.md", "bom.cdx.json", "config.json", "latency.json", "manifest.json", "model.onnx", "parity.html", "parity.json",
         "preprocessor_config.json", "test_data_set_0"}


def test_the_folder_holds_what_the_contract_names(exported: Exported) -> None:
    folder = exported(Case())
    assert {path.name for path in folder.iterdir()} == FILES
    manifest = read_manifest(folder, "artifact")
    assert changed_files(folder, manifest) == []
    assert set(manifest["files"]) == (FILES - {"manifest.json", "test_data_set_0"}) | {
        f"test_data_set_0/{name}.pb" for name in ("input_0", "output_0", "output_1")}
    assert manifest["parents"]["student"] == sha256_file(folder.parent / "student" / "manifest.json")
    assert manifest["command"].startswith("rd-export --target=onnx --precision=fp32 --out=artifact ")
    assert str(folder.parent) not in json.dumps(manifest), "no path of this machine ships"
    latency = read_json(folder / "latency.json")
    assert len(latency["samples_ns"]) == 5
    assert latency["facts"]["provider"] == "CPUExecutionProvider"
    assert (folder / "config.json").read_bytes() == (folder.parent / "student" / "config.json").read_bytes()


def test_golden_vectors_replay_in_onnx_s_own_test_layout(exported: Exported) -> None:
    import onnx
    from onnx.reference import ReferenceEvaluator

    folder = exported(Case())
    tensors = {name: onnx.numpy_helper.to_array(onnx.TensorProto.FromString((folder / "test_data_set_0" / f"{name}.pb").read_bytes()))
               for name in ("input_0", "output_0", "output_1")}
    assert tensors["input_0"].shape == (16, 32, 32, 1)
    third = ReferenceEvaluator(str(folder / "model.onnx"))  # neither torch nor the runtime that ships
    logits, probabilities = third.run(None, {"image": tensors["input_0"]})
    assert np.abs(logits - tensors["output_0"]).max() < 1e-4
    assert np.abs(probabilities - tensors["output_1"]).max() < 1e-5


@pytest.mark.parametrize("case", [Case(), Case("multilabel", 3, input_size="40x56"), Case("ordinal", 1, "uint16", (100.0, 3000.0)),
                                  Case(input="tensor")], ids=str)
def test_the_card_s_own_code_runs(exported: Exported, tmp_path: Path, case: Case) -> None:
    folder = Path(shutil.copytree(exported(case), tmp_path / "artifact"))
    text = (folder / "README.md").read_text()
    assert "not a medical device" in text
    size = tuple(map(int, (case.input_size or "32x32").split("x")))
    raw = random_images(case, 1, (size,))[0]
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    Image.fromarray(raw if case.channels == 3 else raw[..., 0]).save(tmp_path / "image.png")
    scores = open_session(folder).run(raw)
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "ORT_DISABLE_TELEMETRY": "1"}
    answers = []
    for block in blocks:
        run = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
        assert run.returncode == 0, run.stderr
        answers.append(run.stdout.splitlines())
    assert answers[0][0] == f"decided: {scores.labels[0]}"
    for told, wanted in ((answers[0][1], scores.probabilities), (answers[1][0], scores.logits if case.input == "tensor" else
                                                                 scores.probabilities)):
        found = ast.literal_eval(told)
        assert tuple(found) == scores.classes
        assert np.abs(np.asarray(list(found.values())) - wanted[0]).max() < 1e-4


def test_the_log_is_short_and_says_what_comes_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_student(tmp_path / "student", Case())
    settings = ExportSettings(student_dir=tmp_path / "student", out=tmp_path / "out", samples=70, golden_images=8)
    assert export(settings, "rd-export", lambda checkpoint: image_set(Case())) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["student", "export", "parity", "golden", "latency"]
    assert "24 images, 0 flips" in lines[2]
    assert "p90" in lines[4]
    assert lines[-1].startswith("next: rd-verify")
    assert open_session(tmp_path / "out").run(random_images(Case(), 1)[0]).labels[0] in "abc"


def test_resume_keeps_a_finished_artifact_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_student(tmp_path / "student", Case())
    settings = ExportSettings(student_dir=tmp_path / "student", out=tmp_path / "out", samples=5, golden_images=8, resume=True,
                              data="here")
    images = replace(image_set(Case()), hashes=tuple(f"{row:064x}" for row in range(24)))
    assert export(settings, "", lambda checkpoint: images) == 0  # nothing there: exported
    before = sha256_file(tmp_path / "out" / "manifest.json")
    assert export(replace(settings, data="moved"), "", lambda checkpoint: images) == 0
    assert "finished already" in capsys.readouterr().out
    assert sha256_file(tmp_path / "out" / "manifest.json") == before
    with pytest.raises(UserError, match="not empty"):
        export(settings, "", lambda checkpoint: replace(images, hashes=("f" * 64, *images.hashes[1:])))  # --data names other images
    with pytest.raises(UserError, match="not empty"):
        export(replace(settings, opset=20), "", lambda checkpoint: image_set(Case()))
    (tmp_path / "out" / "model.onnx").write_bytes(b"half")
    with pytest.raises(UserError, match="not empty"):
        export(settings, "", lambda checkpoint: image_set(Case()))


def test_a_failed_parity_is_exit_code_three_and_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import export.graph.fp32 as making

    write_student(tmp_path / "student", Case())
    honest = making.reparameterised

    def nudged(model):
        copy = honest(model)
        copy.head.bias.data[0] += 0.01
        return copy

    monkeypatch.setattr(making, "reparameterised", nudged)
    with pytest.raises(UserError, match="parity failed") as caught:
        export(ExportSettings(student_dir=tmp_path / "student", out=tmp_path / "out"), "", lambda checkpoint: image_set(Case()))
    assert caught.value.exit_code == PARITY
    assert len(re.findall(r"image\d+: [abc] 0\.\d{4} by PyTorch, 0\.\d{4} here", str(caught.value))) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


@pytest.mark.parametrize(("change", "code"), [({"target": ("trt",), "gpu": ("sm12",)}, USAGE),
                                              ({"target": ("trt",), "gpu": ("sm87",)}, USAGE),
                                              ({"target": ("trt",), "on_device": True}, MISSING), ({"device": "cuda"}, MISSING),
                                              ({"precision": "int8"}, 1), ({"precision": "fp16"}, MISSING),
                                              ({"student_dir": Path("nowhere")}, 1)])
def test_what_cannot_be_done_is_refused_before_any_work(tmp_path: Path, change: dict[str, object], code: int) -> None:
    write_student(tmp_path / "student", Case())
    settings = replace(ExportSettings(student_dir=tmp_path / "student", out=tmp_path / "out"), **change)  # type: ignore[arg-type]
    with pytest.raises(UserError) as caught:
        export(settings, "", lambda checkpoint: image_set(Case()))
    assert caught.value.exit_code == code
    assert not (tmp_path / "out").exists()


def test_a_used_output_folder_needs_overwrite(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "student").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(UserError, match="--overwrite") as caught:
        export(ExportSettings(student_dir=tmp_path / "student", out=tmp_path / "out"), "", lambda checkpoint: image_set(Case()))
    assert caught.value.exit_code == USAGE
    assert (tmp_path / "out" / "mine").exists()


def test_data_without_validation_images_is_refused() -> None:
    images = image_set(Case())
    assert parity_rows(images, 5) == [0, 5, 11, 17, 23]
    assert parity_rows(images, 999) == list(range(24))
    with pytest.raises(UserError, match="validation"):
        parity_rows(replace(images, split=np.asarray(["train"] * 24, dtype=object)), 5)


@pytest.mark.parametrize("change", [{"input_size": "64"}, {"input_size": "0x9"}, {"input_size": "9999x64"}, {"opset": 17}, {"threads": 0},
                                    {"golden_images": 3}, {"input": "tensor", "input_size": "64x64"}, {"samples": 0},
                                    {"overwrite": True, "resume": True}, {"target": ()}, {"target": ("trt", "trt")},
                                    {"precision": "bf16"},
                                    {"parity_pictures": 21}, {"parity_pictures": -1},
                                    {"max_flips": "few"}, {"max_flips": "101%"}, {"max_auc_drop": -0.1}, {"calibration_images": 0}])
def test_impossible_settings_are_usage_errors(change: dict[str, object]) -> None:
    with pytest.raises(UserError) as caught:
        ExportSettings(**change)  # type: ignore[arg-type]
    assert caught.value.exit_code == USAGE


def test_defaults_then_file_then_flags(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("input-size: 40x56\nmax_batch: 4\nopset: 20\n")
    settings = parse(ExportSettings, ["--config", str(file), "--opset", "19"], "rd-export", "")
    assert (settings.input_size, settings.max_batch, settings.opset, settings.target) == ("40x56", 4, 19, ("onnx",))
    assert settings.folder() == Path("artifact-onnx-fp32")
    file.write_text("target: [onnx, openvino]\n")
    several = parse(ExportSettings, ["--config", str(file), "--precision", "fp16", "--out", "all"], "rd-export", "")
    assert [(job.runtime, job.folder()) for job in several.jobs()] == [
        ("onnx", Path("all/artifact-onnx-fp16")), ("openvino", Path("all/artifact-openvino-fp16"))]
    file.write_text("input_sise: 40x56\n")
    with pytest.raises(UserError, match="input_size") as caught:
        parse(ExportSettings, ["--config", str(file)], "rd-export", "")
    assert caught.value.exit_code == USAGE


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "export.cli", *arguments], capture_output=True, text=True, check=False)


def test_the_command_s_exit_codes_and_one_line_errors(tmp_path: Path) -> None:
    assert command("--target", "tpu").returncode == USAGE
    for arguments, code in ((("--target", "trt", "--on-device"), MISSING), (("--student-dir", str(tmp_path / "none")), 1),
                            (("--opset", "7"), USAGE)):
        run = command(*arguments, "--out", str(tmp_path / "out"))
        assert run.returncode == code, run.stderr
        assert "Traceback" not in run.stderr
    assert not list(tmp_path.iterdir())


def test_help_loads_no_torch() -> None:
    code = ("import sys\nsys.argv = ['rd-export', '--help']\nfrom export.cli import main\ntry: main()\n"
            "except SystemExit as error: assert not error.code\n"
            "assert not [name for name in ('torch', 'onnxruntime', 'onnx', 'timm', 'scipy') if name in sys.modules]")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--input-size" in run.stdout
