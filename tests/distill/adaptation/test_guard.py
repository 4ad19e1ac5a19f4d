"""The verdict on experts: losses at their best temperature, a head that keeps it, its line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from tiny import CLASSES, tiny_images, tiny_model

from distill.adaptation.guard import Verdict, cool
from distill.evaluation.gains import cooled_losses


@pytest.mark.parametrize("task", ["binary", "multiclass", "ordinal"])
def test_losses_are_those_of_the_temperature_of_the_least_mean_found_by_trying_many(task: str) -> None:
    images = tiny_images(task, (40, 8, 8))
    rows = images.rows("train")
    random = np.random.default_rng(0)
    truth = np.eye(len(CLASSES[task]))[images.labels[rows]]
    scores = random.normal(size=truth.shape) + truth  # of about temperature 1
    many = np.exp(np.linspace(-2, 2, 4001))
    means = [-log_softmax(4 * scores / heat, axis=1)[truth == 1].mean() for heat in many]
    losses, temperature = cooled_losses(torch.from_numpy(4 * scores), images, rows)
    assert losses.mean() == pytest.approx(min(means), abs=1e-5)
    assert temperature == pytest.approx(many[int(np.argmin(means))], rel=0.02)
    assert cooled_losses(torch.from_numpy(scores), images, rows)[0] == pytest.approx(losses, abs=1e-3), "confidence is no gain"


@pytest.mark.parametrize("task", CLASSES)
def test_a_cooled_model_answers_as_before_with_its_logits_divided(task: str) -> None:
    model, pixels = tiny_model(task).eval(), torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        before = model(pixels)
        after = cool(model, 2.5)(pixels)
    torch.testing.assert_close(after, before if task == "ordinal" else before / 2.5)


@pytest.mark.parametrize(("changes", "line"), [
    ({}, "gained 0.0123 +- 0.0045 on held-out loss (234 training images, 3 folds): used, 150 steps"),
    ({"used": False, "error": 0.02}, "gained 0.0123 +- 0.0200 on held-out loss (234 training images, 3 folds): the probe is kept"),
    ({"error": 0.02, "folds": 0}, "gained 0.0123 +- 0.0200 on held-out loss (234 validation images): used, 150 steps, as asked"),
    ({"images": 0, "used": False}, "too few labelled images to judge them on: the probe is kept"),
    ({"images": 0}, "used unjudged, 150 steps")])
def test_the_line_says_what_was_gained_on_which_images_and_what_follows(changes: dict[str, Any], line: str) -> None:
    verdict = Verdict(**({"used": True, "gain": 0.0123, "error": 0.0045, "images": 234, "folds": 3, "trained": "150 steps"} | changes))
    assert verdict.line() == line
