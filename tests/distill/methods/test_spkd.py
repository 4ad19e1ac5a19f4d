"""SPKD is its formula, sees directions between images alone, and teaches through the command like every method."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import CLASSES, tiny_branches, tiny_step

from distill.methods.build import method_losses
from distill.methods.spkd import SPKD_WEIGHT, similarity_loss
from distill.methods.step import Weights


def reference(student: np.ndarray, teacher: np.ndarray) -> float:
    """Equations 2 to 4 of the paper in float64."""
    def normalised(features: np.ndarray) -> np.ndarray:
        gram = features.astype(np.float64) @ features.astype(np.float64).T
        return gram / np.linalg.norm(gram, axis=1, keepdims=True)

    return float(((normalised(student) - normalised(teacher)) ** 2).sum() / len(student) ** 2)


@given(st.integers(2, 12), st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**16))
def test_spkd_is_its_formula(count: int, width: int, teachers_width: int, seed: int) -> None:
    torch.manual_seed(seed)
    student, teacher = torch.randn(count, width) + 0.1, torch.randn(count, teachers_width) + 0.1
    assert float(similarity_loss(student, teacher)) == pytest.approx(reference(student.numpy(), teacher.numpy()), rel=1e-4, abs=1e-6)


def test_a_student_whose_images_are_alike_as_the_teachers_has_nothing_left_to_learn() -> None:
    features = torch.randn(8, 16)
    turned = features @ torch.linalg.qr(torch.randn(16, 16))[0]
    assert float(similarity_loss(3 * turned, features)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("task", sorted(CLASSES))
def test_spkd_adds_the_weighted_distance_of_pooled_features_to_the_task_loss(task: str) -> None:
    branches, batch = tiny_branches("spkd", task).eval(), tiny_step(task)
    assert batch.clean is not None
    losses = method_losses("spkd", branches, batch, Weights(hint=0.5))
    expected = reference(branches.student.features(batch.pixels).detach().numpy(), batch.clean.numpy())
    assert set(losses) == {"task", "hint"}
    assert float(losses["hint"].detach()) == pytest.approx(0.5 * SPKD_WEIGHT * expected, rel=1e-3)
    assert losses["hint"].requires_grad
    assert not batch.clean.requires_grad
