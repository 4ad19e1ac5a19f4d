"""A CSV of images: which column means what, and every mistake in it told with its line number.

Owns: reading the text, finding the image, label, finding, split and group columns, turning cells into labels.
Does not own: opening the images, making splits. A mistake in the table is an error; a wrong label is one bad image.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from distill.scan import SHOWN, Problem
from distill.sources import NUMBER, SPLIT_WORDS, Listing, class_order, read_task
from runtimes.errors import USAGE, UserError
from runtimes.scores import Task

IMAGE_COLUMNS = ("image", "path")
GROUP_COLUMNS = ("patient", "patient_id", "patientid", "subject", "subject_id", "group", "dup_group")
METADATA = {
    *IMAGE_COLUMNS, *GROUP_COLUMNS,
    "label", "split", "id", "index", "key", "file", "filename", "name", "image_id", "study", "study_id", "series",
    "series_id", "visit", "follow_up", "age", "sex", "gender", "male", "female", "race", "ethnicity", "weight",
    "height", "width", "rows", "columns", "view", "view_position", "ap_pa", "frontal_lateral", "laterality", "side",
    "source", "site", "centre", "center", "hospital", "device", "scanner", "machine", "manufacturer", "model", "year",
    "date", "time", "fold", "mask", "count", "number",
}
EMPTY = {"", "nan"}
ZERO_ONE = {"0": 0.0, "0.0": 0.0, "1": 1.0, "1.0": 1.0}
Row = tuple[int, list[str]]


def read_rows(path: Path) -> tuple[list[str], list[Row]]:
    """Header and rows (line number, stripped cells) of a CSV in UTF-8, with or without BOM; comma, semicolon or tab."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); save it as CSV UTF-8") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    first = text.lstrip("\r\n").splitlines()[:1]
    delimiter = max(",;\t", key=first[0].count) if first else ","  # max keeps the comma where all are equal
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    records: list[Row] = []
    line = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                records.append((line, [cell.strip() for cell in cells]))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {line}: {error}; "
                        f"expected cells parted by {delimiter!r} and quotes in pairs") from None
    if len(records) < 2:
        what = "a header but no row" if records else "no content"
        raise UserError(f"{path} has {what}; expected a header and one row per image")
    header, rows = records[0][1], records[1:]
    named = [name for name in header if name]
    twice = sorted({name for name in named if named.count(name) > 1})
    if twice:
        raise UserError(f"{path}: column {twice[0]!r} occurs twice in the header; rename one")
    _stop(path, [f"line {line}: {len(cells)} cells, the header has {len(header)}"
                 for line, cells in rows if len(cells) != len(header)])
    return header, rows


def _stop(path: Path, faults: Sequence[str]) -> None:
    if faults:
        more = f"\n  and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        listed = "\n  ".join(faults[:SHOWN])
        count = "1 mistake" if len(faults) == 1 else f"{len(faults)} mistakes"
        raise UserError(f"{path}: {count} in the table; mend them and repeat:\n  {listed}{more}")


