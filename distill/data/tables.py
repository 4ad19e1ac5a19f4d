"""A CSV of images: its columns put to use, and every mistake in it told with its line number.

Owns: list_csv. Does not own: the text (table_text.py), what columns are for (columns.py), labels (labels.py), files (located.py), opening
images, making splits. A mistake in the table is an error; a wrong label is one bad image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.data.columns import (
    GROUP_COLUMNS,
    METADATA,
    MORE_METADATA,
    PATIENTS,
    group_columns,
    image_column,
    split_column,
    split_of,
    squeezed,
    unused,
)
from distill.data.dicom_series import volume_files
from distill.data.labels import EMPTY, Labels, columnar, finding, finding_as_before, parted, single, single_as_before
from distill.data.located import locate
from distill.data.metadata import of_table
from distill.data.scan import BadImage
from distill.data.sources import SPLIT_WORDS, Listing
from distill.data.table_text import column_named, listed, plain, read_rows, shown, stop, tidy
from runtimes.errors import UserError

LABEL_NAMES = {"labels", "class", "classname", "classlabel", "target", "diagnosis", "dx", "findinglabels", "finding", "findings",
               "category", "grade", "pathology", "outcome", "y", "annotation", "groundtruth", "gt"}


def list_csv(path: Path, task: str | None, label: str | None, uncertain: str | None = "unknown") -> Listing:
    """List the images of a CSV; labels from --label, `label` or the 0/1 columns; UserError names lines of mistakes.

    uncertain: what -1 means. None reads columns and cells as versions without --uncertain did, for the students they trained.
    """
    header, rows = read_rows(path)
    raw = {name: [cells[place] for _, cells in rows] for place, name in enumerate(header) if name}
    columns = raw if uncertain is None else {name: list(map(tidy, cells)) for name, cells in raw.items()}
    lines = [line for line, _ in rows]
    notes: list[str] = []
    facts: dict[str, Any] = {"form": "csv", "csv": path.name, "notes": notes}
    image = image_column(path, columns, notes)
    cells = raw[image]
    keys = [cell.replace("\\", "/") for cell in cells]
    paths, faults, completed = locate(path.parent, cells, lines)
    notes += completed
    faults += [f"line {line}: the image cell is empty" for line, cell in zip(lines, cells, strict=True) if not cell]
    first: dict[str, int] = {}
    for line, key in zip(lines, keys, strict=True):
        if key and first.setdefault(key, line) != line:
            faults.append(f"line {line}: {listed([key])} is already in line {first[key]}")
    stop(path, _in_order(faults))
    items, wrong = volume_files(paths)
    stop(path, [f"line {line}: {shown(cell)} {fault}" for line, cell, fault in zip(lines, cells, wrong, strict=True) if fault])
    column = _label_column(path, columns, label, task, uncertain)
    labels, used = _labels(path, raw, columns, column, lines, task, keys, facts, uncertain)
    used = [*used, image]
    left = {name: values for name, values in columns.items() if name not in used}
    if uncertain is None:
        division, aside = next((name for name in columns if plain(name) == "split" and any(columns[name])), None), list[str]()
    else:
        division, aside = split_column(path, left, notes)
    words = left.pop(division) if division else [""] * len(rows)
    split, out = _split(path, words, labels, lines, uncertain)
    known: dict[str, list[str]] = {}
    if uncertain is None:
        groups = {name: ["" if cell.lower() in EMPTY else cell for cell in columns[name]] for spelling in GROUP_COLUMNS
                  for name in columns if plain(name) == spelling}
        groups = {name: values for name, values in groups.items() if any(values)}
    else:
        groups, doubtful = group_columns(path, left, labels.labels, split, notes)
        kept = of_table({name: cells for name, cells in left.items() if name not in (*groups, *aside, *doubtful)}, squeezed)
        if kept:
            notes.append(f"columns counted by split, and kept beside predictions: {listed([name for name, _ in kept.values()])}")
            known = {column: values for column, (_, values) in kept.items()}
        unused(header, {*used, *groups, *aside, *doubtful, division or "", *(name for name, _ in kept.values())} - {""}, notes)
    problems = [BadImage(str(paths[row]), "wrongly labelled", detail, row) for row, detail in labels.wrong]
    if not notes:
        del facts["notes"]
    listing = Listing(items, tuple(keys), labels.labels, labels.classes, labels.task, split, groups, problems, facts, known=known)
    return _without(listing, out) if any(out) else listing


def _in_order(faults: Sequence[str]) -> list[str]:
    return sorted(faults, key=lambda fault: int(fault.split()[1].rstrip(":")))


def _label_column(
    path: Path, columns: Mapping[str, Sequence[str]], label: str | None, task: str | None, uncertain: str | None,
) -> str | None:
    """The column of --label, or `label`; None where labels are columns of findings."""
    if label:
        return column_named(path, list(columns), label)
    named = [name for name in columns if plain(name) == "label"]
    if len(named) > 1 and uncertain is not None:
        raise UserError(f"{path}, line 1: columns {named[0]} and {named[1]} have one name but for case; rename one, or choose with --label")
    if not named or (task == "multilabel" and (uncertain is None or parted(Counter(filter(None, columns[named[0]]))) is None)):
        return None
    return named[0]


def _labels(
    path: Path, raw: Mapping[str, Sequence[str]], columns: Mapping[str, Sequence[str]], column: str | None, lines: Sequence[int],
    task: str | None, keys: Sequence[str], facts: dict[str, Any], uncertain: str | None,
) -> tuple[Labels, list[str]]:
    """The labels, and the columns they are from."""
    if column is not None:
        if uncertain is None:
            return single_as_before(columns[column], lines, task, facts), [column]
        return single(path, column, raw[column], lines, task, facts, keys, uncertain), [column]
    meanings: dict[str, Mapping[str, float]] = {}
    aside: list[str] = []
    for name, cells in columns.items():
        known = plain(name) in METADATA or plain(name).startswith("source_")
        if known or (uncertain is not None and (plain(name) in MORE_METADATA or squeezed(name) in PATIENTS)):
            continue
        meaning = finding_as_before(cells) if uncertain is None else finding(cells)
        if meaning is None:
            aside.append(name)
        else:
            meanings[name] = meaning
    if len(meanings) < 2:
        only = f"; the only 0/1 column is {next(iter(meanings))}: --label {next(iter(meanings))} trains on it" if meanings else ""
        likely = next((f", such as {name}" for name in columns if squeezed(name) in LABEL_NAMES), "")
        raise UserError(f"{path}, line 1: no column label and not two 0/1 columns of findings; it has {listed(list(columns))}{only}; "
                        f"--label names another column{likely}")
    if aside and uncertain is None:
        facts["notes"].append(f"columns that are no findings: {listed(aside)}")
    return columnar(path, columns, meanings, lines, task, facts, uncertain), list(meanings)


def _split(
    path: Path, words: Sequence[str], labels: Labels, lines: Sequence[int], uncertain: str | None,
) -> tuple[NDArray[np.object_], list[bool]]:
    """The given split of every row, and which rows are left out: those to validate or test on whose label is uncertain."""
    split, out = np.full(len(lines), "", dtype=object), [False] * len(lines)
    faults: list[str] = []
    for row, word in enumerate(words if any(words) else []):
        empty = labels.empty[row]
        part = (SPLIT_WORDS.get(word.lower()) if uncertain is None else split_of(word)) or ("train" if not word and empty else "")
        if not part:
            faults.append(f"line {lines[row]}: split {shown(word)}; expected train, val or test")
        elif empty and part != "train":
            out[row] = bool(labels.unsure) and labels.unsure[row]
            if not out[row]:
                faults.append(f"line {lines[row]}: no label, but split {word}; only training images may be unlabelled")
        split[row] = part
    stop(path, faults)
    return split, out


def _without(listing: Listing, out: Sequence[bool]) -> Listing:
    """A listing without some rows, which is noted."""
    rows = [row for row, gone in enumerate(out) if not gone]
    place = {row: index for index, row in enumerate(rows)}
    count = len(out) - len(rows)
    listing.facts["notes"].append(f"{count:,} images to validate or test on are left out: their label is uncertain")
    return replace(
        listing, images=[listing.images[row] for row in rows], keys=tuple(listing.keys[row] for row in rows), labels=listing.labels[rows],
        split=listing.split[rows], groups={name: [values[row] for row in rows] for name, values in listing.groups.items()},
        known={name: [values[row] for row in rows] for name, values in listing.known.items()},
        problems=[replace(problem, row=place[problem.row]) for problem in listing.problems if problem.row in place])
