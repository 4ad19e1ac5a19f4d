"""One image file to one raw array, read right or refused with a reason.

Owns: every decision about file formats, modes, orientation and size limits. Does not own: windows, resizing, labels.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from runtimes.errors import UserError

MAX_PIXELS = 64_000_000
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM")


def decode(path: Path, *, max_pixels: int = MAX_PIXELS) -> NDArray[Any]:
    """Decode a file to (H, W, 1 or 3), uint8 or uint16, upright by its EXIF orientation.

    Raises UserError for a missing, empty, truncated, too large, multi-frame or unsupported file, naming path and reason.
    """
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror})") from None
    if size_bytes == 0:
        raise UserError(f"{path}: the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the bomb warning: the cap below refuses earlier; metadata warnings: pixels are what counts
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise UserError(f"{path}: {width}x{height} pixels, the limit is {max_pixels:,}")
                if getattr(image, "is_animated", False):  # not n_frames: counting 100,000 TIFF pages takes a minute
                    raise UserError(f"{path}: holds several frames, expected one image a file")
                image.load()
                return _pixels(ImageOps.exif_transpose(image), path)
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{path}: not an image that can be read; expected {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise UserError(f"{path}: too many pixels, the limit is {max_pixels:,}") from None
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError, MemoryError,
            NotImplementedError, AttributeError, RuntimeError, ZeroDivisionError, AssertionError) as error:
        # Pillow's readers raise all of these on damaged files; each means the same to the user.
        raise UserError(f"{path}: damaged or truncated ({type(error).__name__}: {error})") from None
    except Exception as error:  # struct.error, zlib.error and whatever else a codec throws
        raise UserError(f"{path}: damaged ({type(error).__name__}: {error})") from None


def _pixels(image: Image.Image, path: Path) -> NDArray[Any]:
    mode = image.mode
    if mode in ("1", "L"):
        return np.asarray(image.convert("L"))[..., None]
    if mode in ("LA", "La"):
        return np.asarray(_on_black(image.convert("RGBA")))[..., :1]
    if mode in ("I;16", "I;16B", "I;16L", "I;16N"):
        return np.asarray(image).astype(np.uint16)[..., None]
    if mode == "I":
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise UserError(f"{path}: 32-bit values from {values.min()} to {values.max()}, expected 0 to 65535")
        return values.astype(np.uint16)[..., None]
    if mode in ("P", "PA", "RGBA", "RGBa"):
        return np.asarray(_on_black(image.convert("RGBA")))
    if mode in ("RGB", "CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
        return np.asarray(image.convert("RGB"))
    raise UserError(f"{path}: pixel mode {mode!r} is not supported; save it as 8-bit or 16-bit grey, or as RGB")


def _on_black(image: Image.Image) -> Image.Image:
    """Lay a picture with transparency on black, the background of medical images."""
    ground = Image.new("RGBA", image.size, (0, 0, 0, 255))
    return Image.alpha_composite(ground, image).convert("RGB")
