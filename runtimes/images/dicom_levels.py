"""From stored values of DICOM to display levels, by pydicom's own functions and in the order of the standard.

Owns: modality LUT or rescale, then VOI LUT or window, then MONOCHROME1 turned round, then padding to black; palettes; square pixels.
Does not own: reading files (dicom.py), headers (dicom_header.py). Levels are worked out in float64, once for each value that occurs,
and rounded once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.errors import UserError
from runtimes.images.dicom_header import GREYS, Header

DEEPEST = 1 << 17  # values in a row that are worked out as a table; more (of 32 bits) are sorted first


def grey_levels(path: Path, pydicom: Any, stored: NDArray[Any], header: Header) -> NDArray[Any]:
    """Display levels (H, W, 1) of stored grey values (H, W): uint8 for 8 bits and fewer that are shown as they are, else uint16."""
    low, high = int(stored.min()), int(stored.max())
    if high - low < DEEPEST:
        places = stored.astype(np.int64 if stored.dtype.itemsize > 2 else np.int32) - low
        values = np.arange(low, high + 1)
        present = np.zeros(len(values), dtype=bool)
        present[places] = True
    else:
        values, places = np.unique(stored, return_inverse=True)
        values, present = values.astype(np.int64), np.ones(len(values), dtype=bool)
    plain = not (header.rescaled or header.windowed or header.signed or header.source.get("ModalityLUTSequence")
                 or header.source.get("VOILUTSequence")) and header.bits_stored <= 8
    white = 255.0 if plain else 65535.0
    padding = header.is_padding(values)
    with np.errstate(all="ignore"):  # a sigmoid far from its centre
        levels = values * (255.0 / (2**header.bits_stored - 1)) if plain else _shown(path, pydicom, values, present & ~padding, header)
    if header.photometric == "MONOCHROME1":
        levels = white - levels
    levels = np.clip(levels, 0.0, white)
    levels[padding] = 0.0
    kind = np.uint8 if plain else np.uint16
    places = places.reshape(stored.shape)
    if header.stretch == 1.0:
        return np.rint(levels).astype(kind)[places][..., None]
    return np.rint(square(levels[places][..., None], header.stretch)).astype(kind)


def physical_values(path: Path, pydicom: Any, stored: NDArray[Any], header: Header) -> NDArray[np.int16]:
    """Values (H, W, 1) behind the modality LUT, such as HU, as whole numbers; padding is the lowest value of the rest.

    UserError for colour, for MONOCHROME1, whose values say how white they are, and for values that int16 cannot hold.
    """
    if header.photometric != "MONOCHROME2":
        raise UserError(f"{path}: {header.photometric} pixels; the windows of this model are about physical values such as HU, which only "
                        "MONOCHROME2 images hold")
    values = np.asarray(pydicom.pixels.apply_modality_lut(stored, header.source), dtype=np.float64)
    padding = header.is_padding(stored)
    if padding.any() and not padding.all():
        values[padding] = values[~padding].min()
    values = np.rint(square(values[..., None], header.stretch) if header.stretch != 1.0 else values[..., None])
    low, high = float(values.min()), float(values.max())
    if low < -32768 or high > 32767:
        raise UserError(f"{path}: values from {low:g} to {high:g}; expected -32,768 to 32,767, as HU are")
    return values.astype(np.int16)


def _shown(path: Path, pydicom: Any, values: NDArray[Any], counted: NDArray[np.bool_], header: Header) -> NDArray[np.float64]:
    """Levels 0 to 65535 of stored values, before MONOCHROME1 is turned round. counted: those that occur and are no padding."""
    source = header.source
    physical = np.asarray(pydicom.pixels.apply_modality_lut(values, source), dtype=np.float64)
    if source.get("VOILUTSequence"):
        return _looked_up(path, pydicom, physical, source)
    if header.windowed:
        window = pydicom.Dataset()
        # Pydicom spreads a window over the range that these two allow: here, over the display levels.
        window.PhotometricInterpretation, window.BitsStored, window.PixelRepresentation = "MONOCHROME2", 16, 0
        for name in ("WindowCenter", "WindowWidth", "VOILUTFunction"):
            if source.get(name) not in (None, ""):
                window[name] = source[name]
        return np.asarray(pydicom.pixels.apply_windowing(physical, window), dtype=np.float64)
    if not counted.any():
        return np.zeros(len(values))
    low, high = physical[counted].min(), physical[counted].max()
    return (physical - low) / (high - low) * 65535.0 if low < high else np.zeros(len(values))


def _looked_up(path: Path, pydicom: Any, physical: NDArray[np.float64], source: Any) -> NDArray[np.float64]:
    """Levels by the first VOI LUT. Pydicom counts places in the type of the LUT's entries, so 8-bit ones are handed over as 16-bit."""
    item = source.VOILUTSequence[0]
    if item.get("LUTDescriptor") is None or item.get("LUTData") is None or len(item.LUTDescriptor) != 3:
        raise UserError(f"{path}: VOILUTSequence holds no whole LUT; expected LUTDescriptor and LUTData")
    entries, first, depth = (int(number) for number in item.LUTDescriptor)
    if not 8 <= depth <= 16:
        raise UserError(f"{path}: a VOI LUT of {depth} bits an entry; expected 8 to 16")
    same, copy = pydicom.Dataset(), pydicom.Dataset()
    descriptor = [entries, first, 16]
    same["LUTDescriptor"] = pydicom.DataElement(0x00283002, "SS" if first < 0 else "US", descriptor,
                                                validation_mode=pydicom.config.IGNORE)
    same["LUTData"] = item["LUTData"]
    copy.VOILUTSequence = [same]
    copy.file_meta = source.file_meta
    inside = np.rint(np.clip(physical, first, first + (entries or 65536) - 1)).astype(np.int64)
    return np.asarray(pydicom.pixels.apply_voi(inside, copy), dtype=np.float64) / (2**depth - 1) * 65535.0


