"""The header of a DICOM file: what its pixels are and how they are shown, checked before a pixel is decoded.

Owns: Header, `read_header`, the refusals that a header settles. Does not own: how pydicom is kept in bounds (dicom_guard.py), decoding
pixels (dicom.py), grey levels (dicom_levels.py), where slices lie (dicom_planes.py). Only the tags in TAGS are parsed, none of which
names a patient. Messages hold the path, names of tags, names of the standard's dictionary and numbers; never a text of the file, nor of
an exception, which may hold one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.errors import UserError
from runtimes.images.dicom_guard import Bounded, load_pydicom, quiet

SUFFIXES = (".dcm", ".dicom", ".ima")
MAGIC_AT, MAGIC = 128, b"DICM"
MAX_BYTES = 1 << 29  # of a file: no image of one frame is larger
MAX_VOLUME_BYTES = 1 << 32  # of a file of many frames
MAX_STRETCH = 4.0  # between the sides of a pixel
SQUARE = 0.01  # sides that differ by less are taken as equal: headers are rounded
DEFLATED = "1.2.840.10008.1.2.1.99"
FRAMES_TAG = 0x00280008
PIXELS, FLOATS = 0x7FE00010, (0x7FE00008, 0x7FE00009)
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
GREYS = ("MONOCHROME1", "MONOCHROME2")
UNREAD = ("YBR_PARTIAL_420", "YBR_PARTIAL_422", "ARGB", "CMYK", "HSV", "XYB")
FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
NO_IMAGES = ("Segmentation", "Presentation State", "Encapsulated", " SR", "RT ", "Waveform", "Key Object", "Media Storage Directory",
             "Color Palette", "Raw Data", "Spectroscopy", "Surface", "Real World Value Mapping", "Structured", "Report", "Parametric Map",
             "Tractography", "Measurements", "Procedure Log", "Plan", "Protocol")
SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
NO_IMAGE_CODES = {"SEG": "a segmentation", "SR": "a report", "PR": "a presentation state", "KO": "a list of key objects",
                  "RTSTRUCT": "a set of contours", "RTDOSE": "a dose", "RTPLAN": "a plan", "RTRECORD": "a record of treatment",
                  "REG": "a registration", "DOC": "a document"}  # of Modality: names of new SOP classes come later than files of them
TAGS = ("SpecificCharacterSet", "SOPClassUID", "Modality", "ImageType", "PresentationIntentType", "BurnedInAnnotation", "SamplesPerPixel",
        "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
        "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence",
        "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction", "RedPaletteColorLookupTableDescriptor",
        "GreenPaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableDescriptor", "AlphaPaletteColorLookupTableData",
        "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
        "SegmentedRedPaletteColorLookupTableData", "SegmentedGreenPaletteColorLookupTableData",
        "SegmentedBluePaletteColorLookupTableData", "SegmentedAlphaPaletteColorLookupTableData", "PixelPresentation", *SPACINGS,
        "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
# Where objects of the enhanced kind hold what others hold at the top.
NESTED = {"PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"), "PixelMeasuresSequence": ("PixelSpacing",),
          "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction")}
# Whose decoder brings a transfer syntax, by the name of the package: for the message where it is missing.
DECODERS = {"JPEG 2000": "pylibjpeg-openjpeg", "High-Throughput": "pylibjpeg-openjpeg", "JPEG": "pylibjpeg-libjpeg"}


class NoImage(UserError):
    """A DICOM file that is no image at all; `kind` says what it is, in words of the standard."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Header:
    """What a header says of one frame; `source` is pydicom's dataset of TAGS, for its own functions.

    padding: lowest and highest stored value that is padding. stretch: height over width of a pixel. kinds: what a person should know of
    such an image ("secondary capture", "localiser", "for processing", "burned-in annotation"). pixels_at: the byte at which the element
    of the pixels begins. slope, intercept: 1 and 0 where nothing is said.
    """

    source: Any
    sop_class: str
    syntax: str
    photometric: str
    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    padding: tuple[int, int] | None
    rescaled: bool
    windowed: bool
    stretch: float
    kinds: tuple[str, ...]
    modality: str
    frames: int
    pixels_at: int
    slope: float
    intercept: float


    def is_padding(self, stored: NDArray[Any]) -> NDArray[np.bool_]:
        """Which stored values are padding, same shape."""
        low, high = self.padding if self.padding is not None else (1, 0)
        return np.asarray((stored >= low) & (stored <= high))


