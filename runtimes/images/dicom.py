"""The pixels of a DICOM file: one of one frame to one raw array, as `decode` gives for pictures; stored values, frame by frame.

Owns: `read_dicom`, `stored_frames`: finding the pixel data, checking a codestream's size before it is decoded, decoding by pydicom and
pylibjpeg, RGB. Does not own: what the header may say (dicom_header.py), display levels (dicom_levels.py), volumes of many files or
frames (dicom_series.py). Overlays, ICC profiles and presentation states are not applied, and nothing is turned or mirrored.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.errors import MISSING, UserError
from runtimes.images.dicom_guard import Bounded, load_pydicom, quiet
from runtimes.images.dicom_header import COLOURS, DECODERS, PIXELS, Header, name_of, read_header
from runtimes.images.dicom_levels import levels_of, physical_values

JPEG, JPEG_2000, BOX = b"\xff\xd8", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  "
END = b"\xff\xd9"  # of a codestream of any JPEG; a byte or two of padding may follow
FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # markers of JPEG and JPEG-LS after which an image's size stands
CODECS = ("JPEG", "High-Throughput")
RLE_GROWTH = 64  # times: a pair of bytes may become 128
RLE_HARMLESS = 1 << 26  # bytes that a segment may decode to unasked: counting its runs takes half as long as decoding it
# What pydicom's decoders ask a header for.
DECODING = ("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "BitsAllocated",
            "BitsStored", "HighBit", "PixelRepresentation")


def read_dicom(path: Path, max_pixels: int, *, values: bool = False) -> NDArray[Any]:
    """Decode a DICOM file to (H, W, 1 or 3), uint8 or uint16; UserError names path and reason, never a text of the file.

    Grey values go through the modality LUT, or RescaleSlope and RescaleIntercept; then through the first VOI LUT, or else the file's
    first window by its function, or else the range of the values that are present; then MONOCHROME1 is turned round; then padding
    (PixelPaddingValue to PixelPaddingRangeLimit, left out of the range) is black. Unsigned grey of 8 bits or fewer with neither rescale
    nor window stays uint8, fewer bits spread over 0 to 255; all other grey becomes display levels 0 to 65535, uint16. Colour becomes RGB
    of 8 or 16 bits. Pixels that are not square (by more than 1 %) are made square. PresentationLUTShape is not read: the standard ties
    it to MONOCHROME1. The same bytes give the same array on every machine: one decoder is used for each transfer syntax.
    """
    header = read_header(path, max_pixels)
    with quiet(path):
        stored = next(stored_frames(path, header))
        return np.ascontiguousarray((physical_values if values else levels_of)(path, load_pydicom(path), stored, header))


def stored_frames(path: Path, header: Header) -> Iterator[NDArray[Any]]:
    """Stored values of a file's frames, (H, W) or for colour (H, W, 3); to be called within `quiet`. The header is not parsed again."""
    pydicom = load_pydicom(path)
    decoder = _decoder(path, pydicom, header)
    whole = _with_pixels(path, pydicom, header)
    name = name_of(pydicom, header.syntax)
    if decoder.is_encapsulated:
        streams = 0
        for streams, data in enumerate(pydicom.encaps.generate_frames(whole.PixelData, number_of_frames=header.frames), 1):
            _check_codestream(path, data, name, header)
            if streams == header.frames:
                break
        if streams < header.frames:
            raise UserError(f"{path}: damaged or truncated ({streams:,} frames of pixel data, the header names {header.frames:,})")
    else:
        _check_length(path, whole, header)
    shape = (header.rows, header.columns) + ((3,) if header.samples == 3 else ())
    plugin = _plugin(name) if decoder.is_encapsulated else ""
    several = header.frames > 1
    for stored, changed in (decoder.iter_array(whole, decoding_plugin=plugin, indices=range(header.frames)) if several
                            else [decoder.as_array(whole, decoding_plugin=plugin)]):
        if stored.ndim == len(shape) + 1:
            raise UserError(f"{path}: the pixel data hold {len(stored)} frames and the header names one; write the file again")
        if stored.shape != shape:
            raise UserError(f"{path}: damaged (pixels of shape {stored.shape}, and the header says {shape})")
        if header.photometric in COLOURS and changed["photometric_interpretation"] != "RGB":
            raise UserError(f"{path}: {header.photometric} pixels of {header.bits_stored} bits are not brought to RGB; write them as RGB")
        yield stored


def _with_pixels(path: Path, pydicom: Any, header: Header) -> Any:
    """What the header says of the pixels, and the pixels."""
    source = header.source
    implicit, little = source.original_encoding
    with path.open("rb") as stream:
        file = Bounded(path, stream, path.stat().st_size)
        file.seek(header.pixels_at)
        try:
            element = next(pydicom.filereader.data_element_generator(file, implicit, little), None)
        except EOFError:
            element = None
    if element is None or element.tag != PIXELS:
        raise UserError(f"{path}: damaged or truncated (the pixel data have no end)")
    whole = pydicom.Dataset({element.tag: element})
    for name in DECODING:
        if name in source:
            whole[name] = source[name]
    whole.file_meta = source.file_meta
    whole.set_original_encoding(implicit, little, source.original_character_set)
    return whole


