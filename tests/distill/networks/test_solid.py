"""Networks that see a volume at once: shapes, which way a patient lies in them, names, what a spec of one must say."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distill.data.views import ViewSpec, bank_views, draw_views, fresh_pixels, view_pixels, warp
from distill.networks.models import ModelSpec, build_model, count_macs, feature_width
from distill.networks.slices import mean_of_slices
from distill.networks.solid import WIDTHS, SolidNet, make_body, solid_name
from distill.networks.students import timm_name
from distill.pruning.prune import open_pruner
from runtimes.errors import USAGE, UserError
from runtimes.images.spec import ImageSpec
from runtimes.images.volumes import VolumeSpec

pytest.importorskip("monai", reason="MONAI is not installed: pip install 'rd-distill[monai]'")
SPEC = ModelSpec("monai/resnet10-8", 32, 32, "multiclass", ("a", "b", "c"), {"channels": 1}, slices=16)


class Whole(nn.Module):
    """Answers the volume that it was given, flat."""

    def forward(self, volume: Tensor) -> Tensor:
        return volume.flatten(1)


@pytest.mark.parametrize("arch", [name for name in WIDTHS if "152" not in name and "200" not in name and "101" not in name])
def test_a_body_answers_as_many_features_as_its_width_says(arch: str) -> None:
    if arch == "monai/swin_unetr":
        pytest.importorskip("einops", reason="einops is not installed: pip install 'rd-distill[monai]'")
    with torch.no_grad():
        assert make_body(arch, 1).eval()(torch.rand(2, 1, 32, 32, 32)).shape == (2, WIDTHS[arch])


def test_a_model_of_volumes_pools_no_slices_and_its_macs_are_those_of_all_of_it() -> None:
    model = build_model(SPEC).eval()
    pixels = torch.rand(2, 16, 3, 32, 32)
    features = model.features(pixels)
    assert features.shape == (2, feature_width(model)) == (2, 64)
    torch.testing.assert_close(model(pixels), model.logits(features))
    assert not hasattr(model.net, "slice_pool")
    assert count_macs(model, 32, 32) > 0.9 * count_macs(build_model(replace(SPEC, slices=32)), 32, 32) / 2
    grey = pixels.clone()
    grey[:, :, 1:] = 7  # a network of one channel sees the first: of grey all are alike
    torch.testing.assert_close(model.features(grey), features)
    seen, mask = torch.rand(2, 5, 64), torch.tensor([[1.0, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    torch.testing.assert_close(model.pool(seen, mask), mean_of_slices(seen, mask))  # another's slices
    assert ModelSpec.from_dict(SPEC.as_dict()) == SPEC


def test_axes_of_ras_point_right_anterior_and_superior() -> None:
    """Axial slices as radiologists see them: the patient's right on the left, anterior above, first slice inferior."""
    right_anterior_superior = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    stack = VolumeSpec().cut(right_anterior_superior)  # (slices, rows, columns)
    pixels = torch.from_numpy(np.ascontiguousarray(stack))[None, :, None].expand(1, -1, 3, -1, -1)
    seen = SolidNet(Whole(), 120, ras=True)(pixels)
    np.testing.assert_array_equal(seen.numpy().reshape(4, 5, 6), right_anterior_superior)
    np.testing.assert_array_equal(SolidNet(Whole(), 120)(pixels).numpy().reshape(6, 5, 4), stack)


def test_a_student_of_volumes_is_pruned_by_torch_pruning() -> None:
    model = build_model(replace(SPEC, arch="monai/resnet10-16"))
    before, pruner = count_macs(model, 32, 32), open_pruner(model, unit=4)
    for _ in range(12):
        assert pruner.step()
    assert count_macs(model, 32, 32) < 0.7 * before
    assert model.eval()(torch.rand(1, 16, 3, 32, 32)).shape == (1, 3)


def test_names_are_those_of_monai_and_the_nearest_is_named() -> None:
    assert timm_name("monai:resnet18") == timm_name("monai/resnet18") == solid_name("monai:resnet18") == "monai/resnet18"
    with pytest.raises(UserError, match="did you mean monai:densenet121") as caught:
        timm_name("monai:densenet12")
    assert caught.value.exit_code == USAGE


@pytest.mark.parametrize("change", [{"slices": 0}, {"arch": "monai/unet"}, {"arguments": {"channels": 2}}, {"arguments": {"ras": 1}},
                                    {"arguments": {"pretrained": True}}, {"arch": "inflated/../x"}])
def test_a_spec_of_a_network_of_volumes_is_checked(change: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        ModelSpec.from_dict({**SPEC.as_dict(), **change})


def test_without_monai_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "monai.networks", None)
    with pytest.raises(UserError, match=r"pip install 'rd-distill\[monai\]'"):
        build_model(SPEC)


def test_solid_views_crop_along_the_slices_too_and_a_planar_view_moves_all_slices_alike() -> None:
    views = ViewSpec(solid=True)
    matrices = draw_views(views, 500, np.random.default_rng(0))
    assert matrices.shape == (500, 3, 4)
    assert (views.crop[0] <= matrices[:, 2, 2]).all()
    assert (matrices[:, 2, 2] <= views.crop[1]).all()
    assert (np.abs(matrices[:, 2, 3]) <= 1 - matrices[:, 2, 2] + 1e-6).all(), "a crop lies inside the volume"
    assert np.ptp(matrices[:, 2, 3]) > 0.3
    np.testing.assert_array_equal(bank_views(views, 0, "abc", 5)[:3], bank_views(views, 0, "abc", 2))
    stack = torch.rand(2, 6, 1, 10, 12)
    np.testing.assert_allclose(warp(stack, torch.eye(3, 4).repeat(2, 1, 1)), stack, atol=1e-6)
    planar = torch.from_numpy(draw_views(ViewSpec(), 2, np.random.default_rng(1)))
    torch.testing.assert_close(warp(stack, planar)[:, 3], warp(stack[:, 3], planar))
    mirrored = torch.diag(torch.tensor([1.0, 1, -1]))
    torch.testing.assert_close(warp(stack, torch.cat([mirrored, torch.zeros(3, 1)], 1).repeat(2, 1, 1)), stack.flip(1), atol=1e-5, rtol=0)


def test_a_bank_and_a_training_step_see_the_same_volume_under_the_same_view() -> None:
    spec = ImageSpec(16, 16, volume=VolumeSpec(8, solid=True))
    levels = np.random.default_rng(0).integers(0, 256, (2, 8, 16, 16, 1)).astype(np.uint8)
    matrices = draw_views(ViewSpec(solid=True), 2, np.random.default_rng(0))
    banked = view_pixels(list(levels), matrices, np.asarray([False, True]), spec)
    assert banked.shape == (2, 8, 3, 16, 16)
    torch.testing.assert_close(banked[1], view_pixels(list(levels), matrices, np.asarray([True, True]), spec)[1])
    assert fresh_pixels(levels, matrices, np.random.default_rng(0), spec).shape == (2, 8, 3, 16, 16)
