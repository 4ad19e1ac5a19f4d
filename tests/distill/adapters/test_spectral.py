"""Starts from an SVD: METHODS 6.1 and 6.2 (the layer is unchanged at 1/N gates, nearly so under top-k; s cancels), PiSSA."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from distill.adapters.experts import AdapterSpec, theory_scale
from distill.adapters.layer import Adapter
from distill.adapters.merge import weight_change
from distill.adapters.spectral import spectral_factors, start_from_svd
from runtimes.errors import UserError


def started(base: nn.Module, spec: AdapterSpec, rho: float = 10.0) -> tuple[Adapter, Tensor]:
    """An adapter started from its layer's spectrum, and the layer's weight before."""
    before = base.weight.detach().clone()
    adapter = Adapter(base, spec)
    start_from_svd(adapter, rho=rho)
    return adapter, before  # type: ignore[return-value]


@pytest.mark.parametrize("layer", [lambda: nn.Linear(48, 32), lambda: nn.Linear(32, 48), lambda: nn.Conv2d(16, 24, 1),
                                   lambda: nn.Conv2d(6, 24, 3, padding=1)])
def test_with_gates_at_one_over_n_the_layer_is_the_frozen_one(layer: object) -> None:
    torch.manual_seed(0)
    spec = AdapterSpec(8, 2, 16.0, "linear", top_k=2)
    adapter, before = started(layer(), spec)  # type: ignore[operator]
    even = weight_change(adapter, torch.full((8,), 1 / 8))
    whole = adapter.weight.detach().double().flatten(1) + even
    assert float((whole - before.double().flatten(1)).abs().max()) < 2e-7 * float(before.abs().max()) + 1e-8
    assert float(even.norm() / before.norm()) > 1e-3  # the experts hold something


def test_under_top_k_a_fresh_layer_deviates_by_less_than_two_percent_at_rho_ten() -> None:
    torch.manual_seed(0)
    base = nn.Linear(192, 192, bias=False)
    x = torch.randn(256, 192)
    exact = base(x).detach()
    found = {}
    for rho in (10.0, 1.0):
        copy = nn.Linear(192, 192, bias=False)
        copy.load_state_dict(base.state_dict())
        adapter, _ = started(copy, AdapterSpec(8, 4, 16.0, "linear", top_k=2), rho)
        found[rho] = float((adapter(x).detach() - exact).norm() / exact.norm())
    assert 0 < found[10.0] < 0.02
    assert found[1.0] == pytest.approx(10 * found[10.0], rel=0.05)


def test_the_scale_cancels_in_the_output_and_not_in_the_gradients() -> None:
    x, outputs, slopes = torch.randn(8, 40), [], []
    for scale in (1.0, 16.0):
        torch.manual_seed(0)
        adapter, _ = started(nn.Linear(40, 40), AdapterSpec(4, 2, scale, "linear", top_k=2))
        output = adapter(x)
        output.pow(2).mean().backward()
        outputs.append(output.detach())
        slopes.append(float(adapter.up.weight.grad.norm()))  # type: ignore[union-attr,operator]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)
    assert slopes[1] == pytest.approx(4 * slopes[0], rel=0.01)  # sqrt(16)


def test_experts_take_the_first_triplets_of_their_segments() -> None:
    torch.manual_seed(0)
    weight = torch.randn(20, 33)
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    down, up = spectral_factors(weight, 4, 2, scale=3.0, rho=5.0)
    for expert in range(4):  # segments of 5
        own = slice(2 * expert, 2 * expert + 2)
        places = slice(5 * expert, 5 * expert + 2)
        expected = (left[:, places] * values[places]) @ right[places] / 5.0
        torch.testing.assert_close(3.0 * up[:, own] @ down[own], expected, rtol=1e-4, atol=1e-5)


def test_one_expert_and_rho_one_is_pissa() -> None:
    torch.manual_seed(0)
    adapter, before = started(nn.Linear(30, 20), AdapterSpec(1, 6, 2.0), rho=1.0)
    values = torch.linalg.svdvals(adapter.weight.detach())
    expected = torch.linalg.svdvals(before)[6:]
    torch.testing.assert_close(values[:14], expected, rtol=1e-4, atol=1e-5)  # the six largest are with the expert
    x = torch.randn(5, 30)
    torch.testing.assert_close(adapter(x), nn.functional.linear(x, before, adapter.bias), rtol=1e-5, atol=1e-5)


def test_a_rank_too_large_for_a_layer_is_said() -> None:
    with pytest.raises(UserError, match=r"10 x 6 .*6 singular values.*--rank"):
        spectral_factors(torch.randn(10, 6), 4, 2, scale=1.0, rho=1.0)


def test_the_scaling_rule_gives_the_published_figures() -> None:
    assert theory_scale(768, 4) == pytest.approx(24.0)  # METHODS 3.1
    assert theory_scale(1152, 4, 0.1) == pytest.approx(9.3, abs=0.05)
