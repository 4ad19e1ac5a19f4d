"""Which layers get an adapter, in families that name and use their layers differently; what is left alone, and why."""

from __future__ import annotations

import copy
import re

import pytest
import timm
import torch
import transformers
from families import NETWORKS
from timm.layers import Conv2dSame
from torch import nn
from torch.nn import functional as F

from benchmarks.robustness.stand_ins import ENCODERS
from distill.adapters.experts import AdapterSpec
from distill.adapters.insert import POOLED, Layers, added_parameters, choose_layers, insert, kinds_of, remove_unused
from distill.adapters.layer import Adapter, adapters_of
from distill.networks.encoders import TransformersNet
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


# Linear layers outside blocks, or beside what a block computes: patches, merged patches, shortcuts to another width, poolers.
NEITHER = re.compile(r"patch_embed|downsample|reduction|pooler|(blocks|layers)\.\d+\.proj$|focal|head\.")

BIASES = re.compile(r"meta_mlp|cpb_mlp|position_bias_mlp|rel_pos\.mlp")  # of places, made by an MLP that belongs to its attention


def seeing(family: str) -> TransformersNet:
    """The part of a tiny encoder that sees images."""
    model = ENCODERS[family][0]().base_model
    return TransformersNet(getattr(model, "vision_model", getattr(model, "vision_tower", model)))


@pytest.mark.parametrize("family", [*ENCODERS, *NETWORKS])
def test_every_linear_layer_of_a_block_is_of_attention_or_of_an_mlp(family: str) -> None:
    network = seeing(family) if family in ENCODERS else timm.create_model(family)
    kinds = kinds_of(network)
    linear = {name for name, module in network.named_modules() if isinstance(module, nn.Linear)} - {"head", "classifier", "fc"}
    assert {name for name in linear - set(kinds) if not NEITHER.search(name)} == set()
    attention = {name for name in kinds if kinds[name] == "attention" and not BIASES.search(name)}
    assert not {name for name in attention if re.search(r"mlp|fc[12]$|pwconv|intermediate", name)}
    assert not {name for name in set(kinds) - attention if re.search(r"qkv|query|[qkvo]_proj$|attn\.proj|attention\.output", name)}


@pytest.mark.parametrize(("family", "kind", "leaves"), [
    ("Swin v2", "mlp", {"intermediate.dense", "output.dense"}), ("Data2Vec", "mlp", {"intermediate.dense", "output.dense"}),
    ("ConvNeXt", "mlp", {"pwconv1", "pwconv2"}), ("ConvNeXt v2", "mlp", {"pwconv1", "pwconv2"}),
    ("DINOv3 ConvNeXt", "mlp", {"pointwise_conv1", "pointwise_conv2"}),
    ("DINOv3 ViT", "mlp", {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}),
    ("Data2Vec", "attention", {"attention.query", "attention.key", "attention.value", "output.dense"}),
    ("PVT", "attention", {"self.query", "self.key", "self.value", "output.dense"}),
    ("tiny_eva02", "mlp", {"mlp.fc1_g", "mlp.fc1_x", "mlp.fc2"}), ("tiny_eva02", "attention", {"attn.q_proj", "attn.k_proj", "attn.v_proj",
                                                                                              "attn.proj"}),
    ("tiny_maxvit", "attention", {"attn.qkv", "attn.proj"}), ("tiny_maxvit", "mlp", {"mlp.fc1", "mlp.fc2"}),
    ("tiny_coatnet", "attention", {"attn.qkv", "attn.proj"}), ("tiny_coatnet", "mlp", {"mlp.fc1", "mlp.fc2"}),
    ("tiny_edgenext", "attention", {"xca.qkv", "xca.proj"}), ("tiny_xcit", "mlp", {"mlp.fc1", "mlp.fc2"}),
    ("tiny_vit_map", "attention", {"attn.qkv", "attn.proj", "attn_pool.q", "attn_pool.kv", "attn_pool.proj"}),
    ("tiny_mambaout", "mlp", {"fc1", "fc2"})])
def test_layers_that_names_of_families_would_miss_are_found(family: str, kind: Layers, leaves: set[str]) -> None:
    network = seeing(family) if family in ENCODERS else timm.create_model(family)
    found = {re.sub(r"(^|\.)(\w+)\.\d+\.", r"\1", name) for name in choose_layers(network, kind).layers}
    assert {".".join(name.split(".")[-len(leaf.split(".")):]) for name in found for leaf in leaves if name.endswith(leaf)} == leaves
    assert all(any(name.endswith(leaf) for leaf in leaves) for name in found)


def test_pointwise_means_1x1_convolutions_and_depthwise_ones_are_left_alone() -> None:
    chosen = choose_layers(net("test_efficientnet"), "pointwise")
    assert all("conv" in name for name in chosen.layers)
    every = choose_layers(net("test_efficientnet"), "all-linear")
    assert set(chosen.layers) < set(every.layers)
    assert set(every.left.values()) == {"depthwise"}
    assert "classifier" not in every.layers


def test_layers_that_standardise_their_weights_are_left_alone_since_no_change_folds_into_them() -> None:
    norm_free = choose_layers(timm.create_model("test_nfnet", num_classes=2), "pointwise")
    assert set(norm_free.left.values()) == {"of standardised weights"}
    assert all(".attn_last." in name for name in norm_free.layers), "plain ones, which weigh channels"
    with pytest.raises(UserError, match=r"of standardised weights"):
        choose_layers(transformers.BitModel(transformers.BitConfig(embedding_size=8, hidden_sizes=[32, 64], depths=[1, 1], num_groups=4)),
                      "all-linear")
    padded = timm.create_model("tf_efficientnet_lite0", num_classes=2)
    assert {type(padded.get_submodule(name)) for name in choose_layers(padded, "all-linear").layers} == {nn.Conv2d, Conv2dSame}


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


def test_layers_that_are_called_in_training_alone_lose_their_adapters() -> None:
    layer, x = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), torch.randn(2, 3, 8)
    names = choose_layers(layer, "all-linear").layers
    insert(layer, dict.fromkeys(names, AdapterSpec()))
    assert set(remove_unused(layer, names, lambda: both_modes(layer, x))) == set(names), "without gradients PyTorch reads them"


def test_what_a_network_reads_of_a_layer_it_reads_of_the_adapter_in_its_place() -> None:
    linear, convolution = Adapter(nn.Linear(3, 5), AdapterSpec()), Adapter(nn.Conv2d(3, 5, 3, 2, 1), AdapterSpec())
    assert (linear.in_features, linear.out_features, linear.weight.shape) == (3, 5, (5, 3))
    assert (convolution.kernel_size, convolution.stride, convolution.padding) == ((3, 3), (2, 2), (1, 1))
    assert not hasattr(linear, "kernel_size")
    assert copy.deepcopy(convolution).out_channels == 5


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
