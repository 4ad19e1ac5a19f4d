"""Pruning: the least important goes, in units, down to something small that still runs; what cannot be pruned is said."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_model
from torch import nn

from distill.networks.deployed import reparameterised
from distill.networks.models import Model, ModelSpec, build_model, count_macs
from distill.networks.students import timm_arguments, timm_name
from distill.pruning.budget import record_cuts
from distill.pruning.prune import STEPS, WORKING, Scope, open_pruner
from runtimes.errors import UserError


def student(arch: str) -> Model:
    torch.manual_seed(0)
    return build_model(ModelSpec(arch, 32, 32, "multiclass", ("a", "b", "c")))


@pytest.mark.parametrize(("arch", "scope"), [("mobilenetv3_small_050", "layer"), ("mobilenetv3_small_050", "network"),
                                             ("convnext_atto", "layer"), ("convnext_atto", "network"), ("vit_tiny_patch16_224", "layer")])
def test_every_step_down_to_the_last_leaves_a_network_that_runs_and_is_no_larger(arch: str, scope: Scope) -> None:
    model = student(arch)
    pruner, before, steps = open_pruner(model, scope=scope), count_macs(model, 32, 32), 0
    whole = before
    while pruner.step():
        steps += 1
        now = count_macs(model, 32, 32)
        assert now <= before
        before = now
    assert steps == STEPS
    assert before < whole / 4
    assert model.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 3)
    model.train()(torch.randn(4, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is None or parameter.grad.shape == parameter.shape for parameter in model.parameters())


def test_channels_stay_in_multiples_of_the_unit() -> None:
    def widths(scope: Scope) -> set[int]:
        model = student("resnet18")
        pruner = open_pruner(model, scope=scope, unit=16)
        for _ in range(12):
            pruner.step()
        return {module.out_channels for module in model.net.modules() if isinstance(module, nn.Conv2d)}

    even, ranked = widths("layer"), widths("network")
    assert len(ranked) > 4
    assert len(even) == 4
    assert not even & {64, 128, 256, 512}
    assert all(width % 16 == 0 for width in even | ranked)


def test_every_layer_loses_the_same_share_unless_channels_are_ranked_over_the_whole_network() -> None:
    def kept(scope: Scope) -> list[float]:
        whole, model = student("resnet18"), student("resnet18")
        with torch.no_grad():
            for one in (model.net.layer1[0].conv1, model.net.layer1[0].bn1):  # type: ignore[union-attr, index]
                one.weight *= 1e-3  # type: ignore[operator]
        pruner = open_pruner(model, scope=scope)
        for _ in range(20):
            pruner.step()
        pairs = zip(whole.net.modules(), model.net.modules(), strict=True)
        return [now.out_channels / before.out_channels for before, now in pairs
                if isinstance(before, nn.Conv2d) and isinstance(now, nn.Conv2d)]

    even, ranked = kept("layer"), kept("network")
    assert max(even) - min(even) <= 8 / 64  # the unit of the narrowest
    assert min(ranked) <= 8 / 64
    assert max(ranked) - min(ranked) > 0.3


@pytest.mark.parametrize("scope", ["layer", "network"])
def test_magnitude_takes_the_channels_that_are_nearly_zero(scope: Scope) -> None:
    model = student("resnet18")
    conv, norm = model.net.layer1[0].conv1, model.net.layer1[0].bn1  # type: ignore[union-attr, index]
    with torch.no_grad():
        for one in (conv.weight, norm.weight):
            one[:24] *= 1e-3
        model.net.layer1[0].conv2.weight[:, :24] *= 1e-3  # type: ignore[union-attr, index]
    pruner = open_pruner(model, scope=scope)
    pruner.step()
    while scope == "layer" and model.net.layer1[0].conv1.out_channels > 40:  # type: ignore[union-attr, index]
        pruner.step()
    assert model.net.layer1[0].conv1.out_channels == 40  # type: ignore[union-attr, index]
    assert bool((model.net.layer1[0].bn1.weight == 1).all())  # type: ignore[union-attr, index]


def test_taylor_keeps_the_heads_and_units_that_the_loss_needs() -> None:
    model = student("vit_tiny_patch16_224")
    used = [block.mlp.fc1.weight.detach().clone() for block in model.net.blocks]  # type: ignore[union-attr]

    def loss() -> torch.Tensor:  # only the first half of the first MLP's units matter to it
        return model.net.blocks[0].mlp.fc2.weight[:, :384].pow(2).sum()  # type: ignore[union-attr, index]

    pruner = open_pruner(model, "taylor", gradients=loss)
    for _ in range(STEPS // 2):
        pruner.step()
    fc1 = model.net.blocks[0].mlp.fc1  # type: ignore[union-attr, index]
    assert fc1.out_features == 392
    assert torch.equal(fc1.weight[:384], used[0][:384])


def test_the_same_network_is_pruned_alike_twice() -> None:
    first, second = student("mobilenetv3_small_050"), student("mobilenetv3_small_050")
    for model in (first, second):
        pruner = open_pruner(model)
        for _ in range(5):
            pruner.step()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("arch", ["mobileone_s0", "repvgg_a0", "repvit_m0_9"])
def test_a_pruned_network_still_fuses_its_branches_to_the_same_answer(arch: str) -> None:
    torch.manual_seed(0)
    model = build_model(ModelSpec(arch, 32, 32, "multiclass", ("a", "b", "c"), timm_arguments(arch)))
    pruner = open_pruner(model)
    for _ in range(8):
        pruner.step()
    model.train()(torch.randn(8, 3, 32, 32))
    pixels = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(reparameterised(model)(pixels), model.eval()(pixels), rtol=1e-3, atol=1e-4)
    again = build_model(record_cuts(model).spec)
    again.net.load_state_dict(model.net.state_dict(), strict=True)
    torch.testing.assert_close(reparameterised(again)(pixels), model(pixels), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("arch", ["fastvit_t8", "edgenext_xx_small"])
def test_a_network_that_cannot_be_followed_is_refused_and_others_are_named(arch: str) -> None:
    model = build_model(ModelSpec(arch, 64, 64, "multiclass", ("a", "b", "c")))

    def prune() -> None:
        pruner = open_pruner(model)
        while pruner.step():
            pass

    with pytest.raises(UserError, match=r"cannot be pruned.*mobilenetv3") as caught:
        prune()
    assert arch in str(caught.value)


def test_the_names_that_an_error_offers_exist() -> None:
    for name in WORKING.split(" can be")[0].replace(" and ", ", ").split(", "):
        assert timm_name(name)


def test_blocks_of_a_transformer_lose_the_same_share_and_no_other_way_is_promised() -> None:
    with pytest.raises(UserError, match="--prune-scope network: of vit_tiny_patch16_224 every block loses the same share"):
        open_pruner(student("vit_tiny_patch16_224"), scope="network")


def test_bn_scale_needs_batch_normalisation() -> None:
    for arch in ("vit_tiny_patch16_224", "convnext_atto"):
        with pytest.raises(UserError, match="has no batch normalisation; use magnitude or taylor"):
            open_pruner(student(arch), "bn-scale")
    pruner = open_pruner(tiny_model(arch="mobilenetv3_small_050"), "bn-scale")
    assert pruner.step()