def colours(path: Path, pydicom: Any, stored: NDArray[Any], header: Header) -> NDArray[Any]:
    """RGB (H, W, 3), uint8 or uint16, of a palette's places (H, W) or of RGB samples (H, W, 3)."""
    bits = header.bits_stored
    if header.photometric == "PALETTE COLOR":
        stored, bits = _palette(path, pydicom, stored, header)
    white = 255.0 if bits <= 8 else 65535.0
    if bits in (8, 16) and header.stretch == 1.0:
        return stored.astype(np.uint8 if bits == 8 else np.uint16)
    levels = np.clip(stored * (white / (2**bits - 1)), 0.0, white)
    return np.rint(square(levels, header.stretch)).astype(np.uint8 if bits <= 8 else np.uint16)


def _palette(path: Path, pydicom: Any, stored: NDArray[Any], header: Header) -> tuple[NDArray[Any], int]:
    """The colours of a palette and their bits. Each value that occurs is looked up once."""
    source = header.source
    wrong = next((why for applies, why in (
        (not pydicom.uid.UID(header.syntax).is_little_endian, "a palette in big endian is not read; write it in Explicit VR Little Endian"),
        (source.get("AlphaPaletteColorLookupTableData") or source.get("SegmentedAlphaPaletteColorLookupTableData"),
         "a palette with transparency is not read; write it as RGB"),
        (source.get("PixelPresentation") in ("MIXED", "COLOR"), "a supplemental palette is not read; write it as RGB"),
    ) if applies), "")
    if wrong:
        raise UserError(f"{path}: {wrong}")
    descriptor = source.get("RedPaletteColorLookupTableDescriptor")
    if descriptor is None or len(descriptor) != 3 or int(descriptor[2]) not in (8, 16):
        raise UserError(f"{path}: PALETTE COLOR without a whole RedPaletteColorLookupTableDescriptor; expected three numbers, the last of "
                        "them 8 or 16")
    entries, first, depth = int(descriptor[0]) or 65536, int(descriptor[1]), int(descriptor[2])
    if entries > 256 and "RedPaletteColorLookupTableData" in source and len(source.RedPaletteColorLookupTableData) < 2 * entries:
        raise UserError(f"{path}: a palette of {entries:,} colours in 8 bits each is not read; write it as RGB")
    values, places = np.unique(stored, return_inverse=True)
    inside = np.clip(values.astype(np.int64), first, first + entries - 1)
    shades = np.asarray(pydicom.pixels.apply_color_lut(inside, source))
    if depth == 8 and shades.max() > 255:
        raise UserError(f"{path}: a palette of 8 bits a colour holds {int(shades.max())}; expected 0 to 255")
    return shades[places.reshape(stored.shape)], depth


def square(levels: NDArray[np.float64], stretch: float) -> NDArray[np.float64]:
    """Levels (H, W, C) on square pixels: the side that is sampled more coarsely is interpolated, linearly, to the finer one."""
    axis, times = (0, stretch) if stretch > 1.0 else (1, 1.0 / stretch)
    source = levels.shape[axis]
    target = round(source * times)
    if target == source:
        return levels
    at = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0.0, source - 1.0)
    before = np.floor(at).astype(np.int64)
    share = (at - before).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    after = np.minimum(before + 1, source - 1)
    return levels.take(before, axis) * (1.0 - share) + levels.take(after, axis) * share


def levels_of(path: Path, pydicom: Any, stored: NDArray[Any], header: Header) -> NDArray[Any]:
    """Raw array (H, W, 1 or 3) of stored values."""
    return (grey_levels if header.photometric in GREYS else colours)(path, pydicom, stored, header)
