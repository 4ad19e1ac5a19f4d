"""DICOM series and files of many frames as volumes: equal to what was drawn and to other readers, or refused in one sentence."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicoms import ENHANCED_CT, NAMES, item, write_dicom, write_frames, write_series
from hypothesis import given, settings
from hypothesis import strategies as st
from places import SHARED
from pydicom.uid import ExplicitVRBigEndian, JPEG2000Lossless, RLELossless

from runtimes.errors import UserError
from runtimes.images.resample import straightened
from runtimes.images.scans import read_scan
from runtimes.images.volumes import VolumeSpec, read_volume

LPS = np.diag([-1.0, -1.0, 1.0])  # from RAS+ and back
RANDOM = np.random.default_rng(3)
STORED = RANDOM.integers(-1000, 3000, (5, 6, 7)).astype(np.int16)
SECONDARY = "1.2.840.10008.5.1.4.1.1.7"
PLANE = np.asarray([1.0, 3.0, 5.0])  # by how much values rise a millimetre, in LPS
SIDES = (0.7, 0.9, 2.5)  # mm to the right, front and top


def turned(volume: np.ndarray, axes: tuple[int, ...], signs: tuple[int, ...], rotation: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """A volume (x, y, z) of RAS+ as slices (k, row, column) whose axes run along others, and the geometry that says so."""
    voxels = volume.transpose(axes)[tuple(slice(None, None, sign) for sign in signs)]  # (column, row, slice)
    column, row, across = (rotation @ (sign * SIDES[axis] * np.eye(3)[axis]) for axis, sign in zip(axes, signs, strict=True))
    return np.ascontiguousarray(voxels.transpose(2, 1, 0)), {
        "orientation": [*(LPS @ column / np.linalg.norm(column)), *(LPS @ row / np.linalg.norm(row))], "step": LPS @ across,
        "spacing": (float(np.linalg.norm(row)), float(np.linalg.norm(column)))}


def rotation(degrees: float, axis: tuple[float, float, float] = (1.0, 2.0, 3.0)) -> np.ndarray:
    """Rodrigues' formula."""
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    cross = np.asarray([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def refusal(path: Path | tuple[Path, ...]) -> str:
    with pytest.raises(UserError) as caught:
        read_scan(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


TURNS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


@settings(max_examples=40)
@given(turn=st.sampled_from(TURNS), order=st.permutations(range(4)), degrees=st.sampled_from([0.0, 0.0, 12.0, -25.0]),
       origin=st.tuples(*[st.floats(-500, 500)] * 3), frames=st.booleans())
def test_any_order_of_files_any_axes_and_any_origin_give_the_same_volume(
    turn: tuple[tuple[int, ...], tuple[int, ...]], order: list[int], degrees: float, origin: tuple[float, ...], frames: bool,
) -> None:
    axes, signs = turn
    shape = [5, 6, 7]
    shape[axes[2]] = 4
    volume = np.random.default_rng(0).integers(-900, 3000, shape).astype(np.int16)
    stored, geometry = turned(volume, axes, signs, rotation(degrees))
    with tempfile.TemporaryDirectory() as folder:
        if frames:
            scan = read_scan(write_frames(Path(folder, "a.dcm"), stored, order=order, origin=origin, **geometry))
        else:
            paths = write_series(Path(folder), stored, origin=origin, **geometry)
            scan = read_scan(tuple(paths[place] for place in order))
    np.testing.assert_array_equal(scan.values, volume)
    assert scan.values.dtype == np.int16
    np.testing.assert_allclose(scan.spacing_mm, SIDES, rtol=1e-5)
    assert (scan.notes, scan.shift, scan.across) == ((), (0.0, 0.0, 0.0), axes[2])


def as_monai_reads(folder: Path) -> tuple[np.ndarray, list[float]]:
    """Voxels in RAS+ and their spacing by MONAI's own reader and transform."""
    pytest.importorskip("monai", reason="MONAI: pip install 'rd-distill[monai]'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.data import PydicomReader
        from monai.transforms import Compose, EnsureChannelFirst, LoadImage, Orientation

        image = Compose([LoadImage(reader=PydicomReader(), image_only=True), EnsureChannelFirst(), Orientation("RAS")])(str(folder))
        return image[0].numpy(), [float(side) for side in image.pixdim]


@pytest.mark.parametrize(("axes", "signs"), [
    ((0, 1, 2), (-1, -1, 1)), ((0, 2, 1), (-1, -1, 1)), ((1, 2, 0), (-1, -1, -1)), ((0, 1, 2), (-1, -1, -1)), ((1, 0, 2), (1, -1, 1))],
    ids=["axial", "coronal", "sagittal", "reversed", "turned"])
@pytest.mark.parametrize("degrees", [0.0, 17.0])
def test_voxels_and_spacing_are_those_of_monais_reader(tmp_path: Path, axes: tuple[int, ...], signs: tuple[int, ...],
                                                       degrees: float) -> None:
    volume = RANDOM.integers(-900, 3000, (8, 9, 10)).astype(np.int16)
    stored, geometry = turned(volume, axes, signs, rotation(degrees))
    write_series(tmp_path, stored, origin=(-120.5, 33.25, 7.0), **geometry)
    scan = read_scan(tmp_path)
    values, spacing = as_monai_reads(tmp_path)
    np.testing.assert_array_equal(scan.values, values)
    np.testing.assert_allclose(scan.spacing_mm, spacing, rtol=1e-5)


def test_a_real_head_is_read_as_monai_reads_it_but_for_padding() -> None:
    folder = SHARED / "data" / "cq500_ct0_dicom"
    if not folder.is_dir():
        pytest.skip("the CQ500 series is not here: RD_SHARED")
    scan = read_scan(folder)
    assert (scan.values.shape, scan.values.dtype) == ((512, 512, 96), np.int16)
    assert "by 8.5 degrees, as by a tilted gantry" in scan.notes[0]
    values, _ = as_monai_reads(folder)
    padding = values == -2000 - 1024
    assert 0.1 < padding.mean() < 0.3, "corners outside the circle that was reconstructed"
    np.testing.assert_array_equal(scan.values[~padding], values[~padding])
    assert set(np.unique(scan.values[padding])) == {values[~padding].min()} == {-1024.0}


@pytest.mark.parametrize("compress", ["", RLELossless, JPEG2000Lossless])
def test_a_file_of_many_frames_and_its_slices_alone_give_the_same_voxels(tmp_path: Path, compress: str) -> None:
    stored = RANDOM.integers(-1000, 3000, (5, 36, 32)).astype(np.int16)
    write_series(tmp_path / "s", stored)
    write_frames(tmp_path / "many.dcm", stored, order=[3, 0, 4, 1, 2], compress=compress)
    np.testing.assert_array_equal(read_volume(tmp_path / "s"), read_volume(tmp_path / "many.dcm"))
    np.testing.assert_array_equal(read_volume(tmp_path / "s"), stored.transpose(2, 1, 0)[::-1, ::-1])


def test_each_slice_has_its_own_slope_and_intercept(tmp_path: Path) -> None:
    factors = [(0.5 + place, -10.0 * place) for place in range(5)]
    write_series(tmp_path / "s", STORED, each={place: {"RescaleSlope": slope, "RescaleIntercept": intercept}
                                               for place, (slope, intercept) in enumerate(factors)}, Modality="PT")
    write_frames(tmp_path / "many.dcm", STORED, factors=factors)
    wanted = np.stack([STORED[place].astype(np.float64) * slope + intercept for place, (slope, intercept) in enumerate(factors)])
    for path in (tmp_path / "s", tmp_path / "many.dcm"):
        found = read_volume(path)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, wanted.astype(np.float32).transpose(2, 1, 0)[::-1, ::-1])


@pytest.mark.parametrize(("kind", "slope", "intercept", "dtype"), [
    (np.int16, 1, 0, np.int16), (np.uint16, 1, -1024, np.int16), (np.uint16, 1, 0, np.float32), (np.uint8, 3, -7, np.int16),
    (np.int16, 1, 0.5, np.float32), (np.int16, 100, 0, np.float32)])
def test_values_are_whole_numbers_where_they_fit(tmp_path: Path, kind: type, slope: float, intercept: float, dtype: type) -> None:
    top = {np.int16: 3000, np.uint16: 40000 if intercept == 0 else 20000, np.uint8: 255}[kind]
    stored = RANDOM.integers(0, top, (4, 6, 7)).astype(kind)
    write_series(tmp_path, stored, RescaleSlope=slope, RescaleIntercept=intercept)
    found = read_volume(tmp_path)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, (stored.astype(np.float64) * slope + intercept).transpose(2, 1, 0)[::-1, ::-1])


def test_padding_becomes_the_lowest_value_that_is_none(tmp_path: Path) -> None:
    stored = STORED.clip(0)
    stored[:, :2] = -2000
    stored[3] = -2000
    write_series(tmp_path, stored, PixelPaddingValue=-2000, RescaleIntercept=-1024, each={1: {"RescaleIntercept": -1000}})
    found = read_volume(tmp_path).transpose(2, 1, 0)[:, ::-1, ::-1]
    wanted = stored.astype(int) - np.where(np.arange(5) == 1, 1000, 1024)[:, None, None]
    lowest = wanted[stored != -2000].min()
    np.testing.assert_array_equal(found, np.where(stored == -2000, lowest, wanted))


def test_a_volume_of_monochrome1_is_not_turned_round_where_values_are_physical(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", STORED, PhotometricInterpretation="MONOCHROME1")
    scan = read_scan(tmp_path / "ct")
    np.testing.assert_array_equal(scan.values, STORED.transpose(2, 1, 0)[::-1, ::-1])
    assert "MONOCHROME1" in scan.notes[0]
    write_series(tmp_path / "other", STORED, PhotometricInterpretation="MONOCHROME1", Modality="OT")
    assert "whether high values mean much or little is not sure" in refusal(tmp_path / "other")


def test_what_is_no_slice_is_left_out_and_counted(tmp_path: Path) -> None:
    write_series(tmp_path, STORED)
    write_dicom(tmp_path / "scout.dcm", STORED[0], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SeriesInstanceUID="1.9")
    for place in range(2):
        write_dicom(tmp_path / f"screen{place}.dcm", STORED[0].astype(np.uint16), SOPClassUID=SECONDARY)
    write_dicom(tmp_path / "dose.dcm", STORED[0], Modality="SR")
    write_dicom(tmp_path / "seg.dcm", STORED[0], SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4")
    (tmp_path / "DICOMDIR").write_bytes(b"index")
    (tmp_path / "notes.txt").write_text("a word")
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.values, STORED.transpose(2, 1, 0)[::-1, ::-1])
    assert scan.notes == ("5 files of the series' folder are no slices of it and are left out: 1 localisers, 1 of Modality SR, "
                          "1 of Segmentation Storage, 2 secondary captures",)


def test_a_slice_that_is_there_twice_is_kept_once_and_one_that_differs_is_refused(tmp_path: Path) -> None:
    paths = write_series(tmp_path, STORED)
    for place in (1, 3):
        shutil.copy(paths[place], tmp_path / f"again{place}.dcm")
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.values, STORED.transpose(2, 1, 0)[::-1, ::-1])
    assert scan.notes == ("2 of 5 positions hold the same slice more than once; one is kept",)
    write_series(tmp_path, STORED + 1, name="late{}.dcm")
    assert "5 of 5 positions hold several slices that differ" in refusal(tmp_path)
    write_frames(tmp_path / "two.dcm", np.concatenate([STORED, STORED + 1]), step=(0.0, 0.0, 0.0),
                 PerFrameFunctionalGroupsSequence=[item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, place % 5])])
                                                   for place in range(10)])
    assert "5 of 5 positions hold several slices that differ" in refusal(tmp_path / "two.dcm")


