"""Archives of arrays in the layout of MedMNIST (.npz): images or volumes, their labels, their split.

Owns: list_npz. Does not own: sets known by name (named.py), how a volume becomes a network's input (runtimes.images.volumes).
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from distill.data.scan import BadImage
from distill.data.sources import SPLITS, Listing, read_task
from runtimes.errors import USAGE, UserError
from runtimes.scores import Task

DEPTHS = (np.uint8, np.uint16)
LAYOUTS = (("{}_images", "{}_labels"), ("x_{}", "y_{}"), ("X_{}", "y_{}"), ("{}_x", "{}_y"), ("{}_data", "{}_labels"))
WHOLE = (("images", "labels"), ("x", "y"), ("X", "y"), ("data", "labels"))
WORDS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
FEWEST_SLICES = 5  # of a volume; an axis of 1 to 4 is one of channels
SMALLEST_SIDE = 8


def _pairs(names: set[str]) -> list[tuple[str, str, str]]:
    """Split ("" where there is none), name of the images and of the labels, of every part that an archive holds."""
    parts = [(part, images.format(word), labels.format(word)) for part, words in WORDS.items() for word in words
             for images, labels in LAYOUTS]
    present = [pair for pair in parts if pair[1] in names and pair[2] in names]
    if not present:
        present = [("", images, labels) for images, labels in WHOLE if images in names and labels in names][:1]
    return present


def _arrays(path: Path) -> tuple[NDArray[Any], NDArray[Any], list[str]]:
    """Images (N, H, W, C) or volumes (N, D, H, W, 1), labels (N, C) and splits of an archive; one part is held twice at most."""
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        pairs = _pairs(set(getattr(file, "files", ())))
        parts = [part for part, _, _ in pairs]
        if not pairs or ("train" not in parts and parts != [""]) or len(set(parts)) < len(parts):
            names = ", ".join(sorted(getattr(file, "files", ()))[:8]) or "no named array"
            raise UserError(f"{path} holds {names}; expected train_images, train_labels, and the same for val and test, or images and "
                            "labels")
        labels = [np.asarray(file[name]) for _, _, name in pairs]
        labels = [own[:, None] if own.ndim == 1 else own for own in labels]
        if any(own.ndim != 2 or own.shape[1:] != labels[0].shape[1:] or own.dtype.kind not in "biuf" or not own.shape[1] for own in labels):
            shapes = ", ".join(f"{own.dtype} {own.shape}" for own in labels)
            raise UserError(f"{path}: labels are {shapes}; expected numbers of shape (N, 1) or (N, findings)")
        total, start, images = sum(len(own) for own in labels), 0, np.empty((0,))
        for (_, name, _), own in zip(pairs, labels, strict=True):
            block = _block(path, name, file[name])
            if len(block) != len(own):
                raise UserError(f"{path}: {name} holds {len(block)} images for {len(own)} labels; expected as many")
            if start == 0:
                images = np.empty((total, *block.shape[1:]), dtype=block.dtype)
            elif block.shape[1:] != images.shape[1:] or block.dtype != images.dtype:
                raise UserError(f"{path}: {name} is {block.dtype} {block.shape[1:]}, {pairs[0][1]} {images.dtype} {images.shape[1:]}; "
                                "expected all alike")
            images[start:start + len(block)] = block
            start += len(block)
    return images, np.concatenate(labels), [part for part, own in zip(parts, labels, strict=True) for _ in range(len(own))]


def _block(path: Path, name: str, block: NDArray[Any]) -> NDArray[Any]:
    """An array of images as (N, H, W, C), of volumes as (N, D, H, W, 1); UserError for anything else."""
    wrong = f"{path}: {name} is {block.dtype} of shape {block.shape}; "
    shapes = "uint8 or uint16 images (N, H, W) or (N, H, W, 1 or 3), or volumes (N, slices, H, W) of numbers"
    if block.ndim == 4 and block.shape[1] in (1, 3) and block.shape[3] not in (1, 3):
        raise UserError(f"{wrong}channels stand before rows: transpose it to (N, H, W, {block.shape[1]})")
    volumes = (block.ndim == 5 and block.shape[4] == 1) or (block.ndim == 4 and block.shape[3] not in (1, 3))
    if volumes:
        block = block if block.ndim == 5 else block[..., None]
        if block.dtype.kind not in "uif" or not block.size or block.shape[1] < FEWEST_SLICES or min(block.shape[2:4]) < SMALLEST_SIDE:
            raise UserError(f"{wrong}expected {shapes}, of {FEWEST_SLICES} slices and {SMALLEST_SIDE} pixels a side at least")
        return block
    block = block[..., None] if block.ndim == 3 else block
    if block.ndim != 4 or block.shape[3] not in (1, 3) or not block.size:
        raise UserError(f"{wrong}expected {shapes}")
    if block.dtype not in DEPTHS:
        raise UserError(f"{wrong}expected {shapes}; scale the grey levels to whole numbers from 0 to 255")
    return block


def list_npz(path: Path, task: str | None, names: Sequence[str] = ()) -> Listing:
    """List an archive; classes are `names` by label value, or else the numbers; UserError for a broken file."""
    try:
        images, table, parts = _arrays(path)
    except (OSError, ValueError, TypeError, AttributeError, EOFError, KeyError, RuntimeError, MemoryError,
            zipfile.BadZipFile, zlib.error) as error:  # numpy and zipfile raise all of these on damaged files
        raise UserError(f"{path} is not a readable MedMNIST .npz ({type(error).__name__}: {str(error)[:120]}); "
                        "fetch it again") from None
    place = [f"{part}/{index}" if part else str(index) for part in dict.fromkeys(parts) for index in range(parts.count(part))]
    # MedMNIST's sets are published with copies in them and compared on that split: copies are told, not refused.
    published = re.match(r"[a-z]+mnist", path.stem.lower()) is not None and set(parts) == set(SPLITS)
    facts: dict[str, Any] = {"form": "npz", "published": published, "notes": []}
    problems: list[BadImage] = []
    kind: Task
    exclusive = table.shape[1] > 1 and bool(np.isin(table, (0, 1)).all() and (table.sum(axis=1) == 1).all())
    if exclusive and task in ("binary", "multiclass"):
        table = table.argmax(axis=1)[:, None]
    elif exclusive and task is None:
        which = "binary" if table.shape[1] == 2 else "multiclass"
        facts["notes"].append(f"exactly one of {table.shape[1]} labels is 1 in every row: --task {which} reads them as one label an image")
    if table.shape[1] > 1:
        if task not in (None, "multilabel"):
            raise UserError(f"--task {task} needs one label an image; {path} has {table.shape[1]} findings each", USAGE)
        labels = table.astype(np.float32)
        wrong = np.flatnonzero(~(np.isnan(labels) | (labels == 0) | (labels == 1)).all(axis=1))
        labels[wrong] = np.nan
        classes = tuple(names) or tuple(str(index) for index in range(table.shape[1]))
        if len(classes) != table.shape[1]:
            raise UserError(f"{path} has {table.shape[1]} findings, that set {len(classes)}; fetch it again")
        kind, facts["task_from"] = "multilabel", "--task" if task else f"{len(classes)} findings an image"
    else:
        column = table[:, 0]
        fits = (column == np.floor(column)) & (column >= 0) & (column < (len(names) or 2**31))
        wrong = np.flatnonzero(~fits)
        if len(wrong) > 0.1 * len(column):
            examples = ", ".join(f"{value:g}" for value in np.unique(column[wrong])[:3])
            raise UserError(f"{path}: {len(wrong):,} of {len(column):,} labels are no class 0, 1, 2 and so on, such as {examples}, which "
                            "looks like a measured number; this tool classifies: bin them")
        values = [int(value) for value in np.unique(column[fits])]
        classes = tuple(names) or tuple(str(value) for value in values)
        kind = read_task(classes, task, True, facts, ordinal=path.stem.lower().startswith("retinamnist"))
        labels = np.full(len(column), -1, dtype=np.int64)
        whole = column[fits].astype(np.int64)
        labels[fits] = whole if names else np.searchsorted(values, whole)
    problems += [BadImage(place[row], "wrongly labelled", f"label {table[row].tolist()}", row) for row in wrong.tolist()]
    rows = cast("Sequence[NDArray[Any]]", images)  # an array of images is a sequence of them, though not by type
    return Listing(rows, tuple(place), labels, classes, kind, np.asarray(parts, dtype=object), {}, problems, facts)
