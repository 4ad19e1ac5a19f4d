"""Which layers get an adapter, in families that name and use their layers differently; what is left alone, and why."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from distill.adapters.experts import AdapterSpec
from distill.adapters.insert import POOLED, added_parameters, choose_layers, insert, remove_unused
from distill.adapters.layer import Adapter, adapters_of
from distill.networks.models import ModelSpec, adapt_model, build_model, count_parameters
from runtimes.errors import USAGE, UserError


def net(arch: str) -> nn.Module:
    return build_model(ModelSpec(arch, 32 if "vit" not in arch else 160, 32 if "vit" not in arch else 160, "binary", ("a", "b"))).net


def test_kinds_of_a_vit_are_disjoint_and_complete() -> None:
    vit = net("test_vit")
    attention, mlp = (set(choose_layers(vit, kind).layers) for kind in ("attention", "mlp"))
    assert {name.rsplit(".", 1)[1] for name in attention} == {"qkv", "proj"}
    assert {name.rsplit(".", 1)[1] for name in mlp} == {"fc1", "fc2"}
    everything = set(choose_layers(vit, "all-linear").layers)
    assert attention | mlp < everything
    assert everything - attention - mlp == {"patch_embed.proj"}
    assert "head" not in everything


def test_pointwise_means_1x1_convolutions_and_depthwise_ones_are_left_alone() -> None:
    chosen = choose_layers(net("test_efficientnet"), "pointwise")
    assert all("conv" in name for name in chosen.layers)
    every = choose_layers(net("test_efficientnet"), "all-linear")
    assert set(chosen.layers) < set(every.layers)
    assert set(every.left.values()) == {"depthwise"}
    assert "classifier" not in every.layers


def test_layers_too_small_for_the_rank_are_left_and_said() -> None:
    few = choose_layers(net("test_efficientnet"), "all-linear", least=24)
    assert "too small for rank 24" in few.left.values()
    assert few.layers


def test_layers_smaller_than_twice_their_adapter_are_left_and_said() -> None:
    model = net("test_efficientnet")
    chosen = choose_layers(model, "all-linear", ranks=8, share=0.5)
    sizes = {name: (module.weight.numel(), 8 * (module.weight.shape[0] + module.weight[0].numel()))
             for name, module in model.named_modules() if isinstance(module, nn.Conv2d) and module.groups == 1}
    assert set(chosen.layers) == {name for name, (layer, adapter) in sizes.items() if adapter <= layer / 2}
    assert set(chosen.left.values()) == {"depthwise", "too small for an adapter of at most 0.5 of its weights"}


@pytest.mark.parametrize(("arch", "kind", "least"), [("test_resnet", "attention", 1), ("test_vit", "pointwise", 1),
                                                      ("test_vit", "mlp", 9999)])
def test_no_matching_layer_is_a_usage_error_that_says_what_there_is(arch: str, kind: str, least: int) -> None:
    with pytest.raises(UserError, match=f"--adapt-layers {kind}.*this network has .*all-linear") as caught:
        choose_layers(net(arch), kind, least)  # type: ignore[arg-type]
    assert caught.value.exit_code == USAGE


def both_modes(module: nn.Module, x: torch.Tensor) -> None:
    module.train()(x)
    module.eval()(x)


class Reader(nn.Module):
    """A network that reads one layer's weight, as BEiT and Swin do, and calls another."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(6, 6)
        self.called = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.called(F.linear(x, self.read.weight, self.read.bias))


def test_a_layer_that_is_read_and_not_called_loses_its_adapter() -> None:
    reader, x = Reader(), torch.randn(3, 6)
    before = reader(x)
    insert(reader, {"read": AdapterSpec(), "called": AdapterSpec()})
    assert remove_unused(reader, ["read", "called"], lambda: both_modes(reader, x)) == ["read"]
    assert [name for name, _ in adapters_of(reader)] == ["called"]
    assert torch.equal(reader(x), before)


def test_adapters_of_another_network_are_refused() -> None:
    with pytest.raises(UserError, match="belong to another teacher"):
        insert(net("test_resnet"), {"blocks.0.attn.qkv": AdapterSpec()})


def test_an_adapted_model_is_rebuilt_from_its_spec_and_only_adapters_and_head_are_trained() -> None:
    model = build_model(ModelSpec("test_vit", 160, 160, "binary", ("a", "b")))
    plain = count_parameters(model)
    names = choose_layers(model.net, "attention").layers
    adapt_model(model, {**{name: AdapterSpec(4, 2, 1.0, "linear", top_k=2) for name in names}, POOLED: AdapterSpec(2, 3, 1.0, "mlp")})
    assert count_parameters(model) == plain + added_parameters(model.net)
    trained = {name for name, one in model.net.named_parameters() if one.requires_grad}
    assert all(".base." not in name for name in trained)
    assert {"head.weight", "head.bias"} <= trained
    again = build_model(ModelSpec.from_dict(model.spec.as_dict()))
    again.net.load_state_dict(model.net.state_dict(), strict=True)
    x = torch.randn(2, 3, 160, 160)
    assert torch.equal(again.eval()(x), model.eval()(x))
    assert isinstance(again.net.rd_pooled, Adapter)
    # A plain spec stays as it was: folders of earlier versions read the same.
    assert "adapters" not in ModelSpec("test_vit", 160, 160, "binary", ("a", "b")).as_dict()


def test_training_mode_leaves_the_statistics_of_a_frozen_network_alone() -> None:
    model = build_model(ModelSpec("test_resnet", 32, 32, "binary", ("a", "b")))
    adapt_model(model, {name: AdapterSpec() for name in choose_layers(model.net, "all-linear").layers})
    before = {name: value.clone() for name, value in model.net.named_buffers()}
    model.train()
    model(torch.randn(4, 3, 32, 32)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in model.net.named_buffers())


def test_molre_behind_a_vit_b_adds_less_than_half_a_percent() -> None:
    pooled = Adapter(nn.Identity(), AdapterSpec(6, 8, 1.0, "mlp"), 768)
    added = sum(one.numel() for one in pooled.parameters())
    assert 96 * 768 <= added < 0.005 * 86_000_000
