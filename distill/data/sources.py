"""What a form of --data names before any image is opened.

Owns: Listing, the order of classes, how the task is read off labels. Does not own: folders (folders.py), CSV (tables.py), archives
(archives.py), names (named.py), opening images (scan.py), splitting (splits.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from distill.data.scan import BadImage
from runtimes.errors import USAGE, UserError
from runtimes.images import decode, scans
from runtimes.images.spec import Item
from runtimes.scores import TASKS, Task

SUFFIXES = (*decode.SUFFIXES, *scans.SUFFIXES)
SPLIT_WORDS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
SPLITS = ("train", "val", "test")
NUMBER = re.compile(r"[+-]?[0-9]{1,15}(\.[0-9]{1,15})?")


@dataclass(frozen=True)
class Listing:
    """Rows named by --data: images, keys, labels (as in ImageSet), split ("" if not given), group columns by name.

    known: what is known beside pixels, by column of results (metadata.py), "" where it is not.
    """

    images: Sequence[Item]
    keys: tuple[str, ...]
    labels: NDArray[Any]
    classes: tuple[str, ...]
    task: Task
    split: NDArray[Any]
    groups: dict[str, list[str]] = field(default_factory=dict)
    known: dict[str, list[str]] = field(default_factory=dict, kw_only=True)
    problems: list[BadImage] = field(default_factory=list)
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
        problem = f"only one class is found ({classes[0]})" if classes else "no label is found"
        raise UserError(f"{problem}; expected two classes at least")
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


