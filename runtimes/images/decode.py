"""One image file to one raw array, read right or refused with a reason.

Owns: every decision about file formats, modes, orientation and size limits. Does not own: windows, resizing, labels.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from runtimes.errors import UserError
from runtimes.images import dicom_header
from runtimes.images.dicom import read_dicom

MAX_PIXELS = 64_000_000
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
SUFFIXES = (*PICTURES, *dicom_header.SUFFIXES)
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM")
KINDS = {b"GIF8": "a GIF", b"\0\0\0\x0cjP": "JPEG 2000", b"\xff\x4f\xff\x51": "JPEG 2000", b"%PDF": "a PDF", b"\x1f\x8b": "gzip-compressed",
         b"PK\3\4": "a ZIP archive", b"<": "a web page, XML or SVG", b"8BPS": "a Photoshop file", b"\x89HDF": "an HDF5 file"}
BOXES = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC", b"msf1": "HEIC", b"avif": "AVIF", b"avis": "AVIF"}
PHOTOMETRIC, PLANAR, SUBSAMPLING, SAMPLE_FORMAT = 262, 284, 530, 339  # tags of TIFF
LOW_BYTES = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}  # the other byte order begins with the other byte
GREY_STEPS = {"L;2": 85, "L;4": 17}  # white is 255: what a level of a shallow PNG is multiplied by


def decode(path: Path, *, max_pixels: int = MAX_PIXELS, values: bool = False) -> NDArray[Any]:
    """Decode a file to (H, W, 1 or 3), uint8 or uint16, upright by its EXIF orientation; files of DICOM as `read_dicom` says.

    values: of a file of DICOM its physical values, (H, W, 1) of int16; other files have none.
    Raises UserError for a missing, empty, truncated, too large, multi-frame or unsupported file, naming path and reason.
    """
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror})") from None
    if size_bytes == 0:
        raise UserError(f"{path}: the file is empty")
    try:
        # As a stream: Pillow maps files into memory, and shears a TIFF that is turned by a quarter.
        with path.open("rb") as stream:
            if dicom_header.is_dicom(path, stream.read(dicom_header.MAGIC_AT + 4)):
                return read_dicom(path, max_pixels, values=values)
            if values:
                raise UserError(f"{path}: pictures hold grey levels; the windows of this model are about physical values such as HU, which "
                                "files of DICOM, NIfTI volumes and arrays hold")
            stream.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the bomb warning: the cap refuses earlier; metadata warnings: pixels are what counts
                return _picture(path, stream, max_pixels)
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{path}: {_kind(path)}; expected {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise UserError(f"{path}: too many pixels, the limit is {max_pixels:,}") from None
    except ValueError as error:
        if "raw mode" in str(error):  # Pillow knows the form of the pixels, and not how to read it
            raise UserError(f"{path}: {_kind(path)}; expected {', '.join(FORMATS)}") from None
        raise UserError(f"{path}: damaged or truncated (ValueError: {error})") from None
    except (OSError, SyntaxError, TypeError, KeyError, IndexError, EOFError, OverflowError, MemoryError,
            NotImplementedError, AttributeError, RuntimeError, ZeroDivisionError, AssertionError) as error:
        # Pillow's readers raise all of these on damaged files; each means the same to the user.
        raise UserError(f"{path}: damaged or truncated ({type(error).__name__}: {error})") from None
    except Exception as error:  # struct.error, zlib.error and whatever else a codec throws
        raise UserError(f"{path}: damaged ({type(error).__name__}: {error})") from None


def _picture(path: Path, stream: BinaryIO, max_pixels: int) -> NDArray[Any]:
    with Image.open(stream, formats=FORMATS) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise UserError(f"{path}: {width}x{height} pixels, the limit is {max_pixels:,}")
        # Not n_frames: counting 100,000 TIFF pages takes a minute. A phone's second picture is a thumbnail or a depth map.
        if getattr(image, "is_animated", False) and image.format != "MPO":
            raise UserError(f"{path}: holds several frames, expected one image a file")
        raw_mode = _raw_mode(image)
        if unread := _unread_form(image, raw_mode):
            raise UserError(f"{path}: {unread}; save it as 8-bit or 16-bit grey, or as RGB")
        if raw_mode.startswith(("RGB", "LA")) and ";16" in raw_mode:
            return _deep_colour(path, image, raw_mode)
        image.load()
        return _pixels(image, path, raw_mode)


def _kind(path: Path) -> str:
    """What a file that is no readable image is instead, as far as its first bytes tell."""
    with path.open("rb") as stream:
        head = stream.read(12)
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "a TIFF whose kind of pixels is not read; save it as 8-bit or 16-bit grey, or as 8-bit RGB"
    if head[:2] == b"\xff\xd8":
        return "a JPEG of a kind that is not read (lossless or 12-bit, if it is whole)"
    kind = BOXES.get(head[8:12]) if head[4:8] == b"ftyp" else next((name for start, name in KINDS.items() if head.startswith(start)), None)
    return f"{kind}, not an image that can be read" if kind else "not an image that can be read"


def _raw_mode(image: Image.Image) -> str:
    """How the file holds its pixels, in Pillow's words ("RGB;16B"); "" where the format has one way only."""
    tiles: list[Any] = getattr(image, "tile", [])
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments or "")