def test_missing_slices_are_counted_and_their_places_named(tmp_path: Path) -> None:
    stored = np.repeat(STORED, 4, axis=0)
    paths = write_series(tmp_path, stored, step=(0.0, 0.0, 1.25))
    for place in (4, 9, 10):
        paths[place].unlink()
    assert "3 slices of 20 are missing, between 3.75 and 6.25 mm, between 10 and 13.75 mm from the first" in refusal(tmp_path)
    write_series(tmp_path / "one", stored[:8], step=(0.0, 0.0, 1.25))[4].unlink()
    assert "1 slice of 8 is missing, between 3.75 and 6.25 mm" in refusal(tmp_path / "one")


def test_steps_that_differ_by_rounding_are_noted_and_by_more_refused(tmp_path: Path) -> None:
    def at(*heights: float) -> dict[int, dict[str, Any]]:
        return {place: {"ImagePositionPatient": [0, 0, height]} for place, height in enumerate(heights)}

    write_series(tmp_path / "rounded", STORED, each=at(0.0, 3.3, 6.5, 9.8, 13.0))
    scan = read_scan(tmp_path / "rounded")
    assert "taken as rounding of 3.25 mm" in scan.notes[0]
    assert scan.spacing_mm[2] == pytest.approx(3.25)
    write_series(tmp_path / "uneven", STORED, each=at(0.0, 5.0, 10.0, 17.0, 24.0))
    assert "steps between slices are uneven (2 of 5 mm, 2 of 7 mm)" in refusal(tmp_path / "uneven")
    write_series(tmp_path / "aside", STORED, each={2: {"ImagePositionPatient": [3, 0, 4]}})
    assert "slices do not lie behind one another, up to 3 mm beside" in refusal(tmp_path / "aside")