def is_dicom(path: Path, head: bytes) -> bool:
    """Whether a file is one of DICOM, by its suffix or the mark in its first 132 bytes."""
    return head[MAGIC_AT:MAGIC_AT + 4] == MAGIC or path.name.lower().endswith(SUFFIXES)


def seems_dicom(path: Path) -> bool:
    """Whether a file is one of DICOM by its suffix or its mark; it is opened only where the suffix does not say so."""
    return is_dicom(path, b"") or has_magic(path)


def has_magic(path: Path) -> bool:
    """Whether a file bears the mark of DICOM, whatever its name; no for one that cannot be opened."""
    try:
        with path.open("rb") as stream:
            return stream.read(MAGIC_AT + 4)[MAGIC_AT:] == MAGIC
    except OSError:
        return False


def read_header(path: Path, max_pixels: int, further: tuple[str, ...] = (), *, frames: bool = False) -> Header:
    """Parse and check a file's header; UserError for whatever is no image that can be read, NoImage for what is none at all.

    further: tags beside TAGS. frames: whether it may hold several.
    """
    pydicom = load_pydicom(path)
    with quiet(path), path.open("rb") as stream:
        size_bytes = path.stat().st_size
        limit = MAX_VOLUME_BYTES if frames else MAX_BYTES
        if size_bytes > limit:
            raise UserError(f"{path}: {size_bytes:,} bytes, the limit for a DICOM file{'' if frames else ' of one frame'} is {limit:,}")
        if stream.read(MAGIC_AT + 4)[MAGIC_AT:] != MAGIC:
            raise UserError(f"{path}: is named like a DICOM file and has no DICM at byte {MAGIC_AT}; write it again in the file format of "
                            "DICOM, part 10")
        syntax = _syntax(path, pydicom)
        stream.seek(0)
        seen: list[int] = []

        def at_pixels(tag: int, _vr: str | None, _length: int) -> bool:
            if tag in (PIXELS, *FLOATS):
                seen.append(int(tag))
            return bool(seen)

        tags = [pydicom.tag.Tag(name) for name in (*TAGS, *further)]
        file = Bounded(path, stream, size_bytes, many=frames)
        source = pydicom.filereader.read_partial(file, stop_when=at_pixels, specific_tags=tags)
        header = _checked(path, pydicom, source, syntax, seen[0] if seen else 0, max_pixels, stream.tell())
    if header.frames > 1 and not frames:
        raise UserError(f"{path}: holds {header.frames:,} frames; expected one image. Where they are a volume, --dicom series and "
                        "models of volumes take it")
    return header


def slice_facts(path: Path) -> tuple[str, int, str]:
    """What tells slices of a series apart before they are read: SeriesInstanceUID, frames, and what a file is that is no slice, else "".

    Nothing behind NumberOfFrames is parsed. UserError for a file that is damaged so far, or no DICOM.
    """
    pydicom = load_pydicom(path)
    with quiet(path), path.open("rb") as stream:
        if stream.read(MAGIC_AT + 4)[MAGIC_AT:] != MAGIC:
            raise UserError(f"{path}: is named like a DICOM file and has no DICM at byte {MAGIC_AT}")
        _syntax(path, pydicom)
        stream.seek(0)
        tags = [pydicom.tag.Tag(name) for name in ("SOPClassUID", "Modality", "ImageType", "SeriesInstanceUID", "NumberOfFrames")]
        source = pydicom.filereader.read_partial(Bounded(path, stream, path.stat().st_size), stop_when=lambda tag, *_: tag > FRAMES_TAG,
                                                 specific_tags=tags)
        frames = _frames_of(path, source)
        try:
            sop_class, _ = _kind_of(path, pydicom, source)
        except NoImage as error:
            return "", frames, error.kind
        kinds = _kinds(path, source, sop_class)
        kind = "localisers" if "localiser" in kinds else "secondary captures" if frames == 1 and "secondary capture" in kinds else ""
        return str(value_of(path, source, "SeriesInstanceUID") or ""), frames, kind


