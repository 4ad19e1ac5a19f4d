"""The pixel store: exactly the grey levels of the image spec, made once, made again when anything differs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import tiny_images, tiny_spec

from distill.data.image_set import ImageSet
from distill.data.pixels import build_pixels
from runtimes.errors import UserError
from runtimes.images.spec import ImageSpec


def as_files(folder: Path, images: ImageSet) -> ImageSet:
    folder.mkdir()
    paths = []
    for key, image in zip(images.keys, images.images, strict=True):
        paths.append(folder / key)
        Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(paths[-1])
    return replace(images, images=paths)


@pytest.mark.parametrize("channels", [1, 3])
def test_rows_are_the_stored_levels_of_the_spec(tmp_path: Path, channels: int) -> None:
    images = tiny_images(size=40, channels=channels)
    spec = tiny_spec(channels=channels)
    store = build_pixels(tmp_path / "run", images, spec)
    assert store.levels.shape == (32, 32, 32, channels)
    picked = np.asarray([5, 0, 31, 5])
    np.testing.assert_array_equal(store.rows(picked), np.stack([spec.stored(images.raw(int(row))) for row in picked]))
    np.testing.assert_array_equal(build_pixels(tmp_path / "files", as_files(tmp_path / "images", images), spec).levels, store.levels)


def test_a_second_opening_decodes_nothing(tmp_path: Path) -> None:
    images = as_files(tmp_path / "images", tiny_images())
    first = build_pixels(tmp_path / "run", images, tiny_spec()).levels.copy()
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    told: list[tuple[int, int]] = []
    again = build_pixels(tmp_path / "run", images, tiny_spec(), lambda done, total: told.append((done, total)))
    np.testing.assert_array_equal(again.levels, first)
    assert not told


@pytest.mark.parametrize("change", ["spec", "images", "order", "size", "cut", "note", "torn note"])
def test_it_is_made_again_when_anything_differs(tmp_path: Path, change: str) -> None:
    images, spec = tiny_images(), tiny_spec()
    build_pixels(tmp_path / "run", images, spec)
    file = tmp_path / "run" / "pixels.u8"
    if change == "spec":
        spec = replace(spec, window=(0.0, 100.0))
    elif change == "images":
        images = tiny_images(seed=1)
    elif change == "order":
        order = list(reversed(range(len(images))))
        images = replace(images, images=[images.images[row] for row in order], hashes=tuple(images.hashes[row] for row in order))
    elif change == "size":
        spec = replace(spec, height=24, width=24)
    elif change == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif change == "torn note":
        (tmp_path / "run" / "pixels.json").write_text('{"images": "')
    else:
        (tmp_path / "run" / "pixels.json").unlink()
    told: list[tuple[int, int]] = []
    store = build_pixels(tmp_path / "run", images, spec, lambda done, total: told.append((done, total)))
    assert told[-1] == (32, 32)
    np.testing.assert_array_equal(store.levels, np.stack([spec.stored(images.raw(row)) for row in range(32)]))


def test_flipped_bits_are_noticed_and_made_again(tmp_path: Path) -> None:
    images, spec = tiny_images(), tiny_spec()
    whole = build_pixels(tmp_path / "run", images, spec).levels.copy()
    file = tmp_path / "run" / "pixels.u8"
    random = np.random.default_rng(0)
    for _ in range(20):
        data = bytearray(file.read_bytes())
        data[int(random.integers(len(data)))] ^= 1 << int(random.integers(8))
        file.write_bytes(data)
        np.testing.assert_array_equal(build_pixels(tmp_path / "run", images, spec).levels, whole)


def test_a_build_that_dies_is_not_taken_for_a_store(tmp_path: Path) -> None:
    images = as_files(tmp_path / "images", tiny_images())
    (tmp_path / "images" / images.keys[20]).write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"image20\.png"):
        build_pixels(tmp_path / "run", images, tiny_spec())
    assert not (tmp_path / "run" / "pixels.json").exists()


def test_sixteen_bit_images_are_windowed(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = replace(tiny_images(counts=(4, 1, 1)), images=[random.integers(0, 5000, (20, 30, 1), dtype=np.uint16) for _ in range(6)])
    spec = ImageSpec(32, 32, 1, "uint16", (500.0, 3000.0))
    store = build_pixels(tmp_path / "run", images, spec)
    assert store.levels.dtype == np.uint8
    np.testing.assert_array_equal(store.rows(np.arange(6)), np.stack([spec.stored(images.raw(row)) for row in range(6)]))


def test_released_pages_are_read_again(tmp_path: Path) -> None:
    store = build_pixels(tmp_path / "run", tiny_images(), tiny_spec())
    before = store.rows(np.arange(32))
    store.release()
    np.testing.assert_array_equal(store.rows(np.arange(32)), before)
    assert not store.levels.flags.writeable
