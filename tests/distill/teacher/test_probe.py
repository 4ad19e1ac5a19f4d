"""The linear probe against scikit-learn's logistic regression, and the strength it chooses on validation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from distill.evaluation.losses import task_loss
from distill.networks.models import class_scores
from distill.teacher.probe import STRENGTHS, Probe, fit_linear, fit_probe


def blobs(task: str, count: int = 120, width: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = np.random.default_rng(seed)
    features = random.normal(size=(count, width)).astype(np.float32)
    scores = features @ np.random.default_rng(99).normal(size=(width, 4)) + random.normal(0, 1.0, (count, 4))
    labels = {"binary": (scores[:, 0] > 0).astype(np.int64), "multiclass": scores[:, :3].argmax(1),
              "ordinal": np.digitize(scores[:, 0], [-1.5, 0, 1.5]), "multilabel": (scores[:, :3] > 0.5).astype(np.float32)}[task]
    return torch.from_numpy(features), torch.from_numpy(labels)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_it_is_the_logistic_regression_of_sklearn(strength: float) -> None:
    inputs, labels = blobs("multiclass")
    weight, bias = fit_linear(inputs, labels, "multiclass", strength, torch.zeros(6, 3), torch.zeros(3))
    expected = LogisticRegression(C=strength, tol=1e-8, max_iter=2000).fit(inputs.double(), labels)
    found = (inputs @ weight + bias).softmax(1).numpy()
    np.testing.assert_allclose(found, expected.predict_proba(inputs.double()), atol=2e-3)


@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_each_finding_is_its_own_regression(strength: float) -> None:
    inputs, labels = blobs("multilabel")
    weight, bias = fit_linear(inputs, labels, "multilabel", strength, torch.zeros(6, 3), torch.zeros(3))
    for column in range(3):
        expected = LogisticRegression(C=strength, tol=1e-8, max_iter=2000).fit(inputs.double(), labels[:, column])
        found = (inputs @ weight + bias)[:, column].sigmoid().numpy()
        np.testing.assert_allclose(found, expected.predict_proba(inputs.double())[:, 1], atol=2e-3)


def test_findings_that_are_missing_do_not_count() -> None:
    inputs, labels = blobs("multilabel", 160)
    holed = labels.clone()
    holed[80:, 1] = torch.nan
    weight, bias = fit_linear(inputs, holed, "multilabel", 1.0, torch.zeros(6, 3), torch.zeros(3))
    expected = LogisticRegression(C=1.0, tol=1e-8, max_iter=2000).fit(inputs[:80].double(), labels[:80, 1])
    found = (inputs @ weight + bias)[:, 1].sigmoid().numpy()
    np.testing.assert_allclose(found, expected.predict_proba(inputs.double())[:, 1], atol=2e-3)


@pytest.mark.parametrize(("task", "outputs"), [("binary", 2), ("multiclass", 3), ("multilabel", 3), ("ordinal", 3)])
def test_a_probe_learns_every_task_and_the_strength_is_the_best_on_validation(task: str, outputs: int) -> None:
    features, labels = blobs(task, 300)
    val, val_labels = blobs(task, 200, seed=1)
    shift = torch.linspace(-50, 50, 6)
    probe = fit_probe(features * 30 + shift, labels, val * 30 + shift, val_labels, task, outputs)  # type: ignore[arg-type]

    def loss(one: Probe) -> float:
        return task_loss(one.logits(val * 30 + shift), val_labels, task, focal_gamma=0.0).item()  # type: ignore[arg-type]

    fitted = loss(probe)
    prior = task_loss(torch.zeros(200, outputs + (task == "ordinal")), val_labels, task, focal_gamma=0.0).item()  # type: ignore[arg-type]
    assert fitted < 0.85 * prior
    assert probe.strength in STRENGTHS
    weight, bias = torch.zeros(6, outputs), torch.zeros(outputs)
    inputs = (features * 30 + shift - probe.mean) / probe.sd
    for strength in STRENGTHS:
        weight, bias = fit_linear(inputs, labels, task, strength, weight, bias)  # type: ignore[arg-type]
        assert fitted <= loss(Probe(probe.mean, probe.sd, weight, bias, task, strength)) + 1e-6  # type: ignore[arg-type]


def test_logits_are_scores_of_standardised_features() -> None:
    features, labels = blobs("ordinal")
    probe = fit_probe(features, labels, features, labels, "ordinal", 3)
    expected = class_scores((features - features.mean(0)) / features.std(0) @ probe.weight + probe.bias, "ordinal")
    torch.testing.assert_close(probe.logits(features), expected)
    assert not probe.logits(features).requires_grad
    torch.testing.assert_close(probe.logits(features).exp().sum(1), torch.ones(len(features)))


def test_noise_is_met_with_a_strong_penalty_and_constant_features_with_no_nan() -> None:
    torch.manual_seed(0)
    features, labels = torch.randn(40, 200), torch.arange(40) % 2
    probe = fit_probe(features, labels, torch.randn(40, 200), labels, "binary", 2)
    assert probe.strength <= 0.001, "of such strengths none says anything, and which is best is chance"
    flat = fit_probe(torch.ones(12, 5), labels[:12], torch.ones(6, 5), labels[:6], "binary", 2)
    torch.testing.assert_close(flat.logits(torch.ones(3, 5)).softmax(1), torch.full((3, 2), 0.5), atol=1e-3, rtol=0)


def test_labels_hidden_on_validation_are_left_out() -> None:
    features, labels = blobs("multiclass", 100)
    val, known = blobs("multiclass", 60, seed=1)
    hidden = torch.cat([known[:30], torch.full((30,), -1)])
    one = fit_probe(features, labels, val, hidden, "multiclass", 3)
    other = fit_probe(features, labels, val[:30], known[:30], "multiclass", 3)
    assert one.strength == other.strength
    assert torch.equal(one.weight, other.weight)