def _syntax(path: Path, pydicom: Any) -> str:
    """The transfer syntax, before a byte of the rest is parsed: pydicom inflates a deflated file whole, however large that gets."""
    value = pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID")
    if value is None:
        raise UserError(f"{path}: the tag TransferSyntaxUID is missing, so nothing says how its pixels are held; write the file again")
    if value == DEFLATED:
        raise UserError(f"{path}: {name_of(pydicom, DEFLATED)} is not read, for its size is known only once it is inflated; write it in "
                        "Explicit VR Little Endian")
    return str(value)


def name_of(pydicom: Any, uid: object) -> str:
    """The name that the standard gives a UID; "" for any other text, which may hold anything."""
    entry = pydicom._uid_dict.UID_dictionary.get(str(uid))
    return str(entry[0]) if entry else ""


def _kind_of(path: Path, pydicom: Any, source: Any) -> tuple[str, str]:
    """SOP class, by the standard's name or "", and Modality; NoImage for what is none."""
    sop_class = name_of(pydicom, value_of(path, source, "SOPClassUID") or source.file_meta.get("MediaStorageSOPClassUID", ""))
    modality = value_of(path, source, "Modality")
    if any(words in f" {sop_class}" for words in NO_IMAGES) and not sop_class.startswith("RT Image"):
        raise NoImage(f"{path}: is of the SOP class {sop_class}, which is no image; leave it out", f"of {sop_class}")
    if isinstance(modality, str) and modality in NO_IMAGE_CODES:
        raise NoImage(f"{path}: is {NO_IMAGE_CODES[modality]} (Modality {modality}), which is no image; leave it out",
                      f"of Modality {modality}")
    return sop_class, modality if isinstance(modality, str) else ""


def _frames_of(path: Path, source: Any) -> int:
    return _whole(path, source, "NumberOfFrames", 1, 1 << 31) if value_of(path, source, "NumberOfFrames") not in (None, "") else 1


def _checked(path: Path, pydicom: Any, source: Any, syntax: str, pixels: int, max_pixels: int, pixels_at: int) -> Header:
    sop_class, modality = _kind_of(path, pydicom, source)
    kind = sop_class or "an unknown SOP class"
    if pixels in FLOATS:
        raise UserError(f"{path}: pixels are floating-point numbers ({kind}); write whole numbers with RescaleSlope and RescaleIntercept")
    frames = _frames_of(path, source)
    if not pixels:
        raise UserError(f"{path}: holds no pixel data ({kind}), or is cut off before them")
    rows, columns = (_whole(path, source, name, 1, 65535) for name in ("Rows", "Columns"))
    if rows * columns > max_pixels:
        raise UserError(f"{path}: {columns}x{rows} pixels, the limit is {max_pixels:,}")
    photometric = _photometric(path, source)
    samples = _whole(path, source, "SamplesPerPixel", 1, 4)
    if samples != (3 if photometric in COLOURS else 1):
        raise UserError(f"{path}: {photometric} with {samples} samples a pixel; expected {3 if photometric in COLOURS else 1}")
    allocated, stored = (_whole(path, source, name, 1, 64) for name in ("BitsAllocated", "BitsStored"))
    signed = bool(_whole(path, source, "PixelRepresentation", 0, 1))
    if allocated not in ((8, 16) if samples == 3 or photometric == "PALETTE COLOR" else (1, 8, 16, 32)) or stored > allocated:
        raise UserError(f"{path}: {photometric} pixels of {stored} bits in {allocated}; expected 8 or 16, or for grey 1 or 32")
    if signed and photometric not in GREYS and photometric != "PALETTE COLOR":
        raise UserError(f"{path}: {photometric} pixels are signed numbers; expected 0 and above")
    high = _whole(path, source, "HighBit", 0, 63) if "HighBit" in source else stored - 1
    compressed = pydicom.uid.UID(syntax).is_encapsulated if name_of(pydicom, syntax) else True
    if high != stored - 1 and not compressed:
        raise UserError(f"{path}: HighBit is {high} with BitsStored {stored}, so where the bits lie is not sure; expected {stored - 1}")
    _lift(source)
    greys = photometric in GREYS
    stretch = _stretch(path, source)
    if rows * columns * max(stretch, 1 / stretch) > max_pixels:
        raise UserError(f"{path}: {columns}x{rows} pixels that are brought to squares, the limit is {max_pixels:,}")
    slope, intercept = _rescale(path, source) if greys else (1.0, 0.0)
    return Header(source, sop_class, syntax, photometric, rows, columns, samples, allocated, stored, signed,
                  _padding(path, source, allocated, signed) if greys else None, (slope, intercept) != (1.0, 0.0),
                  greys and _windowed(path, source), stretch, _kinds(path, source, sop_class),
                  modality, frames, pixels_at, slope, intercept)


