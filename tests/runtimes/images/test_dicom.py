"""DICOM of one frame: read as pydicom's own functions say in float64, or refused in one sentence that says nothing of a patient."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicoms import CT, NAMES, lut, wheel_files, write_dicom
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from benchmarks.robustness.dicom_reference import reference
from runtimes.errors import MISSING, UserError
from runtimes.images import dicom_guard
from runtimes.images.decode import SUFFIXES, decode
from runtimes.images.dicom_header import read_header

GREY = np.arange(36 * 32, dtype=np.uint16).reshape(36, 32) * 3
RNG = np.random.default_rng(0)


def agrees(path: Path, levels: np.ndarray) -> None:
    """Our levels are the reference, rounded."""
    wanted, white = reference(path)
    assert levels.dtype == (np.uint8 if white == 255 else np.uint16)
    assert levels.shape == wanted.shape
    assert np.abs(levels - wanted).max() <= 0.5 + 1e-6


def attempt(path: Path) -> tuple[np.ndarray | None, str]:
    """The array, or the one sentence that says why there is none."""
    try:
        return decode(path), ""
    except UserError as error:
        text = str(error)
    assert str(path) in text
    assert "\n" not in text
    return None, text


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        decode(path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    return text


def test_every_file_of_pydicoms_wheel_is_read_as_pydicom_says_or_refused_in_one_sentence() -> None:
    ends: Counter[str] = Counter()
    for path in wheel_files():
        levels, _ = attempt(path)
        ends["refused" if levels is None else "read"] += 1
        if levels is not None and read_header(path, 10**8).stretch == 1.0:
            agrees(path, levels)
    assert ends["read"] > 80
    assert ends["refused"] > 20


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("tags", [
    {}, {"RescaleSlope": 2.5, "RescaleIntercept": -1024}, {"RescaleSlope": 1, "RescaleIntercept": 0},
    {"RescaleSlope": -1, "RescaleIntercept": 7}, {"WindowCenter": 40, "WindowWidth": 80},
    {"WindowCenter": 40, "WindowWidth": 1}, {"WindowCenter": [50, 9], "WindowWidth": [60, 3]},
    {"WindowCenter": 40.5, "WindowWidth": 80.25, "VOILUTFunction": "LINEAR_EXACT"},
    {"WindowCenter": 40, "WindowWidth": 30, "VOILUTFunction": "SIGMOID"},
    {"RescaleSlope": 0.25, "RescaleIntercept": 3, "WindowCenter": 20, "WindowWidth": 40}], ids=str)
def test_grey_values_become_the_levels_that_pydicoms_functions_give(tmp_path: Path, dtype: str, photometric: str,
                                                                    tags: dict[str, Any]) -> None:
    kind = np.iinfo(dtype)
    stored = RNG.integers(kind.min // 2, kind.max // 2, (9, 11)).astype(dtype)
    stored[:4] = RNG.integers(0, 100, (4, 11))
    path = write_dicom(tmp_path / "a.dcm", stored, PhotometricInterpretation=photometric, **tags)
    agrees(path, decode(path))


@st.composite
def headers(draw: Any) -> tuple[np.ndarray, dict[str, Any]]:
    allocated = draw(st.sampled_from([8, 16]))
    bits = draw(st.integers(2, allocated))
    signed = draw(st.booleans())
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    side = draw(st.integers(1, 6))
    stored = np.array(draw(st.lists(st.integers(low, high), min_size=side * 3, max_size=side * 3)))
    tags: dict[str, Any] = {"BitsStored": bits, "PhotometricInterpretation": draw(st.sampled_from(["MONOCHROME1", "MONOCHROME2"]))}
    if draw(st.booleans()):
        tags |= {"RescaleSlope": draw(st.sampled_from([1, 2, -1, 0.5, 0.0625, 3.75])), "RescaleIntercept": draw(st.integers(-3000, 3000))}
    if draw(st.booleans()):
        tags |= {"WindowCenter": draw(st.integers(-2000, 5000)), "WindowWidth": draw(st.integers(1, 6000)),
                 "VOILUTFunction": draw(st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]))}
    if draw(st.booleans()):
        tags["PixelPaddingValue"] = draw(st.integers(low, high))
        if draw(st.booleans()):
            tags["PixelPaddingRangeLimit"] = draw(st.integers(low, high))
    return stored.reshape(side, 3).astype(f"{'int' if signed else 'uint'}{allocated}"), tags


@settings(max_examples=150)
@given(case=headers())
def test_any_header_of_grey_pixels_gives_the_levels_of_the_reference(tmp_path_factory: pytest.TempPathFactory,
                                                                    case: tuple[np.ndarray, dict[str, Any]]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.dcm"
    write_dicom(path, case[0], **case[1])
    agrees(path, decode(path))


def test_a_window_makes_the_levels_that_the_standards_formula_makes(tmp_path: Path) -> None:
    """C.11.2.1.2.1 by hand: with centre 50 and width 101, 0 is black, 100 white, and 50 half way."""
    path = write_dicom(tmp_path / "a.dcm", np.array([[-5, 0, 25, 50, 100, 900]], dtype=np.int16), WindowCenter=50.5, WindowWidth=101)
    assert decode(path)[0, :, 0].tolist() == [0, 0, 16384, 32768, 65535, 65535]
    path = write_dicom(tmp_path / "b.dcm", np.array([[0, 50, 100]], dtype=np.int16), WindowCenter=50, WindowWidth=20,
                       VOILUTFunction="SIGMOID")
    assert decode(path)[0, :, 0].tolist() == [3, 32768, 65532]  # 65535 / (1 + exp(10))


def test_monochrome1_is_turned_round_once_and_padding_is_black_in_both(tmp_path: Path) -> None:
    stored = np.array([[-2000, 0, 10, 20, 30, 40]], dtype=np.int16)
    both = [decode(write_dicom(tmp_path / f"{kind}.dcm", stored, PhotometricInterpretation=kind, PixelPaddingValue=-2000))[0, :, 0]
            for kind in ("MONOCHROME1", "MONOCHROME2")]
    assert both[0].tolist() == [0, 65535, 49151, 32768, 16384, 0]  # the range is that of 0 to 40
    assert both[1].tolist() == [0, 0, 16384, 32768, 49151, 65535]
    eight = np.array([[0, 1, 255]], dtype=np.uint8)
    assert decode(write_dicom(tmp_path / "a.dcm", eight, PhotometricInterpretation="MONOCHROME1"))[0, :, 0].tolist() == [255, 254, 0]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
@pytest.mark.parametrize("tags", [{}, {"WindowCenter": 100, "WindowWidth": 101}], ids=str)
def test_monochrome1_is_the_same_array_as_its_monochrome2_twin(tmp_path: Path, dtype: str, tags: dict[str, Any]) -> None:
    stored = RNG.integers(0, 201, (20, 20)).astype(dtype)
    stored[0, :2] = 0, 255 if dtype == "uint8" else 200
    top = int(stored.max())
    one = decode(write_dicom(tmp_path / "a.dcm", stored, PhotometricInterpretation="MONOCHROME1", **tags))
    turned = {"WindowCenter": top - 99, "WindowWidth": 101} if tags else {}  # the window of the twin: LINEAR has its middle at c - 0.5
    assert np.array_equal(one, decode(write_dicom(tmp_path / "b.dcm", (top - stored).astype(dtype), **turned)))


def test_padding_is_a_range_whichever_end_comes_first_and_however_its_sign_is_written(tmp_path: Path) -> None:
    stored = np.array([[-2000, -1990, -1980, 0, 50, 100]], dtype=np.int16)
    for value, limit in ((-2000, -1985), (-1985, -2000)):
        path = write_dicom(tmp_path / "a.dcm", stored, PixelPaddingValue=value, PixelPaddingRangeLimit=limit)
        assert decode(path)[0, :2, 0].tolist() == [0, 0]
        assert decode(path)[0, 2:, 0].tolist() == [0, 62384, 63960, 65535]  # from -1980 up
    data = path.read_bytes()
    wrong = data.replace(b"\x28\x00\x20\x01SS", b"\x28\x00\x20\x01US").replace(b"\x28\x00\x21\x01SS", b"\x28\x00\x21\x01US")
    assert wrong != data
    path.write_bytes(wrong)
    assert decode(path)[0, 2:, 0].tolist() == [0, 62384, 63960, 65535]
    everything = write_dicom(tmp_path / "b.dcm", np.full((3, 3), 7, np.uint16), PixelPaddingValue=7)
    assert not decode(everything).any()


@pytest.mark.parametrize(("bits", "values", "levels"), [
    (8, [0, 7, 255], [0, 7, 255]), (4, [0, 7, 15], [0, 119, 255]), (7, [0, 64, 127], [0, 129, 255])])
def test_shallow_grey_stays_eight_bits_and_reaches_white(tmp_path: Path, bits: int, values: list[int], levels: list[int]) -> None:
    path = write_dicom(tmp_path / "a.dcm", np.array([values], dtype=np.uint8), BitsStored=bits)
    assert decode(path)[0, :, 0].tolist() == levels
    assert decode(path).dtype == np.uint8


def test_single_bits_are_black_and_white(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", np.array([[0b10110010]], dtype=np.uint8), BitsAllocated=1, BitsStored=1, Columns=8)
    assert decode(path)[0, :, 0].tolist() == [0, 255, 0, 0, 255, 255, 0, 255]  # the lowest bit first


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_colour_is_what_was_written_however_it_lies(tmp_path: Path, planar: int, syntax: str) -> None:
    for dtype in (np.uint8, np.uint16):
        rgb = RNG.integers(0, np.iinfo(dtype).max, (6, 8, 3)).astype(dtype)
        assert np.array_equal(decode(write_dicom(tmp_path / "a.dcm", rgb, syntax=syntax, PlanarConfiguration=planar)), rgb)


def test_deep_colour_of_twelve_bits_reaches_white(tmp_path: Path) -> None:
    rgb = np.array([[[0, 4095, 2048]]], dtype=np.uint16)
    assert decode(write_dicom(tmp_path / "a.dcm", rgb, BitsStored=12)).tolist() == [[[0, 65535, 32776]]]


def test_luminance_and_chrominance_become_rgb_once(tmp_path: Path) -> None:
    """Of T.871 by hand: red of 255 is Y 76, Cb 85, Cr 255."""
    ybr = np.array([[[76, 85, 255], [255, 128, 128]]], dtype=np.uint8)
    shown = decode(write_dicom(tmp_path / "a.dcm", ybr, PhotometricInterpretation="YBR_FULL"))
    assert np.abs(shown.astype(int) - [[[255, 0, 0], [255, 255, 255]]]).max() <= 1
    halved = write_dicom(tmp_path / "b.dcm", np.array([[76, 76, 85, 255]], dtype=np.uint8), PhotometricInterpretation="YBR_FULL_422",
                         SamplesPerPixel=3, Columns=2, PlanarConfiguration=0)
    assert np.abs(decode(halved).astype(int) - [[[255, 0, 0], [255, 0, 0]]]).max() <= 1


def palette(depth: int, count: int = 256, first: int = 0) -> dict[str, Any]:
    kind = "<u2" if depth == 16 else "u1"
    top = 65535 if depth == 16 else 255
    shades = {"Red": np.linspace(0, top, count), "Green": np.linspace(top, 0, count), "Blue": np.full(count, top // 3)}
    return {"PhotometricInterpretation": "PALETTE COLOR",
            **{f"{name}PaletteColorLookupTableDescriptor": [count, first, depth] for name in shades},
            **{f"{name}PaletteColorLookupTableData": values.astype(kind).tobytes() for name, values in shades.items()}}


@pytest.mark.parametrize(("depth", "dtype"), [(8, "uint8"), (16, "uint8"), (16, "uint16")])
def test_a_palette_gives_its_colours_and_ends_where_it_ends(tmp_path: Path, depth: int, dtype: str) -> None:
    count, first = 64, 10
    stored = np.arange(100, dtype=dtype).reshape(10, 10)
    shown = decode(write_dicom(tmp_path / "a.dcm", stored, **palette(depth, count, first)))
    top = 65535 if depth == 16 else 255
    place = np.clip(stored.astype(int) - first, 0, count - 1)
    wanted = np.stack([np.linspace(0, top, count)[place], np.linspace(top, 0, count)[place], np.full(place.shape, top // 3)], -1)
    assert shown.dtype == (np.uint16 if depth == 16 else np.uint8)
    assert np.array_equal(shown, wanted.astype(shown.dtype))


@pytest.mark.parametrize("compress", [RLELossless, JPEG2000Lossless])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "colour"])
def test_a_lossless_file_is_the_same_as_an_uncompressed_one(tmp_path: Path, compress: str, dtype: str) -> None:
    stored = RNG.integers(0, 200, (40, 33, 3) if dtype == "colour" else (40, 33)).astype("uint8" if dtype == "colour" else dtype)
    plain, packed = (decode(write_dicom(tmp_path / f"{name}.dcm", stored, compress=name)) for name in ("", compress))
    assert np.array_equal(plain, packed)


@pytest.mark.parametrize(("depth", "first", "count"), [(16, 0, 256), (12, -10, 300), (8, 0, 200), (8, 5, 4000), (10, 0, 4096)])
def test_luts_are_looked_up_as_they_are_written(tmp_path: Path, depth: int, first: int, count: int) -> None:
    entries = ((np.arange(count) * 7919) % 2**depth).tolist()
    stored = RNG.integers(-40, 4500, (9, 9)).astype(np.int16)
    shown = decode(write_dicom(tmp_path / "a.dcm", stored, VOILUTSequence=[lut(entries, first, depth)], WindowCenter=1, WindowWidth=2))
    wanted = np.asarray(entries)[np.clip(stored.astype(int) - first, 0, count - 1)] / (2**depth - 1) * 65535
    assert np.abs(shown[..., 0] - wanted).max() <= 0.5 + 1e-6
    shown = decode(write_dicom(tmp_path / "b.dcm", stored, ModalityLUTSequence=[lut(entries, first, 16)], WindowCenter=60, WindowWidth=101))
    looked = np.asarray(entries)[np.clip(stored.astype(int) - first, 0, count - 1)]
    assert np.abs(shown[..., 0] - np.clip((looked - 59.5) / 100 + 0.5, 0, 1) * 65535).max() <= 0.5 + 1e-6


def test_an_enhanced_object_of_one_frame_is_shown_by_its_functional_groups(tmp_path: Path) -> None:
    stored = RNG.integers(0, 4000, (8, 8)).astype(np.uint16)
    rescale, window, group = Dataset(), Dataset(), Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept = 2, -1000
    window.WindowCenter, window.WindowWidth = 300, 900
    group.PixelValueTransformationSequence, group.FrameVOILUTSequence = [rescale], [window]
    nested = write_dicom(tmp_path / "a.dcm", stored, NumberOfFrames=1, SharedFunctionalGroupsSequence=[group])
    flat = write_dicom(tmp_path / "b.dcm", stored, RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=300, WindowWidth=900)
    assert np.array_equal(decode(nested), decode(flat))


@pytest.mark.parametrize(("tags", "shape"), [
    ({"PixelSpacing": [1, 1]}, (12, 10)), ({"PixelSpacing": [1, 1.005]}, (12, 10)), ({"PixelSpacing": [2, 1]}, (24, 10)),
    ({"PixelSpacing": [1, 1.5]}, (12, 15)), ({"PixelAspectRatio": [3, 2]}, (18, 10)), ({"ImagerPixelSpacing": [0.1, 0.2]}, (12, 20))])
def test_pixels_that_are_not_square_are_made_so(tmp_path: Path, tags: dict[str, Any], shape: tuple[int, int]) -> None:
    ramp = np.arange(12, dtype=np.uint16)[:, None] * 100 + np.arange(10, dtype=np.uint16) * 7
    shown = decode(write_dicom(tmp_path / "a.dcm", ramp, **tags))[..., 0].astype(float)
    assert shown.shape == shape
    down, along = ((np.arange(new) + 0.5) * old / new - 0.5 for new, old in zip(shape, (12, 10), strict=True))
    wanted = (np.clip(down, 0, 11)[:, None] * 100 + np.clip(along, 0, 9) * 7) * 65535 / ramp.max()
    assert np.abs(shown - wanted).max() <= 0.5 + 1e-6  # linear pixels stay linear
    rgb = np.repeat(ramp[..., None].astype(np.uint8), 3, axis=2)
    assert decode(write_dicom(tmp_path / "b.dcm", rgb, **tags)).shape == (*shape, 3)


UID_OF = {"SEG": "1.2.840.10008.5.1.4.1.1.66.4", "RTDOSE": "1.2.840.10008.5.1.4.1.1.481.2", "PDF": "1.2.840.10008.5.1.4.1.1.104.1",
          "GSPS": "1.2.840.10008.5.1.4.1.1.11.1", "SR": "1.2.840.10008.5.1.4.1.1.88.33"}


@pytest.mark.parametrize(("tags", "told"), [
    ({"NumberOfFrames": 30}, "holds 30 frames"), ({"NumberOfFrames": 100_000}, "holds 100,000 frames"),
    ({"SOPClassUID": UID_OF["SEG"]}, "Segmentation Storage"), ({"SOPClassUID": UID_OF["RTDOSE"]}, "RT Dose Storage"),
    ({"SOPClassUID": UID_OF["PDF"]}, "Encapsulated PDF Storage"), ({"SOPClassUID": UID_OF["GSPS"]}, "Presentation State"),
    ({"SOPClassUID": UID_OF["SR"]}, "Comprehensive SR"), ({"SOPClassUID": "1.2.3.4", "Modality": "SEG"}, "Modality SEG"),
    ({"without": ("Rows",)}, "the tag Rows is missing"), ({"without": ("BitsStored",), "HighBit": 15}, "the tag BitsStored is missing"),
    ({"without": ("PixelRepresentation",)}, "the tag PixelRepresentation is missing"),
    ({"without": ("PhotometricInterpretation",)}, "the tag PhotometricInterpretation is missing"),
    ({"PhotometricInterpretation": "CMYK"}, "PhotometricInterpretation is CMYK"),
    ({"PhotometricInterpretation": "Zwiebel"}, "of no known kind"), ({"SamplesPerPixel": 3}, "MONOCHROME2 with 3 samples"),
    ({"Rows": 65535, "Columns": 65535}, "65535x65535 pixels, the limit"), ({"Rows": 0}, "Rows is 0"),
    ({"Rows": 37}, "2,304 bytes of pixel data, the header asks for 2,368"), ({"Rows": 18}, "hold 2 frames"),
    ({"BitsStored": 12, "HighBit": 15}, "HighBit is 15"), ({"BitsStored": 17}, "17 bits in 16"),
    ({"RescaleSlope": 2}, "holds RescaleSlope and no RescaleIntercept"), ({"RescaleSlope": 0, "RescaleIntercept": 0}, "RescaleSlope is 0"),
    ({"WindowCenter": 2}, "holds WindowCenter and no WindowWidth"), ({"WindowCenter": 2, "WindowWidth": 0}, "WindowWidth is 0"),
    ({"WindowCenter": 2, "WindowWidth": -5, "VOILUTFunction": "SIGMOID"}, "WindowWidth is -5"),
    ({"WindowCenter": 2, "WindowWidth": 5, "VOILUTFunction": "ZWIEBEL"}, "VOILUTFunction is none of"),
    ({"PixelSpacing": [1, 9]}, "PixelSpacing is 1 by 9"), ({"PixelSpacing": [1, 0]}, "PixelSpacing is 1 by 0"),
    ({"VOILUTSequence": [Dataset()]}, "no whole LUT"), ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR without"),
    ({**palette(16), "AlphaPaletteColorLookupTableData": bytes(512)}, "transparency"),
], ids=str)
def test_what_cannot_be_read_is_refused_with_what_was_found(tmp_path: Path, tags: dict[str, Any], told: str) -> None:
    text = refusal(write_dicom(tmp_path / "a.dcm", GREY, **tags))
    assert told in text
    assert "wiebel" not in text.lower()


def test_files_without_pixels_and_of_floats_say_so(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", GREY)
    dataset = __import__("pydicom").dcmread(path)
    del dataset.PixelData
    dataset.save_as(path)
    assert "holds no pixel data (CT Image Storage)" in refusal(path)
    dataset.FloatPixelData = np.ones(36 * 32, np.float32).tobytes()
    dataset.BitsAllocated = 32
    dataset.save_as(path)
    assert "floating-point" in refusal(path)


def test_a_deflated_file_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", GREY, syntax=DeflatedExplicitVRLittleEndian)
    assert "Deflated Explicit VR Little Endian is not read" in refusal(path)


def test_a_syntax_that_nothing_decodes_is_named(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", GREY)
    data = path.read_bytes()
    for uid, told in ((b"1.2.840.10008.1.2.4.100", "MPEG2"), (b"1.2.840.10008.1.2.4.999", "of no known kind")):
        element = b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\x00"
        assert element in data
        longer = b"\x02\x00\x10\x00UI\x18\x00" + uid + b"\x00"
        changed = data.replace(element, longer)
        length = int.from_bytes(data[140:144], "little") + len(longer) - len(element)
        path.write_bytes(changed[:140] + length.to_bytes(4, "little") + changed[144:])
        assert told in refusal(path)


def test_a_codestream_larger_than_its_header_says_is_not_decoded(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", GREY, compress=JPEG2000Lossless)
    data = bytearray(path.read_bytes())
    at = data.index(b"\xff\x4f\xff\x51") + 8
    data[at:at + 8] = (65535).to_bytes(4, "big") * 2
    path.write_bytes(data)
    assert "the header says 32x36 pixels, the JPEG 2000 Image Compression (Lossless Only) in it 65535x65535" in refusal(path)


@pytest.mark.parametrize("name", ["a.dcm", "a.DICOM", "a.ima", "a", "a.png", "1.2.840.1"])
def test_a_file_is_dicom_by_suffix_or_by_its_mark(tmp_path: Path, name: str) -> None:
    assert decode(write_dicom(tmp_path / name, GREY)).shape == (36, 32, 1)
    assert {".dcm", ".dicom", ".ima"} <= set(SUFFIXES)


def test_a_picture_that_is_named_like_dicom_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"\x89PNG" + bytes(500))
    assert "no DICM at byte 128" in refusal(tmp_path / "a.dcm")


@cache
def whole_file(folder: Path, compress: str) -> bytes:
    """The bytes of a file that is damaged, which lies there whole."""
    path = folder / f"whole{compress}.dcm"
    return write_dicom(path, GREY, compress=compress, names=True, WindowCenter=900, WindowWidth=1000).read_bytes()


@pytest.mark.parametrize("compress", ["", RLELossless, JPEG2000Lossless])
@settings(max_examples=70)
@given(share=st.floats(0, 1))
def test_a_file_cut_anywhere_is_refused_or_whole(tmp_path_factory: pytest.TempPathFactory, compress: str, share: float) -> None:
    path = tmp_path_factory.getbasetemp() / f"cut{compress}.dcm"
    data = whole_file(path.parent, compress)
    path.write_bytes(data[:round(share * len(data))])
    levels, _ = attempt(path)
    assert levels is None or np.array_equal(levels, decode(path.parent / f"whole{compress}.dcm"))


@settings(max_examples=300)
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6),
       compress=st.sampled_from(["", RLELossless, JPEG2000Lossless]))
def test_changed_bytes_end_in_an_array_or_one_sentence(tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]],
                                                       compress: str) -> None:
    path = tmp_path_factory.getbasetemp() / f"changed{compress}.dcm"
    data = bytearray(whole_file(path.parent, compress))
    for place, value in changes:
        data[132 + place % (len(data) - 132)] = value
    path.write_bytes(data)
    levels, text = attempt(path)
    assert levels is None or (levels.dtype in (np.uint8, np.uint16) and levels.shape[2] in (1, 3))
    assert not any(name in text for name in NAMES.values())


def test_bombs_of_dicom_are_refused_within_a_second_and_200_mib(tmp_path: Path) -> None:
    one = write_dicom(tmp_path / "a.dcm", GREY, Rows=65535, Columns=65535)
    write_dicom(tmp_path / "b.dcm", GREY, NumberOfFrames=100_000)
    deflated = write_dicom(tmp_path / "c.dcm", np.zeros((2000, 2000), np.uint16), syntax=DeflatedExplicitVRLittleEndian)
    assert deflated.stat().st_size < 20_000
    long = bytearray(one.read_bytes())
    long += b"\x09\x00\x10\x00UN\x00\x00\xf0\xff\xff\xff"  # an element that claims four gigabytes
    (tmp_path / "d.dcm").write_bytes(long)
    (tmp_path / "e.dcm").write_bytes(bytes(128) + b"DICM" + b"\x08\x00\x10\x00UI\x00\x00" * 2_000_000)
    names = ["a.dcm", "b.dcm", "c.dcm", "d.dcm", "e.dcm"]
    code = ("import sys, time, json; from pathlib import Path; from runtimes.images.decode import decode\n"
            "from runtimes.errors import UserError; import pydicom.pixels, pydicom.encaps\n"
            "spent = []\nfor name in sys.argv[1:]:\n    start = time.monotonic()\n    try: decode(Path(name))\n    except UserError: pass\n"
            "    else: raise SystemExit(9)\n    spent.append(time.monotonic() - start)\n"
            "peak = next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
            "assert 'torch' not in sys.modules\nprint(json.dumps([spent, int(peak)]))")
    paths = [str(tmp_path / name) for name in names]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    spent, peak_kib = json.loads(done.stdout)
    assert max(spent) < 3.0  # the last is 32 MB of elements; a busy machine takes a second for the most that is parsed
    assert max(spent[:4]) < 1.0
    assert peak_kib * 1024 < 200 * 2**20


def test_no_name_of_a_person_is_in_a_message_a_warning_or_a_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str],
) -> None:
    """Names in fields that messages speak of, too: values of the wrong kind are where a reader quotes them."""
    caplog.set_level(logging.DEBUG)
    texts = []
    spoilt = [{"PhotometricInterpretation": "Zwiebel^Ottokar"}, {"VOILUTFunction": "ZWIEBEL", "WindowCenter": 1, "WindowWidth": 9},
              {"NumberOfFrames": 3}, {"Modality": "ZWIEBEL"}, {"ImageType": ["ORIGINAL", "Zwiebel", "LOCALIZER"]},
              {"SOPClassUID": "1.2.47110815"}]
    for tags in spoilt:
        path = write_dicom(tmp_path / "a.dcm", GREY, names=True, private=True, **tags)
        caplog.clear()  # of the writer's warnings
        capfd.readouterr()
        data = path.read_bytes()
        for place in range(0, len(data), 97):
            path.write_bytes(data[:place] + b"\x00Zwiebel\xff" + data[place + 9:])
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                texts.append(attempt(path)[1])
        texts += [*capfd.readouterr(), caplog.text]
    everything = "\n".join(texts)
    assert len(list(filter(None, texts))) > 20
    assert "wiebel" not in everything.lower()
    assert "4711" not in everything
    assert not any(name in everything for name in NAMES.values())
    assert caplog.text == ""


def test_pydicoms_own_lines_come_back_after_reading(tmp_path: Path) -> None:
    logger = logging.getLogger("pydicom")
    before, filters = logger.level, list(warnings.filters)
    decode(write_dicom(tmp_path / "a.dcm", GREY))
    refusal(write_dicom(tmp_path / "b.dcm", GREY, Rows=0))
    assert (logger.level, warnings.filters) == (before, filters)


def test_threads_read_the_same_array_and_leave_warnings_and_lines_as_they_were(tmp_path: Path) -> None:
    paths = [write_dicom(tmp_path / f"{row}.dcm", GREY, WindowCenter=300 + row, WindowWidth=900) for row in range(40)]
    alone = [decode(path) for path in paths]
    level, filters = logging.getLogger("pydicom").level, list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(decode, paths))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    assert (logging.getLogger("pydicom").level, warnings.filters) == (level, filters)


def test_without_pydicom_and_without_a_decoder_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_dicom(tmp_path / "a.dcm", GREY, compress=JPEG2000Lossless)
    from pydicom.pixels.decoders.base import Decoder

    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "available_plugins", property(lambda _: ("pillow",)))
        with pytest.raises(UserError, match=r"pylibjpeg-openjpeg, which is missing; pip install 'rd-distill\[dicom\]'") as caught:
            decode(path)
        assert caught.value.exit_code == MISSING
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UserError, match=r"pip install 'rd-distill\[dicom\]'") as caught:
        decode(path)
    assert caught.value.exit_code == MISSING


def test_headers_name_what_a_person_should_know(tmp_path: Path) -> None:
    kinds = read_header(write_dicom(tmp_path / "a.dcm", GREY, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], BurnedInAnnotation="YES",
                                    PresentationIntentType="FOR PROCESSING"), 10**8).kinds
    assert set(kinds) == {"localiser", "for processing", "burned-in annotation"}
    secondary = write_dicom(tmp_path / "b.dcm", GREY, SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    assert read_header(secondary, 10**8).kinds == ("secondary capture",)
    assert read_header(write_dicom(tmp_path / "c.dcm", GREY, SOPClassUID=CT), 10**8).kinds == ()


def test_damaged_runs_of_rle_end_no_process(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A decoder in Rust ended the process here; the one that is used does not."""
    path = write_dicom(tmp_path / "a.dcm", GREY, compress=RLELossless)
    data = path.read_bytes()
    at = data.index(b"\x02\x00\x00\x00\x40\x00\x00\x00")  # two segments, the first of them at byte 64
    for number in (0, 1, 3, 255, 1 << 31, (1 << 32) - 1):
        for place in (0, 4, 8):
            path.write_bytes(data[:at + place] + number.to_bytes(4, "little") + data[at + place + 4:])
            attempt(path)
    assert capfd.readouterr().err == ""


def test_a_box_without_length_around_a_codestream_is_no_endless_search(tmp_path: Path) -> None:
    boxed = next(path for path in wheel_files() if path.name == "GDCMJ2K_TextGBR.dcm").read_bytes()
    assert boxed.count(b"jP  ") == 1
    at = boxed.index(b"jP  ") + 8
    for length in (0, 1, 7, 1 << 31):
        (tmp_path / "a.dcm").write_bytes(boxed[:at] + length.to_bytes(4, "big") + boxed[at + 4:])
        assert "in the pixel data" in refusal(tmp_path / "a.dcm")


def test_a_header_without_end_stops_at_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_guard, "MAX_READS", 10)
    assert "a header of more than" in refusal(write_dicom(tmp_path / "a.dcm", GREY))


def test_the_same_file_is_the_same_array_every_time(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", GREY, compress=JPEG2000Lossless, WindowCenter=700, WindowWidth=900)
    start = time.monotonic()
    first = decode(path)
    assert all(np.array_equal(decode(path), first) for _ in range(5))
    assert time.monotonic() - start < 5.0
