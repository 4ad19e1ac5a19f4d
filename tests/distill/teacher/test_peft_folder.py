"""The PEFT form: loaded by peft itself onto the original network, it answers as the adapted one; without peft, its algebra."""

from __future__ import annotations

import copy
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from distill.adapters.experts import AdapterSpec
from distill.adapters.insert import insert
from distill.adapters.layer import Adapter, adapters_of
from distill.adapters.spectral import start_from_svd
from distill.teacher.peft_folder import low_rank, merge_peft, starts_of, write_peft
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
    from distill.adapters.merge import merge_exact

    assert merge_exact(merged) == []
    for name, adapter in adapters_of(net):
        down, up = low_rank(adapter, starts[name])  # type: ignore[arg-type]
        change = merged.get_submodule(name).weight.double() - before.get_submodule(name).weight.double()  # type: ignore[union-attr,operator]
        torch.testing.assert_close(up @ down, change.flatten(1).detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("spec", "spectral"), [(LORA, False), (LORA, True), (CONSTANT, True)], ids=["lora", "pissa", "spectral"])
def test_peft_loads_the_folder_onto_the_original_with_equal_outputs(tmp_path: Path, spec: AdapterSpec, spectral: bool) -> None:
    peft = pytest.importorskip("peft")
    before, net, starts = trained(spec, spectral)
    write_peft(tmp_path / "peft", net, starts, "test", "0" * 64)  # type: ignore[arg-type]
    x = torch.randn(5, 3, 6, 6)
    with torch.no_grad():
        expected, plain = net(x), before(x)
        loaded = peft.PeftModel.from_pretrained(before, tmp_path / "peft").eval()
        torch.testing.assert_close(loaded(x), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(expected, plain, atol=1e-2)


def test_gates_that_depend_on_the_input_have_no_such_form(tmp_path: Path) -> None:
    _, net, starts = trained(AdapterSpec(4, 1, 16.0, "linear", top_k=2), True)
    with pytest.raises(UserError, match="--merge-aware"):
        write_peft(tmp_path / "peft", net, starts, "test", "0" * 64)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="nothing PEFT could load"):
        write_peft(tmp_path / "peft", nn.Sequential(Adapter(nn.Identity(), LORA, 8)), {"0": None}, "test", "0" * 64)  # type: ignore[dict-item]


@pytest.mark.parametrize(("spec", "spectral"), [(LORA, False), (LORA, True), (CONSTANT, True)], ids=["lora", "pissa", "spectral"])
def test_merged_into_its_base_the_folder_answers_as_the_adapted_network(tmp_path: Path, spec: AdapterSpec, spectral: bool) -> None:
    before, net, starts = trained(spec, spectral)
    write_peft(tmp_path / "peft", net, starts, "test", "0" * 64)  # type: ignore[arg-type]
    x = torch.randn(5, 3, 6, 6)
    assert merge_peft(before, tmp_path / "peft", "0" * 64) == 3
    with torch.no_grad():
        torch.testing.assert_close(before(x), net(x), rtol=1e-4, atol=1e-5)


def test_a_folder_that_peft_itself_wrote_is_merged_with_peft_s_own_scale(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    before, _, _ = trained(LORA, False)
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["fc", "point"], rank_pattern={"fc": 3}, use_rslora=True)
    theirs = peft.get_peft_model(copy.deepcopy(before), config)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.2)
    theirs.save_pretrained(str(tmp_path / "peft"))
    x = torch.randn(5, 3, 6, 6)
    with torch.no_grad():
        expected, plain = theirs.eval()(x), before(x)
        assert merge_peft(before, tmp_path / "peft", "1" * 64) == 2, "peft names no base weights, so none are checked"
        torch.testing.assert_close(before(x), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(plain, expected, atol=1e-2)


def test_an_adapter_on_other_base_weights_is_refused_and_named(tmp_path: Path) -> None:
    before, net, starts = trained(LORA, False)
    write_peft(tmp_path / "peft", net, starts, "test", "a" * 64)  # type: ignore[arg-type]
    held = copy.deepcopy(before.state_dict())
    with pytest.raises(UserError, match=r"trained on weights aaaa.* of test, this teacher has bbbb"):
        merge_peft(before, tmp_path / "peft", "b" * 64)
    with pytest.raises(UserError, match="does not fit this teacher at layer conv"):
        merge_peft(nn.Sequential(OrderedDict(fc=nn.Linear(9, 8))), tmp_path / "peft", "a" * 64)
    (tmp_path / "peft" / "adapter_model.safetensors").write_bytes(b"x" * 40)
    with pytest.raises(UserError, match="cannot be read"):
        merge_peft(before, tmp_path / "peft", "a" * 64)
    with pytest.raises(UserError, match="is no PEFT folder"):
        merge_peft(before, tmp_path, "a" * 64)
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in held.items())
