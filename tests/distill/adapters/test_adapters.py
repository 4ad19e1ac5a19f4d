"""The adapter layer against a loop over experts in float64: linear layers, convolutions, gates; balance; batch independence."""

from __future__ import annotations

import pytest
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F

from distill.adapters.experts import AdapterSpec
from distill.adapters.layer import Adapter, Router, balance_loss
from runtimes.errors import UserError

SPECS = {
    "lora": AdapterSpec(1, 4, 2.0),
    "molre": AdapterSpec(6, 2, 1.0, "mlp", hidden=5),
    "top-2": AdapterSpec(8, 1, 16.0, "linear", top_k=2),
    "constant": AdapterSpec(4, 2, 1.0, "linear", top_k=2, constant=True),
}
LAYERS = {
    "linear": lambda: nn.Linear(12, 9),
    "1x1": lambda: nn.Conv2d(12, 9, 1, stride=2),
    "3x3": lambda: nn.Conv2d(12, 9, 3, stride=2, padding=1, bias=False),
    "same": lambda: Conv2dSame(12, 9, 3, stride=2, padding=0),
}


def made(layer: str, spec: AdapterSpec, seed: int = 0) -> Adapter:
    torch.manual_seed(seed)
    adapter = Adapter(LAYERS[layer](), spec).double().eval()
    nn.init.normal_(adapter.up.weight)  # type: ignore[arg-type]
    if adapter.router is not None:
        nn.init.normal_(adapter.router.bias)
    return adapter


def inputs_of(layer: str, count: int = 3) -> Tensor:
    return torch.randn(count, 7, 12).double() if layer == "linear" else torch.randn(count, 12, 8, 6).double()


def by_loop(adapter: Adapter, x: Tensor) -> Tensor:
    """The definition: the base plus each expert's own pair, weighted by its gate."""
    spec, r = adapter.spec, adapter.spec.rank
    total = adapter.base(x)
    gates = adapter.gates(x)
    for index in range(spec.experts):
        down = adapter.down.weight[index * r:(index + 1) * r]  # type: ignore[index]
        up = adapter.up.weight[:, index * r:(index + 1) * r]  # type: ignore[index]
        if isinstance(adapter.base, nn.Linear):
            one = F.linear(F.linear(x, down), up)
            weight = 1.0 if gates is None else gates[..., index:index + 1]
        else:
            padded, padding = (F.pad(x, (0, 1, 0, 1)), 0) if isinstance(adapter.base, Conv2dSame) else (x, adapter.base.padding)
            one = F.conv2d(F.conv2d(padded, down, stride=adapter.base.stride, padding=padding), up)  # type: ignore[arg-type]
            weight = 1.0 if gates is None else gates[:, index:index + 1]
        total = total + spec.scale * weight * one
    return total  # type: ignore[no-any-return]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", SPECS)
def test_the_stacked_form_is_the_loop_over_experts(layer: str, kind: str) -> None:
    adapter, x = made(layer, SPECS[kind]), inputs_of(layer)
    torch.testing.assert_close(adapter(x), by_loop(adapter, x), rtol=1e-6, atol=1e-6)  # gates are fp32
    assert not torch.allclose(adapter(x), adapter.base(x))


@pytest.mark.parametrize("layer", [name for name in LAYERS if name != "linear"])
@pytest.mark.parametrize("kind", SPECS)
def test_memory_with_channels_last_gives_the_same_answer(layer: str, kind: str) -> None:
    adapter, x = made(layer, SPECS[kind]), inputs_of(layer)
    last = x.contiguous(memory_format=torch.channels_last)
    found = adapter.to(memory_format=torch.channels_last)(last)
    torch.testing.assert_close(found, by_loop(adapter, x), rtol=1e-6, atol=1e-6)
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", SPECS)
def test_the_change_is_added_in_place_with_the_gradients_of_the_plain_sum(layer: str, kind: str) -> None:
    adapter, x = made(layer, SPECS[kind]).train(), inputs_of(layer)
    held = x.clone()
    gradients = []
    for form in (adapter, lambda rows: adapter.base(rows) + adapter.change(rows)):
        adapter.zero_grad()
        rows = x.clone().requires_grad_()
        form(rows).pow(2).mean().backward()
        assert torch.equal(rows.detach(), held), "an input stays as it is"
        gradients.append([rows.grad, *(one.grad for one in adapter.parameters() if one.grad is not None)])
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-8)  # gates are fp32
    assert len(gradients[0]) > 2


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", SPECS)
def test_a_fresh_adapter_changes_nothing_and_only_it_is_trained(layer: str, kind: str) -> None:
    adapter = Adapter(LAYERS[layer](), SPECS[kind])
    x = inputs_of(layer).float()
    assert torch.equal(adapter(x), adapter.base(x))
    adapter(x).pow(2).mean().backward()
    assert all(one.grad is None for one in adapter.base.parameters())
    assert adapter.up.weight.grad is not None