def plain(name: str) -> str:
    """A column's name for comparison: lower case, words joined by underscores."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def find_findings(header: Sequence[str], columns: dict[str, list[str]]) -> tuple[list[str], list[str]]:
    """Columns that are findings, and those left aside; one of 0 and 1 with a few slips or -1 in it is a finding too.

    The slips are reported later, cell by cell: a column that silently dropped out would be worse.
    """
    findings: list[str] = []
    aside: list[str] = []
    for name in header:
        if not name or plain(name) in METADATA or plain(name).startswith("source_"):
            continue
        values = [cell for cell in columns[name] if cell.lower() not in EMPTY]
        good = sum(cell in ZERO_ONE for cell in values)
        uncertain = good > 0 and all(cell in ZERO_ONE or cell in ("-1", "-1.0") for cell in values)
        (findings if values and (uncertain or good >= 0.9 * len(values)) else aside).append(name)
    return findings, aside


def _named(path: Path, header: Sequence[str], wanted: str) -> str:
    for name in header:
        if name == wanted or plain(name) == plain(wanted):
            return name
    near = get_close_matches(wanted, [name for name in header if name], 1)
    guess = f"; did you mean {near[0]}?" if near else ""
    raise UserError(f"{path} has no column {wanted!r}, it has {', '.join(filter(None, header))}{guess}", USAGE)


def _located(folder: Path, cell: str) -> Path:
    places = [folder / cell, folder / "images" / cell]
    if "\\" in cell:
        places += [folder / cell.replace("\\", "/"), folder / "images" / cell.replace("\\", "/")]
    return next((place for place in places if place.is_file()), places[0])


def list_csv(path: Path, task: str | None, label: str | None) -> Listing:
    """List the images of a CSV; labels from --label, `label` or the 0/1 columns; UserError names lines of mistakes."""
    header, rows = read_rows(path)
    columns = {name: [cells[place] for _, cells in rows] for place, name in enumerate(header) if name}
    lines = [line for line, _ in rows]
    by_name = {plain(name): name for name in reversed(header) if name}
    image = next((by_name[name] for name in IMAGE_COLUMNS if name in by_name), None)
    if image is None:
        raise UserError(f"{path}, line 1: no column image or path; it has {', '.join(columns)}")
    cells = columns[image]
    keys = tuple(cell.replace("\\", "/") for cell in cells)
    paths = [_located(path.parent, cell) for cell in cells]
    first: dict[str, int] = {}
    faults = [f"line {line}: the image cell is empty" for line, cell in zip(lines, cells, strict=True) if not cell]
    for line, key in zip(lines, keys, strict=True):
        if key and first.setdefault(key, line) != line:
            faults.append(f"line {line}: {key} is already in line {first[key]}")
    facts: dict[str, Any] = {"form": "csv", "csv": path.name}
    shown = [str(one) for one in paths]
    column = _named(path, header, label) if label else by_name.get("label") if task != "multilabel" else None
    if column is not None:
        labels, classes, kind, wrong = _one_label(path, columns[column], lines, task, facts)
        empty = [cell.lower() in EMPTY for cell in columns[column]]
    else:
        labels, classes, kind, wrong, empty = _findings(path, header, columns, lines, task, facts)
    problems = [Problem(shown[row], "wrongly labelled", detail, row) for row, detail in wrong]
    split = np.full(len(rows), "", dtype=object)
    if "split" in by_name and any(columns[by_name["split"]]):
        for row, word in enumerate(columns[by_name["split"]]):
            split[row] = SPLIT_WORDS.get(word.lower(), "train" if not word and empty[row] else "")
            if not split[row]:
                faults.append(f"line {lines[row]}: split {word!r}; expected train, val or test")
            elif empty[row] and split[row] != "train":
                faults.append(f"line {lines[row]}: no label, but split {word}; only training images may be unlabelled")
    _stop(path, sorted(faults, key=lambda fault: int(fault.split()[1].rstrip(":"))))
    groups = {by_name[name]: ["" if cell.lower() in EMPTY else cell for cell in columns[by_name[name]]]
              for name in GROUP_COLUMNS if name in by_name}
    groups = {name: values for name, values in groups.items() if any(values)}
    return Listing(paths, keys, labels, classes, kind, split, groups, problems, facts)


def _number(cell: str) -> str:
    value = float(cell)
    return str(int(value)) if value.is_integer() else repr(value)


def _one_label(
    path: Path, cells: list[str], lines: list[int], task: str | None, facts: dict[str, Any],
) -> tuple[Any, ...]:
    given = [cell for cell in cells if cell.lower() not in EMPTY]
    numbers = [cell for cell in given if NUMBER.fullmatch(cell)]
    wrong: list[tuple[int, str]] = []
    if numbers and len(numbers) >= 0.9 * len(given):  # numbers: 1 and 1.0 are one class, and a stray word is a slip
        wrong = [(row, f"line {lines[row]}: {cell!r} is not a number as the other labels are")
                 for row, cell in enumerate(cells) if cell.lower() not in EMPTY and not NUMBER.fullmatch(cell)]
        cells = [_number(cell) if NUMBER.fullmatch(cell) else "" for cell in cells]
    else:
        cells = ["" if cell.lower() in EMPTY else cell for cell in cells]
    classes, numbered = class_order(cell for cell in cells if cell)
    spelt: dict[str, str] = {}
    for name in classes:
        if spelt.setdefault(name.lower(), name) != name:
            line = lines[cells.index(name)]
            raise UserError(f"{path}, line {line}: label {name!r} differs from {spelt[name.lower()]!r} only by case; "
                            "spell one class one way")
    kind = read_task(classes, task, numbered, facts)
    place = {name: index for index, name in enumerate(classes)}
    return np.asarray([place.get(cell, -1) for cell in cells], dtype=np.int64), classes, kind, wrong


def _findings(
    path: Path, header: Sequence[str], columns: dict[str, list[str]], lines: list[int], task: str | None,
    facts: dict[str, Any],
) -> tuple[Any, ...]:
    findings, aside = find_findings(header, columns)
    if len(findings) < 2:
        one = f"; the only 0/1 column is {findings[0]}: --label {findings[0]} trains on it" if findings else ""
        raise UserError(f"{path}, line 1: no column label and not two 0/1 columns of findings; it has "
                        f"{', '.join(columns)}{one}; --label names another column")
    if task not in (None, "multilabel"):
        raise UserError(f"--task {task} needs one label an image; {path} has {len(findings)} findings: "
                        "name one with --label", USAGE)
    table = np.full((len(lines), len(findings)), np.nan, dtype=np.float32)
    wrong: list[tuple[int, str]] = []
    empty = np.ones(len(lines), dtype=bool)
    for place, name in enumerate(findings):
        for row, cell in enumerate(columns[name]):
            if cell in ZERO_ONE:
                table[row, place] = ZERO_ONE[cell]
            elif cell.lower() not in EMPTY:
                wrong.append((row, f"line {lines[row]}: {name} is {cell!r}, expected 0, 1 or an empty cell"))
            empty[row] &= cell.lower() in EMPTY
    facts["task_from"] = "--task" if task else f"{len(findings)} columns of 0 and 1"
    if aside:
        facts.setdefault("notes", []).append(f"columns that are no findings: {', '.join(aside[:20])}")
    kind: Task = "multilabel"
    return table, tuple(findings), kind, wrong, empty.tolist()
