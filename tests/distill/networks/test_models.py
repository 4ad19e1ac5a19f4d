"""One model shape: ordinal scores against the product formula, specs that rebuild a model, hashes and counts."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CLASSES, tiny_model

from distill.networks.models import ModelSpec, build_model, class_scores, count_macs, count_parameters, feature_width, weights_hash
from runtimes.errors import UserError


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 6), st.floats(0.1, 30), st.integers(0, 10**6))
def test_ordinal_scores_are_the_log_of_the_product_formula(thresholds: int, count: int, spread: float, seed: int) -> None:
    scores = np.random.default_rng(seed).normal(0, spread, (count, thresholds))
    passes = 1 / (1 + np.exp(-scores))
    expected = np.stack([np.prod(passes[:, :k], axis=1) * (1 - passes[:, k] if k < thresholds else 1.0)
                         for k in range(thresholds + 1)], axis=1)
    found = class_scores(torch.from_numpy(scores), "ordinal")
    assert found.shape == (count, thresholds + 1)
    np.testing.assert_allclose(found.exp().numpy(), expected, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(found.exp().sum(1).numpy(), 1.0, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 8), st.integers(0, 10**6))
def test_ordinal_cumulative_probabilities_are_monotone(thresholds: int, seed: int) -> None:
    scores = torch.from_numpy(np.random.default_rng(seed).normal(0, 5, (20, thresholds)).astype(np.float32))
    above = class_scores(scores, "ordinal").softmax(1).flip(1).cumsum(1).flip(1)  # P(y >= k)
    assert bool((above.diff(dim=1) <= 1e-6).all())


def test_ordinal_scores_have_finite_gradients_at_certain_thresholds() -> None:
    scores = torch.tensor([[200.0, -200.0, 0.0]], requires_grad=True)
    class_scores(scores, "ordinal")[:, 2].sum().backward()
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_other_tasks_keep_their_scores(task: str) -> None:
    scores = torch.randn(4, 3)
    assert class_scores(scores, task) is scores  # type: ignore[arg-type]


@pytest.mark.parametrize("task", sorted(CLASSES))
def test_a_spec_survives_json_and_rebuilds_a_model_its_weights_fit(task: str) -> None:
    model = tiny_model(task)
    spec = ModelSpec.from_dict(json.loads(json.dumps(model.spec.as_dict())))
    assert spec == model.spec
    twin = build_model(spec)
    twin.net.load_state_dict(model.net.state_dict(), strict=True)
    pixels = torch.randn(3, 3, 32, 32)
    assert torch.equal(model.eval()(pixels), twin.eval()(pixels))
    assert model(pixels).shape == (3, len(CLASSES[task]))
    assert spec.outputs == model.head.out_features == len(CLASSES[task]) - (task == "ordinal")


def test_an_incomplete_spec_is_refused() -> None:
    for content in ({}, {"classes": []}, {"classes": ["a"], "arch": "x", "surplus": 1}):
        with pytest.raises(UserError, match="model spec is not complete"):
            ModelSpec.from_dict(content)


@pytest.mark.parametrize("arch", ["test_efficientnet", "mobilenetv3_small_050", "test_vit", "test_resnet", "test_convnext"])
def test_features_and_head_make_the_network_of_timm(arch: str) -> None:
    model = tiny_model(arch=arch).eval()
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        features = model.features(pixels)
        assert features.shape == (2, feature_width(model))
        torch.testing.assert_close(model.logits(features), model.net(pixels))


def test_a_network_without_one_linear_head_is_refused_by_its_name() -> None:
    with pytest.raises(UserError, match=r"levit_128s ends in tuple, expected one linear classifier"):
        build_model(ModelSpec("levit_128s", 224, 224, "binary", ("no", "yes")))


def test_a_network_that_cannot_be_made_says_so() -> None:
    with pytest.raises(UserError, match="timm cannot make resnet18"):
        build_model(ModelSpec("resnet18", 32, 32, "binary", ("no", "yes"), {"nonsense": 3}))


def test_macs_are_those_of_the_layers_and_counting_leaves_the_mode_alone() -> None:
    model = tiny_model(arch="resnet18")
    assert model.training
    stem = 16 * 16 * 64 * 3 * 49
    macs = count_macs(model, 32, 32)
    assert model.training
    assert stem < macs < 1_830_000_000 * (32 / 224) ** 2 * 1.2  # ResNet-18's published 1.82 G at 224 px, scaled
    assert macs > 1_700_000_000 * (32 / 224) ** 2
    assert count_parameters(model) == sum(one.numel() for one in model.parameters())


def test_the_hash_sees_a_changed_bit_a_buffer_and_a_name() -> None:
    model = tiny_model()
    before = weights_hash(model)
    assert weights_hash(model) == before == weights_hash(tiny_model())
    with torch.no_grad():
        model.head.bias[0] = torch.nextafter(model.head.bias[0], torch.tensor(9.0))
    assert weights_hash(model) != before
    other = tiny_model()
    next(buffer for name, buffer in other.named_buffers() if name.endswith("running_mean"))[0] += 1e-3
    assert weights_hash(other) != before
    assert weights_hash(tiny_model().net) != before  # the same tensors under other names
    assert weights_hash(tiny_model().half().bfloat16()) != before
