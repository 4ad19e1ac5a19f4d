"""What branches answer on whole splits, calibrated on validation: the content of metrics.json."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from tiny import CLASSES, tiny_bank, tiny_branches, tiny_images, tiny_probe, tiny_spec

from distill.data.image_set import ImageSet
from distill.data.pixels import build_pixels
from distill.evaluation.losses import cka
from distill.evaluation.predict import Predictions, calibrate, judge, probabilities, score
from distill.networks.checkpoint import Calibration
from distill.training.answers import predict


def made(tmp_path: Path, images: ImageSet, split: str = "val", method: str = "rd", batch: int = 64,
         bank: bool = True) -> tuple[Predictions, Any]:
    branches = tiny_branches(method, images.task)
    pixels = build_pixels(tmp_path / "pixels", images, tiny_spec())
    held = tiny_bank(tmp_path / "bank", images) if bank and not (tmp_path / "bank").exists() else None
    if bank and held is None:
        from distill.teacher.bank import open_bank

        held = open_bank(tmp_path / "bank")
    rows = None if held is None else held.indices(images.hashes)
    probe = None if held is None else tiny_probe(images, held)
    branches.train()
    found = predict(branches, pixels, tiny_spec(), images.rows(split), device="cpu", bank=held, bank_rows=rows, probe=probe, batch=batch)
    assert branches.training  # as it was
    return found, branches.eval()


@pytest.mark.parametrize("task", sorted(CLASSES))
def test_all_branches_answer_on_clean_images_in_eval_mode(tmp_path: Path, task: str) -> None:
    images = tiny_images(task)
    found, branches = made(tmp_path, images)
    rows = images.rows("val")
    inputs = torch.from_numpy(tiny_spec().normalised(np.stack([images.raw(int(row)) for row in rows]))).expand(-1, 3, -1, -1)
    from distill.teacher.bank import open_bank

    bank = open_bank(tmp_path / "bank")
    clean = torch.from_numpy(bank.features(bank.indices(images.hashes)[rows]))
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found.student), branches.student(inputs), atol=1e-5, rtol=1e-4)
        assert branches.phi is not None
        assert found.teacher is not None
        torch.testing.assert_close(torch.from_numpy(found.teacher), branches.student.logits(branches.phi(clean)), atol=1e-5, rtol=1e-4)
        features = branches.student.features(inputs)
        assert found.cka == pytest.approx(float(cka(branches.phi(clean).double(), features.double())), abs=1e-4)
    assert found.probe is not None
    np.testing.assert_allclose(found.probe, tiny_probe(images, bank).logits(clean), atol=1e-5)
    np.testing.assert_array_equal(found.rows, rows)


def test_the_batch_size_changes_nothing(tmp_path: Path) -> None:
    images = tiny_images()
    one, other = (made(tmp_path, images, batch=batch)[0] for batch in (3, 64))
    np.testing.assert_allclose(one.student, other.student, atol=1e-6)
    assert one.cka == pytest.approx(other.cka, abs=1e-6)


def test_without_a_teacher_there_is_no_teacher_branch(tmp_path: Path) -> None:
    found, _ = made(tmp_path, tiny_images(), method="vanilla", bank=False)
    assert found.teacher is found.probe is found.cka is None
    found, _ = made(tmp_path, tiny_images(), method="kd")
    assert found.teacher is found.cka is None
    assert found.probe is not None


def random_predictions(images: ImageSet, split: str, seed: int = 0, sharp: float = 4.0) -> Predictions:
    rows = images.rows(split)
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1.0, (len(rows), len(images.classes)))
    labels = images.labels[rows]
    hit = np.nan_to_num(labels) if images.task == "multilabel" else np.eye(len(images.classes))[labels.clip(min=0).astype(int)]
    student = (sharp * (logits + 1.2 * hit)).astype(np.float32)
    return Predictions(rows, student, (student / 3).astype(np.float32), None, 0.5)


@pytest.mark.parametrize("task", sorted(CLASSES))
def test_calibration_keeps_every_decision_and_lowers_the_loss_on_validation(task: str) -> None:
    images = tiny_images(task, (4, 120, 120))
    found = random_predictions(images, "val")
    calibration = calibrate(images, found.student, found.rows)
    plain = Calibration(tuple(1.0 for _ in calibration.temperatures))
    before, after = (probabilities(images, found.student, one) for one in (plain, calibration))
    if task == "multilabel":
        assert len(calibration.temperatures) == len(calibration.thresholds) == 3
        np.testing.assert_array_equal(before > 0.5, after > 0.5)
    else:
        assert (len(calibration.temperatures), calibration.thresholds) == (1, ())
        np.testing.assert_array_equal(before.argmax(1), after.argmax(1))
        np.testing.assert_allclose(after.sum(1), 1.0)
    labels = images.labels[found.rows]

    def loss(answers: np.ndarray) -> float:
        if task == "multilabel":
            return float(-np.log(np.where(labels == 1, answers, 1 - answers)).mean())
        return float(-np.log(answers[np.arange(len(labels)), labels]).mean())

    assert loss(after) <= loss(before) + 1e-9
    assert max(calibration.temperatures) > 1.5  # the logits were made four times too sharp


@pytest.mark.parametrize("task", sorted(CLASSES))
def test_the_splits_of_metrics_json_hold_every_branch_with_intervals(task: str) -> None:
    images = tiny_images(task, (4, 60, 60))
    both = {split: random_predictions(images, split, seed) for seed, split in enumerate(("val", "test"))}
    calibrations = {branch: calibrate(images, getattr(both["val"], branch), both["val"].rows) for branch in ("student", "teacher")}
    splits = score(images, both, calibrations, bootstrap=50, seed=0)
    assert set(splits) == {"val", "test"}
    for split, entry in splits.items():
        assert entry["n"] == 60
        assert entry["cka"] == 0.5
        for branch in ("student", "teacher"):
            for name in ("auroc", "accuracy", "balanced_accuracy", "f1", "brier", "ece"):
                figure = entry[branch][name]
                assert 0 <= figure["low"] <= figure["high"] <= 1, (split, branch, name)
                assert figure["low"] <= figure["value"] <= figure["high"], (split, branch, name)
            assert ("kappa" in entry[branch]) is (task == "ordinal")
            assert set(entry[branch]["ece_uncalibrated"]) == {"value"}
        assert "probe" not in entry
    assert splits["val"]["student"]["ece"]["value"] < splits["val"]["student"]["ece_uncalibrated"]["value"]


def test_auroc_is_that_of_sklearn_on_calibrated_probabilities() -> None:
    images = tiny_images("multiclass", (4, 60, 60))
    found = random_predictions(images, "test")
    calibration = Calibration((2.0,))
    entry = score(images, {"test": found}, {"student": calibration}, bootstrap=0, seed=0)["test"]["student"]
    answers = probabilities(images, found.student, calibration)
    expected = roc_auc_score(images.labels[found.rows], answers, multi_class="ovr", average="macro")
    assert entry["auroc"]["value"] == pytest.approx(expected)


def test_a_class_missing_from_validation_is_named_not_zero_and_not_nan() -> None:
    images = tiny_images("multiclass", (6, 30, 30))
    labels = images.labels.copy()
    val = images.rows("val")
    labels[val] = np.where(labels[val] == 2, 0, labels[val])
    images = replace(images, labels=labels)
    both = {split: random_predictions(images, split) for split in ("val", "test")}
    calibrations = {"student": calibrate(images, both["val"].student, both["val"].rows)}
    splits = score(images, both, calibrations, bootstrap=20, seed=0)
    assert splits["val"]["student"]["undefined"] == ["c"]
    assert splits["test"]["student"]["undefined"] == []
    per_class = splits["val"]["student"]["auroc_per_class"]
    assert set(per_class) == {"a", "b"}
    assert splits["val"]["student"]["auroc"]["value"] == pytest.approx(np.mean([one["value"] for one in per_class.values()]))


def test_a_validation_split_of_one_class_has_no_auroc_and_is_scored_by_its_loss() -> None:
    images = tiny_images("binary", (6, 8, 8))
    labels = images.labels.copy()
    labels[images.rows("val")] = 1
    images = replace(images, labels=labels)
    row = judge(images, random_predictions(images, "val"))
    assert "val_auroc_student" not in row
    assert row["score"] == -row["val_loss"]
    assert np.isfinite(row["score"])


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(CLASSES)), st.integers(0, 1000))
def test_one_epochs_figures_are_finite_and_the_score_is_the_auroc(task: str, seed: int) -> None:
    images = tiny_images(task, (4, 24, 8))
    row = judge(images, random_predictions(images, "val", seed))
    assert all(np.isfinite(value) for value in row.values())
    assert row["score"] == row["val_auroc_student"]
    assert row["val_cka"] == 0.5


def test_labels_that_are_missing_do_not_count_in_any_figure() -> None:
    images = tiny_images("multilabel", (4, 40, 4))
    found = random_predictions(images, "val")
    labels = images.labels.copy()
    labels[images.rows("val")[20:], 1] = np.nan
    holed = replace(images, labels=labels)
    entry = score(holed, {"val": found}, {"student": Calibration((1.0,) * 3, (0.5,) * 3)}, bootstrap=0, seed=0)["val"]["student"]
    answers = probabilities(holed, found.student, Calibration((1.0,) * 3))
    kept = images.rows("val")[:20]
    expected = roc_auc_score(images.labels[kept][:, 1], answers[:20, 1])
    assert entry["auroc_per_class"]["y"]["value"] == pytest.approx(expected)


def test_figures_of_patients_are_resampled_by_patient() -> None:
    images = tiny_images("binary", (4, 40, 4))
    found = random_predictions(images, "val", sharp=0.5)
    single = score(images, {"val": found}, {"student": Calibration()}, bootstrap=200, seed=0)["val"]["student"]["auroc"]
    few = replace(images, groups=np.asarray([f"patient{row % 3}" for row in range(len(images))], dtype=object))
    grouped = score(few, {"val": found}, {"student": Calibration()}, bootstrap=200, seed=0)["val"]["student"]["auroc"]
    assert grouped["value"] == single["value"]
    assert (grouped["low"], grouped["high"]) != (single["low"], single["high"])
