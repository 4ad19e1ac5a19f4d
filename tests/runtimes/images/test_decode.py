"""Files to pixels: formats and depths against Pillow's own values, and everything broken or hostile refused with its path."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import time
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from runtimes.errors import UserError
from runtimes.images.decode import decode
from runtimes.images.spec import ImageSpec

SPEC = ImageSpec(16, 24, 1)


def picture(height: int = 24, width: int = 40, channels: int = 3, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, channels), dtype=np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png_of_size(width: int, height: int, *, body: bool) -> bytes:
    """A grey PNG of any size from a few bytes: zeros compress a thousandfold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = b""
    if body:
        packer = zlib.compressobj(9)
        pixels = b"".join(packer.compress(bytes(width + 1)) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def tiff_of_frames(count: int) -> bytes:
    """A grey TIFF whose pages all point to the same 8x8 pixels."""

    def page(after: int) -> bytes:
        tags = [(256, 3, 8), (257, 3, 8), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 3, 8), (279, 4, 64)]
        return struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags) + \
            struct.pack("<I", after)

    size, start = len(page(0)), 8 + 64
    pages = (page(start + (index + 1) * size if index < count - 1 else 0) for index in range(count))
    return struct.pack("<2sHI", b"II", 42, start) + bytes(range(64)) + b"".join(pages)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 3), ("P", 3), ("1", 1), ("LA", 1)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_an_eight_bit_image_becomes_grey_or_colour(tmp_path: Path, mode: str, channels: int, kind: str) -> None:
    if kind == "TIFF" and mode == "LA":
        pytest.skip("Pillow writes no such TIFF")
    image = Image.fromarray(picture()).convert(mode)
    path = tmp_path / "image"
    path.write_bytes(encoded(image, kind))
    found = decode(path)
    assert found.dtype == np.uint8
    assert found.shape == (24, 40, channels)
    wanted = np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(found.shape)
    assert np.array_equal(found, wanted)


def test_a_sixteen_bit_ramp_keeps_every_level(tmp_path: Path) -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    for name, values in {"a.png": ramp, "b.tiff": ramp, "c.tiff": ramp.astype(np.int32)}.items():
        image = Image.fromarray(values)
        image.save(tmp_path / name)
        found = decode(tmp_path / name)
        assert found.dtype == np.uint16
        assert np.array_equal(found[..., 0], ramp), name
    levels = ImageSpec(256, 256, 1, "uint16", (0.0, 65535.0)).stored(found)[..., 0].reshape(-1).astype(int)
    assert (np.diff(levels) >= 0).all()
    assert len(np.unique(levels)) >= 250


def test_what_lies_under_transparency_is_black(tmp_path: Path) -> None:
    pixels = np.full((16, 16, 4), 200, dtype=np.uint8)
    pixels[:, :8, 3] = 0
    pixels[:, 8:, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = decode(tmp_path / "a.png")
    assert (found[:, :8] == 0).all()
    assert (found[:, 8:] == 200).all()


def test_all_eight_exif_orientations_give_the_same_pixels(tmp_path: Path) -> None:
    upright = picture()
    undo = {1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270}
    tensors = []
    for orientation, turn in undo.items():
        image = Image.fromarray(upright)
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.png"
        (image if turn is None else image.transpose(turn)).save(path, exif=exif)
        found = decode(path)
        assert np.array_equal(found, upright), orientation
        tensors.append(SPEC.normalised(SPEC.stored(found)[None]))
    assert all(np.array_equal(one, tensors[0]) for one in tensors)


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("mode", ["L", "I;16", "RGB"])
def test_a_tiff_turned_by_a_quarter_is_not_sheared(tmp_path: Path, mode: str, compression: str | None) -> None:
    levels = picture(channels=1)[..., 0]
    image = Image.fromarray(levels.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(levels).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.tif", exif=exif, compression=compression)
    assert np.array_equal(decode(tmp_path / "a.tif"), np.asarray(image).reshape(24, 40, -1))


def png(levels: np.ndarray, kind: int, *, clear: bytes = b"") -> bytes:
    """A PNG of 16 bits a channel; kind: 0 grey, 2 colour, 4 grey and 6 colour with transparency."""
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], 16, kind, 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in levels)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + (chunk(b"tRNS", clear) if clear else b"")
            + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b""))