def sheared(degrees: float, count: int = 24) -> tuple[np.ndarray, dict[str, Any]]:
    """Values that rise along PLANE, sampled by slices that a tilted gantry shifts along y."""
    normal = np.asarray([0.0, -np.sin(np.radians(degrees)), np.cos(np.radians(degrees))])
    down = np.asarray([0.0, normal[2], -normal[1]])
    step = np.asarray([0.0, 0.0, 2.0])  # the table moves along z
    column, row, place = np.meshgrid(np.arange(20.0), np.arange(30.0), np.arange(float(count)), indexing="ij")
    points = column[..., None] * [1.0, 0.0, 0.0] + row[..., None] * down + place[..., None] * step  # LPS
    return np.rint(points @ PLANE).astype(np.int16).transpose(2, 1, 0), {
        "orientation": [1.0, 0.0, 0.0, *down], "step": step}


@pytest.mark.parametrize("degrees", [15.0, -15.0])
def test_a_tilted_gantry_is_said_and_slices_are_shifted_back_where_it_matters(tmp_path: Path, degrees: float) -> None:
    stored, geometry = sheared(degrees)
    write_series(tmp_path, stored, **geometry)
    scan = read_scan(tmp_path)
    assert "shifted against their normal by 15.0 degrees" in scan.notes[0]
    np.testing.assert_array_equal(scan.values, stored.transpose(2, 1, 0)[::-1, ::-1])
    assert scan.spacing_mm[2] == pytest.approx(2.0 * np.cos(np.radians(15.0)), rel=1e-5)
    straight = straightened(scan.values.astype(np.float32), scan.across, scan.shift)
    assert straight.shape == (20, 42, 24), "the field grows by 23 steps of 2 mm times the sine"
    normal = np.asarray([0.0, -np.sin(np.radians(degrees)), np.cos(np.radians(degrees))])
    down = np.asarray(geometry["orientation"][3:])
    rises = -PLANE[0], -float(down @ PLANE), float(normal @ PLANE) * scan.spacing_mm[2]  # to the right, front and top
    for axis, rise in enumerate(rises):
        np.testing.assert_allclose(np.diff(straight[1:-1, 13:29], axis=axis), rise, atol=1.01)  # values were rounded when drawn
    spec = VolumeSpec(scaling="window", window=(-300.0, 700.0))
    assert spec.of_scan(scan).shape == (24, 30, 20, 1), "slices along the way they were made are not touched"
    for changes in ({"axis": "coronal"}, {"axis": "sagittal"}, {"size": (20, 42, 24)}, {"spacing_mm": scan.spacing_mm}):
        other = replace(spec, **changes)
        wanted = spec.levels(other.cut(straightened(scan.values, scan.across, scan.shift)))
        np.testing.assert_array_equal(other.of_scan(scan), wanted)


