"""What earlier tasks are tried on once their network goes on: their own images where they are now, or kept ones; or why one cannot be.

Owns: Trial, finding the images of a task, whether labels can be judged at all, which images are kept so that they can. Does not own: the
trial and its refusal (continual.py), reading images (data/intake.py), the file that keeps them (networks/tasks.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.data.image_set import ImageSet
from distill.data.intake import images_for
from distill.data.named import is_there
from distill.evaluation.evaluate import evaluate
from distill.networks.tasks import KeptImages, Task, TaskFolder
from runtimes.errors import USAGE, UserError
from runtimes.scores import Task as Labels
from runtimes.text import counted


@dataclass(frozen=True)
class Trial:
    """An earlier task whose network goes on, and the images that its head is tried on: its own validation images, or those that were kept.

    images: of validation and test alone. Neither where none are at hand. lacking: why no AUROC can come of it; "" where one can.
    """

    task: Task
    images: ImageSet | None = None
    kept: KeptImages | None = None
    lacking: str = ""


def check_places(places: Sequence[str]) -> None:
    """UserError (exit 2) for an --old-data that is nowhere."""
    if gone := [place for place in places if not is_there(place)]:
        raise UserError(f"--old-data {gone[0]} does not exist; name where the images of an earlier task are now, or leave it out", USAGE)


def find_trials(folder: TaskFolder, tasks: Sequence[Task], places: Sequence[str]) -> list[Trial]:
    """Tasks with the images that they can be tried on: in the first of some places that holds them, else where they were, else kept ones.

    UserError (exit 2) for a place that holds the images of no task of the folder.
    """
    matched: set[str] = set()
    unlike: dict[str, dict[str, str]] = {place: {} for place in places}
    trials = []
    for task in tasks:
        images = None
        for place in places:
            images, why = _images_of(folder, task, place)
            if images is not None:
                matched.add(place)
                break
            unlike[place][task.name] = why
        reason = ""
        if images is None:
            images, reason = _images_of(folder, task, None)
        trials.append(_trial(folder, task, images, reason))
    for place in places:
        if place not in matched:
            _check_place(folder, place, unlike[place])
    return trials


def _check_place(folder: TaskFolder, place: str, unlike: dict[str, str]) -> None:
    """UserError where a place holds the images of none of the tasks that were not compared with it; unlike: why not, of those that were."""
    for task in folder.tasks:
        if task.name not in unlike:
            images, unlike[task.name] = _images_of(folder, task, place)
            if images is not None:
                return
    raise UserError(f"--old-data {place}: {'; '.join(unlike.values())}; name where the images of an earlier task are now, or leave it out",
                    USAGE)


def _images_of(folder: TaskFolder, task: Task, place: str | None) -> tuple[ImageSet | None, str]:
    """A task's own images at a place, None where its run found them; or why they are not those that it was made from."""
    where = "where they were" if place is None else "there"
    parents = task.record.get("parents", {})
    if not task.record.get("settings") or not parents.get("images"):
        return None, f"nothing is known of the images of {task.name}"
    beside = folder.folder if task is folder.tasks[-1] else None  # whose list of hidden names is beside it
    try:
        images = images_for(dict(task.record), place, beside)
    except (UserError, OSError) as error:
        return None, f"images of {task.name} cannot be read {where} ({str(error).partition('; ')[0]})"
    if images.digest == parents["images"]:
        return images, ""
    counts = task.record.get("data", {}).get("counts", {})
    asked = f"the {counted(sum(counts.values()), 'image')} of {task.name}" if counts else f"those of {task.name}"
    return None, f"{counted(len(images), 'image')} {where}, and not {asked}"


