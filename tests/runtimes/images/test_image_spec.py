"""The one rule from raw image to network input, against torch, Pillow and a float64 formula."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F
from torchvision import transforms

from distill.data.image_set import ImageSet
from runtimes.errors import UserError
from runtimes.images.spec import ImageSpec, placed_matrix, resize_matrix

SIZES = st.integers(8, 150)


def middle(image: torch.Tensor, side: int) -> torch.Tensor:
    """The middle of an image (..., h, w); what is left over lies below and to the right."""
    top, left = ((there - side) // 2 for there in image.shape[-2:])
    return image[..., top:top + side, left:left + side]


def grey(height: int, width: int, channels: int = 1, top: int = 255, seed: int = 0) -> np.ndarray:
    dtype = np.uint8 if top == 255 else np.uint16
    return np.random.default_rng(seed).integers(0, top + 1, (height, width, channels)).astype(dtype)


@settings(max_examples=60, deadline=None)
@given(source=st.integers(1, 300), target=st.integers(1, 120))
def test_the_resize_matrix_is_torch_s_antialiased_bilinear_filter(source: int, target: int) -> None:
    unit = torch.eye(source, dtype=torch.float64)[None, None]
    wanted = F.interpolate(unit, (target, source), mode="bilinear", antialias=True, align_corners=False)[0, 0].numpy()
    assert np.abs(resize_matrix(source, target) - wanted).max() < 1e-6
    assert np.allclose(resize_matrix(source, target).sum(axis=1), 1, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(source=st.integers(2, 300), target=st.integers(1, 120))
def test_the_bicubic_matrix_is_torch_s_antialiased_one(source: int, target: int) -> None:
    unit = torch.eye(source, dtype=torch.float64)[None, None]
    expected = F.interpolate(unit, (target, source), mode="bicubic", antialias=True, align_corners=False)[0, 0].numpy()
    assert np.abs(resize_matrix(source, target, "bicubic") - expected).max() < 1e-6


@settings(max_examples=60, deadline=None)
@given(height=st.integers(20, 150), width=st.integers(20, 150), edge=st.integers(32, 60), seed=st.integers(0, 99),
       interpolation=st.sampled_from(["bilinear", "bicubic"]))
def test_a_crop_is_torchvision_s_resize_of_the_shortest_side_and_the_middle_of_it(height: int, width: int, edge: int, seed: int,
                                                                            interpolation: str) -> None:
    raw = grey(height, width, 3, seed=seed)
    spec = ImageSpec(32, 32, 3, fit="crop", edge=edge, interpolation=interpolation)  # type: ignore[arg-type]
    mode = transforms.InterpolationMode.BILINEAR if interpolation == "bilinear" else transforms.InterpolationMode.BICUBIC
    resized = transforms.Resize(edge, interpolation=mode, antialias=True)(torch.from_numpy(raw.astype(np.float32)).permute(2, 0, 1))
    theirs = middle(resized, 32).clamp(0, 255).round().permute(1, 2, 0).numpy()
    assert np.abs(spec.stored(raw).astype(int) - theirs.astype(int)).max() <= 1


@settings(max_examples=40, deadline=None)
@given(height=st.integers(8, 150), width=st.integers(8, 150), seed=st.integers(0, 99))
def test_a_pad_is_the_whole_image_in_the_middle_of_black(height: int, width: int, seed: int) -> None:
    raw = grey(height, width, seed=seed)
    spec = ImageSpec(32, 48, fit="pad")
    tall, wide = spec.between(height, width)
    assert max(tall / 32, wide / 48) == 1
    assert abs(tall / wide - height / width) <= (0.5 / wide) * (1 + height / width) + 1e-9 or min(tall, wide) == 1
    stored = spec.stored(raw)
    top, left = (tall - 32) // 2, (wide - 48) // 2
    inside = ImageSpec(max(tall, 8), max(wide, 8)).stored(raw) if min(tall, wide) >= 8 else None
    if inside is not None:
        assert np.abs(stored[-top:tall - top, -left:wide - left].astype(int) - inside.astype(int)).max() <= 1
    outside = stored.copy()
    outside[-top:tall - top, -left:wide - left] = 0
    assert not outside.any()


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
@pytest.mark.parametrize(("dtype", "window"), [("uint8", (0.0, 255.0)), ("uint16", (100.0, 3000.0))])
@settings(max_examples=20, deadline=None)
@given(height=st.integers(8, 120), width=st.integers(8, 120), seed=st.integers(0, 99))
def test_every_fit_gives_a_device_the_levels_that_training_stored(fit: str, dtype: str, window: tuple[float, float], height: int,
                                                                  width: int, seed: int) -> None:
    raw = grey(height, width, top=255 if dtype == "uint8" else 4000, seed=seed)
    spec = ImageSpec(32, 40, 1, dtype, window, fit=fit)  # type: ignore[arg-type]
    there, here = spec.levels(spec.resized(raw)), spec.stored(raw)
    assert np.abs(there - here).max() <= (0.5 if dtype == "uint8" else 0.5 + 255 / 2900)
    assert ImageSpec.from_dict(json.loads(json.dumps(spec.as_dict()))) == spec


def test_a_spec_that_squashes_reads_as_it_always_did_and_an_edge_without_its_crop_is_refused() -> None:
    assert set(ImageSpec(32, 32).as_dict()) == {"height", "width", "channels", "dtype", "window", "mean", "std"}
    with pytest.raises(UserError, match="edge 40 is for a square crop"):
        ImageSpec(32, 32, fit="pad", edge=40)
    with pytest.raises(UserError, match="out of no fewer"):
        ImageSpec(64, 64, fit="crop", edge=40)
    assert ImageSpec(64, 64, fit="crop").keeps(64, 64)
    assert not ImageSpec(64, 64, fit="crop", edge=72).keeps(64, 64)
    assert placed_matrix(20, 30, 10).shape == (10, 20)


@settings(max_examples=40, deadline=None)
@given(height=SIZES, width=SIZES, channels=st.sampled_from([1, 3]), seed=st.integers(0, 99))
def test_ours_torch_and_pillow_resize_to_the_same_grey_levels(height: int, width: int, channels: int, seed: int) -> None:
    raw = grey(height, width, channels, seed=seed)
    spec = ImageSpec(32, 48, channels)  # type: ignore[arg-type]
    ours = spec.stored(raw).astype(int)
    floats = torch.from_numpy(raw.astype(np.float32)).permute(2, 0, 1)[None]
    by_torch = F.interpolate(floats, (32, 48), mode="bilinear", antialias=True).round()[0].permute(1, 2, 0).numpy().astype(int)
    image = Image.fromarray(raw[..., 0] if channels == 1 else raw)
    by_pillow = np.asarray(image.resize((48, 32), Image.Resampling.BILINEAR)).reshape(32, 48, channels).astype(int)
    assert np.abs(ours - by_torch).max() <= 1
    assert np.abs(ours - by_pillow).max() <= 1
    assert np.abs(ours - by_pillow).mean() <= 0.5


@settings(max_examples=40, deadline=None)
@given(height=SIZES, width=SIZES, channels=st.sampled_from([1, 3]))
def test_what_a_device_resizes_is_what_training_stored(height: int, width: int, channels: int) -> None:
    raw = grey(height, width, channels)
    spec = ImageSpec(32, 32, channels)  # type: ignore[arg-type]
    assert np.array_equal(spec.levels(spec.resized(raw)), spec.stored(raw))


@settings(max_examples=40, deadline=None)
@given(height=SIZES, width=SIZES, low=st.integers(0, 900), extent=st.integers(300, 4000))
def test_a_window_gives_the_same_levels_before_and_after_the_device_s_resize(height: int, width: int, low: int, extent: int) -> None:
    raw = grey(height, width, top=5000)
    spec = ImageSpec(32, 32, 1, "uint16", (float(low), float(low + extent)))
    on_device = spec.levels(spec.resized(raw))
    assert np.abs(on_device - spec.stored(raw)).max() <= 0.5 + 0.5 * 255 / extent + 1e-3  # one rounding on each side


def test_levels_follow_the_window_formula_and_are_monotone() -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    spec = ImageSpec(256, 256, 1, "uint16", (1000.0, 3000.0))
    wanted = np.clip((ramp.astype(np.float64) - 1000) / 2000, 0, 1) * 255
    found = spec.levels(ramp)
    assert np.abs(found - wanted).max() < 1e-3
    assert (np.diff(found.reshape(-1)) >= 0).all()


def test_normalised_pixels_follow_the_formula() -> None:
    spec = ImageSpec(16, 24, 3)
    levels = grey(16, 24, 3)[None]
    wanted = (levels.astype(np.float64) / 255 - np.asarray(spec.mean)) / np.asarray(spec.std)
    found = spec.normalised(levels)
    assert found.shape == (1, 3, 16, 24)
    assert found.dtype == np.float32
    assert np.abs(found - wanted.transpose(0, 3, 1, 2)).max() < 1e-5


def test_grey_input_is_broadcast_to_three_channels() -> None:
    spec = ImageSpec(16, 16, 1, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    found = spec.normalised(grey(16, 16)[None])
    assert found.shape == (1, 3, 16, 16)
    assert np.array_equal(found[:, 0], found[:, 2])


def test_channels_are_repeated_or_weighed_to_luma() -> None:
    one, three = grey(16, 16), grey(16, 16, 3)
    assert np.array_equal(ImageSpec(16, 16, 3).channelled(one), one.repeat(3, axis=2))
    assert np.array_equal(ImageSpec(16, 16, 1).channelled(one.repeat(3, axis=2)), one)
    by_pillow = np.asarray(Image.fromarray(three).convert("L")).astype(int)
    assert np.abs(ImageSpec(16, 16, 1).channelled(three)[..., 0] - by_pillow).max() <= 1


def test_a_spec_survives_json_and_refuses_other_keys() -> None:
    spec = ImageSpec(64, 96, 3, "uint16", (10.0, 4000.0), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    content = json.loads(json.dumps(spec.as_dict()))
    assert ImageSpec.from_dict(content) == spec
    with pytest.raises(UserError, match=r"image\.gamma is not known"):
        ImageSpec.from_dict({**content, "gamma": 1})
    del content["std"]
    with pytest.raises(UserError, match=r"image\.std is missing"):
        ImageSpec.from_dict(content)


@pytest.mark.parametrize("change", [{"height": 4}, {"width": 9999}, {"window": (5.0, 5.0)}, {"std": (0.0, 1.0, 1.0)}])
def test_an_impossible_spec_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(UserError):
        ImageSpec(**{"height": 32, "width": 32, **change})  # type: ignore[arg-type]


def test_an_image_set_knows_its_splits_and_labels() -> None:
    images = ImageSet([grey(8, 8)] * 4, tuple("abcd"), np.asarray([0, -1, 1, 0]), ("no", "yes"), "binary",
                      np.asarray(["train", "train", "val", "test"], dtype=object))
    assert len(images) == 4
    assert images.rows("train").tolist() == [0, 1]
    assert images.labelled.tolist() == [True, False, True, True]
    assert images.raw(2).shape == (8, 8, 1)
    several = ImageSet([grey(8, 8)] * 2, ("a", "b"), np.asarray([[np.nan, 1], [np.nan, np.nan]], np.float32), ("x", "y"), "multilabel",
                       np.asarray(["train", "val"], dtype=object))
    assert several.labelled.tolist() == [True, False]