def value_of(path: Path, source: Any, name: str) -> Any:
    """What a tag holds; pydicom parses it when it is asked for, and may find that it cannot."""
    try:
        value = source.get(name)
    except Exception:  # any type, with a text that quotes the value
        raise UserError(f"{path}: damaged (the tag {name} cannot be read)") from None
    return value


def _whole(path: Path, source: Any, name: str, low: int, high: int) -> int:
    value = value_of(path, source, name)
    if value is None or value == "":
        raise UserError(f"{path}: the tag {name} is missing or empty; expected a whole number")
    if isinstance(value, bool) or not isinstance(value, int | float) or float(value) != int(value):
        raise UserError(f"{path}: the tag {name} holds no whole number")
    if not low <= int(value) <= high:
        raise UserError(f"{path}: {name} is {int(value)}; expected {low} to {high}")
    return int(value)


def _number(path: Path, source: Any, name: str) -> float | None:
    """The first number of a tag; None where it is missing or empty."""
    value = value_of(path, source, name)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str | int | float):
        value = next(iter(value), None) if hasattr(value, "__iter__") else value
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{path}: the tag {name} holds no finite number")
    return number


def _photometric(path: Path, source: Any) -> str:
    value = value_of(path, source, "PhotometricInterpretation")
    if value in (None, ""):
        raise UserError(f"{path}: the tag PhotometricInterpretation is missing or empty; expected one of "
                        f"{', '.join((*GREYS, *COLOURS, 'PALETTE COLOR'))}")
    if value not in (*GREYS, *COLOURS, "PALETTE COLOR"):
        shown = value if value in UNREAD else "of no known kind"
        raise UserError(f"{path}: PhotometricInterpretation is {shown}; expected one of {', '.join((*GREYS, *COLOURS, 'PALETTE COLOR'))}")
    return str(value)


def _padding(path: Path, source: Any, bits: int, signed: bool) -> tuple[int, int] | None:
    """Lowest and highest stored value that is padding. A writer may have the sign wrong: the bits are what counts."""
    if value_of(path, source, "PixelPaddingValue") in (None, ""):
        return None
    names = ["PixelPaddingValue"] + ["PixelPaddingRangeLimit"] * (value_of(path, source, "PixelPaddingRangeLimit") not in (None, ""))
    ends = []
    for name in names:
        value = _whole(path, source, name, -(1 << 31), (1 << 32) - 1) % (1 << bits)
        ends.append(value - (1 << bits) if signed and value >= 1 << (bits - 1) else value)
    return min(ends), max(ends)


