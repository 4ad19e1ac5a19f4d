"""--method auto and --student auto through the command: chosen on held-out training images, the same after a kill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import class_folders, killed_in_epoch, refused, run, settings, tree
from tiny import tiny_images

from distill.networks.checkpoint import load_checkpoint
from distill.selection import candidates, trials
from distill.selection.choosing import describe_choice
from distill.selection.folds import held_out
from distill.selection.judging import judging_sets
from distill.selection.trials import worth
from runtimes.errors import BUDGET, UserError
from runtimes.files.folder import read_json

pytestmark = pytest.mark.usefixtures("in_empty_folder")


def test_auto_takes_the_method_that_does_best_on_held_out_training_images_and_resumes_to_the_same_choice(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = class_folders(Path("data"), tiny_images(counts=(30, 12, 12)))
    auto: dict[str, Any] = {"data": str(folder), "method": "auto", "auto_folds": 2, "auto_steps": 2, "epochs": 1}
    assert run(**auto, out=Path("whole")) == 0
    said = capsys.readouterr().out
    assert "drd is left out: the bank holds no stages" in said
    choice = read_json(Path("whole/metrics.json"))["choice"]
    assert set(choice["scores"]) == set(choice["losses"]) == {"vanilla", "kd", "rd"}
    assert all(len(found) == 2 for found in choice["scores"].values())
    means = {method: np.mean(found) for method, found in choice["scores"].items()}
    assert means[choice["method"]] == max(means.values())
    assert choice["teacher"]["points"] == pytest.approx(100 * (means["rd"] - means["vanilla"]))
    assert f"taken: {choice['method']}" in said
    assert "38 training images held out, 2 folds" in said
    assert choice["teacher"]["gain"] == pytest.approx(choice["losses"]["vanilla"] - choice["losses"]["rd"])
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
    near = replace(images, groups=None, alike=np.arange(60) // 4)
    for fold in held_out(near, 3, 0):  # four images look nearly alike
        assert not {row // 4 for row in fold.rows("train")} & {row // 4 for row in fold.rows("val")}


def losses_of(*means: float, count: int = 400, spread: float = 0.1, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.normal(mean, spread, count) for mean in means]


def test_of_equal_methods_the_simpler_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    losses = dict.fromkeys(("vanilla", "kd", "rd"), losses_of(0.5, 0.7))
    groups = np.arange(800)
    equal = {method: [0.5, 0.7] for method in losses}
    assert describe_choice(equal, losses, groups, by_validation=False)["method"] == "vanilla"
    choice = describe_choice(equal | {"kd": [0.6, 0.7], "rd": [0.6, 0.7]}, losses, groups, by_validation=False)
    assert choice["method"] == "kd"
    assert choice["teacher"]["word"] == "helps"
    assert "AUROC on 800 training images held out, 2 folds" in capsys.readouterr().out


@pytest.mark.parametrize(("rd", "word"), [(0.62, "helps"), (0.605, "ties"), (0.595, "ties"), (0.58, "harms")])
def test_the_word_on_a_teacher_is_about_points_of_auroc_whatever_losses_say(rd: float, word: str) -> None:
    losses = {"vanilla": losses_of(0.5, 0.5), "kd": losses_of(0.5, 0.5), "rd": losses_of(0.9, 0.9)}
    scores = {"vanilla": [0.6, 0.6], "kd": [0.6, 0.6], "rd": [rd, rd]}
    choice = describe_choice(scores, losses, np.arange(800), by_validation=False)
    assert choice["teacher"]["word"] == word
    assert choice["method"] == ("rd" if rd > 0.6 else "vanilla")


def test_losses_decide_where_the_images_that_judge_have_no_auroc() -> None:
    losses = {"vanilla": losses_of(0.9, 0.9), "kd": losses_of(0.7, 0.7), "rd": losses_of(0.5, 0.5)}
    scores = {"vanilla": [0.9, -0.9], "kd": [0.9, -0.7], "rd": [0.9, -0.5]}
    choice = describe_choice(scores, losses, np.arange(800), by_validation=False)
    assert (choice["method"], choice["teacher"]["word"], choice["teacher"]["points"]) == ("rd", "helps", None)


@pytest.mark.parametrize("by_validation", [False, True])
@pytest.mark.parametrize(("moved", "word"), [(0.2, "harms"), (0.0, "ties"), (-0.2, "helps")])
def test_the_word_on_a_teacher_is_what_its_student_gained_beyond_its_error(moved: float, word: str, by_validation: bool) -> None:
    alone = losses_of(0.6, 0.6, 0.6)
    taught = [own + moved + noise for own, noise in zip(alone, losses_of(0, 0, 0, seed=1), strict=True)]
    if not moved:
        taught = [own + noise - noise.mean() for own, noise in zip(alone, losses_of(0, 0, 0, seed=1), strict=True)]
    groups = np.arange(400 if by_validation else 1200)
    found = worth(alone, taught, groups, by_validation=by_validation)
    assert found.word == word
    assert found.gain == pytest.approx(np.mean(alone) - np.mean(taught))
    assert found.images == len(groups)


def test_seeds_that_disagree_widen_the_error_where_validation_judges() -> None:
    alone = losses_of(0.6, 0.6)
    agree, apart = [own - 0.1 for own in alone], [alone[0] - 0.3, alone[1] + 0.1]
    groups = np.arange(400)
    assert worth(alone, agree, groups, by_validation=True).word == "helps"
    assert worth(alone, apart, groups, by_validation=True).word == "ties"


def test_validation_judges_where_it_has_more_labels_than_there_are_to_train_on_and_folds_do_else() -> None:
    few = tiny_images(counts=(24, 12, 6), unlabelled=16)
    assert judging_sets(few, 0, 2) == [few]
    many = tiny_images(counts=(24, 12, 6))
    assert all(len(fold.rows("test")) == 0 for fold in judging_sets(many, 0, 2))
    assert judging_sets(tiny_images(counts=(24, 300, 6)), 0, 2)[0].split.tolist().count("val") == 300
    assert judging_sets(tiny_images(counts=(3, 0, 1), unlabelled=2), 0, 2) == []


def test_trials_of_taught_methods_begin_with_the_first_stage_that_the_run_will_have(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []
    real = trials.pretrain

    def counted(recipe: Any, *arguments: Any, **named: Any) -> Any:
        calls.append((recipe.method.method, recipe.seed))
        return real(recipe, *arguments, **named)

    monkeypatch.setattr(trials, "pretrain", counted)
    folder = class_folders(Path("data"), tiny_images(counts=(30, 12, 12)))
    auto: dict[str, Any] = {"data": str(folder), "method": "auto", "auto_folds": 2, "auto_steps": 2, "epochs": 1, "pretrain": "on"}
    assert run(**auto) == 0
    assert len(calls) == 2  # one a fold serves every taught method
    assert not Path("student.partial").exists()
