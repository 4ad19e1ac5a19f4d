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
from distill.selection import candidates
from distill.selection.choosing import describe_choice, held_out
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


def test_of_equal_methods_the_simpler_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    assert describe_choice({"vanilla": [0.5, 0.7], "rd": [0.6, 0.6]})["method"] == "vanilla"
    assert describe_choice({"vanilla": [0.5, 0.7], "kd": [0.6, 0.5], "rd": [0.6, 0.7]})["method"] == "rd"
    assert "+0.050 above vanilla (by fold +0.100, +0.000)" in capsys.readouterr().out
