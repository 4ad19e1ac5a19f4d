"""Inputs that tempt to a wrong answer, folders and files of images that are misread.

Owns: PICTURE_CASES. Does not own: the other cases (catalogue.py), judging (robustness/inputs.py).
"""

from __future__ import annotations

import csv
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.robustness.cases.case import VANILLA, Case, Make, good, picture, spoilt

TINY = VANILLA + " --size 64 --bootstrap 10 --threads 1 --out student"


def tree(*places: tuple[str, int]) -> Make:
    """Folders below data, with so many pictures in each, all different."""

    def make(folder: Path, finished: Path) -> None:
        seed = 0
        for place, count in places:
            for index in range(count):
                seed += 1
                picture(folder / "data" / place / f"{index:02d}.png", seed)

    return make


def in_each(splits: Iterable[tuple[str, int]], classes: Iterable[str] = "ab", where: str = "{split}/{name}") -> Make:
    """Class folders below or above folders of splits."""
    return tree(*((where.format(split=split, name=name), count) for split, count in splits for name in classes))


def rows(folder: Path) -> list[dict[str, str]]:
    """The table of images and splits that a student was made from."""
    with (folder / "student" / "split.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def classes_are(*names: str, images: int | None = None) -> Callable[[Path], str]:
    """A check that these are the classes, and that there are so many images."""

    def check(folder: Path) -> str:
        table = rows(folder)
        seen = sorted({row["label"] for row in table})
        if seen != sorted(names):
            return f"classes are {seen}"
        return f"{len(table)} images, expected {images}" if images not in (None, len(table)) else ""

    return check


def together(place: int) -> Callable[[Path], str]:
    """A check that all images with the same word at a place of their path are in one split."""

    def check(folder: Path) -> str:
        sides: dict[str, set[str]] = {}
        for row in rows(folder):
            sides.setdefault(row["key"].split("/")[place], set()).add(row["split"])
        torn = [name for name, parts in sides.items() if len(parts) > 1]
        return f"{torn} are in several splits" if torn else ""

    return check


def and_also(change: Callable[[Path], object]) -> Make:
    """A good folder with something more in it."""

    def make(folder: Path, finished: Path) -> None:
        good(folder)
        change(folder / "data")

    return make


def masks(folder: Path, finished: Path) -> None:
    """Pictures with their masks beside them, as BUSI is published."""
    for name in ("benign", "malignant"):
        for index in range(12):
            for ending in ("", "_mask", "_mask_1") if index == 3 else ("", "_mask"):
                picture(folder / "data" / name / f"{name} ({index}){ending}.png", len(list(folder.rglob("*.png"))))


def of_systems(data: Path) -> None:
    """What operating systems and network drives leave, and files about images."""
    for name in ("a/@eaDir/00.png/THUMB.jpg", "$RECYCLE.BIN/$R1.png", "System Volume Information/x.png", ".AppleDouble/y.png", "a/._00.png",
                 "__MACOSX/a/z.png", "lost+found/q.png", "a/.ipynb_checkpoints/c.png", "#recycle/w.png"):
        picture(data / name, len(name))
    for name in ("a/Thumbs.db", "a/00.json", "b/00.xml", "a/notes.txt", "b/about.csv"):
        (data / name).write_bytes(b"x")


def near_copies(folder: Path, finished: Path) -> None:
    """Every picture also as a smaller JPEG."""
    generator = np.random.default_rng(0)
    for name in "ab":
        (folder / "data" / name).mkdir(parents=True)
        for index in range(16):
            whole = Image.fromarray(generator.integers(0, 256, (6, 6)).astype(np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
            whole.save(folder / "data" / name / f"{index:02d}.png")
            whole.resize((50, 50)).save(folder / "data" / name / f"{index:02d}.jpg", quality=85)


def no_pair_is_torn(folder: Path) -> str:
    """Wrong when a picture and its JPEG are in two splits."""
    sides: dict[str, set[str]] = {}
    for row in rows(folder):
        sides.setdefault(row["key"][:-4], set()).add(row["split"])
    return f"{sum(len(parts) > 1 for parts in sides.values())} pairs are in two splits" if max(map(len, sides.values())) > 1 else ""


def again(path: Path, name: str) -> None:
    """The picture once more, in another file format and in colour."""
    Image.open(path).convert("RGB").save(path.with_name(name))


def all_as(save: Callable[[Path, np.ndarray], None], suffix: str) -> Make:
    """A good folder in which every picture is saved in another way, from 16-bit levels in three channels."""

    def make(folder: Path, finished: Path) -> None:
        for place, name in enumerate("ab"):
            (folder / "data" / name).mkdir(parents=True)
            for index in range(12):
                levels = np.random.default_rng(100 * place + index).integers(0, 65536, (40, 40, 3)).astype(np.uint16)
                save(folder / "data" / name / f"{index:02d}{suffix}", levels)

    return make


def phone(path: Path, levels: np.ndarray) -> None:
    """A JPEG with a thumbnail behind it."""
    whole = Image.fromarray((levels >> 8).astype(np.uint8))
    whole.save(path, "MPO", save_all=True, append_images=[whole.resize((16, 16))])


def deep_colour(path: Path, levels: np.ndarray) -> None:
    """A PNG of 16 bits a channel."""
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in levels)
    header = struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], 16, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b""))