def tiff(levels: np.ndarray, photometric: int, order: str = "<", extra: int | None = None, planar: int = 1, signed: bool = False) -> bytes:
    """An uncompressed TIFF; photometric: 0 white is zero, 1 black is zero, 2 colour. extra: what the last channel is."""
    height, width, channels = levels.shape
    bits = levels.dtype.itemsize * 8
    data = (levels if planar == 1 else np.moveaxis(levels, -1, 0)).astype(levels.dtype.newbyteorder(order)).tobytes()
    rows = {256: [width], 257: [height], 258: [bits] * channels, 259: [1], 262: [photometric], 277: [channels], 278: [height],
            284: [planar],
            **({338: [extra]} if extra is not None else {}), **({339: [2] * channels} if signed else {})}
    size = len(data) // (channels if planar == 2 else 1)
    strips = channels if planar == 2 else 1
    count = len(rows) + 2
    beyond = 8 + 2 + 12 * count + 4
    body, tail = b"", b""
    for tag in sorted([*rows, 273, 279]):
        long = tag in (273, 279)
        values = [0] * strips if tag == 273 else [size] * strips if tag == 279 else rows[tag]
        if tag == 273:
            values = [beyond + 256 + size * strip for strip in range(strips)]
        packed = struct.pack(f"{order}{len(values)}{'I' if long else 'H'}", *values)
        if len(packed) > 4:
            packed, tail = struct.pack(f"{order}I", beyond + len(tail)), tail + packed
        body += struct.pack(f"{order}HHI", tag, 4 if long else 3, len(values)) + packed.ljust(4, b"\0")
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(f"{order}IH", 8, count) + body + bytes(4) + tail.ljust(256, b"\0") + data


def deep(channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 65536, (24, 40, channels)).astype(np.uint16)


@pytest.mark.parametrize("alpha", [65535, 30000, 0])
def test_sixteen_bit_colour_and_transparency_keep_every_level(tmp_path: Path, alpha: int) -> None:
    colour, grey = deep(3), deep(1)
    veil = np.full((24, 40, 1), alpha, dtype=np.uint16)
    faded = np.rint(colour * (alpha / 65535)).astype(np.uint16)
    wanted = {
        "a.png": (png(colour, 2), colour), "b.png": (png(np.dstack([colour, veil]), 6), faded),
        "c.png": (png(np.dstack([grey, veil]), 4), np.rint(grey * (alpha / 65535)).astype(np.uint16)),
        "d.tif": (tiff(colour, 2), colour), "e.tif": (tiff(colour, 2, ">"), colour),
        "f.tif": (tiff(np.dstack([colour, veil]), 2, extra=2), faded), "g.tif": (tiff(np.dstack([faded, veil]), 2, extra=1), faded),
        "h.tif": (tiff(np.dstack([colour, veil]), 2, extra=0), colour)}
    for name, (data, levels) in wanted.items():
        (tmp_path / name).write_bytes(data)
        found = decode(tmp_path / name)
        assert found.dtype == np.uint16, name
        assert np.array_equal(found, levels), name


def test_white_may_be_zero_in_any_depth(tmp_path: Path) -> None:
    grey = deep(1)
    for name, levels, photometric, wanted in (("a.tif", grey, 0, 65535 - grey), ("b.tif", grey, 1, grey), (
            "c.tif", (grey >> 8).astype(np.uint8), 0, 255 - (grey >> 8))):
        (tmp_path / name).write_bytes(tiff(levels, photometric))
        assert np.array_equal(decode(tmp_path / name), wanted), name


def test_a_level_that_is_transparent_is_black(tmp_path: Path) -> None:
    grey, colour = deep(1), deep(3)
    (tmp_path / "a.png").write_bytes(png(grey, 0, clear=struct.pack(">H", int(grey[0, 0, 0]))))
    (tmp_path / "b.png").write_bytes(png(colour, 2, clear=struct.pack(">HHH", *map(int, colour[0, 0]))))
    levels = (grey[..., 0] >> 8).astype(np.uint8)
    Image.fromarray(levels).save(tmp_path / "c.png", transparency=int(levels[0, 0]))
    assert np.array_equal(decode(tmp_path / "a.png"), np.where(grey == grey[0, 0], 0, grey))
    assert np.array_equal(decode(tmp_path / "b.png"), np.where((colour == colour[0, 0]).all(axis=-1, keepdims=True), 0, colour))
    assert np.array_equal(decode(tmp_path / "c.png")[..., 0], np.where(levels == levels[0, 0], 0, levels))


