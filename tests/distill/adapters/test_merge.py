"""Folds: exact ones equal to fp32 rounding, routed ones approximated, the least-squares fold never worse where it was fitted."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from distill.adapters.experts import AdapterSpec
from distill.adapters.insert import insert
from distill.adapters.layer import Adapter, adapters_of
from distill.adapters.merge import constant_gates, fold, fold_errors, least_squares, mean_gates, merge_exact, unfolded, watch, weight_change

ROUTED = AdapterSpec(6, 2, 4.0, "linear")


def net(spec: AdapterSpec, seed: int = 0) -> nn.Sequential:
    """A small network of every kind of layer, adapted and no longer at its start."""
    torch.manual_seed(seed)
    made = nn.Sequential(OrderedDict(stem=nn.Conv2d(3, 12, 3, stride=2, padding=1, bias=False), act=nn.GELU(), point=nn.Conv2d(12, 16, 1),
                                     act2=nn.GELU(), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(16, 10))).eval()
    insert(made, {name: spec for name in ("stem", "point", "fc")})
    for _, adapter in adapters_of(made):
        nn.init.normal_(adapter.up.weight, std=0.2)  # type: ignore[arg-type]
        if adapter.router is not None:
            nn.init.normal_(adapter.router.map.weight, std=1.0)  # type: ignore[arg-type,union-attr]
            nn.init.normal_(adapter.router.bias)
    return made


def images(count: int = 16, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, 10, 12, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("spec", [AdapterSpec(1, 4, 2.0), AdapterSpec(6, 2, 4.0, "linear", top_k=2, constant=True)],
                         ids=["lora", "constant"])
def test_what_does_not_depend_on_the_input_merges_to_fp32_rounding(spec: AdapterSpec) -> None:
    adapted = net(spec)
    with torch.no_grad():
        exact = adapted(images())
    merged = copy.deepcopy(adapted)
    assert merge_exact(merged) == []
    assert not list(adapters_of(merged))
    with torch.no_grad():
        torch.testing.assert_close(merged(images()), exact, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(exact, net(AdapterSpec(1, 4, 0.0))(images()), atol=1e-3)  # the adapter did something


def test_routed_adapters_stay_and_their_gates_are_not_constant() -> None:
    adapted = net(ROUTED)
    assert merge_exact(adapted) == ["stem", "point", "fc"]
    assert all(constant_gates(adapter) is None for _, adapter in adapters_of(adapted))


@torch.no_grad()
def test_the_mean_fold_uses_the_gates_averaged_over_the_calibration_inputs() -> None:
    adapted = net(ROUTED)
    seen = watch(adapted, [images()[:8], images()[8:]], adapted, moments=False)
    inputs = adapted.stem(images())  # type: ignore[operator]
    assert isinstance(adapted.point, Adapter)
    gates = adapted.point.gates(adapted.act(inputs))  # type: ignore[operator]
    assert gates is not None
    torch.testing.assert_close(mean_gates(seen["point"]).float(), gates.mean(dim=(0, 2, 3)), rtol=1e-5, atol=1e-6)
    weight = adapted.point.base.weight.clone()  # type: ignore[union-attr,operator]
    change = weight_change(adapted.point, mean_gates(seen["point"]))
    fold(adapted, "point", change)
    torch.testing.assert_close(adapted.point.weight.flatten(1), weight.flatten(1) + change.float(), rtol=1e-6, atol=1e-6)  # type: ignore[union-attr,operator]
    assert isinstance(adapted.point, nn.Conv2d)


@torch.no_grad()
def test_least_squares_beats_the_mean_fold_where_it_was_fitted_and_errors_are_measured_apart() -> None:
    adapted = net(ROUTED)
    batches = [images(64)]
    seen = watch(adapted, batches, adapted, moments=True)
    errors = {}
    for name, folds in {"mean": {one: (weight_change(adapter, mean_gates(seen[one])), None) for one, adapter in adapters_of(adapted)},
                        "least": {one: least_squares(seen[one]) for one, _ in adapters_of(adapted)}}.items():
        errors[name] = fold_errors(adapted, folds, batches, adapted)  # type: ignore[arg-type]
    for layer in ("stem", "point", "fc"):
        assert 0 < errors["least"][layer]["of_change"] < errors["mean"][layer]["of_change"] < 1.5
        assert errors["mean"][layer]["of_output"] > 0


@torch.no_grad()
def test_a_fold_of_constant_gates_has_no_error() -> None:
    adapted = net(AdapterSpec(6, 2, 4.0, "linear", top_k=2, constant=True))
    folds = {}
    for name, adapter in adapters_of(adapted):
        gates = constant_gates(adapter)
        assert gates is not None
        folds[name] = (weight_change(adapter, gates), None)
    errors = fold_errors(adapted, folds, [images()], adapted)  # type: ignore[arg-type]
    assert all(one["of_change"] < 1e-5 for one in errors.values())


@torch.no_grad()
def test_a_shift_lands_in_the_bias_also_where_there_was_none() -> None:
    adapted = net(ROUTED)
    shift = torch.arange(12).double()
    before = adapted.stem.base(images())  # type: ignore[union-attr,operator]
    fold(adapted, "stem", torch.zeros(12, 27).double(), shift)
    torch.testing.assert_close(adapted.stem(images()), before + shift.float()[None, :, None, None])  # type: ignore[operator]


@torch.no_grad()
def test_unfolded_rows_times_the_kernel_are_the_convolution() -> None:
    adapted = net(ROUTED)
    for name, x in (("stem", images(4)), ("point", torch.randn(4, 12, 5, 6))):
        adapter = adapted.get_submodule(name)
        assert isinstance(adapter, Adapter)
        rows = unfolded(adapter, x) @ adapter.factors[0].T
        torch.testing.assert_close(rows, adapter.down(x).permute(0, 2, 3, 1).flatten(0, 2), rtol=1e-5, atol=1e-5)