def _trial(folder: TaskFolder, task: Task, images: ImageSet | None, reason: str) -> Trial:
    """The trial of a task on its own images where these can be judged, else on kept ones where those can; reason: why images are None."""
    kept, spec = folder.kept(task.name), task.spec
    if images is not None:
        labels = images.labels[images.rows("val")]
        reason = "" if can_be_judged(labels, spec.task, spec.classes) else in_words(labels, spec.task, "validation image")
        if not reason or kept is None:
            return Trial(task, _of_splits(images, "val", "test"), None, reason)
    if kept is None:
        return Trial(task, None, None, reason)
    if can_be_judged(kept.labels, spec.task, spec.classes):
        return Trial(task, None, kept)
    also = in_words(kept.labels, spec.task, "image", " kept of it")
    if images is not None:
        return Trial(task, _of_splits(images, "val", "test"), None, f"{reason}, and {also}")
    return Trial(task, None, kept, f"{also}; {reason}")


def can_be_judged(labels: NDArray[Any], task: Labels, classes: Sequence[str]) -> bool:
    """Whether an AUROC of a task is defined on these labels: some class, or finding, is there in some and not in others."""
    answers = np.full((len(labels), len(classes)), 0.5)
    return "auroc" in evaluate(labels, answers, task=task, classes=classes, n_bootstrap=0)


def in_words(labels: NDArray[Any], task: Labels, noun: str, more: str = "") -> str:
    """Labels of which no AUROC is defined, in words."""
    known = np.isfinite(labels).any(axis=1) if labels.ndim == 2 else labels >= 0
    count = int(known.sum())
    if count < 2:
        return f"{counted(count, f'labelled {noun}' if count == 0 else noun)}{more}"
    return f"{counted(count, noun)}{more}{',' if more else ''} " + ("alike in every finding" if task == "multilabel" else "of one class")


def kept_rows(images: ImageSet, count: int) -> NDArray[np.int64]:
    """Labelled training images evenly spread; where those could not be judged, first an image of each outcome, the rarest first."""
    rows = images.rows("train")
    rows = rows[images.labelled[rows]]
    even = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(np.int64)
    if can_be_judged(images.labels[rows[even]], images.task, images.classes):
        return rows[even]
    outcomes = _outcomes(images, rows)
    chosen: list[int] = []
    for column in range(outcomes.shape[1]):
        if len(chosen) < count and outcomes[:, column].any() and not outcomes[chosen, column].any():
            chosen.append(int(np.flatnonzero(outcomes[:, column])[0]))
    others = np.setdiff1d(np.arange(len(rows)), chosen)
    more = np.linspace(0, len(others) - 1, min(count - len(chosen), len(others))).round().astype(np.int64)
    return rows[np.sort(np.concatenate([np.asarray(chosen, np.int64), others[more]]))]


def _outcomes(images: ImageSet, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which outcomes each image has, (n, K): a class each, rarest first; or a finding there and not there, the rarest pair first."""
    labels = images.labels[rows]
    if images.task != "multilabel":
        table = labels[:, None] == np.arange(len(images.classes))
        return np.asarray(table[:, np.argsort(table.sum(axis=0), kind="stable")])
    there, absent = labels == 1, labels == 0
    fewer = np.minimum(there.sum(axis=0), absent.sum(axis=0))
    order = np.argsort(np.where(fewer > 0, fewer, len(rows) + 1), kind="stable")  # what has one outcome alone comes last
    return np.asarray(np.stack([there[:, order], absent[:, order]], axis=2).reshape(len(rows), 2 * len(images.classes)))


def _of_splits(images: ImageSet, *splits: str) -> ImageSet:
    """Some splits of a set alone."""
    rows = np.flatnonzero(np.isin(images.split, splits))
    return replace(images, images=[images.images[int(row)] for row in rows], keys=tuple(images.keys[row] for row in rows),
                   labels=images.labels[rows], split=images.split[rows], groups=None if images.groups is None else images.groups[rows],
                   hashes=tuple(images.hashes[row] for row in rows) if images.hashes else (),
                   names=tuple(images.names[row] for row in rows) if images.names else (),
                   columns={name: tuple(values[row] for row in rows) for name, values in images.columns.items()})