def seen_as(dtype: str, channels: int) -> Callable[[Path], str]:
    """A check on the depth and channels that the student's data has."""

    def check(folder: Path) -> str:
        data = json.loads((folder / "student" / "manifest.json").read_text())["data"]
        told = (data["dtype"], data["channels"])
        return "" if told == (dtype, channels) else f"pixels are {told}"

    return check


def tiff(tags: dict[int, object], dtype: str) -> Callable[[Path], None]:
    """A small TIFF of these pixels whose tags say something else of them than Pillow would write."""

    def save(path: Path) -> None:
        levels = np.random.default_rng(3).integers(0, 100, (40, 40)).astype(dtype)
        Image.fromarray(levels).save(path, tiffinfo=tags)

    return save


def loop(data: Path) -> None:
    """A folder that leads back to one above it."""
    os.symlink("..", data / "a" / "more")


def moved_and_linked(data: Path) -> None:
    """A class folder that lies elsewhere, behind a link."""
    (data / "b").rename(data.parent / "elsewhere")
    os.symlink(data.parent / "elsewhere", data / "b")


def in_two_splits(folder: Path, finished: Path) -> None:
    """A picture of the training images saved again among the test images."""
    in_each((("train", 6), ("val", 4), ("test", 4)))(folder, finished)
    Image.open(folder / "data/train/a/00.png").save(folder / "data/test/a/again.tif")


