"""What a form of --data names before any image is opened, and MedMNIST files.

Owns: Listing, the order of classes, how the task is read off labels. Does not own: folders (folders.py), CSV (tables.py), names
(named.py), opening images (scan.py), splitting (splits.py).
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from distill.scan import Problem
from runtimes import decode, volumes
from runtimes.errors import USAGE, UserError
from runtimes.scores import TASKS, Task

SUFFIXES = (*decode.SUFFIXES, *volumes.SUFFIXES)
SPLIT_WORDS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
SPLITS = ("train", "val", "test")
DEPTHS = (np.uint8, np.uint16)
NUMBER = re.compile(r"[+-]?[0-9]{1,15}(\.[0-9]{1,15})?")


@dataclass(frozen=True)
class Listing:
    """Rows named by --data: images, keys, labels (as in ImageSet), split ("" if not given), group columns by name."""

    images: Sequence[Path | NDArray[Any]]
    keys: tuple[str, ...]
    labels: NDArray[Any]
    classes: tuple[str, ...]
    task: Task
    split: NDArray[Any]
    groups: dict[str, list[str]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    synthetic: bool = False


def class_order(names: Iterable[str]) -> tuple[tuple[str, ...], bool]:
    """Class names in their order, numbers ascending or else names sorted, and whether all are numbers."""
    distinct = set(names)
    if distinct and all(NUMBER.fullmatch(name) for name in distinct):
        return tuple(sorted(distinct, key=lambda name: (float(name), name))), True
    return tuple(sorted(distinct)), False


def read_task(
    classes: Sequence[str], asked: str | None, numbered: bool, facts: dict[str, Any], ordinal: bool = False,
) -> Task:
    """The task of a set with one label an image: the one asked for if it fits, else read off the number of classes."""
    if asked == "multilabel":
        raise UserError("--task multilabel needs one 0/1 column per finding; this data has one label an image", USAGE)
    if len(classes) < 2:
        found = f"only one class is found ({classes[0]})" if classes else "no label is found"
        raise UserError(f"{found}; expected two classes at least")
    if asked == "binary" and len(classes) != 2:
        raise UserError(f"--task binary needs 2 classes, found {len(classes)}: {', '.join(classes[:10])}", USAGE)
    if asked == "ordinal" or (asked is None and ordinal):
        if not numbered:
            order = " < ".join(classes)
            note = f"ordinal classes sorted by name: {order}; number them to set another order"
            facts.setdefault("notes", []).append(note)
        facts["task_from"] = "--task" if asked else "the set's name"
        return "ordinal"
    if asked in ("binary", "multiclass"):
        facts["task_from"] = "--task"
        return "binary" if asked == "binary" else "multiclass"
    facts["task_from"] = f"{len(classes)} classes"
    return "binary" if len(classes) == 2 else "multiclass"


def check_task(asked: str | None) -> None:
    """Refuse an unknown --task (exit 2)."""
    if asked is not None and asked not in TASKS:
        raise UserError(f"--task {asked} is unknown; expected one of {', '.join(TASKS)}", USAGE)


def _npz_arrays(path: Path) -> tuple[NDArray[Any], NDArray[Any], list[str]]:
    """Images (N, H, W, C), labels (N, C) and split of a MedMNIST file; one part is held twice at most."""
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        names = set(getattr(file, "files", ()))
        parts = [part for part in SPLITS if f"{part}_images" in names and f"{part}_labels" in names]
        if "train" not in parts:
            raise UserError(f"{path} holds {', '.join(sorted(names)[:8]) or 'no named array'}; expected "
                            "train_images, train_labels, and the same for val and test")
        labels = [np.asarray(file[f"{part}_labels"]) for part in parts]
        labels = [one[:, None] if one.ndim == 1 else one for one in labels]
        if any(one.ndim != 2 or one.shape[1:] != labels[0].shape[1:] or one.dtype.kind not in "biuf" for one in labels):
            shapes = ", ".join(f"{one.dtype} {one.shape}" for one in labels)
            raise UserError(f"{path}: labels are {shapes}; expected numbers of shape (N, 1) or (N, findings)")
        total, start, images = sum(len(one) for one in labels), 0, np.empty((0,))
        for part, own in zip(parts, labels, strict=True):
            block = file[f"{part}_images"]
            block = block[..., None] if block.ndim == 3 else block
            if block.ndim != 4 or block.shape[3] not in (1, 3) or block.dtype not in DEPTHS or not block.size:
                raise UserError(f"{path}: {part}_images is {block.dtype} of shape {block.shape}; expected uint8 or "
                                "uint16, (N, H, W) or (N, H, W, 1 or 3): volumes are not read here")
            if len(block) != len(own):
                raise UserError(f"{path}: {part} has {len(block)} images and {len(own)} labels; expected as many")
            if start == 0:
                images = np.empty((total, *block.shape[1:]), dtype=block.dtype)
            elif block.shape[1:] != images.shape[1:] or block.dtype != images.dtype:
                raise UserError(f"{path}: {part}_images is {block.dtype} {block.shape[1:]}, "
                                f"train_images {images.dtype} {images.shape[1:]}; expected all alike")
            images[start:start + len(block)] = block
            start += len(block)
    split = [part for part, own in zip(parts, labels, strict=True) for _ in range(len(own))]
    return images, np.concatenate(labels), split


def list_npz(path: Path, task: str | None, names: Sequence[str] = ()) -> Listing:
    """List a MedMNIST file; classes are `names` by label value, or else the numbers; UserError for a broken file."""
    try:
        images, given, parts = _npz_arrays(path)
    except (OSError, ValueError, TypeError, AttributeError, EOFError, KeyError, RuntimeError, MemoryError,
            zipfile.BadZipFile, zlib.error) as error:  # numpy and zipfile raise all of these on damaged files
        raise UserError(f"{path} is not a readable MedMNIST .npz ({type(error).__name__}: {str(error)[:120]}); "
                        "fetch it again") from None
    place = [f"{part}/{index}" for part in SPLITS for index in range(parts.count(part))]
    # MedMNIST's sets are published with copies in them and compared on that split: copies are told, not refused.
    published = re.match(r"[a-z]+mnist", path.stem.lower()) is not None and set(parts) == set(SPLITS)
    facts: dict[str, Any] = {"form": "npz", "published": published}
    problems: list[Problem] = []
    kind: Task
    if given.shape[1] > 1:
        if task not in (None, "multilabel"):
            raise UserError(f"--task {task} needs one label an image; {path} has {given.shape[1]} findings each", USAGE)
        labels = given.astype(np.float32)
        wrong = np.flatnonzero(~(np.isnan(labels) | (labels == 0) | (labels == 1)).all(axis=1))
        labels[wrong] = np.nan
        classes = tuple(names) or tuple(str(index) for index in range(given.shape[1]))
        if len(classes) != given.shape[1]:
            raise UserError(f"{path} has {given.shape[1]} findings, that set {len(classes)}; fetch it again")
        kind, facts["task_from"] = "multilabel", "--task" if task else f"{len(classes)} findings an image"
    else:
        column = given[:, 0]
        fits = (column == np.floor(column)) & (column >= 0) & (column < (len(names) or np.inf))
        wrong = np.flatnonzero(~fits)
        values = [int(value) for value in np.unique(column[fits])]
        classes = tuple(names) or tuple(str(value) for value in values)
        kind = read_task(classes, task, True, facts, ordinal=path.stem.lower().startswith("retinamnist"))
        labels = np.full(len(column), -1, dtype=np.int64)
        whole = column[fits].astype(np.int64)
        labels[fits] = whole if names else np.searchsorted(values, whole)
    problems += [Problem(place[row], "wrongly labelled", f"label {given[row].tolist()}", row) for row in wrong.tolist()]
    rows = cast("Sequence[NDArray[Any]]", images)  # an array of images is a sequence of them, though not by type
    return Listing(rows, tuple(place), labels, classes, kind, np.asarray(parts, dtype=object), {}, problems, facts)
