"""Losses against their formulas in float64 numpy, and CKA where it is known to break."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from distill.evaluation.losses import cka, cka_loss, distillation_loss, hint_loss, prevalence_weights, task_loss


def gram_cka(x: np.ndarray, y: np.ndarray, debiased: bool) -> float:
    """METHODS 4.1 in float64, the Gram form: tr(KHLH), or the unbiased HSIC of Song et al."""
    n = len(x)

    def hsic(k: np.ndarray, el: np.ndarray) -> float:
        if not debiased:
            h = np.eye(n) - 1 / n
            return float(np.trace(k @ h @ el @ h))
        k, el = k - np.diag(np.diag(k)), el - np.diag(np.diag(el))
        ones = np.ones(n)
        return float((np.trace(k @ el) + (ones @ k @ ones) * (ones @ el @ ones) / ((n - 1) * (n - 2))
                      - 2 / (n - 2) * ones @ k @ el @ ones) / (n * (n - 3)))

    k, el = x @ x.T, y @ y.T
    return hsic(k, el) / math.sqrt(hsic(k, k) * hsic(el, el))


def feature_cka(x: np.ndarray, y: np.ndarray, debiased: bool) -> float:
    """METHODS 4.1 and 4.2 in float64 without any Gram matrix."""
    n = len(x)

    def hsic(x: np.ndarray, y: np.ndarray) -> float:
        a, b, sx, sy = (x * x).sum(1), (y * y).sum(1), x.sum(0), y.sum(0)
        t = (x.T @ y).ravel() @ (x.T @ y).ravel() - a @ b
        k1, l1 = sx @ sx - a.sum(), sy @ sy - b.sum()
        q = (x @ sx - a) @ (y @ sy - b)
        return float((t + k1 * l1 / ((n - 1) * (n - 2)) - 2 * q / (n - 2)) / (n * (n - 3)))

    if debiased:
        return hsic(x, y) / math.sqrt(hsic(x, x) * hsic(y, y))
    x, y = x - x.mean(0), y - y.mean(0)
    return float(np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


def pair(n: int, d1: int, d2: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, d1))
    y = 0.5 * x @ random.normal(size=(d1, d2)) / math.sqrt(d1) + random.normal(size=(n, d2))
    return x * scale + shift, y


@settings(max_examples=40, deadline=None)
@given(n=st.integers(5, 40), d1=st.integers(2, 30), d2=st.integers(2, 30), seed=st.integers(0, 10**6), debiased=st.booleans(),
       shift=st.sampled_from([0.0, 50.0]), scale=st.sampled_from([1.0, 1e-4, 1e4]))
def test_cka_equals_both_float64_forms(n: int, d1: int, d2: int, seed: int, debiased: bool, shift: float, scale: float) -> None:
    x, y = pair(n, d1, d2, seed, shift * scale, scale)
    expected = gram_cka(x - x.mean(0), y - y.mean(0), debiased)  # HSIC is the same for centred features, and steadier
    assert feature_cka(x - x.mean(0), y - y.mean(0), debiased) == pytest.approx(expected, abs=1e-7)
    assert float(cka(torch.from_numpy(x), torch.from_numpy(y), debiased=debiased)) == pytest.approx(expected, abs=1e-9)


def test_cka_in_fp32_stays_near_float64_when_features_have_a_large_mean() -> None:
    x, y = pair(64, 512, 128, 0, shift=50.0)
    found = cka(torch.from_numpy(x).float(), torch.from_numpy(y).float())
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(gram_cka(x - x.mean(0), y - y.mean(0), True), abs=2e-5)


@pytest.mark.parametrize("debiased", [True, False])
def test_cka_is_one_for_an_orthogonal_transform_and_a_scale(debiased: bool) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(32, 20))
    turn, _ = np.linalg.qr(random.normal(size=(20, 20)))
    y = 7.5 * x @ turn + random.normal(size=20)
    assert float(cka(torch.from_numpy(x), torch.from_numpy(y), debiased=debiased)) == pytest.approx(1.0, abs=1e-9)
    assert float(cka_loss(torch.from_numpy(x), torch.from_numpy(y), debiased=debiased)) == pytest.approx(0.0, abs=1e-9)


def test_debiased_cka_is_about_zero_for_independent_features_and_biased_is_not() -> None:
    random = np.random.default_rng(1)
    pairs = [(torch.from_numpy(random.normal(size=(64, 256))), torch.from_numpy(random.normal(size=(64, 256)))) for _ in range(20)]
    debiased = [float(cka(x, y)) for x, y in pairs]
    assert abs(np.mean(debiased)) < 0.02
    assert max(map(abs, debiased)) < 0.1
    assert min(float(cka(x, y, debiased=False)) for x, y in pairs) > 0.7  # METHODS 4.2: no head-room


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("case", ["four", "constant", "one constant", "tiny", "huge", "collinear", "two alike"])
def test_the_gradient_of_the_cka_loss_is_finite(case: str, debiased: bool) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(4 if case == "four" else 16, 24), torch.randn(4 if case == "four" else 16, 12)
    if case in ("constant", "one constant"):
        x = torch.full_like(x, 3.7)
        y = torch.full_like(y, -2.0) if case == "constant" else y
    elif case == "tiny":
        x, y = x * 1e-18, y * 1e-18
    elif case == "huge":
        x, y = x * 1e15, y * 1e15
    elif case == "collinear":
        x, y = x[:, :1].repeat(1, 24), x[:, :1].repeat(1, 12)
    elif case == "two alike":
        x[1] = x[0]
    x.requires_grad_()
    y.requires_grad_()
    loss = cka_loss(x, y, debiased=debiased)
    loss.backward()
    assert torch.isfinite(loss)
    assert x.grad is not None
    assert y.grad is not None
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(y.grad).all()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_batch_under_four_gives_no_signal_but_a_graph(count: int) -> None:
    x, y = torch.randn(count, 6, requires_grad=True), torch.randn(count, 5, requires_grad=True)
    loss = cka_loss(x, y)
    loss.backward()
    assert loss.item() == cka(x, y).item() == 0.0
    assert x.grad is not None
    assert not x.grad.any()


def test_cka_under_bf16_autocast_is_computed_in_fp32() -> None:
    x, y = (torch.from_numpy(one).float() for one in pair(32, 64, 48, 3, shift=20.0))
    plain = cka(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cka(x, y), plain)
        halved = cka(x.bfloat16().requires_grad_(), y.bfloat16())
    assert halved.dtype == torch.float32
    assert torch.isfinite(halved)
    halved.backward()


def test_cka_gradient_agrees_with_finite_differences() -> None:
    x, y = (torch.from_numpy(one).requires_grad_() for one in pair(6, 3, 2, 4))
    # The scale inside _gram is detached on purpose: CKA does not depend on it, so the gradient must be whole all the same.
    assert torch.autograd.gradcheck(lambda a, b: cka(a, b), (x, y))
    assert torch.autograd.gradcheck(lambda a, b: cka(a, b, debiased=False), (x, y))


def log_softmax(z: np.ndarray) -> np.ndarray:
    return z - z.max(1, keepdims=True) - np.log(np.exp(z - z.max(1, keepdims=True)).sum(1, keepdims=True))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), temperature=st.floats(0.5, 20), n=st.integers(1, 9), c=st.integers(2, 7))
def test_distillation_is_t_squared_times_kl_of_teacher_to_student(seed: int, temperature: float, n: int, c: int) -> None:
    random = np.random.default_rng(seed)
    student, teacher = random.normal(0, 3, (n, c)), random.normal(0, 3, (n, c))
    p, q = log_softmax(teacher / temperature), log_softmax(student / temperature)
    round_off = 1e-5 + 1e-6 * temperature**2  # fp32: a difference of nearly equal entropies, times T^2
    expected = temperature**2 * (np.exp(p) * (p - q)).sum(1).mean()
    found = distillation_loss(torch.from_numpy(student), torch.from_numpy(teacher), "multiclass", temperature)
    assert float(found) == pytest.approx(expected, rel=1e-4, abs=round_off)
    s, t = 1 / (1 + np.exp(-student / temperature)), 1 / (1 + np.exp(-teacher / temperature))
    bernoulli = temperature**2 * (t * np.log(t / s) + (1 - t) * np.log((1 - t) / (1 - s)))
    found = distillation_loss(torch.from_numpy(student), torch.from_numpy(teacher), "multilabel", temperature)
    assert float(found) == pytest.approx(bernoulli.sum(1).mean(), rel=1e-4, abs=round_off)


def test_distillation_is_zero_for_equal_logits_and_gives_the_teacher_no_gradient() -> None:
    for task in ("binary", "multilabel"):
        student, teacher = torch.randn(5, 2, requires_grad=True), torch.randn(5, 2, requires_grad=True)
        assert distillation_loss(student, student, task, 4.0).item() == pytest.approx(0.0, abs=1e-6)  # type: ignore[arg-type]
        distillation_loss(student, teacher, task, 4.0).backward()  # type: ignore[arg-type]
        assert teacher.grad is None
        assert student.grad is not None


def test_the_gradient_of_distillation_hardly_shrinks_with_temperature() -> None:
    student, teacher = torch.randn(8, 4) * 0.1, torch.randn(8, 4) * 0.1
    sizes = []
    for temperature in (5.0, 50.0):
        moved = student.clone().requires_grad_()
        distillation_loss(moved, teacher, "multiclass", temperature).backward()
        assert moved.grad is not None
        sizes.append(float(moved.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)  # what T^2 is for (Hinton 2015)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_the_multilabel_loss_is_focal_loss_over_labels_that_are_known(gamma: float) -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 3, (7, 4))
    labels = random.integers(0, 2, (7, 4)).astype(np.float32)
    labels[random.random((7, 4)) < 0.3] = np.nan
    weights = np.asarray([0.5, 1.0, 1.5, 2.0], np.float32)
    p = 1 / (1 + np.exp(-logits))
    given_p = np.where(labels == 1, p, 1 - p)
    known = np.isfinite(labels)
    expected = (-((1 - given_p) ** gamma) * np.log(given_p) * weights)[known].sum() / known.sum() * labels.shape[1]
    found = task_loss(torch.from_numpy(logits), torch.from_numpy(labels), "multilabel", class_weights=torch.from_numpy(weights),
                      focal_gamma=gamma)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_gamma_zero_is_binary_cross_entropy() -> None:
    logits, labels = torch.randn(6, 3), torch.randint(0, 2, (6, 3)).float()
    found = task_loss(logits, labels, "multilabel", focal_gamma=0.0)
    assert torch.allclose(found, 3 * F.binary_cross_entropy_with_logits(logits, labels))


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_missing_labels_do_not_count_and_get_no_gradient(task: str) -> None:
    logits = torch.randn(6, 3, requires_grad=True)
    if task == "multilabel":
        labels = torch.tensor([[0, 1, torch.nan], [1, torch.nan, 0]]).repeat(3, 1)
        labels[4:] = torch.nan
    else:
        labels = torch.tensor([0, 1, 2, 0, -1, -1])
    whole = task_loss(logits, labels, task)  # type: ignore[arg-type]
    whole.backward()
    assert torch.allclose(whole, task_loss(logits[:4], labels[:4], task))  # type: ignore[arg-type]
    assert logits.grad is not None
    assert not logits.grad[4:].any()
    nothing = torch.full_like(labels, torch.nan if task == "multilabel" else -1)
    assert task_loss(logits, nothing, task).item() == 0.0  # type: ignore[arg-type]


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_loss_has_a_finite_gradient_at_certain_logits(gamma: float) -> None:
    logits = torch.tensor([[-200.0, 200.0, 0.0, 1e4, -1e4]], requires_grad=True)
    task_loss(logits, torch.tensor([[0.0, 1.0, 1.0, 0.0, 1.0]]), "multilabel", focal_gamma=gamma).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_prevalence_weights_favour_rare_labels_and_have_mean_one() -> None:
    labels = torch.zeros(100, 3)
    labels[:50, 0] = 1
    labels[:5, 1] = 1
    labels[10:, 2] = torch.nan
    weights = prevalence_weights(labels)
    assert float(weights.mean()) == pytest.approx(1.0)
    assert weights[1] > weights[0]
    assert torch.isfinite(weights).all()
    assert weights[1] / weights[0] == pytest.approx(math.sqrt(51 / 6), rel=1e-5)


def test_the_hint_loss_is_a_mean_square_and_gives_the_teacher_no_gradient() -> None:
    projected, teacher = torch.randn(5, 7, requires_grad=True), torch.randn(5, 7, requires_grad=True)
    loss = hint_loss(projected, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(((projected - teacher) ** 2).mean().item())
    assert teacher.grad is None
