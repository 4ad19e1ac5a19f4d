"""A teacher that the student has outgrown is heard less: when that is so, by how much, and that a run says it.

Owns: outgrown, teacher_share, the line of a run. Does not own: the loop that applies the share (test_fit.py), gains (evaluation).
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runs import class_folders, run
from tiny import tiny_images

from distill.data.image_set import ImageSet
from distill.evaluation.gains import cooled_losses
from distill.evaluation.predict import Predictions
from distill.training import student as training
from distill.training.student import outgrown, teacher_share


def answered(images: ImageSet, strength: float, seed: int) -> Predictions:
    """What a student answers that knows the labels so well, 0 being nothing."""
    rows = images.rows("val")
    truth = np.eye(len(images.classes))[images.labels[rows]]
    logits = (strength * truth + np.random.default_rng(seed).normal(size=truth.shape)).astype(np.float32)
    return Predictions(rows, logits, None, None, None)


def losses(images: ImageSet, predictions: Predictions) -> np.ndarray:
    return cooled_losses(torch.from_numpy(predictions.student), images, predictions.rows)[0]


@pytest.fixture(scope="module")
def images() -> ImageSet:
    own = tiny_images()
    return replace(own, split=np.full(len(own.split), "val"), labels=np.arange(len(own.split)) % 2)


@pytest.mark.parametrize(("student", "probe", "expected"), [(4.0, 0.0, True), (0.0, 4.0, False)])
def test_the_better_of_two_is_known_by_its_loss(images: ImageSet, student: float, probe: float, expected: bool) -> None:
    assert outgrown(images, answered(images, student, 0), losses(images, answered(images, probe, 1))) is expected


def test_a_student_that_answers_as_the_probe_does_has_not_outgrown_it(images: ImageSet) -> None:
    same = answered(images, 2.0, 0)
    assert not outgrown(images, same, losses(images, same))


def test_confidence_alone_outgrows_nothing(images: ImageSet) -> None:
    own = answered(images, 2.0, 0)
    assert not outgrown(images, replace(own, student=own.student * 5), losses(images, own))


@given(st.lists(st.booleans(), max_size=60))
def test_the_share_falls_to_a_quarter_with_every_epoch_in_which_the_student_was_ahead(ahead: list[bool]) -> None:
    assert teacher_share([{"outgrown": one} for one in ahead]) == 0.25 ** sum(ahead)


@pytest.mark.usefixtures("in_empty_folder")
@pytest.mark.parametrize(("changes", "heard"), [({"decay": "outgrown"}, True), ({}, False), ({"decay": "none"}, False),
                                                ({"decay": "outgrown", "method": "vanilla"}, False)])
def test_a_teacher_fades_where_that_is_asked_for_and_the_run_says_so(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], heard: bool) -> None:
    monkeypatch.setattr(training, "outgrown", lambda *_: True)
    images = tiny_images()
    data = class_folders(Path("images"), images)
    run(**{"data": str(data), **changes})
    assert ("outgrown: in 2 of 2 epochs" in capsys.readouterr().out) is heard
    with Path("student/summary.csv").open(newline="") as file:
        assert [row.get("outgrown") for row in csv.DictReader(file)] == ["True" if heard else None] * 2