@pytest.mark.parametrize("layer", LAYERS)
def test_an_image_is_answered_the_same_alone_and_in_any_batch(layer: str) -> None:
    for spec in SPECS.values():
        adapter, x = made(layer, spec), inputs_of(layer, 5)
        torch.testing.assert_close(torch.cat([adapter(x[[index]]) for index in range(5)]), adapter(x), rtol=1e-7, atol=1e-7)


def test_gates_sum_to_one_and_keep_the_largest() -> None:
    torch.manual_seed(0)
    router, x = Router(12, SPECS["top-2"]), torch.randn(200, 12)
    gates, logits = router(x), router.map(x)
    torch.testing.assert_close(gates.sum(-1), torch.ones(200))
    assert ((gates > 0).sum(-1) == 2).all()
    best = logits.topk(2, dim=-1)
    torch.testing.assert_close(gates.gather(-1, best.indices), torch.softmax(best.values, dim=-1))


def test_a_fresh_router_uses_each_expert_equally_on_average() -> None:
    experts = 8
    means = []
    for seed in range(200):  # METHODS 6.3: E w_i = 1/N over exchangeable routers
        torch.manual_seed(seed)
        means.append(Router(32, SPECS["top-2"])(torch.randn(64, 32)).mean(0))
    found = torch.stack(means)
    error = found.std(0) / len(means) ** 0.5
    assert ((found.mean(0) - 1 / experts).abs() < 4.5 * error).all()


def test_the_balance_loss_is_one_when_balanced_and_more_when_not() -> None:
    torch.manual_seed(0)
    adapter = Adapter(nn.Linear(8, 8), AdapterSpec(8, 1, 1.0, "linear", top_k=2)).train()
    assert adapter.router is not None
    assert isinstance(adapter.router.map, nn.Linear)
    with torch.no_grad():
        adapter.router.map.weight.copy_(torch.eye(8))
    pairs = torch.stack([torch.eye(8)[i] + torch.eye(8)[(i + 1) % 8] for i in range(8)])
    adapter(pairs)  # every expert is chosen equally often with equal shares
    even = balance_loss(nn.Sequential(adapter))
    assert even is not None
    torch.testing.assert_close(even, torch.tensor(1.0))
    adapter(pairs[:1].repeat(8, 1) * 3)
    lopsided = balance_loss(nn.Sequential(adapter))
    assert lopsided is not None
    assert float(lopsided.detach()) > 1.5
    assert lopsided.requires_grad
    assert balance_loss(nn.Linear(2, 2)) is None


def test_gates_become_constants_as_their_share_falls() -> None:
    torch.manual_seed(0)
    router, x = Router(12, SPECS["molre"]).eval(), torch.randn(50, 12) * 5
    spreads = []
    for share in (1.0, 0.5, 0.1, 0.0):
        router.share = share
        gates = router(x).detach()
        spreads.append(float(gates.var(0).sum()))
    assert spreads == sorted(spreads, reverse=True)
    assert (gates == gates[0]).all()


def test_the_place_where_gates_would_stand_still_follows_the_mean_of_their_logits() -> None:
    torch.manual_seed(0)
    router, x = Router(12, SPECS["top-2"]).train(), torch.randn(500, 12) + 1
    for _ in range(200):
        router(x)
    torch.testing.assert_close(router.bias.detach(), router.map(x).mean(0).detach(), rtol=1e-3, atol=1e-3)
    router.share = 0.5
    before = router.bias.detach().clone()
    router(x).square().sum().backward()
    assert torch.equal(router.bias, before)  # from here on it is trained, not followed
    assert router.bias.grad is not None


def test_bf16_autocast_gives_finite_gradients_near_fp32_ones() -> None:
    torch.manual_seed(0)
    adapter = Adapter(nn.Linear(64, 64), AdapterSpec(8, 2, 16.0, "linear", top_k=2))
    nn.init.normal_(adapter.up.weight, std=0.1)  # type: ignore[arg-type]
    x = torch.randn(16, 64)
    exact = adapter(x)
    with torch.autocast("cpu", torch.bfloat16):
        rough = adapter(x)
    assert rough.dtype == torch.bfloat16
    assert float((rough.float() - exact).norm().detach() / exact.norm().detach()) < 0.03
    rough.float().pow(2).mean().backward()
    assert all(torch.isfinite(one.grad).all() for one in adapter.parameters() if one.grad is not None)
    whole = Adapter(nn.Linear(64, 64), AdapterSpec(8, 2, 16.0, "linear", top_k=2)).to(torch.bfloat16)
    assert whole(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("wrong", [{"experts": 0}, {"rank": 0}, {"experts": 4, "top_k": 5}, {"top_k": -1}])
def test_impossible_specs_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError):
        AdapterSpec(**wrong)  # type: ignore[arg-type]


def test_grouped_convolutions_take_none() -> None:
    with pytest.raises(UserError, match="12 groups"):
        Adapter(nn.Conv2d(12, 12, 3, groups=12), AdapterSpec())
