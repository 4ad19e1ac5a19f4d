"""NIfTI as a scan, and the choice of axes, against nibabel's own answers."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from runtimes.errors import UserError
from runtimes.images.orientation import nearest_ras, orientation
from runtimes.images.scans import read_scan

RANDOM = np.random.default_rng(0)
VOXELS = RANDOM.integers(-900, 1000, (5, 6, 7)).astype(np.int16)


def write(path: Path, voxels: np.ndarray, affine: np.ndarray, slope: float = 1.0, intercept: float = 0.0) -> Path:
    image = nibabel.Nifti1Image(voxels, affine)
    if (slope, intercept) != (1.0, 0.0):
        image.header.set_slope_inter(slope, intercept)
    nibabel.save(image, path)
    return path


@given(entries=st.lists(st.floats(-10, 10), min_size=9, max_size=9))
def test_axes_are_chosen_as_nibabel_chooses_them(entries: list[float]) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(entries, (3, 3))
    assume(np.linalg.norm(affine[:3, :3], axis=0).min() > 1e-3)
    unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    assume(np.linalg.svd(unit)[1].min() > 1e-3)
    wanted = nibabel.io_orientation(affine).astype(int).tolist()
    found = orientation(affine)
    assert [list(pair) for pair in found] == wanted
    image = nibabel.Nifti1Image(VOXELS, affine)
    np.testing.assert_array_equal(nearest_ras(VOXELS, found), np.asarray(nibabel.as_closest_canonical(image).dataobj))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(("kind", "slope", "intercept", "dtype"), [
    (np.int16, 1.0, 0.0, np.int16), (np.int16, 2.0, -5.0, np.int16), (np.int16, 0.5, 0.25, np.float32), (np.uint8, 1.0, 0.0, np.int16),
    (np.uint16, 1.0, -1024.0, np.int16), (np.float32, 1.0, 0.0, np.float32), (np.float64, 1.0, 0.0, np.float32),
    (np.int32, 1.0, 0.0, np.int16), (np.uint16, 1.0, 0.0, np.float32)])
def test_values_and_spacing_are_nibabels(tmp_path: Path, suffix: str, kind: type, slope: float, intercept: float, dtype: type) -> None:
    if np.dtype(kind).kind == "f":
        voxels = RANDOM.normal(0, 100, (5, 6, 7)).astype(kind)
    else:
        voxels = RANDOM.integers(0, 60000 if dtype == np.float32 and kind is np.uint16 else 250, (5, 6, 7)).astype(kind)
    affine = np.asarray([[0, -0.7, 0, 3], [0.9, 0, 0, -5], [0, 0, -2.5, 1], [0, 0, 0, 1.0]])
    path = write(tmp_path / f"a{suffix}", voxels, affine, slope, intercept)
    scan = read_scan(path)
    upright = nibabel.as_closest_canonical(nibabel.load(path))
    assert scan.values.dtype == dtype
    np.testing.assert_array_equal(scan.values, upright.get_fdata().astype(np.float32))
    np.testing.assert_allclose(scan.spacing_mm, nibabel.affines.voxel_sizes(upright.affine), rtol=1e-6)
    assert (scan.notes, scan.across) == ((), 2)


def test_whole_numbers_in_a_file_of_fractions_are_whole(tmp_path: Path) -> None:
    scan = read_scan(write(tmp_path / "a.nii", VOXELS.astype(np.float64), np.eye(4)))
    assert scan.values.dtype == np.int16
    np.testing.assert_array_equal(scan.values, VOXELS)
    holes = VOXELS.astype(np.float32)
    holes[0, 0, 6] = np.nan
    scan = read_scan(write(tmp_path / "b.nii", holes, np.eye(4)))
    np.testing.assert_array_equal(scan.values, holes)


def test_a_file_without_an_orientation_says_so_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VOXELS, None)
    nibabel.save(image, tmp_path / "none.nii")
    scan = read_scan(tmp_path / "none.nii")
    assert "says nothing of its orientation" in scan.notes[0]
    np.testing.assert_array_equal(scan.values, np.asarray(nibabel.as_closest_canonical(nibabel.load(tmp_path / "none.nii")).dataobj))
    flat = np.diag([1.0, 1.0, 0.0, 1.0])
    image = nibabel.Nifti1Image(VOXELS, np.eye(4))
    image.header.set_sform(flat, code=1)
    image.header.set_qform(None, code=0)
    raw = tmp_path / "flat.nii"
    nibabel.save(image, raw)
    data = bytearray(raw.read_bytes())
    rows = np.frombuffer(bytes(data[280:328]), "<f4").copy().reshape(3, 4)
    rows[2] = 0
    data[280:328] = rows.tobytes()
    raw.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"flat\.nii: holds an affine .*so how it lies is not known"):
        read_scan(raw)


def test_a_file_whose_axes_are_slanted_is_noted_or_refused(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[1, 2] = 0.2
    scan = read_scan(write(tmp_path / "a.nii", VOXELS, affine))
    assert "shifted against their normal by 11.3 degrees" in scan.notes[0]
    assert scan.shift == pytest.approx((0.0, 0.2, 0.0))
    assert scan.spacing_mm == pytest.approx((1.0, 1.0, 1.0))
    affine = np.eye(4)
    affine[0, 1] = 0.2
    with pytest.raises(UserError, match="miss right angles"):
        read_scan(write(tmp_path / "b.nii", VOXELS, affine))


def test_colours_in_a_nifti_file_are_no_volume(tmp_path: Path) -> None:
    kind = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(UserError, match="expected numbers, one a voxel"):
        read_scan(write(tmp_path / "a.nii", np.zeros((4, 5, 6), kind), np.eye(4)))