def test_the_first_picture_of_a_phone_is_read(tmp_path: Path) -> None:
    whole = Image.fromarray(picture())
    whole.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[whole.resize((8, 8))], quality=95, subsampling=0)
    whole.save(tmp_path / "b.jpg", quality=95, subsampling=0)
    assert np.array_equal(decode(tmp_path / "a.jpg"), decode(tmp_path / "b.jpg"))


@pytest.mark.parametrize(("name", "data", "told"), [
    ("planes.tif", tiff(deep(3), 2, planar=2), "one plane a channel"),
    ("white.tif", tiff(deep(1), 0, ">"), "a TIFF whose kind of pixels is not read"),
    ("signed.tif", tiff((deep(1) >> 8).astype(np.uint8), 1, signed=True), "signed 8-bit"),
    ("below.tif", tiff(deep(1), 1, signed=True), "signed or 32-bit pixels from -"),
    ("two.tif", tiff((deep(2) >> 8).astype(np.uint8), 1, extra=0), "further channels"),
    ("float.tif", encoded(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF"), "floating-point"),
    ("other.jpg", encoded(Image.fromarray(picture()), "JPEG2000"), "JPEG 2000"),
    ("page.png", b"<!doctype html>", "a web page"),
])
def test_what_is_not_read_says_what_it_is(tmp_path: Path, name: str, data: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=told) as caught:
        decode(tmp_path / name)
    assert name in str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "WEBP"])
@pytest.mark.parametrize("percent", [0, 1, 10, 50, 90, 99])
def test_a_truncated_file_is_refused_with_its_path(tmp_path: Path, kind: str, percent: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    path = tmp_path / f"cut.{kind.lower()}"
    path.write_bytes(data[:len(data) * percent // 100])
    with pytest.raises(UserError, match="cut"):
        decode(path)


def test_bombs_are_refused_within_a_second_and_200_mib(tmp_path: Path) -> None:
    files = {"a.png": png_of_size(10240, 10240, body=True), "b.png": png_of_size(20480, 10240, body=True),
             "c.png": png_of_size(65535, 65535, body=False), "d.tiff": tiff_of_frames(100_000)}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        start = time.monotonic()
        with pytest.raises(UserError, match=name):
            decode(tmp_path / name)
        assert time.monotonic() - start < 1.0, name
    # VmHWM, not ru_maxrss: the latter still carries the peak of the process that started this one.
    code = ("import sys; from pathlib import Path; from runtimes.images.decode import decode; from runtimes.errors import UserError\n"
            "for name in sys.argv[1:]:\n    try: decode(Path(name))\n    except UserError: pass\n    else: raise SystemExit(9)\n"
            "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))")
    paths = [str(tmp_path / name) for name in files]
    run = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    assert int(run.stdout) * 1024 < 200 * 2**20


def test_animations_and_several_pages_are_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(picture(seed=seed)) for seed in range(3)]
    for kind in ("PNG", "TIFF", "WEBP"):
        frames[0].save(tmp_path / "many", kind, save_all=True, append_images=frames[1:])
        with pytest.raises(UserError, match="several frames"):
            decode(tmp_path / "many")


def test_missing_empty_and_foreign_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "picture.gif").write_bytes(encoded(Image.fromarray(picture()), "GIF"))
    reasons = {"none.png": "cannot be opened", "empty.png": "empty", "text.png": "not an image", "picture.gif": "not an image"}
    for name, reason in reasons.items():
        with pytest.raises(UserError, match=reason) as caught:
            decode(tmp_path / name)
        assert name in str(caught.value)
    with pytest.raises(UserError):
        decode(tmp_path)


SEEDS = [encoded(Image.fromarray(picture()), kind) for kind in ("PNG", "JPEG", "TIFF", "BMP", "WEBP")]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_give_pixels_or_a_user_error(tmp_path: Path, data: st.DataObject) -> None:
    damaged = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, min(len(damaged) - 1, 400)))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged"
    path.write_bytes(damaged)
    with suppress(UserError):
        pixels = decode(path)
        assert pixels.ndim == 3
        assert pixels.shape[2] in (1, 3)
        assert pixels.dtype in (np.uint8, np.uint16)
