"""RD's competitors against their papers' formulas, written out in float64 numpy, and where their formulas have no answer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.evaluation.losses import distillation_loss
from distill.methods.relatives import attention_loss, contrastive_loss, correlation_loss, decoupled_loss, relational_loss


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def kl(p: np.ndarray, q: np.ndarray) -> float:
    return float((p * (np.log(p) - np.log(q))).sum(1).mean())


def logits(count: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(size=(count, classes)) * 3, random.normal(size=(count, classes)) * 3, random.integers(0, classes, count)


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(one).float() if one.dtype.kind == "f" else torch.from_numpy(one) for one in arrays]


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 20), classes=st.integers(3, 9), seed=st.integers(0, 10**6), temperature=st.sampled_from([1.0, 4.0]))
def test_dkd_is_its_formula(count: int, classes: int, seed: int, temperature: float) -> None:
    student, teacher, labels = logits(count, classes, seed)
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    hit = np.eye(classes, dtype=bool)[labels]
    binary = [np.stack([one[hit], 1 - one[hit]], 1) for one in (p, q)]
    rest = [one[~hit].reshape(count, -1) / one[~hit].reshape(count, -1).sum(1, keepdims=True) for one in (p, q)]
    expected = temperature**2 * (kl(*binary) + 8.0 * kl(*rest))
    assert float(decoupled_loss(*tensors(student, teacher, labels), temperature)) == pytest.approx(expected, rel=2e-4, abs=1e-4)


def test_dkd_of_two_classes_is_plain_kd() -> None:
    student, teacher, labels = tensors(*logits(16, 2, 0))
    torch.testing.assert_close(decoupled_loss(student, teacher, labels, 3.0), distillation_loss(student, teacher, "multiclass", 3.0))


def test_dkd_of_an_unlabelled_row_takes_the_teachers_first_choice() -> None:
    student, teacher, labels = tensors(*logits(16, 4, 1))
    torch.testing.assert_close(decoupled_loss(student, teacher, torch.full_like(labels, -1), 4.0),
                               decoupled_loss(student, teacher, teacher.argmax(1), 4.0))


@settings(max_examples=30, deadline=None)
@given(count=st.integers(2, 20), classes=st.integers(3, 9), seed=st.integers(0, 10**6))
def test_dist_is_its_formula(count: int, classes: int, seed: int) -> None:
    student, teacher, _ = logits(count, classes, seed)
    p, q = softmax(teacher), softmax(student)

    def pearson(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)]))

    expected = (1 - pearson(p, q)) + (1 - pearson(p.T, q.T))
    found = correlation_loss(torch.from_numpy(student).double(), torch.from_numpy(teacher).double(), "multiclass", 1.0)
    assert float(found) == pytest.approx(expected, abs=2e-3)


@settings(max_examples=20, deadline=None)
@given(count=st.integers(3, 12), d1=st.integers(2, 20), d2=st.integers(2, 20), seed=st.integers(0, 10**6))
def test_rkd_is_its_formula(count: int, d1: int, d2: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    x, y = random.normal(size=(count, d1)), random.normal(size=(count, d2))

    def distances(a: np.ndarray) -> np.ndarray:
        found = np.asarray([np.linalg.norm(a[i] - a[j]) for i in range(count) for j in range(i)])
        return found / found.mean()

    def angles(a: np.ndarray) -> np.ndarray:
        unit = lambda v: v / max(np.linalg.norm(v), 1e-12)  # noqa: E731
        return np.asarray([[[unit(a[i] - a[j]) @ unit(a[k] - a[j]) for k in range(count)] for i in range(count)] for j in range(count)])

    def huber(d: np.ndarray) -> float:
        return float(np.where(np.abs(d) < 1, 0.5 * d * d, np.abs(d) - 0.5).mean())

    expected = 25 * huber(distances(x) - distances(y)) + 50 * huber(angles(x) - angles(y))
    assert float(relational_loss(*tensors(x, y))) == pytest.approx(expected, rel=1e-3, abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(2, 16), images=st.integers(10, 10**6), seed=st.integers(0, 10**6))
def test_crd_is_its_formula(count: int, images: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    x, y = random.normal(size=(count, 8)), random.normal(size=(count, 8))
    scores = (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (y / np.linalg.norm(y, axis=1, keepdims=True)).T / 0.07
    h = np.exp(scores) / (np.exp(scores) + (count - 1) / images)
    own = np.eye(count, dtype=bool)
    expected = -0.8 * (np.log(h[own]).sum() + np.log(1 - h[~own] + 1e-300).sum()) / count
    found = float(contrastive_loss(torch.from_numpy(x), torch.from_numpy(y), images))
    assert math.isfinite(found)
    assert found == pytest.approx(expected, rel=1e-2, abs=1e-2)  # the formula in this form loses digits where h is near 1


def test_attention_transfer_is_its_formula_and_sees_places_not_channels() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(6, 5, 4, 4)), random.normal(size=(6, 9, 4, 4))
    maps = [(one**2).mean(1).reshape(6, -1) for one in (x, y)]
    q = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in maps]
    assert float(attention_loss(*tensors(x, y))) == pytest.approx(1000 * float(((q[0] - q[1]) ** 2).mean()), rel=1e-4)
    assert float(attention_loss(*tensors(y[:, ::-1].copy() * 3, y))) == pytest.approx(0.0, abs=1e-6)
    assert float(attention_loss(*tensors(y[..., ::-1].copy(), y))) > 1.0
    assert attention_loss(torch.randn(6, 5, 16, 16), torch.randn(6, 9, 4, 4)).ndim == 0


@pytest.mark.parametrize("make", [
    lambda s, t: decoupled_loss(s, t, torch.zeros(len(s), dtype=torch.long), 4.0),
    lambda s, t: correlation_loss(s, t, "multiclass", 4.0), lambda s, t: correlation_loss(s, t, "multilabel", 4.0), relational_loss,
    lambda s, t: contrastive_loss(s, t, 100)], ids=["dkd", "dist", "dist of labels", "rkd", "crd"])
@pytest.mark.parametrize("case", ["constant", "one sample", "equal", "large"])
def test_hard_batches_give_finite_losses_and_gradients(make: object, case: str) -> None:
    torch.manual_seed(0)
    teacher = torch.randn(1 if case == "one sample" else 8, 5)
    student = {"constant": torch.zeros_like(teacher), "equal": teacher.clone(), "large": teacher * 1e3}.get(case, torch.randn_like(teacher))
    student.requires_grad_(True)
    loss = make(student, teacher)  # type: ignore[operator]
    loss.backward()
    assert torch.isfinite(loss)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("make", [
    lambda s, t: decoupled_loss(s, t, torch.zeros(len(s), dtype=torch.long), 4.0), lambda s, t: correlation_loss(s, t, "multiclass", 4.0),
    relational_loss], ids=["dkd", "dist", "rkd"])
def test_an_equal_student_has_nothing_left_to_learn(make: object) -> None:
    torch.manual_seed(0)
    teacher = torch.randn(8, 5)
    assert float(make(teacher.clone(), teacher)) == pytest.approx(0.0, abs=1e-5)  # type: ignore[operator]
    assert float(make(torch.randn(8, 5), teacher)) > 0.1  # type: ignore[operator]
