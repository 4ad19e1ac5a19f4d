"""distill.evaluation.evaluate against scikit-learn, and the bootstrap against what it promises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from distill.evaluation.evaluate import auroc_difference, confidences, decisions, ece, evaluate

NAMES = ("a", "b", "c", "d")


def single_label(seed: int, n: int, n_classes: int, rounding: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n,) with every class present and informative probabilities (n, C), rounded so that ties occur."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(n) % n_classes)
    odds = np.exp(np.round(generator.normal(size=(n, n_classes)) + np.eye(n_classes)[labels], rounding))
    return labels, odds / odds.sum(axis=1, keepdims=True)


def multi_label(seed: int, n: int, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = (generator.random((n, n_classes)) < 0.4).astype(np.float32)
    labels[0], labels[1] = 0, 1
    scores = np.round(np.clip(0.3 * labels + 0.7 * generator.random((n, n_classes)), 0, 1), 2)
    labels[2:][generator.random((n - 2, n_classes)) < 0.2] = np.nan
    return labels, scores


def value(result: dict[str, Any], key: str) -> float:
    return float(result[key]["value"])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(12, 80), n_classes=st.integers(3, 4))
def test_multiclass_values_equal_scikit_learn(seed: int, n: int, n_classes: int) -> None:
    labels, scores = single_label(seed, n, n_classes)
    got = evaluate(labels, scores, task="ordinal", classes=NAMES[:n_classes], n_bootstrap=2)
    chosen = scores.argmax(axis=1)
    assert value(got, "auroc") == pytest.approx(reference.roc_auc_score(labels, scores, multi_class="ovr"))
    assert value(got, "accuracy") == pytest.approx(reference.accuracy_score(labels, chosen))
    assert value(got, "balanced_accuracy") == pytest.approx(reference.balanced_accuracy_score(labels, chosen))
    assert value(got, "f1") == pytest.approx(reference.f1_score(labels, chosen, average="macro"))
    kappa = reference.cohen_kappa_score(labels, chosen, weights="quadratic", labels=list(range(n_classes)))
    assert value(got, "kappa") == pytest.approx(kappa)
    assert value(got, "brier") == pytest.approx(reference.brier_score_loss(labels, scores))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(8, 80))
def test_binary_values_equal_scikit_learn(seed: int, n: int) -> None:
    labels, scores = single_label(seed, n, 2, rounding=1)
    got = evaluate(labels, scores, task="binary", classes=("no", "yes"), n_bootstrap=2)
    assert value(got, "auroc") == pytest.approx(reference.roc_auc_score(labels, scores[:, 1]))
    assert value(got, "brier") == pytest.approx(reference.brier_score_loss(labels, scores[:, 1]))
    assert value(got, "f1") == pytest.approx(reference.f1_score(labels, scores.argmax(axis=1), average="macro"))
    assert list(got["auroc_per_class"]) == ["yes"]
    assert "kappa" not in got


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(8, 80), n_classes=st.integers(1, 4))
def test_multi_label_values_equal_scikit_learn_label_by_label(seed: int, n: int, n_classes: int) -> None:
    labels, scores = multi_label(seed, n, n_classes)
    thresholds = [0.3, 0.5, 0.6, 0.4][:n_classes]
    names = NAMES[:n_classes]
    got = evaluate(labels, scores, task="multilabel", classes=names, thresholds=thresholds, n_bootstrap=2)
    wanted: dict[str, list[float]] = {k: [] for k in ("auroc", "accuracy", "balanced_accuracy", "f1", "brier")}
    for c, name in enumerate(names):
        kept = ~np.isnan(labels[:, c])
        truth, score = labels[kept, c].astype(int), scores[kept, c]
        chosen = score >= thresholds[c]
        wanted["auroc"].append(reference.roc_auc_score(truth, score))
        wanted["accuracy"].append(reference.accuracy_score(truth, chosen))
        wanted["balanced_accuracy"].append(reference.balanced_accuracy_score(truth, chosen))
        wanted["f1"].append(reference.f1_score(truth, chosen))
        wanted["brier"].append(reference.brier_score_loss(truth, score))
        assert value(got["auroc_per_class"], name) == pytest.approx(wanted["auroc"][-1])
    for key, values in wanted.items():
        assert value(got, key) == pytest.approx(np.mean(values)), key
    assert value(got, "ece") == pytest.approx(ece(*confidences(labels, scores, "multilabel")))


def test_the_calibration_error_is_the_formula_of_guo() -> None:
    generator = np.random.default_rng(3)
    confidence = np.concatenate([generator.random(200), np.arange(16) / 15])
    correct = generator.random(len(confidence)) < confidence**2
    total = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low + 1e-12) & (confidence <= low + 1 / 15 + 1e-12) | ((confidence == 0) & (low == 0))
        if inside.any():
            total += inside.sum() / len(confidence) * abs(correct[inside].mean() - confidence[inside].mean())
    assert ece(confidence, correct) == pytest.approx(total)
    assert ece([0.0, 1.0], [0, 1]) == 0.0


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_a_class_without_positives_is_named_and_left_out_of_the_mean(task: Any) -> None:
    if task == "multiclass":
        labels, scores = single_label(0, 60, 3)
        kept = labels != 2
        labels, scores = labels[kept], scores[kept]
    else:
        labels, scores = multi_label(0, 60, 3)
        labels[:, 2] = 0
    got = evaluate(labels, scores, task=task, classes=NAMES[:3], n_bootstrap=20)
    assert got["undefined"] == ["c"]
    assert set(got["auroc_per_class"]) == {"a", "b"}
    mean = np.mean([value(got["auroc_per_class"], name) for name in ("a", "b")])
    assert value(got, "auroc") == pytest.approx(mean)
    assert all(np.isfinite(list(got[key].values())).all() for key in ("auroc", "accuracy", "f1", "balanced_accuracy"))


def test_the_auroc_of_common_findings_is_the_mean_of_those_with_ten_images_of_either_outcome() -> None:
    generator = np.random.default_rng(0)
    counts = (30, 10, 9, 95)  # positives of 100: the third is rare, and the fourth nearly always there
    labels = np.stack([generator.permutation(np.arange(100) < count) for count in counts], axis=1).astype(np.float32)
    scores = np.clip(0.3 * labels + 0.7 * generator.random((100, 4)), 0, 1)
    got = evaluate(labels, scores, task="multilabel", classes=NAMES, n_bootstrap=50)
    own = [reference.roc_auc_score(labels[:, place], scores[:, place]) for place in range(4)]
    assert value(got, "auroc_common") == pytest.approx(np.mean(own[:2]))
    assert got["auroc_common"]["findings"] == 2
    assert got["auroc_common"]["low"] < value(got, "auroc_common") < got["auroc_common"]["high"]
    assert value(got, "auroc") == pytest.approx(np.mean(own))
    for columns in ([0, 1], [2, 3]):  # none is rare, or all are: there is nothing to tell apart
        assert "auroc_common" not in evaluate(labels[:, columns], scores[:, columns], task="multilabel", classes=NAMES[:2], n_bootstrap=2)


def test_a_split_with_one_class_has_no_auroc_and_a_split_without_labels_no_metric() -> None:
    _, scores = single_label(0, 10, 2)
    got = evaluate(np.ones(10, dtype=int), scores, task="binary", classes=("no", "yes"), n_bootstrap=10)
    assert got["undefined"] == ["yes"]
    assert "auroc" not in got
    assert "auroc_per_class" not in got
    assert "accuracy" in got
    none = evaluate(np.full(10, -1), scores, task="binary", classes=("no", "yes"))
    assert none == {"n": 0, "undefined": ["yes"]}
    assert auroc_difference(np.full(10, -1), scores, scores, "binary") == {}


def test_unlabelled_rows_change_nothing() -> None:
    labels, scores = single_label(1, 40, 3)
    groups = np.arange(40) // 2
    wanted = evaluate(labels, scores, task="multiclass", classes=NAMES[:3], groups=groups)
    rubbish = np.vstack([scores, np.full((5, 3), np.nan)])
    more_groups = np.concatenate([groups, np.zeros(5, dtype=int)])
    more = np.concatenate([labels, np.full(5, -1)])
    assert evaluate(more, rubbish, task="multiclass", classes=NAMES[:3], groups=more_groups) == wanted


def test_the_same_seed_gives_the_same_interval_and_the_interval_holds_the_value() -> None:
    labels, scores = single_label(2, 90, 3)
    first, second, other = (
        evaluate(labels, scores, task="ordinal", classes=NAMES[:3], seed=seed, n_bootstrap=300) for seed in (0, 0, 1)
    )
    assert first == second != other
    for key in ("auroc", "accuracy", "balanced_accuracy", "f1", "kappa", "brier", "ece"):
        assert first[key]["low"] < first[key]["value"] < first[key]["high"], key


def test_the_auroc_interval_agrees_with_resampling_by_hand() -> None:
    labels, scores = single_label(4, 120, 2)
    got = evaluate(labels, scores, task="binary", classes=("no", "yes"), n_bootstrap=1500)["auroc"]
    generator = np.random.default_rng(9)
    drawn = []
    for _ in range(1500):
        rows = generator.integers(120, size=120)
        drawn.append(reference.roc_auc_score(labels[rows], scores[rows, 1]))
    np.testing.assert_allclose([got["low"], got["high"]], np.percentile(drawn, (2.5, 97.5)), atol=0.012)


def test_patients_are_drawn_whole_so_copies_of_an_image_narrow_nothing() -> None:
    labels, scores = single_label(5, 60, 2)
    alone = evaluate(labels, scores, task="binary", classes=("no", "yes"))
    patients = np.asarray([f"patient {i}" for i in range(60)])
    copies = {"task": "binary", "classes": ("no", "yes")}
    grouped = evaluate(labels.repeat(4), scores.repeat(4, axis=0), groups=patients.repeat(4), **copies)  # type: ignore[arg-type]
    loose = evaluate(labels.repeat(4), scores.repeat(4, axis=0), **copies)  # type: ignore[arg-type]

    def width(result: dict[str, Any]) -> float:
        return float(result["auroc"]["high"] - result["auroc"]["low"])

    assert width(grouped) == pytest.approx(width(alone), rel=0.1)
    assert width(loose) < 0.7 * width(alone)


def test_the_paired_difference_is_exact_and_narrower_than_unpaired() -> None:
    labels, scores = single_label(6, 100, 3)
    noisy = scores + 0.05 * np.random.default_rng(0).random(scores.shape)
    got = auroc_difference(labels, scores, noisy, "multiclass", n_bootstrap=300)
    names = NAMES[:3]
    a, b = (evaluate(labels, p, task="multiclass", classes=names, n_bootstrap=300)["auroc"] for p in (scores, noisy))
    assert got["value"] == pytest.approx(a["value"] - b["value"])
    assert got["high"] - got["low"] < a["high"] - a["low"]
    assert auroc_difference(labels, scores, scores, "multiclass") == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_decisions_are_argmax_or_thresholds() -> None:
    assert decisions([[0.2, 0.8], [0.5, 0.5]], "binary").tolist() == [1, 0]
    assert decisions([[0.2, 0.8], [0.5, 0.1]], "multilabel").tolist() == [[0, 1], [1, 0]]
    assert decisions([[0.2, 0.8], [0.5, 0.1]], "multilabel", (0.2, 0.9)).tolist() == [[1, 0], [1, 0]]


@pytest.mark.parametrize(
    ("labels", "scores", "task", "message"),
    [
        ([0, 1], [[0.5], [0.5]], "binary", "expected \\(N, 2\\)"),
        ([0, 3], [[0.5, 0.5], [0.5, 0.5]], "multiclass", "labels run from 0 to 3"),
        ([[0, 2]], [[0.5, 0.5]], "multilabel", "0, 1 or nan"),
        ([0], [[0.5, np.nan]], "binary", "not finite"),
        ([0, 1], [[0.5, 0.5]], "binary", "do not fit"),
        ([0], [[0.5, 0.5]], "regression", "unknown task"),
    ],
)
def test_input_that_does_not_fit_is_refused(labels: Any, scores: Any, task: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(labels, scores, task=task, classes=("no", "yes"))