def test_less_than_a_degree_is_rounding_and_more_than_a_gantry_tilts_is_refused(tmp_path: Path) -> None:
    stored, geometry = sheared(0.4)
    write_series(tmp_path / "a", stored, **geometry)
    assert (read_scan(tmp_path / "a").notes, read_scan(tmp_path / "a").shift) == ((), (0.0, 0.0, 0.0))
    stored, geometry = sheared(60.0)
    write_series(tmp_path / "b", stored, **geometry)
    assert "miss right angles by 60.0 degrees" in refusal(tmp_path / "b")
    write_series(tmp_path / "c", STORED, GantryDetectorTilt=12)
    assert read_scan(tmp_path / "c").notes == (
        "GantryDetectorTilt is 12 degrees, and positions and orientations show none; they are believed",)


def test_what_cannot_be_one_volume_is_refused_with_counts(tmp_path: Path) -> None:
    other = STORED[:, :4]
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "no positions": ({"ImagePositionPatient": None}, "5 of 5 slices have no ImagePositionPatient"),
        "a position short": ({"each": {1: {"ImagePositionPatient": None}}}, "1 of 5 slices have no ImagePositionPatient"),
        "no orientation": ({"ImageOrientationPatient": None}, "5 of 5 slices have no ImageOrientationPatient"),
        "no spacing": ({"PixelSpacing": None}, "5 of 5 slices have no PixelSpacing"),
        "two numbers": ({"each": {1: {"ImagePositionPatient": [1, 2]}}}, "ImagePositionPatient does not hold 3 finite numbers"),
        "two series": ({"each": {1: {"SeriesInstanceUID": "1.7"}, 2: {"SeriesInstanceUID": "1.7"}}}, "files of 2 series (3, 2)"),
        "two frames of reference": ({"each": {1: {"FrameOfReferenceUID": "1.7"}}}, "files of 2 frames of reference (4, 1)"),
        "two kinds": ({"each": {1: {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}}},
                      "several SOP classes (4 of CT Image Storage, 1 of MR Image Storage)"),
        "two sizes": ({"each": {0: {"pixels": other[0]}}}, "several sizes (4 of 7x6, 1 of 7x4)"),
        "two orientations": ({"each": {0: {"ImageOrientationPatient": [0, 1, 0, 0, 0, 1]}}}, "slices lie in 2 orientations (4, 1)"),
        "no right angle": ({"orientation": (1, 0, 0, 1, 0, 0)}, "holds no two directions at a right angle"),
        "two spacings": ({"each": {0: {"PixelSpacing": [1, 2]}}}, "pixels of several sizes (4 of 1 x 1 mm, 1 of 1 x 2 mm)"),
        "no width": ({"spacing": (0.0, 1.0)}, "PixelSpacing is 0 by 1"),
        "one place": ({"step": (0, 0, 0)}, "5 slices at one position"),
        "colour": ({"stored": np.stack([STORED.astype(np.uint8)] * 3, axis=-1)}, "5 images in colour (RGB, CT Image Storage)"),
        "half a rescale": ({"each": {1: {"RescaleSlope": None}}}, "RescaleIntercept and no RescaleSlope"),
        "localisers": ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "holds no slice of a volume, but 5 localisers")}
    for name, (changes, told) in cases.items():
        write_series(tmp_path / name, changes.pop("stored", STORED), **changes)
        assert told in refusal(tmp_path / name), name
    write_series(tmp_path / "alone", STORED[:1])
    assert "1 slice at one position; a volume has two positions at least" in refusal(tmp_path / "alone")
    (tmp_path / "empty").mkdir()
    assert "holds no DICOM file" in refusal(tmp_path / "empty")
    assert "holds no DICOM file" in refusal(())
    assert "cannot be opened" in refusal((tmp_path / "none.dcm", tmp_path / "neither.dcm"))


