"""The PEFT form: loaded by peft itself onto the original network, it answers as the adapted one; without peft, its algebra."""

from __future__ import annotations

import copy
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from distill.adapters import Adapter, adapters_of
from distill.experts import AdapterSpec
from distill.insert import insert
from distill.peft_folder import low_rank, starts_of, write_peft
from distill.spectral import start_from_svd
from runtimes.errors import UserError

LORA = AdapterSpec(1, 3, 2.0)
CONSTANT = AdapterSpec(4, 1, 16.0, "linear", top_k=2, constant=True)


def trained(spec: AdapterSpec, spectral: bool) -> tuple[nn.Sequential, nn.Sequential, dict[str, object]]:
    """A network before, the adapted one with every factor moved, and its starts."""
    torch.manual_seed(0)
    before = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 12, 3, padding=1), act=nn.GELU(), point=nn.Conv2d(12, 9, 1),
                                       pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(9, 8))).eval()
    net = copy.deepcopy(before)
    insert(net, {name: spec for name in ("conv", "point", "fc")})
    if spectral:
        for _, adapter in adapters_of(net):
            start_from_svd(adapter, rho=10.0)
    starts = starts_of(net, spectral)
    with torch.no_grad():
        for _, adapter in adapters_of(net):
            for factor in (adapter.down.weight, adapter.up.weight):
                factor += 0.1 * torch.randn_like(factor)  # type: ignore[arg-type,operator]
            if adapter.router is not None:
                nn.init.normal_(adapter.router.bias)
    return before, net, starts  # type: ignore[return-value]


@pytest.mark.parametrize(("spec", "spectral"), [(LORA, False), (LORA, True), (CONSTANT, True)], ids=["lora", "pissa", "spectral"])
def test_the_low_rank_form_is_the_whole_change_of_the_original_weight(spec: AdapterSpec, spectral: bool) -> None:
    before, net, starts = trained(spec, spectral)
    merged = copy.deepcopy(net)
    from distill.merge import merge_exact

    assert merge_exact(merged) == []
    for name, adapter in adapters_of(net):
        down, up = low_rank(adapter, starts[name])  # type: ignore[arg-type]
        change = merged.get_submodule(name).weight.double() - before.get_submodule(name).weight.double()  # type: ignore[union-attr,operator]
        torch.testing.assert_close(up @ down, change.flatten(1).detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("spec", "spectral"), [(LORA, False), (LORA, True), (CONSTANT, True)], ids=["lora", "pissa", "spectral"])
def test_peft_loads_the_folder_onto_the_original_with_equal_outputs(tmp_path: Path, spec: AdapterSpec, spectral: bool) -> None:
    peft = pytest.importorskip("peft")
    before, net, starts = trained(spec, spectral)
    write_peft(tmp_path / "peft", net, starts, "test")  # type: ignore[arg-type]
    x = torch.randn(5, 3, 6, 6)
    with torch.no_grad():
        expected, plain = net(x), before(x)
        loaded = peft.PeftModel.from_pretrained(before, tmp_path / "peft").eval()
        torch.testing.assert_close(loaded(x), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(expected, plain, atol=1e-2)


def test_gates_that_depend_on_the_input_have_no_such_form(tmp_path: Path) -> None:
    _, net, starts = trained(AdapterSpec(4, 1, 16.0, "linear", top_k=2), True)
    with pytest.raises(UserError, match="--merge-aware"):
        write_peft(tmp_path / "peft", net, starts, "test")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="nothing PEFT could load"):
        write_peft(tmp_path / "peft", nn.Sequential(Adapter(nn.Identity(), LORA, 8)), {"0": None}, "test")  # type: ignore[dict-item]
