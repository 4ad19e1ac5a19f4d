"""Spacing and size of volumes: MONAI's own transforms are the reference, numpy's interpolation where MONAI is missing."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.errors import UserError
from runtimes.images import resample
from runtimes.images.resample import straightened, to_size, to_spacing
from runtimes.images.scans import Scan
from runtimes.images.volumes import VolumeSpec

RANDOM = np.random.default_rng(0)
WINDOW = VolumeSpec(scaling="window", window=(-100.0, 300.0))


def head(shape: tuple[int, int, int]) -> np.ndarray:
    """Values with structure at several scales, int16."""
    coarse = RANDOM.normal(100, 150, [side // 4 + 1 for side in shape])
    for axis in range(3):
        coarse = coarse.repeat(4, axis)
    return np.rint(coarse[:shape[0], :shape[1], :shape[2]] + RANDOM.normal(0, 30, shape)).astype(np.int16)


def by_monai(values: np.ndarray, spacing: tuple[float, ...], name: str, **arguments: Any) -> np.ndarray:
    """The answer of a transform of MONAI's."""
    pytest.importorskip("monai", reason="MONAI: pip install 'rd-distill[monai]'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from monai import transforms
        from monai.data import MetaTensor

        image = MetaTensor(torch.from_numpy(values.astype(np.float32))[None], affine=torch.diag(torch.tensor([*spacing, 1.0])))
        return getattr(transforms, name)(**arguments)(image)[0].numpy()


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("shape", "spacing", "wanted"), [
    ((20, 24, 17), (0.7, 0.7, 3.0), (1.0, 1.0, 1.0)), ((31, 28, 12), (0.44, 0.5, 5.0), (2.0, 1.5, 2.5)),
    ((9, 10, 11), (1.0, 1.0, 1.0), (0.6, 1.0, 1.0005)), ((2, 40, 3), (2.0, 2.0, 2.0), (3.3, 1.1, 7.0))])
def test_a_spacing_is_reached_as_by_monai_within_one_grey_level(
    shape: tuple[int, int, int], spacing: tuple[float, ...], wanted: tuple[float, ...], align_corners: bool,
) -> None:
    values = head(shape)
    ours = to_spacing(values, spacing, wanted)
    theirs = by_monai(values, spacing, "Spacing", pixdim=wanted, mode="bilinear", padding_mode="border", align_corners=align_corners)
    assert ours.shape == theirs.shape
    assert np.abs(WINDOW.levels(ours).astype(int) - WINDOW.levels(theirs)).max() <= 1


@pytest.mark.parametrize("size", [(8, 9, 10), (7, 12, 5), (20, 3, 11), (9, 10, 1), (30, 31, 32), (8, 10, 9)])
@pytest.mark.parametrize("shape", [(9, 10, 11), (8, 9, 12)])
def test_a_size_is_reached_as_by_monai(shape: tuple[int, int, int], size: tuple[int, int, int]) -> None:
    values = head(shape)
    theirs = by_monai(values, (1.0, 1.0, 1.0), "ResizeWithPadOrCrop", spatial_size=size, mode="constant", constant_values=-7)
    np.testing.assert_array_equal(to_size(values, size, -7), theirs)


@given(shape=st.tuples(*[st.integers(1, 9)] * 3), size=st.tuples(*[st.integers(1, 12)] * 3))
def test_what_is_cropped_or_padded_has_the_size_asked_for_and_keeps_the_middle(shape: tuple[int, ...], size: tuple[int, ...]) -> None:
    values = np.arange(1, 1 + np.prod(shape)).reshape(shape)
    found = to_size(values, size, 0)
    assert found.shape == size
    kept = [min(side, target) for side, target in zip(shape, size, strict=True)]
    assert int((found > 0).sum()) == np.prod(kept)
    if all(target >= side for side, target in zip(shape, size, strict=True)):
        assert found.sum() == values.sum()


@given(shape=st.tuples(*[st.integers(1, 9)] * 3), steps=st.tuples(*[st.floats(0.3, 3.0)] * 3), chunk=st.sampled_from([1, 50, 1 << 24]))
def test_each_axis_is_interpolated_linearly_from_the_first_voxel_whatever_the_chunks(
    shape: tuple[int, ...], steps: tuple[float, ...], chunk: int,
) -> None:
    values = np.random.default_rng(1).integers(-1000, 1000, shape).astype(np.int16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resample, "CHUNK", chunk)
        found = to_spacing(values, (1.0, 1.0, 1.0), steps)
    wanted = values.astype(np.float64)
    for axis, step in enumerate(steps):
        if abs(step - 1.0) > 1e-3:
            at = np.arange(int(np.round((shape[axis] - 1) / step + 1))) * step
            wanted = np.apply_along_axis(lambda line, at=at: np.interp(at, np.arange(len(line)), line), axis, wanted)
    np.testing.assert_allclose(found, wanted, atol=2e-3)