def test_frames_without_a_place_in_the_patient_are_no_volume(tmp_path: Path) -> None:
    film = {"frames": True, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.3.1", "Modality": "US"}
    cine = write_dicom(tmp_path / "cine.dcm", np.stack([STORED.astype(np.uint8)] * 3, axis=-1), **film)
    assert "holds 5 frames in colour (RGB, Ultrasound Multi-frame Image Storage)" in refusal(cine)
    grey = write_dicom(tmp_path / "grey.dcm", STORED.astype(np.uint8), **film)
    assert "5 frames (Ultrasound Multi-frame Image Storage) and says of none where it lies" in refusal(grey)
    short = write_frames(tmp_path / "short.dcm", STORED, PerFrameFunctionalGroupsSequence=[item()] * 4)
    assert "describes 4 frames and holds 5" in refusal(short)
    slope = write_frames(tmp_path / "slope.dcm", STORED, factors=[(0.0, 1.0)] * 5)
    assert "RescaleSlope is 0" in refusal(slope)
    later = write_frames(tmp_path / "later.dcm", STORED, factors=[(1.0, 1.0)] * 4 + [(0.0, 1.0)])
    assert "or the slope is 0" in refusal(later)
    write_series(tmp_path / "both", STORED)
    write_frames(tmp_path / "both" / "z.dcm", STORED, SeriesInstanceUID="1.2.3.4")
    assert "1 of 6 files hold several frames" in refusal(tmp_path / "both")
    cut = write_frames(tmp_path / "cut.dcm", STORED)
    cut.write_bytes(cut.read_bytes()[:-40])
    assert "damaged or truncated" in refusal(cut)


def test_a_secondary_capture_of_many_frames_that_lie_somewhere_is_a_volume(tmp_path: Path) -> None:
    path = write_frames(tmp_path / "a.dcm", STORED.clip(0).astype(np.uint16), SOPClassUID="1.2.840.10008.5.1.4.1.1.7.3")
    np.testing.assert_array_equal(read_volume(path), STORED.clip(0).transpose(2, 1, 0)[::-1, ::-1])


def test_slices_of_the_enhanced_kind_in_a_file_each_are_one_volume(tmp_path: Path) -> None:
    for place in range(5):
        write_frames(tmp_path / f"{place}.dcm", STORED[place:place + 1], origin=(0.0, 0.0, 2.0 * place), SeriesInstanceUID="1.5",
                     SOPClassUID=ENHANCED_CT)
    np.testing.assert_array_equal(read_volume(tmp_path), STORED.transpose(2, 1, 0)[::-1, ::-1])


def test_big_endian_slices_are_read_like_any(tmp_path: Path) -> None:
    write_series(tmp_path, STORED, syntax=ExplicitVRBigEndian)
    np.testing.assert_array_equal(read_volume(tmp_path), STORED.transpose(2, 1, 0)[::-1, ::-1])


@settings(max_examples=300)
@given(data=st.data())
def test_changed_bytes_end_in_a_scan_or_one_sentence(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if data.draw(st.booleans()):
            path, item = write_frames(Path(folder, "many.dcm"), STORED), Path(folder, "many.dcm")
        else:
            path, item = write_series(Path(folder), STORED)[2], Path(folder)
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 6))):
            content[data.draw(st.integers(132, len(content) - 1))] = data.draw(st.integers(0, 255))
        if data.draw(st.booleans()):
            del content[data.draw(st.integers(133, len(content))):]
        path.write_bytes(content)
        try:
            scan, said = read_scan(item), f"{folder}: read"
        except UserError as error:
            scan, said = None, str(error)
        assert said.startswith(folder)
        assert "\n" not in said
        assert scan is None or (scan.values.ndim == 3 and scan.values.dtype in (np.int16, np.float32))


def test_no_refusal_of_a_series_says_anything_of_a_patient(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {"ImagePositionPatient": None}, {"step": (0, 0, 0)}, {"SeriesDescription": NAMES["PatientName"], "PixelSpacing": None},
        {"each": {1: {"SeriesInstanceUID": "1.7"}}}, {"each": {1: {"RescaleSlope": 2.0, "pixels": STORED[0][:3]}}}]
    said = ""
    for place, change in enumerate(changes):
        write_series(tmp_path / str(place), STORED, names=True, private=True, **change)
        said += refusal(tmp_path / str(place))
    assert not [text for text in (*NAMES.values(), "1.2.3.4", "1.7") if text in said]
