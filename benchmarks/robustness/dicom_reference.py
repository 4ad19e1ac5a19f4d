"""What a DICOM image should look like, worked out pixel by pixel with pydicom's own functions: the measure of our reader.

Owns: `reference`, the levels in float64 before they are rounded. Does not own: files and tables (dicom.py), our reader
(runtimes.images.dicom). Written from the standard and pydicom's pages, apart from the reader: no table of levels, no synthetic header.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def reference(path: Path) -> tuple[NDArray[np.float64], float]:
    """Levels (H, W, C) of a file of one frame on its own pixels, and the level of white, 255 or 65535."""
    import pydicom
    import pydicom.pixels

    pixels: Any = pydicom.pixels
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path)
        bits, photometric = int(dataset.BitsStored), str(dataset.PhotometricInterpretation)
        syntax = dataset.file_meta.TransferSyntaxUID
        plugin = ("pydicom" if syntax.name.startswith("RLE") else "pylibjpeg") if syntax.is_encapsulated else ""
        stored = pixels.pixel_array(dataset, decoding_plugin=plugin).astype(np.int64)
        if photometric == "PALETTE COLOR":
            shades = pixels.apply_color_lut(stored, dataset).astype(np.float64)
            return shades, 255.0 if int(dataset.RedPaletteColorLookupTableDescriptor[2]) == 8 else 65535.0
        if stored.ndim == 3:
            white = 255.0 if bits <= 8 else 65535.0
            return stored * (white / (2**bits - 1)), white
        physical = pixels.apply_modality_lut(stored, dataset)
        padding = _padding(dataset, stored)
        transformed = bool(dataset.get("ModalityLUTSequence")) or (
            dataset.get("RescaleSlope") is not None and (float(dataset.RescaleSlope), float(dataset.RescaleIntercept)) != (1.0, 0.0))
        shown = bool(dataset.get("VOILUTSequence")) or dataset.get("WindowCenter") is not None
        white = 65535.0
        if shown:
            low, high = _range(dataset)
            whole = np.asarray(physical, dtype=np.float64)
            values = pixels.apply_voi_lut(whole.astype(np.int64) if dataset.get("VOILUTSequence") else whole, dataset)
            levels = (np.asarray(values, dtype=np.float64) - low) / (high - low) * white
        elif bits <= 8 and not dataset.PixelRepresentation and not transformed:
            white = 255.0
            levels = stored * (white / (2**bits - 1))
        else:
            counted = np.asarray(physical, dtype=np.float64)[~padding]
            low, high = (counted.min(), counted.max()) if counted.size else (0.0, 0.0)
            levels = (physical - low) / (high - low) * white if low < high else np.zeros(stored.shape)
        levels = np.clip(white - levels if photometric == "MONOCHROME1" else levels, 0.0, white)
        levels[padding] = 0.0
    return levels[..., None], white


def _padding(dataset: Any, stored: NDArray[np.int64]) -> NDArray[np.bool_]:
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, dtype=bool)
    limit = dataset.get("PixelPaddingRangeLimit", value)
    return (stored >= min(value, limit)) & (stored <= max(value, limit))


def _range(dataset: Any) -> tuple[float, float]:
    """The range over which pydicom spreads a window, or the entries of the VOI LUT: from black to white."""
    if dataset.get("VOILUTSequence"):
        return 0.0, 2.0 ** int(dataset.VOILUTSequence[0].LUTDescriptor[2]) - 1
    if dataset.get("ModalityLUTSequence"):
        return 0.0, 2.0 ** int(dataset.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    bits = int(dataset.BitsStored)
    low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if dataset.PixelRepresentation else (0.0, 2.0**bits - 1)
    slope, intercept = (float(dataset.get(name, usual)) for name, usual in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0)))
    return low * slope + intercept, high * slope + intercept
