"""NIfTI to grey slices: orientation, thinning out, scaling, and what is no volume; stacks as a graph takes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.errors import UserError
from runtimes.images.spec import ImageSpec, read_image
from runtimes.images.volumes import MAX_SLICES, ORDER, VolumeSpec, is_volume, read_volume

RANDOM = np.random.default_rng(0)
VOXELS = RANDOM.integers(0, 1000, (6, 9, 12)).astype(np.int16)  # x to the right, y to the front, z up


def nifti(path: Path, voxels: np.ndarray = VOXELS, affine: np.ndarray | None = None) -> Path:
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_voxels_come_back_as_they_were_written(tmp_path: Path, suffix: str) -> None:
    assert is_volume(nifti(tmp_path / f"a{suffix}"))
    np.testing.assert_array_equal(read_volume(tmp_path / f"a{suffix}"), VOXELS)


@pytest.mark.parametrize("turned", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("mirrored", [(1, 1, 1), (-1, 1, -1), (-1, -1, -1)])
def test_a_scan_stored_in_any_orientation_gives_the_same_voxels(tmp_path: Path, turned: tuple[int, ...], mirrored: tuple[int, ...]) -> None:
    stored = VOXELS.transpose(turned)[tuple(slice(None, None, step) for step in mirrored)]
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for place, (axis, step) in enumerate(zip(turned, mirrored, strict=True)):
        affine[axis, place] = step
        affine[axis, 3] = 0 if step > 0 else VOXELS.shape[axis] - 1
    np.testing.assert_array_equal(read_volume(nifti(tmp_path / "a.nii.gz", np.ascontiguousarray(stored), affine)), VOXELS)


def test_slices_stand_as_radiologists_look_at_them() -> None:
    marked = np.zeros((4, 5, 6))
    marked[3, 4, 5] = 1  # right, front, top
    for axis, place in {"axial": (5, 0, 0), "coronal": (4, 0, 0), "sagittal": (3, 0, 0)}.items():
        found = VolumeSpec(axis=axis).cut(marked)  # type: ignore[arg-type]
        assert found.shape == tuple(marked.shape[one] for one in ORDER[axis])
        assert np.argwhere(found).tolist() == [list(place)], f"{axis}: the patient's right is on the left, front or top is above"


@given(depth=st.integers(1, 600), slices=st.integers(1, MAX_SLICES))
def test_the_slices_seen_are_spread_from_first_to_last_without_repetition(depth: int, slices: int) -> None:
    found = VolumeSpec(slices).places(depth)
    assert len(found) == min(depth, slices)
    assert len(set(found.tolist())) == len(found)
    if len(found) > 1:
        assert (found[0], found[-1]) == (0, depth - 1)
        steps = np.diff(found)
        assert steps.max() - steps.min() <= 1
    assert VolumeSpec(0).places(depth).tolist() == list(range(depth))


def test_percentiles_are_the_volumes_own_and_a_window_is_the_same_for_all() -> None:
    stack = RANDOM.normal(0, 1, (5, 20, 20)).astype(np.float32)
    own, fixed = VolumeSpec(), VolumeSpec(scaling="window", window=(-2.0, 2.0))
    assert np.abs(own.levels(stack).astype(int) - own.levels(stack * 40 + 7).astype(int)).max() <= 1, "scanner gain does not matter"
    low, high = np.percentile(stack.astype(np.float64), (0.5, 99.5))
    expected = np.rint(np.clip((stack.astype(np.float64) - low) / (high - low), 0, 1) * 255)
    assert np.abs(own.levels(stack)[..., 0] - expected).max() <= 1
    expected = np.rint(np.clip((stack.astype(np.float64) + 2) / 4, 0, 1) * 255)
    assert np.abs(fixed.levels(stack)[..., 0] - expected).max() <= 1
    grey = RANDOM.integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)
    assert VolumeSpec(scaling="window", window=(0.0, 255.0)).levels(grey) is grey


def test_each_slice_goes_the_way_of_an_image_and_missing_ones_are_zeros() -> None:
    spec = ImageSpec(16, 24, volume=VolumeSpec(5))
    raw = RANDOM.integers(0, 256, (3, 20, 30, 1), dtype=np.uint8)
    plain = replace(spec, volume=None)
    for name in ("stored", "resized"):
        found = getattr(spec, name)(raw)
        assert found.shape == (5, 16, 24, 1)
        for place in range(3):
            np.testing.assert_array_equal(found[place], getattr(plain, name)(raw[place]))
        assert not found[3:].any()
    assert (spec.slices_of(raw), spec.slices_of(np.concatenate([raw] * 4))) == (3, 5)


def test_a_spec_of_volumes_survives_json_and_a_spec_of_images_does_not_speak_of_them() -> None:
    spec = ImageSpec(16, 24, volume=VolumeSpec(5, "coronal", "window", (-20.0, 80.0)))
    assert ImageSpec.from_dict(spec.as_dict()) == spec
    assert "volume" not in ImageSpec(16, 24).as_dict()
    with pytest.raises(UserError, match=r"image\.volume\.axis is missing"):
        ImageSpec.from_dict({**spec.as_dict(), "volume": {"slices": 3}})


def damaged(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    whole = nifti(tmp_path / "whole.nii.gz").read_bytes()
    cut, empty, text = tmp_path / "cut.nii.gz", tmp_path / "empty.nii", tmp_path / "text.nii"
    cut.write_bytes(whole[:len(whole) // 2])
    empty.touch()
    text.write_text("not a volume")
    nan = VOXELS.astype(np.float32)
    nan[2, 2, 2] = np.nan
    return {
        "missing": (tmp_path / "none.nii", "cannot be opened"), "cut": (cut, "damaged or truncated"), "empty": (empty, "is empty"),
        "text": (text, "damaged or truncated"), "four": (nifti(tmp_path / "4d.nii", np.ones((3, 4, 5, 2), np.int16)), "one volume"),
        "flat": (nifti(tmp_path / "flat.nii", np.full((9, 9, 9), 7, np.int16)), "single value 7"),
        "nan": (nifti(tmp_path / "nan.nii", nan), "NaN or Inf"),
        "plane": (nifti(tmp_path / "2d.nii", np.ones((9, 9), np.int16)), "one volume")}


@pytest.mark.parametrize("name", ["missing", "cut", "empty", "text", "four", "flat", "nan", "plane"])
def test_what_is_no_volume_is_refused_with_its_path(tmp_path: Path, name: str) -> None:
    path, told = damaged(tmp_path)[name]
    with pytest.raises(UserError, match=told) as caught:
        read_image(path, VolumeSpec())
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("changes", "told"), [
    ({"slices": -1}, "slices a volume"), ({"slices": 9999}, "slices a volume"), ({"axis": "diagonal"}, "axis 'diagonal'"),
    ({"scaling": "histogram"}, "scaling 'histogram'"), ({"window": (3.0, 3.0)}, "is empty")])
def test_a_spec_that_makes_no_sense_is_refused(changes: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        VolumeSpec(**changes)  # type: ignore[arg-type]