def _rescale(path: Path, source: Any) -> tuple[float, float]:
    """RescaleSlope and RescaleIntercept, 1 and 0 where there are none."""
    slope, intercept = (_number(path, source, name) for name in ("RescaleSlope", "RescaleIntercept"))
    if (slope is None) != (intercept is None):
        there, missing = ("RescaleSlope", "RescaleIntercept") if intercept is None else ("RescaleIntercept", "RescaleSlope")
        raise UserError(f"{path}: holds {there} and no {missing}; expected both or neither")
    if slope == 0.0:
        raise UserError(f"{path}: RescaleSlope is 0, which leaves one value; expected any other")
    if slope is None or intercept is None:  # empty elements, which pydicom's function would multiply by
        for name in ("RescaleSlope", "RescaleIntercept"):
            source.pop(name, None)
        return 1.0, 0.0
    return slope, intercept


def _windowed(path: Path, source: Any) -> bool:
    """Whether the file holds a window that counts."""
    centre, width = (_number(path, source, name) for name in ("WindowCenter", "WindowWidth"))
    if (centre is None) != (width is None):
        there, missing = ("WindowCenter", "WindowWidth") if width is None else ("WindowWidth", "WindowCenter")
        raise UserError(f"{path}: holds {there} and no {missing}; expected both or neither")
    if centre is None or width is None:
        return False
    function = value_of(path, source, "VOILUTFunction") or "LINEAR"
    if function not in FUNCTIONS:
        raise UserError(f"{path}: VOILUTFunction is none of {', '.join(FUNCTIONS)}; write the one that is meant")
    if width < 1 if function == "LINEAR" else width <= 0:
        raise UserError(f"{path}: WindowWidth is {width:g}; expected {'1 at least' if function == 'LINEAR' else 'above 0'} for {function}")
    return True


def _lift(source: Any) -> None:
    """Bring what an object of the enhanced kind says of its one frame to where others say it; what stands at the top already stays."""
    for name in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        for group in list(source.get(name) or [])[:1]:
            for sequence, keywords in NESTED.items():
                for item in list(group.get(sequence) or [])[:1]:
                    for keyword in keywords:
                        if keyword in item and keyword not in source:
                            source[keyword] = item[keyword]


def _stretch(path: Path, source: Any) -> float:
    """Height over width of a pixel, 1 where nothing says that they differ."""
    for name in SPACINGS:
        value = value_of(path, source, name)
        if value in (None, ""):
            continue
        try:
            tall, wide = (float(side) for side in value)
        except (TypeError, ValueError, OverflowError):
            raise UserError(f"{path}: the tag {name} does not hold two numbers") from None
        if tall == wide:
            return 1.0
        if not (math.isfinite(tall) and math.isfinite(wide) and tall > 0 and wide > 0) or not 1 / MAX_STRETCH <= tall / wide <= MAX_STRETCH:
            raise UserError(f"{path}: {name} is {tall:g} by {wide:g}; expected sides above 0, none more than {MAX_STRETCH:g} times "
                            "the other")
        return tall / wide if abs(tall / wide - 1) > SQUARE else 1.0
    return 1.0


def _kinds(path: Path, source: Any, sop_class: str) -> tuple[str, ...]:
    """What a person should know of such an image."""
    image_type = value_of(path, source, "ImageType") or ()
    words = [image_type] if isinstance(image_type, str) else [str(word) for word in image_type]
    intent = str(value_of(path, source, "PresentationIntentType") or "")
    raw = intent == "FOR PROCESSING" or (not intent and "For Processing" in sop_class)
    shown = intent == "FOR PRESENTATION" or (not intent and "For Presentation" in sop_class)
    kinds = {"secondary capture": "Secondary Capture" in sop_class, "localiser": "LOCALIZER" in words[2:3], "for processing": raw,
             "for presentation": shown, "burned-in annotation": value_of(path, source, "BurnedInAnnotation") == "YES"}
    return tuple(name for name, applies in kinds.items() if applies)