PICTURE_CASES: tuple[Case, ...] = (
    # names of splits
    Case("pictures: Training and Testing", TINY, 0, "data ", in_each((("Training", 16), ("Testing", 6))),
         classes_are("a", "b", images=44)),
    Case("pictures: train_set, VAL, test-set", TINY, 0, "data ", in_each((("train_set", 8), ("VAL", 4), ("test-set", 4))),
         classes_are("a", "b", images=32)),
    Case("pictures: images/train below a folder", TINY, 0, "data ", in_each((("train", 16), ("test", 6)), where="images/{split}/{name}"),
         classes_are("a", "b", images=44)),
    Case("pictures: splits below the classes", TINY, 0, "data ", in_each((("train", 16), ("test", 6)), where="{name}/{split}"),
         classes_are("a", "b", images=44)),
    Case("pictures: train1 and train2", VANILLA, 1, "train1", in_each((("train1", 6), ("train2", 6), ("test", 4)))),
    Case("pictures: test and Testing", VANILLA, 1, "several folders for the split test",
         in_each((("train", 6), ("test", 4), ("Testing", 4)))),
    Case("pictures: splits below some classes only", VANILLA, 1, "in no split", tree(("a/train", 6), ("a/test", 4), ("b", 10))),
    # names of classes
    Case("pictures: Normal and NORMAL in two splits", VANILLA, 1, "'NORMAL'", tree(
        ("train/Normal", 6), ("train/b", 6), ("val/NORMAL", 4), ("val/b", 4), ("test/Normal", 4), ("test/b", 4))),
    Case("pictures: No Finding and no_finding", VANILLA, 1, "'no_finding'", tree(
        ("train/No Finding", 6), ("train/b", 6), ("test/no_finding", 4), ("test/b", 4))),
    Case("pictures: a class with a space behind it", VANILLA, 1, "'a '", tree(
        ("train/a", 6), ("train/b", 6), ("test/a ", 4), ("test/b", 4))),
    Case("pictures: a class in two Unicode forms", VANILLA, 1, "spell one class one way", tree(
        ("train/caf\u00e9", 6), ("train/b", 6), ("test/cafe\u0301", 4), ("test/b", 4))),
    Case("pictures: HER2, HER2+ and HER2-", TINY, 0, "data ", tree(("HER2", 12), ("HER2+", 12), ("HER2-", 12)),
         classes_are("HER2", "HER2+", "HER2-")),
    Case("pictures: an empty class folder", VANILLA, 1, "'c' holds no image", and_also(lambda data: (data / "c").mkdir())),
    # patients
    Case("pictures: patients below classes", TINY, 0, "taken as patients", tree(
        *((f"{'ab'[index % 2]}/patient{index:02d}", 3) for index in range(12))), together(1)),
    Case("pictures: patients above classes", TINY, 0, "taken as patients", tree(
        *((f"patient{index:02d}/{name}", 2) for index in range(12) for name in ("benign", "malignant"))),
        classes_are("benign", "malignant")),
    Case("pictures: patients above classes stay together", TINY, 0, "taken as patients", tree(
        *((f"A{index:03d}/{name}", 2) for index in range(12) for name in ("x", "y"))), together(0)),
    Case("pictures: patients without classes", VANILLA, 1, "named like patients", tree(
        *((f"patient{index:02d}", 3) for index in range(12)))),
    Case("pictures: views below classes", TINY, 0, "not taken as patients", tree(
        *((f"{name}/{side}", 8) for name in "ab" for side in ("left", "right"))), classes_are("a", "b", images=32)),
    # what is no image
    Case("pictures: masks beside images", TINY, 0, "26 masks", masks, classes_are("benign", "malignant", images=24)),
    Case("pictures: a class called mask", TINY, 0, "taken as a class", tree(("mask", 12), ("no_mask", 12)), classes_are("mask", "no_mask")),
    Case("pictures: images and masks in two folders", TINY, 0, "24 masks", tree(
        *((f"{kind}/{name}", 12) for kind in ("images", "masks") for name in "ab")), classes_are("a", "b", images=24)),
    Case("pictures: what systems leave", TINY, 0, "4 files that are no images", and_also(of_systems), classes_are("a", "b", images=24)),
    Case("pictures: a link to the folder above", VANILLA, 1, "has no end", and_also(loop)),
    Case("pictures: a link to itself", VANILLA, 1, "me.png", and_also(lambda data: os.symlink("me.png", data / "a" / "me.png"))),
    Case("pictures: a class that is a link", TINY, 0, "data ", and_also(moved_and_linked),
        classes_are("a", "b", images=24)),
    # copies
    Case("pictures: one picture in two files and classes", VANILLA, 1, "contradicting", and_also(
        lambda data: Image.open(data / "a" / "00.png").convert("RGB").save(data / "b" / "again.bmp"))),
    Case("pictures: one picture in two files and splits", VANILLA, 1, "leak", in_two_splits),
    Case("pictures: one picture in two files of a class", TINY, 0, "1 exact copy", and_also(
        lambda data: again(data / "a" / "00.png", "again.tif")), classes_are("a", "b", images=24)),
    Case("pictures: near copies", TINY, 0, "near copies", near_copies, no_pair_is_torn),
    Case("pictures: near copies, let go", TINY + " --keep-together group", 0, "in different splits", near_copies),
    Case("pictures: --keep-together all", VANILLA + " --keep-together all", 2, "keep-together", lambda folder, _: good(folder)),
    # pixels
    Case("pictures: phone JPEGs", TINY, 0, "data ", all_as(phone, ".jpg"), seen_as("uint8", 3)),
    Case("pictures: 16-bit colour", TINY, 0, "data ", all_as(deep_colour, ".png"), seen_as("uint16", 3)),
    Case("pictures: floating-point TIFF", VANILLA, 1, "floating-point", spoilt(tiff({}, "float32"), "a/03.tif")),
    Case("pictures: signed 8-bit TIFF", VANILLA, 1, "signed 8-bit", spoilt(tiff({339: 2}, "uint8"), "a/03.tif")),
    Case("pictures: JPEG 2000 named .jpg", VANILLA, 1, "JPEG 2000", spoilt(
        lambda path: Image.new("L", (40, 40), 9).save(path, "JPEG2000"), "a/03.jpg")),
)
