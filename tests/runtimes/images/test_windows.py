"""Windows of physical values: names and numbers, channels in the spec, the values of DICOM files; and volumes that are seen at once."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from dicoms import write_dicom
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset
from torch.nn import functional as F

from runtimes.errors import UserError
from runtimes.images.decode import decode
from runtimes.images.spec import ImageSpec, read_image
from runtimes.images.volumes import VolumeSpec
from runtimes.images.windows import WINDOWS, window_named

BRAIN, BONE = window_named("brain"), window_named("bone")
TWO = ImageSpec(16, 16, 1, "int16", (min(BRAIN[0], BONE[0]), max(BRAIN[1], BONE[1])), windows=(BRAIN, BONE))
WINDOW = st.tuples(st.integers(-1000, 1000), st.integers(16, 3000)).map(lambda pair: (float(pair[0]), float(pair[0] + pair[1])))


def hounsfield(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1100, 2000, shape).astype(np.int16)


@pytest.mark.parametrize("name", WINDOWS)
def test_a_named_window_is_its_centre_and_half_its_width_to_either_side_and_says_its_source(name: str) -> None:
    centre, width, source = WINDOWS[name]
    assert window_named(name) == window_named(name.upper()) == (centre - width / 2, centre + width / 2)
    assert window_named(f"W{width:g}L{centre:g}") == window_named(name)
    assert len(source) > 10


@pytest.mark.parametrize(("name", "words"), [("brian", "did you mean brain"), ("W80", "expected brain, "), ("", "is unknown"),
                                             ("W80L40 ", "is unknown"), ("wardL1", "is unknown")])
def test_a_window_that_is_not_known_is_refused_and_the_nearest_named(name: str, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        window_named(name)


@pytest.mark.parametrize("name", WINDOWS)
def test_a_window_shows_what_pydicom_shows_by_the_linear_exact_function(name: str) -> None:
    source, values = Dataset(), hounsfield(8, 8)
    source.PhotometricInterpretation, source.BitsStored, source.PixelRepresentation = "MONOCHROME2", 8, 0
    source.WindowCenter, source.WindowWidth, source.VOILUTFunction = *WINDOWS[name][:2], "LINEAR_EXACT"
    theirs = pydicom.pixels.apply_windowing(values.astype(np.float64), source)
    ours = ImageSpec(8, 8, 1, "int16", window_named(name)).levels(values[..., None])[..., 0]
    assert np.abs(ours - theirs).max() < 1e-3


@settings(max_examples=40, deadline=None)
@given(windows=st.lists(WINDOW, min_size=2, max_size=3), height=st.integers(8, 60), width=st.integers(8, 60), seed=st.integers(0, 50))
def test_each_window_is_a_channel_of_values_that_were_resized_before(windows: list[Any], height: int, width: int, seed: int) -> None:
    low, high = min(low for low, _ in windows), max(high for _, high in windows)
    spec = ImageSpec(16, 24, 1, "int16", (low, high), windows=tuple(windows))
    raw = hounsfield(height, width, 1, seed=seed)
    clipped = torch.from_numpy(np.clip(raw.astype(np.float64), low, high)).permute(2, 0, 1)[None]
    theirs = F.interpolate(clipped, (16, 24), mode="bilinear", antialias=True, align_corners=False)[0, 0].numpy()
    resized = spec.resized(raw)
    assert resized.dtype == np.int16
    assert np.abs(resized[..., 0] - theirs).max() < 0.51
    for channel, (bottom, top) in enumerate((*windows, windows[-1])[:3]):
        formula = np.clip((resized[..., 0].astype(np.float64) - bottom) / (top - bottom) * 255, 0, 255)
        assert np.abs(spec.levels(resized)[..., channel] - formula).max() < 1e-2
    np.testing.assert_array_equal(spec.stored(raw), np.rint(spec.levels(resized)))  # training rounds what the device computes
    assert spec.normalised(spec.stored(raw)).shape == (3, 16, 24)


def test_a_spec_with_windows_comes_back_from_json_and_one_without_speaks_of_none() -> None:
    assert ImageSpec.from_dict(json.loads(json.dumps(TWO.as_dict()))) == TWO
    assert "windows" not in ImageSpec(16, 16).as_dict()
    solid = ImageSpec(16, 16, volume=VolumeSpec(8, solid=True))
    assert ImageSpec.from_dict(json.loads(json.dumps(solid.as_dict()))) == solid
    assert "solid" not in VolumeSpec(8).as_dict()


@pytest.mark.parametrize("change", [
    {"dtype": "uint8"}, {"channels": 3}, {"window": BRAIN}, {"windows": (BRAIN,)}, {"windows": (BRAIN,) * 4, "window": BRAIN},
    {"windows": (BRAIN, (0.0, 10.0))}, {"windows": (), "window": (0.0, 8.0)}])
def test_windows_that_cannot_be_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="windows"):
        replace(TWO, **change)


def test_values_of_a_dicom_file_are_pydicoms_modality_lut_and_padding_is_their_lowest(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 4000, (20, 24)).astype(np.uint16)
    tags: dict[str, Any] = {"RescaleSlope": "1", "RescaleIntercept": "-1024", "WindowCenter": "40", "WindowWidth": "80"}
    path = write_dicom(tmp_path / "ct.dcm", stored, **tags)
    values = decode(path, values=True)
    theirs = pydicom.pixels.apply_modality_lut(stored, pydicom.dcmread(path))
    assert (values.dtype, values.shape) == (np.int16, (20, 24, 1))
    np.testing.assert_array_equal(values[..., 0], theirs)
    np.testing.assert_array_equal(read_image(path, None, True), values)
    stored[0, :5] = 4095
    padded = decode(write_dicom(tmp_path / "padded.dcm", stored, PixelPaddingValue=4095, **tags), values=True)
    assert (padded[0, :5] == padded.min()).all()
    assert padded.max() <= 4000 - 1024


@pytest.mark.parametrize(("name", "words"), [("picture.png", "pictures hold grey levels"), ("white.dcm", "MONOCHROME1 pixels"),
                                             ("colour.dcm", "RGB pixels"), ("wide.dcm", "values from -1024 to 196596")])
def test_files_that_hold_no_values_are_refused_where_values_are_asked_for(tmp_path: Path, name: str, words: str) -> None:
    grey = np.arange(400, dtype=np.uint16).reshape(20, 20)
    Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "picture.png")
    write_dicom(tmp_path / "white.dcm", grey, PhotometricInterpretation="MONOCHROME1")
    write_dicom(tmp_path / "colour.dcm", np.zeros((20, 20, 3), np.uint8) + np.arange(20, dtype=np.uint8)[:, None])
    write_dicom(tmp_path / "wide.dcm", grey * 164, RescaleSlope="3.02", RescaleIntercept="-1024")
    with pytest.raises(UserError, match=words.replace("196596", r"\d+")) as caught:
        decode(tmp_path / name, values=True)
    assert str(tmp_path / name) in str(caught.value)


@settings(max_examples=30, deadline=None)
@given(depth=st.integers(1, 40), height=st.integers(8, 40), width=st.integers(8, 40), slices=st.integers(1, 24))
def test_a_volume_that_is_seen_at_once_is_torchs_filter_along_all_three_axes(depth: int, height: int, width: int, slices: int) -> None:
    raw = np.random.default_rng(depth).integers(0, 256, (depth, height, width, 1)).astype(np.uint8)
    spec = ImageSpec(12, 20, volume=VolumeSpec(slices, solid=True))
    planes = F.interpolate(torch.from_numpy(raw[..., 0]).double()[:, None], (12, 20), mode="bilinear", antialias=True)[:, 0]
    upright = planes.permute(1, 0, 2)[None]  # (1, 12, depth, 20): depth is filtered as rows are
    theirs = F.interpolate(upright, (slices, 20), mode="bilinear", antialias=True)[0].permute(1, 0, 2).numpy()
    stored = spec.stored(raw)
    assert (stored.shape, spec.slices_of(raw), spec.masked) == ((slices, 12, 20, 1), slices, False)
    assert np.abs(stored[..., 0] - theirs).max() < 0.51
    np.testing.assert_array_equal(spec.resized(raw), stored)
    np.testing.assert_array_equal(spec.stored(stored), stored)  # what has the network's size is taken as it is


def test_a_stack_of_values_stays_what_it_is_whole_numbers_of_int16() -> None:
    spec, volume = VolumeSpec(8, scaling="values"), hounsfield(8, 10, 12)
    assert spec.levels(volume).base is volume or np.shares_memory(spec.levels(volume), volume), "no copy of a whole CT"
    np.testing.assert_array_equal(spec.levels(volume)[..., 0], volume)
    np.testing.assert_array_equal(spec.levels(volume + np.float32(0.25))[..., 0], volume)
    assert spec.levels(np.asarray([[[-1e9, 1e9]]], np.float32)).ravel().tolist() == [-32768, 32767]
    for wrong, words in ((np.full((2, 3, 4), 7), "single value"), (np.linspace(0, 1, 24).reshape(2, 3, 4), "lose too much"),
                         (np.full((2, 3, 4), np.nan), "NaN")):
        with pytest.raises(UserError, match=words):
            spec.levels(wrong)
