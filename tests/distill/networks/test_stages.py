"""Stages: a trunk cut in pieces is the trunk, shares its weights, and takes a foreign map from any stage on."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import tiny_model

from distill.methods.deep import ConvReprogram, Deep
from distill.methods.step import Branches
from distill.networks.models import Model, ModelSpec, build_model
from distill.networks.stages import cut_stages
from distill.networks.students import timm_arguments
from runtimes.errors import USAGE, UserError

ARCHS = ["mobilenetv3_small_050", "resnet18", "tf_efficientnet_lite0", "convnext_atto", "repvit_m0_9", "torchvision/shufflenet_v2_x0_5"]


def student(arch: str, size: int = 64) -> Model:
    torch.manual_seed(0)
    return build_model(ModelSpec(arch, size, size, "multiclass", ("a", "b", "c"), timm_arguments(arch)))


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("training", [False, True])
def test_the_pieces_one_after_another_are_the_trunk(arch: str, training: bool) -> None:
    model = student(arch).train(training)
    stages, whole = cut_stages(model, 2), copy.deepcopy(model)
    assert model.training is training
    pixels = torch.randn(4, 3, 64, 64)
    maps, features = stages.maps(pixels)
    torch.testing.assert_close(features, whole.features(pixels))
    assert [tuple(one.shape[1:]) for one in maps] == list(stages.shapes)
    assert maps[0].shape[2] > maps[1].shape[2]
    for index, one in enumerate(maps):
        torch.testing.assert_close(stages.onward(index, one), features)


def test_pieces_share_the_students_weights_and_statistics() -> None:
    model = student("mobilenetv3_small_050").train()
    stages = cut_stages(model, 2)
    stages.maps(torch.randn(8, 3, 64, 64))[1].sum().backward()
    assert all(parameter.grad is not None for name, parameter in model.net.named_parameters() if not name.startswith("classifier"))
    assert int(model.net.bn1.num_batches_tracked) == 1  # type: ignore[arg-type, union-attr]
    model.eval()
    assert not any(module.training for piece in stages.pieces for module in piece.children() for module in module.modules()
                   if isinstance(module, torch.nn.BatchNorm2d))


def test_a_map_from_elsewhere_changes_the_answer_and_reaches_only_later_stages() -> None:
    model = student("resnet18")
    stages = cut_stages(model, 2)
    found = stages.onward(0, torch.randn(4, *stages.shapes[0]))
    found.sum().backward()
    assert model.net.layer4[0].conv1.weight.grad is not None  # type: ignore[union-attr, index]
    assert model.net.conv1.weight.grad is None  # type: ignore[union-attr]


def test_hybrid_passes_leave_the_running_statistics_alone() -> None:
    model = tiny_model(arch="mobilenetv3_small_050", size=64).train()
    stages = cut_stages(model, 2)
    deep = Deep([5, 7], stages.shapes).train()
    maps, _ = stages.maps(torch.randn(8, 3, 64, 64))
    held = {name: value.clone() for name, value in model.named_buffers() if "running" in name}
    momentum = [one.momentum for one in model.modules() if isinstance(one, torch.nn.BatchNorm2d)]
    losses = deep.losses(model, stages, [torch.randn(8, 5, 4, 4), torch.randn(8, 7, 4, 4)], maps, lambda logits: logits.sum(),
                         lambda logits: logits.sum(), debiased=True)
    assert all(torch.isfinite(one) for one in losses)
    assert all(torch.equal(value, held[name]) for name, value in model.named_buffers() if name in held)
    assert momentum == [one.momentum for one in model.modules() if isinstance(one, torch.nn.BatchNorm2d)]
    assert not losses[1].requires_grad  # hybrid logits are taught, not learnt from


def test_the_students_pieces_are_no_parameters_beside_it_and_follow_a_copy() -> None:
    model = student("resnet18")
    stages = cut_stages(model, 2)
    branches = Branches(model, stages=stages)
    assert {name for name, _ in branches.named_parameters()} == {f"student.{name}" for name, _ in model.named_parameters()}
    twin = copy.deepcopy(branches).eval()
    with torch.no_grad():
        twin.student.net.conv1.weight.zero_()  # type: ignore[union-attr, operator]
    pixels = torch.randn(2, 3, 64, 64)
    assert twin.stages is not None
    torch.testing.assert_close(twin.stages.maps(pixels)[1], twin.student.features(pixels))
    assert not torch.allclose(stages.maps(pixels)[1], twin.student.features(pixels))


@pytest.mark.parametrize("shape", [(24, 8, 8), (40, 3, 5)])
def test_a_banked_map_takes_the_students_shape_whatever_its_grid(shape: tuple[int, int, int]) -> None:
    assert ConvReprogram(12, shape)(torch.randn(4, 12, 6, 6)).shape == (4, *shape)


def test_networks_without_enough_stages_are_refused_as_usage() -> None:
    for arch, count in (("vit_tiny_patch16_224", 2), ("resnet18", 9)):
        with pytest.raises(UserError, match="stages") as caught:
            cut_stages(student(arch), count)
        assert caught.value.exit_code == USAGE
