"""Cuts are data: read off a pruned network, through JSON, onto a fresh one, they give the same network, bit for bit."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from tiny import tiny_model
from torch import nn

from distill.adapters.insert import SLICES
from distill.networks.cuts import make_cuts, read_cuts
from distill.networks.models import ModelSpec, build_model, count_macs, count_parameters
from distill.pruning.budget import record_cuts
from distill.pruning.prune import open_pruner
from runtimes.errors import UserError


def pruned(arch: str, steps: int = 15, **spec: object) -> tuple[ModelSpec, nn.Module]:
    torch.manual_seed(0)
    model = build_model(ModelSpec(arch, 32, 32, "multiclass", ("a", "b", "c"), **spec))  # type: ignore[arg-type]
    pruner = open_pruner(model, unit=4)
    for _ in range(steps):
        pruner.step()
    return record_cuts(model).spec, model


@pytest.mark.parametrize("arch", ["mobilenetv3_small_050", "resnet18", "vit_tiny_patch16_224"])
def test_cuts_replayed_on_a_fresh_network_with_a_strict_load_give_the_same_outputs_bit_for_bit(arch: str) -> None:
    spec, model = pruned(arch)
    again = build_model(ModelSpec.from_dict(json.loads(json.dumps(spec.as_dict()))))
    assert not any(parameter.any() for name, parameter in again.net.named_parameters() if name in spec.cuts["shapes"])
    again.net.load_state_dict(model.net.state_dict(), strict=True)  # type: ignore[union-attr, operator]
    pixels = torch.randn(3, 3, 32, 32)
    assert torch.equal(again.eval()(pixels), model.eval()(pixels))
    whole = build_model(replace(spec, cuts={}))
    assert count_parameters(again) < count_parameters(whole)
    assert count_macs(again, 32, 32) == count_macs(model, 32, 32) < count_macs(whole, 32, 32)  # type: ignore[arg-type]


def test_a_student_of_volumes_keeps_its_cuts_too() -> None:
    spec, model = pruned("mobilenetv3_small_050", slices=3)
    again = build_model(spec)
    again.net.load_state_dict(model.net.state_dict(), strict=True)  # type: ignore[union-attr, operator]
    pixels, mask = torch.randn(2, 3, 3, 32, 32), torch.tensor([[1.0, 1, 0], [1, 1, 1]])
    assert torch.equal(again.eval()(pixels, mask), model.eval()(pixels, mask))
    assert len(spec.cuts["shapes"]) > 100
    assert not any(name.startswith(SLICES) for name in spec.cuts["shapes"])  # the width that slices are pooled in stays


def test_nothing_cut_is_no_entry_in_the_spec() -> None:
    model = tiny_model()
    assert read_cuts(copy.deepcopy(model.net), model.net) == {}
    assert "cuts" not in model.spec.as_dict()


@pytest.mark.parametrize(("cuts", "words"), [
    ({"shapes": {"no.such.weight": [1]}}, "the cuts name no.such.weight"),
    ({"shapes": {"conv_stem.weight": [9999, 3, 3, 3]}}, "the cuts give conv_stem.weight the shape"),
    ({"shapes": {"conv_stem.weight": [8]}}, "the cuts give conv_stem.weight the shape"),
    ({"shapes": {"conv_stem.weight": [0, 3, 3, 3]}}, "the cuts give conv_stem.weight the shape"),
    ({"sizes": {"conv_stem": {"no_such_size": 3}}}, "the cuts name conv_stem and its no_such_size"),
    ({"sizes": {"nowhere": {"out_channels": 3}}}, "the cuts name nowhere")])
def test_cuts_of_another_network_are_refused_by_name(cuts: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make_cuts(tiny_model(arch="mobilenetv3_small_050").net, cuts)
