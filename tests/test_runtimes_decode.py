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

from runtimes.decode import decode
from runtimes.errors import UserError
from runtimes.images import ImageSpec

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
    code = ("import sys; from pathlib import Path; from runtimes.decode import decode; from runtimes.errors import UserError\n"
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