def _decoder(path: Path, pydicom: Any, header: Header) -> Any:
    """Pydicom's decoder of the file's transfer syntax; UserError where there is none, or where its package is not installed."""
    name = name_of(pydicom, header.syntax)
    try:
        decoder = pydicom.pixels.get_decoder(header.syntax)
    except NotImplementedError:
        raise UserError(f"{path}: the transfer syntax {name or 'is of no known kind, and'} is not read; write it in Explicit VR Little "
                        "Endian, RLE, JPEG, JPEG-LS or JPEG 2000") from None
    if decoder.is_encapsulated and _plugin(name) not in decoder.available_plugins:
        package = next((package for word, package in DECODERS.items() if word in name), "pylibjpeg")
        raise UserError(f"{path}: {name} is decoded by {package}, which is missing; pip install 'rd-distill[dicom]'", MISSING)
    return decoder


def _plugin(name: str) -> str:
    """Whose decoder: pydicom's own for RLE, for that of pylibjpeg-rle ends the process on damaged files."""
    return "pydicom" if name.startswith("RLE") else "pylibjpeg"


def _check_length(path: Path, whole: Any, header: Header) -> None:
    bits = header.frames * header.rows * header.columns * header.samples * header.bits_allocated
    wanted = (bits * 2 // 3 if header.photometric == "YBR_FULL_422" else bits) // 8
    found = len(whole.PixelData or b"")
    if found < wanted:
        raise UserError(f"{path}: damaged or truncated ({found:,} bytes of pixel data, the header asks for {wanted:,})")


def _check_codestream(path: Path, data: bytes, name: str, header: Header) -> None:
    """Refuse a JPEG of another size than the header says, before a decoder reserves memory for it, and one that is cut off."""
    if not name.startswith(CODECS):  # RLE: no honest writer makes the pixels longer, or decodes to more than them and a little padding
        whole_bytes = header.rows * header.columns * header.samples * header.bits_allocated // 8
        if len(data) > 1.1 * whole_bytes + 1024:
            raise UserError(f"{path}: damaged ({len(data):,} bytes of RLE for {whole_bytes:,} bytes of pixels)")
        pixels = header.rows * header.columns
        if len(data) * RLE_GROWTH > RLE_HARMLESS and _decodes_to_more(data, int(1.1 * pixels) + 1024):
            raise UserError(f"{path}: damaged (a segment of RLE decodes to far more than its {pixels:,} bytes)")
        return
    size = _size(data)
    if size is None:
        raise UserError(f"{path}: damaged (no {name.split(',')[0]} in the pixel data)")
    if END not in data[-16:]:  # decoders fill up with grey what is cut off
        raise UserError(f"{path}: damaged or truncated (the {name.split(',')[0]} in it has no end)")
    if size != (header.rows, header.columns):
        raise UserError(f"{path}: damaged (the header says {header.columns}x{header.rows} pixels, the {name.split(',')[0]} in it "
                        f"{size[1]}x{size[0]})")


def _decodes_to_more(data: bytes, most: int) -> bool:
    """Whether a segment of RLE decodes to more than so many bytes; the lengths of its runs are added up and nothing is decoded."""
    offsets = [int.from_bytes(data[at:at + 4], "little") for at in range(4, 64, 4)][:data[0]] if len(data) >= 64 else []
    for start, end in pairwise([*offsets, len(data)]):
        at, end, length = start, min(end, len(data)), 0
        if (end - start) * RLE_GROWTH <= most:
            continue
        while at < end and length <= most:
            run = data[at]
            at += 2 if run > 128 else 1 if run == 128 else run + 2
            length += 257 - run if run > 128 else 0 if run == 128 else run + 1
        if length > most:
            return True
    return False


def _size(data: bytes) -> tuple[int, int] | None:
    """Height and width that a codestream's own header says; None where it has none."""
    start = 0
    if data.startswith(BOX):  # a file around the codestream, of boxes that begin with their length
        start = 12
        while data[start + 4:start + 8] != b"jp2c":
            length = int.from_bytes(data[start:start + 4], "big")
            if length < 8 or start + length >= len(data):  # pydicom looks for the next box without end where one has no length
                return None
            start += length
        start += 8
    if data[start:start + 4] == JPEG_2000 and len(data) >= start + 24:
        numbers = [int.from_bytes(data[start + at:start + at + 4], "big") for at in (8, 12, 16, 20)]
        return numbers[1] - numbers[3], numbers[0] - numbers[2]
    if data[:2] != JPEG:
        return None
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in FRAMES:
            return int.from_bytes(data[at + 5:at + 7], "big"), int.from_bytes(data[at + 7:at + 9], "big")
        at += 1 if marker == 0xFF else 2 if marker == 1 or 0xD0 <= marker <= 0xD8 else 2 + int.from_bytes(data[at + 2:at + 4], "big")
    return None
