"""Views: the clean one is the image itself, ranges hold, and the warp is the affine map it says it is."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as tv

from distill.data.views import IDENTITY, ViewSpec, bank_views, draw_views, normalise, photometric, unit_levels, warp

CORNERS = np.asarray([[-1, -1, 1], [1, -1, 1], [-1, 1, 1], [1, 1, 1]], dtype=np.float64).T

specs = st.builds(
    lambda low, high, aspect, flip, rotation: ViewSpec((min(low, high), max(low, high)), aspect, flip, rotation),
    st.floats(0.3, 1.0), st.floats(0.3, 1.0), st.floats(1.0, 2.0), st.floats(0, 1), st.floats(0, 30))


@settings(max_examples=60, deadline=None)
@given(specs, st.integers(0, 2**32 - 1))
def test_every_view_stays_in_the_ranges_of_its_spec(spec: ViewSpec, seed: int) -> None:
    matrices = draw_views(spec, 30, np.random.default_rng(seed)).astype(np.float64)
    linear, shift = matrices[:, :, :2], matrices[:, :, 2]
    width, height = np.linalg.norm(linear[:, :, 0], axis=1), np.linalg.norm(linear[:, :, 1], axis=1)
    stretch = np.sqrt(spec.aspect)
    assert (width <= 1 + 1e-6).all()
    assert (height <= 1 + 1e-6).all()
    assert (width >= spec.crop[0] / stretch - 1e-6).all()
    assert (width <= spec.crop[1] * stretch + 1e-6).all()
    assert (height >= spec.crop[0] / stretch - 1e-6).all()
    # the centre of the crop keeps an unrotated crop inside the image
    assert (np.abs(shift[:, 0]) <= 1 - width + 1e-6).all()
    assert (np.abs(shift[:, 1]) <= 1 - height + 1e-6).all()
    angle = np.degrees(np.arctan2(-linear[:, 0, 1], linear[:, 1, 1]))
    assert (np.abs(angle) <= spec.rotation_deg + 1e-4).all()
    mirrored = np.linalg.det(linear) < 0
    if spec.flip == 0:
        assert not mirrored.any()
    if spec.flip == 1:
        assert mirrored.all()


def test_half_of_the_views_are_mirror_images_and_crops_fill_their_range() -> None:
    matrices = draw_views(ViewSpec(), 4000, np.random.default_rng(0))
    assert 0.46 < (np.linalg.det(matrices[:, :, :2]) < 0).mean() < 0.54
    width = np.linalg.norm(matrices[:, :, 0], axis=1)
    assert width.min() < 0.68
    assert width.max() > 0.99


def test_view_zero_is_the_image_and_every_view_depends_on_seed_image_and_number_alone() -> None:
    views = bank_views(ViewSpec(), 0, "abc", 5)
    np.testing.assert_array_equal(views[0], IDENTITY)
    np.testing.assert_array_equal(bank_views(ViewSpec(), 0, "abc", 3), views[:4])  # more views do not move the first ones
    assert len({view.tobytes() for view in views}) == 6
    for other in (bank_views(ViewSpec(), 1, "abc", 5), bank_views(ViewSpec(), 0, "abd", 5)):
        assert not (other[1:] == views[1:]).all(axis=(1, 2)).any()


def test_bank_views_are_the_same_in_another_process() -> None:
    code = ("from distill.data.views import *\nimport sys\n"
            "sys.stdout.buffer.write(bank_views(ViewSpec(), 3, 'f00d', 9).tobytes())")
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert other == bank_views(ViewSpec(), 3, "f00d", 9).tobytes()


def test_the_identity_changes_no_pixel() -> None:
    pixels = torch.rand(2, 3, 17, 23)
    torch.testing.assert_close(warp(pixels, torch.from_numpy(IDENTITY).repeat(2, 1, 1)), pixels, atol=1e-5, rtol=0)


def test_a_mirror_image_is_the_flipped_image() -> None:
    pixels = torch.rand(1, 1, 16, 16)
    mirror = torch.tensor([[[-1.0, 0, 0], [0, 1.0, 0]]])
    torch.testing.assert_close(warp(pixels, mirror), pixels.flip(3), atol=1e-5, rtol=0)


def test_a_crop_is_the_cropped_image_resized_as_torchvision_does_it() -> None:
    pixels = torch.rand(1, 1, 32, 32)
    half = torch.tensor([[[0.5, 0, 0.25], [0, 0.5, -0.25]]])  # centre (0.25, -0.25): columns 12 to 28, rows 4 to 20
    crop = tv.resized_crop(pixels, top=4, left=12, height=16, width=16, size=[32, 32], antialias=False)
    torch.testing.assert_close(warp(pixels, half)[..., 1:-1, 1:-1], crop[..., 1:-1, 1:-1], atol=1e-5, rtol=0)


def test_a_rotation_is_the_one_of_torchvision() -> None:
    angle = np.deg2rad(8.0)
    matrix = torch.tensor([[[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0]]], dtype=torch.float32)
    pixels = torch.rand(1, 1, 33, 33)
    turned = tv.affine(pixels, angle=-8.0, translate=[0, 0], scale=1.0, shear=[0.0, 0.0], interpolation=tv.InterpolationMode.BILINEAR)
    inner = slice(8, -8)  # the two fill what lies outside the image differently
    torch.testing.assert_close(warp(pixels, matrix)[..., inner, inner], turned[..., inner, inner], atol=1e-4, rtol=0)


@settings(max_examples=25, deadline=None)
@given(specs, st.integers(0, 10**6))
def test_a_warp_samples_where_its_matrix_points(spec: ViewSpec, seed: int) -> None:
    matrix = draw_views(spec, 1, np.random.default_rng(seed))
    size = 21
    axis = (2 * torch.arange(size) + 1) / size - 1  # pixel centres in -1..1
    ramps = torch.stack([axis.repeat(size, 1), axis[:, None].repeat(1, size)])[None]  # the value is the place
    found = warp(ramps, torch.from_numpy(matrix))[0].double().numpy()
    places = np.stack([ramps[0, 0].double().numpy(), ramps[0, 1].double().numpy(), np.ones((size, size))])
    expected = np.einsum("ij,jhw->ihw", matrix[0].astype(np.float64), places)
    edge = 1 - 1 / size
    np.testing.assert_allclose(found, expected.clip(-edge, edge), atol=1e-5)  # outside, the border is repeated


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_photometric_changes_are_bounded_seeded_and_drawn_per_image(seed: int) -> None:
    flat = torch.full((4, 1, 24, 24), 0.5)
    changed = photometric(flat, np.random.default_rng(seed))
    again = photometric(flat, np.random.default_rng(seed))
    assert torch.equal(changed, again)
    assert (changed.mean(dim=(1, 2, 3)) - 0.5).abs().max() <= 0.12 + 0.02  # contrast leaves the mean alone
    assert len({round(float(one), 6) for one in changed.mean(dim=(1, 2, 3))}) == 4
    quiet = photometric(torch.rand(4, 1, 24, 24), np.random.default_rng(seed), noise=0.0)
    assert torch.isfinite(quiet).all()


def test_contrast_lies_between_its_limits() -> None:
    image = torch.rand(200, 1, 16, 16)
    changed = photometric(image, np.random.default_rng(0), noise=0.0)
    contrast = changed.std(dim=(1, 2, 3)) / image.std(dim=(1, 2, 3))
    assert contrast.min() >= 0.75 - 1e-4
    assert contrast.max() <= 1.30 + 1e-4
    assert contrast.max() - contrast.min() > 0.4


@pytest.mark.parametrize("channels", [1, 3])
def test_levels_become_normalised_channels_as_numpy_says(channels: int) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (2, 5, 7, channels), dtype=np.uint8)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    found = normalise(unit_levels(levels), mean, std).numpy()
    expected = ((levels / 255 - np.asarray(mean)) / np.asarray(std)).transpose(0, 3, 1, 2)
    assert found.shape == (2, 3, 5, 7)
    np.testing.assert_allclose(found, expected, atol=1e-5)
