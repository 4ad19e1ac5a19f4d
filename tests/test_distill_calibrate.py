"""distill.calibrate: temperatures found again, decisions that do not move, thresholds that match a search."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax
from sklearn.metrics import log_loss, roc_curve

from distill.calibrate import apply_temperatures, fit_temperatures, fit_thresholds, nll

SOFTMAX_TASKS = ("binary", "multiclass", "ordinal")


def drawn(seed: int, n: int, n_classes: int, task: str, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from the logits' own probabilities, and the logits times a temperature that a fit should undo."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(scale=2.0, size=(n, n_classes))
    if task == "multilabel":
        return logits * temperature, (generator.random(logits.shape) < expit(logits)).astype(np.float32)
    labels = (softmax(logits, axis=1).cumsum(axis=1) < generator.random((n, 1))).sum(axis=1)
    return logits * temperature, np.minimum(labels, n_classes - 1)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), temperature=st.floats(0.2, 6.0), task=st.sampled_from((*SOFTMAX_TASKS, "multilabel")))
def test_a_known_temperature_is_found_again(seed: int, temperature: float, task: Any) -> None:
    logits, labels = drawn(seed, 8000, 2 if task == "binary" else 3, task, temperature)
    found = fit_temperatures(logits, labels, task)
    assert len(found) == (3 if task == "multilabel" else 1)
    np.testing.assert_allclose(found, temperature, rtol=0.15)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 60), n_classes=st.integers(2, 5), scale=st.floats(0.01, 50))
def test_temperature_scaling_keeps_every_argmax_and_never_worsens_the_likelihood(
    seed: int, n: int, n_classes: int, scale: float
) -> None:
    generator = np.random.default_rng(seed)
    logits = (generator.normal(size=(n, n_classes)) * scale).astype(np.float32)
    labels = generator.integers(-1, n_classes, size=n)
    temperatures = fit_temperatures(logits, labels, "multiclass")
    assert 0.05 <= temperatures[0] <= 20
    before, after = (apply_temperatures(logits, t, "multiclass") for t in ((1.0,), temperatures))
    assert (after.argmax(axis=1) == logits.argmax(axis=1)).all()
    if (labels >= 0).any():
        assert nll(after, labels, "multiclass") <= nll(before, labels, "multiclass") + 1e-12


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 60))
def test_multi_label_temperatures_never_worsen_a_label_and_keep_its_side_of_one_half(seed: int, n: int) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(n, 3)) * 5
    labels = generator.integers(0, 2, size=(n, 3)).astype(np.float32)
    labels[generator.random(labels.shape) < 0.3] = np.nan
    temperatures = fit_temperatures(logits, labels, "multilabel")
    before, after = (apply_temperatures(logits, t, "multilabel") for t in ((1.0, 1.0, 1.0), temperatures))
    assert ((after >= 0.5) == (logits >= 0)).all()
    for c in range(3):
        seen = ~np.isnan(labels[:, c])
        if seen.any():
            columns = [p[seen, c : c + 1] for p in (before, after)]
            worse, better = (nll(p, labels[seen, c : c + 1], "multilabel") for p in columns)
            assert better <= worse + 1e-12
        if len(np.unique(labels[seen, c])) < 2:
            assert temperatures[c] == 1.0


def test_missing_labels_do_not_move_a_temperature() -> None:
    logits, labels = drawn(0, 300, 3, "multilabel", 2.0)
    more = np.vstack([logits, np.full((50, 3), 30.0)])
    missing = np.vstack([labels, np.full((50, 3), np.nan)])
    assert fit_temperatures(more, missing, "multilabel") == fit_temperatures(logits, labels, "multilabel")
    logits, single = drawn(0, 300, 3, "multiclass", 2.0)
    more = np.vstack([logits, np.full((50, 3), 30.0)])
    missing = np.append(single, [-1] * 50)
    assert fit_temperatures(more, missing, "multiclass") == fit_temperatures(logits, single, "multiclass")


def test_one_outcome_alone_keeps_temperature_one() -> None:
    assert fit_temperatures([[3.0, 1.0], [2.0, 1.0]], [0, 0], "binary") == (1.0,)
    assert fit_temperatures([[3.0, 1.0]], [-1], "binary") == (1.0,)
    assert fit_temperatures([[3.0], [1.0]], [[1.0], [1.0]], "multilabel") == (1.0,)


def test_probabilities_are_softmax_or_sigmoid_even_for_huge_logits() -> None:
    logits = np.asarray([[1000.0, -1000.0, 999.0], [0.5, 0.1, -3.0]])
    np.testing.assert_allclose(apply_temperatures(logits, (2.0,), "ordinal"), softmax(logits / 2, axis=1))
    np.testing.assert_allclose(apply_temperatures(logits, (2.0, 1.0, 4.0), "multilabel"), expit(logits / [2, 1, 4]))
    log_scores = np.asarray([[-np.inf, 0.0, -1.0]])  # an ordinal class of probability zero
    assert apply_temperatures(log_scores, (2.0,), "ordinal")[0, 0] == 0.0


def test_the_likelihood_is_scikit_learns_log_loss() -> None:
    logits, labels = drawn(1, 50, 3, "multiclass", 1.0)
    probabilities = softmax(logits, axis=1)
    assert nll(probabilities, labels, "multiclass") == pytest.approx(log_loss(labels, probabilities))
    logits, several = drawn(1, 50, 3, "multilabel", 1.0)
    flat = log_loss(several.ravel(), expit(logits).ravel())
    assert nll(expit(logits), several, "multilabel") == pytest.approx(flat)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(4, 80), decimals=st.integers(1, 6))
def test_thresholds_reach_the_best_youden_index_and_lie_clear_of_every_score(seed: int, n: int, decimals: int) -> None:
    generator = np.random.default_rng(seed)
    labels = np.asarray([1.0, 0.0, *generator.integers(0, 2, size=n)])[:, None]
    scores = np.round(np.clip(0.2 * labels[:, 0] + 0.8 * generator.random(len(labels)), 0, 1), decimals)[:, None]
    threshold = fit_thresholds(scores, labels, "multilabel")[0]
    fpr, tpr, _ = roc_curve(labels[:, 0], scores[:, 0])
    if (tpr - fpr).max() <= 1e-12:
        assert threshold == 0.5
        return
    chosen, truth = scores[:, 0] >= threshold, labels[:, 0] == 1
    youden = chosen[truth].mean() - chosen[~truth].mean()
    assert youden == pytest.approx((tpr - fpr).max())
    nearest = np.abs(scores[:, 0] - threshold).min()
    assert nearest >= 0.49 * 10.0**-decimals
    assert ((scores[:, 0].astype(np.float32) * np.float32(1 + 1e-7) >= threshold) == chosen).all()


def test_thresholds_are_one_half_where_undefined_and_absent_where_argmax_decides() -> None:
    labels = np.asarray([[1.0, np.nan, 0.0], [1.0, np.nan, 1.0], [np.nan, np.nan, 0.0]])
    scores = np.asarray([[0.9, 0.1, 0.6], [0.8, 0.2, 0.6], [0.1, 0.3, 0.6]])
    assert fit_thresholds(scores, labels, "multilabel") == (0.5, 0.5, 0.5)
    assert fit_thresholds([[0.9, 0.1], [0.2, 0.8]], [0, 1], "binary") == ()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_temperatures([[np.nan, 1.0]], [0], "binary"), "diverged"),
        (lambda: apply_temperatures([[0.0, 1.0]], (1.0, 1.0), "binary"), "expected 1"),
        (lambda: apply_temperatures([[0.0, 1.0]], (0.0,), "binary"), "above 0"),
        (lambda: fit_thresholds([[0.0, 1.0]], [0], "multilabel"), "do not fit"),
        (lambda: nll([[0.5, 0.5]], [-1], "binary"), "undefined"),
        (lambda: nll([[0.5, 0.5]], [0], "other"), "unknown task"),
    ],
)
def test_input_that_does_not_fit_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