def test_an_array_says_nothing_of_its_spacing_and_a_scan_does() -> None:
    spec = VolumeSpec(scaling="window", window=(-100.0, 300.0), spacing_mm=(1.0, 1.0, 2.0), size=(20, 21, 9))
    with pytest.raises(UserError, match=r"an array says nothing of its spacing.*give a NIfTI file or DICOM, or a .*Scan"):
        spec.of_array(np.zeros((5, 6, 7)))
    assert spec.of_scan(Scan(head((20, 24, 17)), (0.7, 0.7, 3.0))).shape == (9, 21, 20, 1)
    with pytest.raises(UserError, match=r"voxels at a spacing of 0.05 x 0.05 x 0.05 mm, the limit is"):
        VolumeSpec(spacing_mm=(0.05, 0.05, 0.05)).of_scan(Scan(head((80, 80, 80)), (1.0, 1.0, 1.0)))


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_a_volume_in_an_array_and_in_a_file_have_the_same_middle(axis: str) -> None:
    values = head((9, 10, 11))
    spec = VolumeSpec(axis=axis, scaling="window", window=(-100.0, 300.0), size=(6, 13, 4))  # type: ignore[arg-type]
    found = spec.of_scan(Scan(values, (1.0, 1.0, 1.0)))
    np.testing.assert_array_equal(found, spec.of_array(spec.cut(values)))
    grey = WINDOW.levels(values)[..., 0]
    np.testing.assert_array_equal(found[..., 0], spec.cut(to_size(grey, (6, 13, 4), 0)))


def test_nan_is_filled_before_neighbours_take_it_over() -> None:
    values = head((9, 10, 11)).astype(np.float32)
    holes = values.copy()
    holes[3, 4, 5] = np.nan
    values[3, 4, 5] = -50
    spec = VolumeSpec(scaling="window", window=(-100.0, 300.0), spacing_mm=(0.7, 0.7, 0.7), fill=-50.0)
    np.testing.assert_array_equal(spec.of_scan(Scan(holes, (1.0, 1.0, 1.0))), spec.of_scan(Scan(values, (1.0, 1.0, 1.0))))
    with pytest.raises(UserError, match="NaN in"):
        VolumeSpec(spacing_mm=(0.7, 0.7, 0.7)).of_scan(Scan(holes, (1.0, 1.0, 1.0)))


@pytest.mark.parametrize("across", [0, 1, 2])
def test_slices_shifted_by_whole_voxels_come_back_as_they_were(across: int) -> None:
    straight = np.zeros((12, 13, 14), np.int16)
    straight[4:8, 4:9, 4:10] = RANDOM.integers(1, 999, (4, 5, 6))
    axis = (across + 1) % 3
    tilted = np.stack([np.roll(plane, -(place - 6), axis if axis < across else axis - 1)
                       for place, plane in enumerate(np.moveaxis(straight, across, 0))])
    shift = [0.0, 0.0, 0.0]
    shift[axis] = 1.0
    found = straightened(np.moveaxis(tilted, 0, across), across, shift)
    assert found.dtype == np.int16
    assert found.shape[axis] == straight.shape[axis] + straight.shape[across] - 1
    kept = np.argwhere(found)
    box = tuple(slice(low, high + 1) for low, high in zip(kept.min(axis=0), kept.max(axis=0), strict=True))
    np.testing.assert_array_equal(found[box], straight[4:8, 4:9, 4:10])


def test_a_spec_speaks_of_spacing_and_size_only_where_there_are_any() -> None:
    plain, whole = VolumeSpec(3), VolumeSpec(3, spacing_mm=(1.0, 1.5, 2.0), size=(64, 64, 32))
    assert set(whole.as_dict()) - set(plain.as_dict()) == {"spacing_mm", "size"}
    assert VolumeSpec.from_dict(whole.as_dict()) == whole
    assert VolumeSpec.from_dict(plain.as_dict()) == plain
    for changes, told in (({"spacing_mm": (1.0, 0.0, 1.0)}, "volume spacing"), ({"size": (0, 4, 4)}, "volume size"),
                          ({"size": (4, 4, 5000)}, "volume size")):
        with pytest.raises(UserError, match=told):
            VolumeSpec(**changes)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"volume\.size"):
        VolumeSpec.from_dict({**whole.as_dict(), "size": [1.5, 2, 3]})