def _unread_form(image: Image.Image, raw_mode: str) -> str:
    """What Pillow would open and misread: a sentence on it, or ""."""
    tags: Any = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    tiles: list[Any] = getattr(image, "tile", [])
    planes = tags.get(PLANAR, 1) == 2 and image.mode not in ("1", "L", "I", "F") and not image.mode.startswith("I;")
    if image.mode == "F":
        return "pixels are floating-point numbers"
    if image.mode == "L" and 2 in tags.get(SAMPLE_FORMAT, (1,)):
        return "pixels are signed 8-bit numbers"
    if raw_mode in ("LX", "PX") or "XX" in raw_mode or raw_mode.startswith(("CMYKX", "RGBAX", "RGBaX")):
        return "pixels have further channels that are not said to be transparency"
    if raw_mode.startswith("CMYK;16"):
        return "pixels are 16-bit CMYK"
    if planes and 16 in tags.get(258, ()):
        return "16-bit colour is held in one plane a channel"
    if image.format == "TIFF" and image.mode == "YCbCr" and tuple(tags.get(SUBSAMPLING, (2, 2))) != (1, 1):
        return "uncompressed YCbCr pixels share their colour between neighbours"
    if image.format == "PPM" and image.mode == "RGB" and tiles and isinstance(tiles[0][3], tuple) and tiles[0][3][-1] > 255:
        return "it is 16-bit colour in PPM"
    return ""


def _deep_colour(path: Path, image: Image.Image, raw_mode: str) -> NDArray[Any]:
    """16-bit colour or transparency, which Pillow cuts to 8 bits: read twice, once for the high bytes and once for the low ones."""
    halves = []
    kind, _, order = raw_mode.partition(";16")
    whole = "RGBA" if kind in ("RGBA", "RGBa") else kind
    # Grey with transparency is four bytes a pixel, as 8-bit RGBA is.
    for form in ("RGBA",) if kind == "LA" else (f"{whole};16{order}", f"{whole};16{LOW_BYTES[order]}"):
        with path.open("rb") as stream, Image.open(stream, formats=FORMATS) as half:
            opened: Any = half
            opened.tile = [_read_as(tile, form) for tile in opened.tile]
            half.load()
            halves.append(np.asarray(ImageOps.exif_transpose(half)).astype(np.uint16))
    pixels = halves[0][..., 0::2] << 8 | halves[0][..., 1::2] if kind == "LA" else halves[0] << 8 | halves[1]
    clear = image.info.get("transparency")
    if pixels.shape[2] in (2, 4):  # on black, as `_on_black`; premultiplied pixels ("RGBa") are on black as they are
        alpha = pixels[..., -1:].astype(np.float64) / 65535
        pixels = pixels[..., :-1] if kind == "RGBa" else np.rint(pixels[..., :-1] * alpha).astype(np.uint16)
    elif clear is not None:
        pixels[(pixels == np.asarray(clear)).all(axis=-1)] = 0
    return pixels


def _read_as(tile: Any, raw_mode: str) -> Any:
    codec, extents, offset, arguments = tile
    arguments = (raw_mode, *arguments[1:]) if isinstance(arguments, tuple) else raw_mode
    return tile._replace(args=arguments) if hasattr(tile, "_replace") else (codec, extents, offset, arguments)  # plain in Pillow 10


def _pixels(image: Image.Image, path: Path, raw_mode: str) -> NDArray[Any]:
    tags: Any = getattr(image, "tag_v2", {})
    image = ImageOps.exif_transpose(image)
    mode = image.mode
    if mode in ("1", "L", "I;16", "I;16B", "I;16L", "I;16N", "RGB"):
        pixels = np.array(image.convert("L") if mode == "1" else image)
        pixels = pixels.astype(np.uint16)[..., None] if mode.startswith("I") else pixels.reshape(*pixels.shape[:2], -1)
        if mode == "I;16" and tags.get(PHOTOMETRIC) == 0:  # white is zero: Pillow turns 8 bits round, and leaves 16 as they are
            pixels = 65535 - pixels
        clear = image.info.get("transparency")
        if isinstance(clear, int | tuple):  # one level or colour of a PNG is transparent
            pixels[(pixels == np.asarray(clear) * GREY_STEPS.get(raw_mode, 1)).all(axis=-1)] = 0
        return pixels
    if mode in ("LA", "La"):
        return np.asarray(_on_black(image.convert("RGBA")))[..., :1]
    if mode == "I":
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise UserError(f"{path}: signed or 32-bit pixels from {values.min()} to {values.max()}, expected 0 to 65535; "
                            "shift them there and save it as 16-bit grey")
        return values.astype(np.uint16)[..., None]
    if mode in ("P", "PA", "RGBA", "RGBa"):
        return np.asarray(_on_black(image.convert("RGBA")))
    if mode in ("CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
        return np.asarray(image.convert("RGB"))
    raise UserError(f"{path}: pixel mode {mode!r} is not supported; save it as 8-bit or 16-bit grey, or as RGB")


def _on_black(image: Image.Image) -> Image.Image:
    """Lay a picture with transparency on black, the background of medical images."""
    ground = Image.new("RGBA", image.size, (0, 0, 0, 255))
    return Image.alpha_composite(ground, image).convert("RGB")
