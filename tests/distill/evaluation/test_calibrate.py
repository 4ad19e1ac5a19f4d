"""distill.evaluation.calibrate: temperatures found again, decisions that do not move, thresholds that match a search."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax
from sklearn.metrics import log_loss, roc_curve

from distill.evaluation.calibrate import (
    FEWEST_IMAGES,
    FOLDS,
    _folds,
    apply_temperatures,
    choose_temperatures,
    few_images,
    fit_temperatures,
    fit_thresholds,
    nll,
)
from distill.networks.checkpoint import Calibration

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


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 1000), temperature=st.sampled_from((0.3, 2.0, 4.0)), task=st.sampled_from((*SOFTMAX_TASKS, "multilabel")))
def test_a_temperature_that_helps_is_kept_as_fitted_on_the_whole_set(seed: int, temperature: float, task: Any) -> None:
    logits, labels = drawn(seed, 400, 2 if task == "binary" else 3, task, temperature)
    chosen, reasons = choose_temperatures(logits, labels, task)
    assert chosen == fit_temperatures(logits, labels, task)
    assert set(reasons) == {""}
    grid = np.exp(np.linspace(np.log(0.05), np.log(20), 300))
    for c in range(len(chosen)):  # the float64 likelihood over a fine grid has its least value there
        rows, given_labels = (logits[:, [c]], labels[:, [c]]) if task == "multilabel" else (logits, labels)
        losses = [nll(apply_temperatures(rows, (one,), task), given_labels, task) for one in grid]
        assert chosen[c] == pytest.approx(grid[int(np.argmin(losses))], rel=0.03)


def test_logits_that_are_calibrated_mostly_keep_temperature_one() -> None:
    kept = [choose_temperatures(*drawn(seed, 100, 3, "multiclass", 1.0), "multiclass")[0] == (1.0,) for seed in range(40)]
    assert sum(kept) >= 34
    assert sum(fit_temperatures(*drawn(seed, 100, 3, "multiclass", 1.0), "multiclass") == (1.0,) for seed in range(40)) <= 5


@pytest.mark.parametrize(
    ("logits", "labels", "reason"),
    [
        ([[9.0, 1.0], [2.0, 1.0]], [1, 0], "2 labelled validation images"),  # one right, one wrong, no third to tell
        ([[9.0, 1.0], [1.0, 9.0]] * 40, [1, 0] * 40, "for 80 labelled validation images lies beyond 0.05 to 20"),  # all wrong
        ([[9.0, 1.0], [1.0, 9.0]] * 40, [0, 1] * 40, "for 80 labelled validation images lies beyond 0.05 to 20"),  # separable
        ([[3.0, 1.0]] * 60, [0] * 60, "60 labelled validation images of one outcome alone"),
        ([[3.0, 1.0]] * 4, [-1] * 4, "0 labelled validation images"),
    ],
)
def test_a_temperature_that_nothing_supports_stays_one_and_says_why(logits: Any, labels: Any, reason: str) -> None:
    chosen, reasons = choose_temperatures(logits, labels, "binary")
    assert chosen == (1.0,)
    assert reason in reasons[0]


def test_few_images_are_said_even_where_the_temperature_is_used() -> None:
    logits, labels = drawn(3, FEWEST_IMAGES - 1, 3, "multiclass", 6.0)
    chosen, reasons = choose_temperatures(logits, labels, "multiclass")
    assert chosen == fit_temperatures(logits, labels, "multiclass")
    assert reasons == ("only 49 labelled validation images, fewer than 50",)


def test_each_finding_is_chosen_for_itself_and_missing_labels_are_left_out() -> None:
    logits, labels = drawn(0, 400, 3, "multilabel", 3.0)
    logits[:, 1] /= 3.0
    labels[:, 2] = np.nan
    chosen, reasons = choose_temperatures(logits, labels, "multilabel")
    assert chosen[0] == fit_temperatures(logits, labels, "multilabel")[0] > 2
    assert chosen[1:] == (1.0, 1.0)
    assert reasons[0] == ""
    assert "does not show" in reasons[1]
    assert "0 labelled" in reasons[2]
    more, missing = np.vstack([logits, np.full((50, 3), 30.0)]), np.vstack([labels, np.full((50, 3), np.nan)])
    assert choose_temperatures(more, missing, "multilabel")[0][0] == pytest.approx(chosen[0], rel=1e-5)


def test_a_known_start_is_kept_where_a_new_fit_is_not_shown_to_be_better() -> None:
    logits, labels = drawn(1, 200, 3, "multiclass", 2.0)
    assert choose_temperatures(logits, labels, "multiclass", fallback=(2.0,))[0] == (2.0,)
    assert choose_temperatures(logits, labels, "multiclass", fallback=(8.0,))[0] == fit_temperatures(logits, labels, "multiclass")


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 80), n_groups=st.integers(1, 80))
def test_no_group_is_in_two_folds_and_classes_are_spread(seed: int, n: int, n_groups: int) -> None:
    generator = np.random.default_rng(seed)
    groups, labels = generator.integers(0, n_groups, n), generator.integers(0, 2, n)
    folds = _folds(labels, groups, 0)
    assert all(len(np.unique(folds[groups == one])) == 1 for one in np.unique(groups))
    alone = _folds(labels, np.arange(n), seed)
    for outcome in (0, 1):
        counts = np.bincount(alone[labels == outcome], minlength=FOLDS)
        assert counts.max() - counts.min() <= 1
    np.testing.assert_array_equal(alone, _folds(labels, np.arange(n), seed))


def test_copies_of_few_patients_do_not_pass_for_many_images() -> None:
    fooled = grouped = 0
    for seed in range(30):
        logits, labels = drawn(seed, 12, 3, "multiclass", 1.0)
        many, copies = np.repeat(logits, 10, axis=0), np.repeat(labels, 10)
        fooled += choose_temperatures(many, copies, "multiclass")[0] != (1.0,)
        grouped += choose_temperatures(many, copies, "multiclass", groups=np.repeat(np.arange(12), 10))[0] != (1.0,)
    assert grouped < fooled


def test_thresholds_on_few_images_are_named_with_their_counts() -> None:
    labels = np.zeros((60, 3))
    labels[:30, 0], labels[:3, 1] = 1, 1
    labels[20:, 2] = np.nan
    assert few_images(labels, "multilabel", ("a", "b", "c")) == {"b": "3 with it, 57 without", "c": "0 with it, 20 without"}
    assert few_images(labels[:, 0], "binary", ("a", "b")) == {}


def test_calibrated_is_said_only_of_what_is_shown() -> None:
    assert Calibration((2.0,)).describe() == "calibrated"
    assert Calibration((1.0,), (), {"every class": "why"}).describe() == "not calibrated (why)"
    assert Calibration((1.0, 1.0), (0.5, 0.5), {"a": "why", "b": "why"}).describe() == "not calibrated (why)"
    assert Calibration((1.0, 2.0), (0.5, 0.5), {"a": "why"}).describe() == "calibrated for 1 of 2 findings, not for a (why)"
    assert Calibration((1.0, 1.0), (0.5, 0.5), {"a": "x", "b": "y"}).describe() == "not calibrated: a (x); b (y)"
