"""What a form of --data names before any image is opened, and folders of class folders.

Owns: Listing, the walk over image files, the order of classes, how the task is read off labels. Does not own: CSV
(tables.py), archives (archives.py), names (named.py), opening images (scan.py), splitting (splits.py).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.scan import Problem
from runtimes import decode, volumes
from runtimes.errors import USAGE, UserError
from runtimes.scores import TASKS, Task

SUFFIXES = (*decode.SUFFIXES, *volumes.SUFFIXES)
SPLIT_WORDS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
SPLITS = ("train", "val", "test")
SYSTEM_FILES = {"thumbs.db", "desktop.ini", "__macosx"}
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


def hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's: hidden, or left by an operating system."""
    return name.startswith(".") or name.lower() in SYSTEM_FILES


def image_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files below a folder in sorted order: those with an image's suffix, and all others."""
    images: list[Path] = []
    others: list[Path] = []
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not hidden(name))
        for name in sorted(names):
            if not hidden(name):
                (images if name.lower().endswith(SUFFIXES) else others).append(Path(where) / name)
    return images, others


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


def list_folder(root: Path, task: str | None) -> Listing:
    """List class folders, straight below `root` or below train, val (valid, validation) and test."""
    top = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not hidden(entry.name))
    lower = {name.lower() for name in top}
    parted = "train" in lower or (bool(top) and lower <= set(SPLIT_WORDS))
    if parted and (strange := [name for name in top if name.lower() not in SPLIT_WORDS]):
        raise UserError(f"{root} has a train folder and also {', '.join(strange[:5])}; expected train, val and test")
    bases = [(root / name, SPLIT_WORDS[name.lower()]) for name in top] if parted else [(root, "")]
    twice = [name for name, count in Counter(split for _, split in bases).items() if count > 1]
    if twice:
        raise UserError(f"{root} has several folders for the split {twice[0]}: {', '.join(top)}; keep one")
    paths: list[Path] = []
    names: list[str] = []
    split: list[str] = []
    problems: list[Problem] = []
    found: set[str] = set()
    for base, part in bases:
        for entry in sorted(base.iterdir()):
            if hidden(entry.name):
                continue
            if not entry.is_dir():
                is_image = entry.name.lower().endswith(SUFFIXES)
                detail = "lies beside the class folders, not in one" if is_image else entry.suffix or "no suffix"
                problems.append(Problem(str(entry), "no label" if is_image else "unknown suffix", detail))
                continue
            images, others = image_files(entry)
            paths += images
            names += [entry.name] * len(images)
            split += [part] * len(images)
            problems += [Problem(str(other), "unknown suffix", other.suffix or "no suffix") for other in others]
            found.add(entry.name)
    if not paths:
        shape = "train/CLASS/image.png" if parted else "CLASS/image.png"
        raise UserError(f"{root} holds no image in a class folder ({len(problems)} other files); expected "
                        f"{root}/{shape} with one of {', '.join(SUFFIXES)}, or one CSV file")
    classes, numbered = class_order(found)
    facts: dict[str, Any] = {"form": "folder"}
    kind = read_task(classes, task, numbered, facts)
    place = {name: index for index, name in enumerate(classes)}
    labels = np.asarray([place[name] for name in names], dtype=np.int64)
    keys = tuple(path.relative_to(root).as_posix() for path in paths)
    return Listing(paths, keys, labels, classes, kind, np.asarray(split, dtype=object), {}, problems, facts)
