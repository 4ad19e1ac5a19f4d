"""From the cells of a table to labels: one label an image, several findings in one cell, or a column for every finding.

Owns: words for a missing, uncertain, present or absent finding, one way of spelling a class, numbers as classes, what is no class.
Does not own: which column is meant (columns.py, tables.py), the form of the file (table_text.py).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.data.sources import NUMBER, class_order, read_task
from distill.data.table_text import listed, shown, tidy
from runtimes.errors import USAGE, UserError
from runtimes.scores import Task

EMPTY = {"", "nan"}
MISSING = EMPTY | {
    "na", "n/a", "n.a.", "#n/a", "#na", "#n/a n/a", "<na>", "null", "#null!", "nil", "-nan", "nat", "1.#qnan", "-1.#qnan", "1.#ind",
    "-1.#ind", "?", "??", "-", "--", "---", "\u2013", "\u2014", ".", "\\n", "missing", "not available", "unlabeled", "unlabelled",
    "no label", "#value!", "#ref!", "#div/0!", "#name?", "#num!"}
DOUBTFUL = {"none", "unknown", "unk", "unspecified", "not specified", "n.d.", "tbd"}  # classes of some tables, no labels of others
NORMAL = {"no finding", "no_finding", "no findings", "normal", "none", "negative", "healthy", "no abnormality", "no disease",
          "unremarkable"}
PAIRS = (("false", "true"), ("no", "yes"), ("negative", "positive"), ("neg", "pos"), ("absent", "present"), ("n", "y"), ("f", "t"),
         ("-", "+"))
ZERO_ONE = {"0": 0.0, "0.0": 0.0, "1": 1.0, "1.0": 1.0}
UNCERTAIN = {"unknown": np.nan, "positive": 1.0, "negative": 0.0}  # what -1 becomes, by --uncertain
ANY_NUMBER = re.compile(r"[+-]?([0-9]{1,15}([.,][0-9]{0,15})?|[.,][0-9]{1,15})([eE][+-]?[0-9]{1,2})?")
COMPOUND = re.compile(r"\s*(?:[/+&]|\band\b)\s*")
GRADE = re.compile(r"([0-9]{1,3})[ -]?([A-Za-z]{1,2}|\+{1,3})")  # BI-RADS 4A, stage 1b, 2+
MEASURED = re.compile(r"(^|_)(age|weight|height|bmi|size|diameter|volume|area|length|thickness|mm|cm|ml|kg|days|months|years|percent|"
                      r"percentage|ratio|hu|suv|density|pressure|dose|los|intensity|mean|voxels)(_|$)")
LOOK_ALIKE = str.maketrans("\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u04bb\u03bf\u03b1\u03b9\u03bd\u03c1\u0131",
                           "aeopcyxijshoaivpi")  # Cyrillic and Greek letters that look like Latin ones, after case is folded
LONGEST_CLASS = 200  # letters
MANY = 20  # classes; fewer are never taken for names of images


@dataclass
class Labels:
    """Labels of the rows as an ImageSet holds them; wrong cells by row, rows without a label, rows left without one by -1."""

    labels: NDArray[Any]
    classes: tuple[str, ...]
    task: Task
    wrong: list[tuple[int, str]]
    empty: list[bool]
    unsure: list[bool] = field(default_factory=list)


def number(cell: str) -> float | None:
    """A cell as a number, with a point or a comma before its decimals; None for anything else."""
    return float(cell.replace(",", ".")) if ANY_NUMBER.fullmatch(cell) and len(cell) < 24 else None


def spelt(value: float) -> str:
    """A number as the name of a class: 1 and 1.0 are one."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def folded(name: str) -> str:
    """A name for comparison: without what the eye passes over in it (case, blanks and hyphens, dots at the end, Unicode's forms)."""
    text = "".join(mark for mark in unicodedata.normalize("NFKC", name) if unicodedata.category(mark) != "Cf").casefold()
    return re.sub(r"(?<=\w)[\s_\-\u2010-\u2015]+(?=\w)", " ", text.translate(LOOK_ALIKE)).strip().rstrip(".,;: ")


def is_missing(cells: Iterable[str]) -> list[bool]:
    """Which cells say that there is no label, in the ways of spreadsheets, R, Python and databases."""
    cells = list(cells)
    words = MISSING - {"-"} if "+" in cells else MISSING  # beside a plus, a minus is a label
    return [cell.casefold() in words for cell in cells]


def single(
    path: Path, name: str, raw: Sequence[str], lines: Sequence[int], task: str | None, facts: dict[str, Any], images: Sequence[str],
    uncertain: str,
) -> Labels:
    """One label an image from the cells of one column, or several findings from cells such as `Mass|Edema`."""
    cells = [tidy(cell) for cell in raw]
    notes = facts.setdefault("notes", [])
    if changed := [row for row, cell in enumerate(cells) if cell != raw[row]]:
        notes.append(f"{name}: cells with double blanks, invisible or composed letters are read as they look ({len(changed):,}, such as "
                     f"{ascii(raw[changed[0]])[:60]} in line {lines[changed[0]]})")
    empty = is_missing(cells)
    words = Counter(cell for cell, is_empty in zip(cells, empty, strict=True) if is_empty and cell.lower() not in EMPTY)
    if words:
        notes.append(f"{name}: {_counted(words)} are taken as no label")
    counts = Counter(cell for cell, is_empty in zip(cells, empty, strict=True) if not is_empty)
    parts = parted(counts)
    if parts is not None:
        return _several(path, name, cells, lines, empty, parts, task, facts)
    values = {cell: number(cell) for cell in counts}
    numbers = {cell: value for cell, value in values.items() if value is not None}
    stray = {cell: count for cell, count in counts.items() if cell not in numbers}
    wrong: list[tuple[int, str]] = []
    unsure = [False] * len(cells)
    graded = bool(numbers) and bool(stray) and all(GRADE.fullmatch(cell) for cell in stray)
    if graded or (numbers and sum(stray.values()) <= 0.1 * counts.total()):
        _refuse_commas(path, name, cells, lines, numbers)
        names = {cell: spelt(value) for cell, value in numbers.items()}
        if set(names.values()) == {"-1", "0", "1"} and not stray:
            unsure = [names.get(cell) == "-1" for cell in cells]
            notes.append(f"{name}: {sum(unsure):,} cells of -1 are taken as {_uncertain_text(uncertain)}; give classes of their own names, "
                         "should -1 be one")
            names |= {cell: {"unknown": "", "positive": "1", "negative": "0"}[uncertain] for cell, label in names.items() if label == "-1"}
            if uncertain != "unknown":
                unsure = [False] * len(cells)
        _refuse_measured(path, name, [value for cell, value in numbers.items() for _ in range(counts[cell])])
        if graded:
            notes.append(f"{name}: classes are words, since {listed(sorted(stray), 5)} stand among numbers")
            names |= {cell: cell for cell in stray}
        else:  # a stray word among numbers is a slip
            wrong = [(row, f"line {lines[row]}: {shown(cell)} is not a number as the other labels are")
                     for row, cell in enumerate(cells) if cell in stray]
    else:
        names = {cell: cell for cell in counts}
    labels = ["" if is_empty else names.get(cell, "") for cell, is_empty in zip(cells, empty, strict=True)]
    _refuse_names(path, name, labels, images)
    classes, numbered = class_order(label for label in labels if label)
    if graded:
        classes = tuple(sorted(classes, key=_grade))
    first = {label: line for label, line in zip(reversed(labels), reversed(lines), strict=True)}
    refuse_twins(path, {label: f"line {first[label]}" for label in classes}, "label")
    if len(classes) < 2:
        problem = f"every label in column {name} is {classes[0]}" if classes else f"column {name} holds no label"
        raise UserError(f"{path}: {problem}; expected two classes at least, and --label names another column")
    _refuse_mixed_words(path, name, classes)
    doubtful = [label for label in classes if label.casefold() in DOUBTFUL or (number(label) or 0) < 0]
    if doubtful:
        notes.append(f"{name}: {_counted(Counter({label: labels.count(label) for label in doubtful}))} are taken as classes; empty these "
                     "cells should they mean that there is no label")
    both = [label for label in classes if len(pieces := COMPOUND.split(label)) > 1 and set(pieces) <= set(classes)]
    if both:
        notes.append(f"{name}: {listed(both, 5)} is taken as a class of its own, beside those it is made of; write "
                     f"{'|'.join(COMPOUND.split(both[0]))} should it mean several findings")
    kind = read_task(classes, task, numbered, facts)
    place = {label: index for index, label in enumerate(classes)}
    empty = [is_empty or doubt for is_empty, doubt in zip(empty, unsure, strict=True)]
    return Labels(np.asarray([place.get(label, -1) for label in labels], dtype=np.int64), classes, kind, wrong, empty, unsure)


def single_as_before(cells: Sequence[str], lines: Sequence[int], task: str | None, facts: dict[str, Any]) -> Labels:
    """One label an image as versions without --uncertain read it, for the students they trained."""
    empty = [cell.lower() in EMPTY for cell in cells]
    labelled = [cell for cell, is_empty in zip(cells, empty, strict=True) if not is_empty]
    numbers = [cell for cell in labelled if NUMBER.fullmatch(cell)]
    labels = ["" if is_empty else cell for cell, is_empty in zip(cells, empty, strict=True)]
    wrong: list[tuple[int, str]] = []
    if numbers and len(numbers) >= 0.9 * len(labelled):
        wrong = [(row, f"line {lines[row]}: {shown(label)} is not a number as the other labels are")
                 for row, label in enumerate(labels) if label and not NUMBER.fullmatch(label)]
        labels = [spelt(float(label)) if NUMBER.fullmatch(label) else "" for label in labels]
    classes, numbered = class_order(label for label in labels if label)
    kind = read_task(classes, task, numbered, facts)
    place = {label: index for index, label in enumerate(classes)}
    return Labels(np.asarray([place.get(label, -1) for label in labels], dtype=np.int64), classes, kind, wrong, empty)


def parted(counts: Mapping[str, int]) -> dict[str, list[str]] | None:
    """The findings in each of a column's cells, where they hold several; None where every cell is one label.

    A bar always parts findings, and so do the brackets of a list. A semicolon or comma does only where the parts of some cell all stand
    alone in others, or one part stands first in one cell and later in another: "Carcinoma, ductal" is one label.
    """
    if counts and all(cell.startswith("[") and cell.endswith("]") for cell in counts):
        return {cell: [tidy(part.strip().strip("'\"")) for part in cell[1:-1].split(",")] for cell in counts}
    for mark in "|;,":
        split = {cell: [tidy(part) for part in cell.split(mark)] for cell in counts}
        several = [parts for cell, parts in split.items() if len(parts) > 1 and not (mark == "," and number(cell) is not None)]
        moved = bool({parts[0] for parts in several} & {part for parts in several for part in parts[1:]})
        if several and (mark == "|" or moved or any(all(part in counts for part in parts) for parts in several)):
            return split
    return None


def _several(
    path: Path, name: str, cells: Sequence[str], lines: Sequence[int], empty: Sequence[bool], parts: Mapping[str, Sequence[str]],
    task: str | None, facts: dict[str, Any],
) -> Labels:
    many = next(row for row, cell in enumerate(cells) if len(parts.get(cell, ())) > 1 or cell.startswith("["))
    if task not in (None, "multilabel"):
        raise UserError(f"--task {task} needs one label an image, and {path}, line {lines[many]}, has several in column {name}: "
                        f"{shown(cells[many])}; leave --task out to learn each of them as a finding", USAGE)
    sets = {cell: {part for part in findings if part and part.casefold() not in MISSING} for cell, findings in parts.items()}
    normal = {part for findings in sets.values() for part in findings if part.casefold() in NORMAL}
    first: dict[str, str] = {}
    for cell, line in zip(cells, lines, strict=True):
        for part in sets.get(cell, set()) - normal:
            first.setdefault(part, f"line {line}")
    refuse_twins(path, first, "finding")
    classes = tuple(sorted(first))
    if len(classes) > MANY and len(classes) > 0.5 * (len(cells) - sum(empty)):
        raise UserError(f"{path}: column {name} holds {len(classes):,} findings in {len(cells):,} images, such as "
                        f"{', '.join(map(shown, classes[:3]))}: text rather than classes; --label names another column")
    if not classes:
        raise UserError(f"{path}: column {name} names no finding; expected some class, and --label names another column")
    table = np.zeros((len(cells), len(classes)), dtype=np.float32)
    wrong: list[tuple[int, str]] = []
    for row, (cell, is_empty) in enumerate(zip(cells, empty, strict=True)):
        findings = sets.get(cell, set())
        if is_empty or (not findings and not cell.startswith("[")):
            table[row] = np.nan
        elif findings & normal and findings - normal:
            wrong.append((row, f"line {lines[row]}: {shown(cell)} says {min(findings & normal)} and a finding"))
        else:
            table[row] = [part in findings for part in classes]
    facts["task_from"] = "--task" if task else f"several findings in one cell of {name}"
    notes = facts.setdefault("notes", [])
    notes.append(f"{name}: cells such as {shown(cells[many])} name several findings"
                 + (f"; {', '.join(sorted(normal))} is an image without any" if normal else ""))
    bare = np.asarray(np.isnan(table).all(axis=1))
    return Labels(table, classes, "multilabel", wrong, [bool(row) for row in bare])


def state(cell: str) -> float | None:
    """A cell of a finding as 0 or 1, or -1 for uncertain; None for anything else. Words are read by `finding`."""
    value = number(cell)
    return value if value in (0.0, 1.0, -1.0) else -1.0 if cell.casefold() in ("uncertain", "equivocal") else None


def finding(cells: Sequence[str]) -> dict[str, float] | None:
    """What the cells of a column mean as a finding, by cell (-1: uncertain), where it is one; None where it is not.

    A few slips are let through, to be reported cell by cell: a column that silently dropped out would be worse.
    """
    counts = Counter(cell for cell in cells if cell.casefold() not in MISSING | {"none"} or cell == "-")
    meaning = {cell: value for cell in counts if (value := state(cell)) is not None}
    words = {cell.casefold() for cell in counts}
    for no, yes in PAIRS:
        if {no, yes} <= words or (no == "false" and words & {no, yes}):
            meaning |= {cell: float(cell.casefold() == yes) for cell in counts if cell.casefold() in (no, yes)}
            break
    if "-" not in meaning:
        counts.pop("-", None)
    good = sum(count for cell, count in counts.items() if meaning.get(cell, -1.0) >= 0)
    known = sum(count for cell, count in counts.items() if cell in meaning)
    return meaning if good and (known == counts.total() or good >= 0.9 * counts.total()) else None


def finding_as_before(cells: Sequence[str]) -> dict[str, float] | None:
    """What the cells of a column mean as a finding to versions without --uncertain."""
    values = [cell for cell in cells if cell.lower() not in EMPTY]
    good = sum(cell in ZERO_ONE for cell in values)
    unsure = good > 0 and all(cell in ZERO_ONE or cell in ("-1", "-1.0") for cell in values)
    return ZERO_ONE if values and (unsure or good >= 0.9 * len(values)) else None


def columnar(
    path: Path, columns: Mapping[str, Sequence[str]], meanings: Mapping[str, Mapping[str, float]], lines: Sequence[int], task: str | None,
    facts: dict[str, Any], uncertain: str | None,
) -> Labels:
    """One column a finding: 0, 1, words for these, -1 by `uncertain` (None: as versions before it, a bad cell), else nothing known."""
    names = tuple(meanings)
    table = np.full((len(lines), len(names)), np.nan, dtype=np.float32)
    wrong: list[tuple[int, str]] = []
    empty = np.ones(len(lines), dtype=bool)
    unsure = np.zeros(table.shape, dtype=bool)
    nothing = EMPTY if uncertain is None else MISSING | {"none"}
    for place, name in enumerate(names):
        meaning = meanings[name]
        for row, cell in enumerate(columns[name]):
            value = meaning.get(cell)
            if value is not None:
                unsure[row, place] = value < 0
                table[row, place] = value if value >= 0 else UNCERTAIN[uncertain or "unknown"]
            elif cell.casefold() not in nothing:
                wrong.append((row, f"line {lines[row]}: {name} is {shown(cell)}, expected 0, 1 or an empty cell"))
            empty[row] &= value is None and cell.casefold() in nothing
    notes = facts.setdefault("notes", [])
    if uncertain is not None:
        refuse_twins(path, {name: "line 1" for name in names}, "finding")
        words = [name for name in names if any(state(cell) is None for cell in meanings[name])]
        if words:
            notes.append(f"words are read as 0 and 1 in {listed(words)}")
        if unsure.any():
            notes.append(f"{int(unsure.sum()):,} cells of -1 are taken as {_uncertain_text(uncertain)}")
            if uncertain == "unknown" and not (table == 0).any():
                raise UserError(f"{path}: findings are 1 and -1, and no cell is 0; --uncertain negative reads -1 as absent, and with "
                                "--uncertain unknown nothing is left to tell a finding from", USAGE)
            if uncertain == "unknown":
                empty |= (unsure.any(axis=1) & np.isnan(table).all(axis=1))
    doubt = np.asarray(unsure.any(axis=1))
    bad = {row for row, _ in wrong}
    whole = np.asarray([row for row in range(len(lines)) if row not in bad and not empty[row]], dtype=np.int64)
    exclusive = uncertain is not None and len(whole) > 0 and bool((table[whole].sum(axis=1) == 1).all())
    if task in ("binary", "multiclass"):
        if not exclusive:
            raise UserError(f"--task {task} needs one label an image; {path} has {len(names)} findings"
                            f"{_not_exclusive(table, whole, lines)}: name one with --label", USAGE)
        return _one_hot(path, names, table, lines, task, facts, wrong, empty, doubt)
    if task not in (None, "multilabel"):
        raise UserError(f"--task {task} needs one label an image; {path} has {len(names)} findings: name one with --label", USAGE)
    facts["task_from"] = "--task" if task else f"{len(names)} columns of 0 and 1"
    if exclusive and task is None:
        notes.append(f"exactly one of {listed(names, 8)} is 1 in every row: --task {'binary' if len(names) == 2 else 'multiclass'} reads "
                     "them as one label an image")
    return Labels(table, names, "multilabel", wrong, empty.tolist(), (doubt & empty).tolist())


def _not_exclusive(table: NDArray[np.float32], whole: NDArray[np.int64], lines: Sequence[int]) -> str:
    broken = next((row for row in whole.tolist() if np.nansum(table[row]) != 1 or np.isnan(table[row]).any()), None)
    return "" if broken is None else f", {int(np.nansum(table[broken]))} of them 1 in line {lines[broken]}"


def _one_hot(
    path: Path, names: Sequence[str], table: NDArray[np.float32], lines: Sequence[int], task: str, facts: dict[str, Any],
    wrong: list[tuple[int, str]], empty: NDArray[np.bool_], unsure: NDArray[np.bool_],
) -> Labels:
    hits = np.nansum(table, axis=0) > 0
    classes, numbered = class_order(name for name, hit in zip(names, hits.tolist(), strict=True) if hit)
    if unused := [name for name, hit in zip(names, hits.tolist(), strict=True) if not hit]:
        facts.setdefault("notes", []).append(f"no image is {listed(unused)}: no class")
    kind = read_task(classes, task, numbered, facts)
    labels = np.full(len(lines), -1, dtype=np.int64)
    bad = {row for row, _ in wrong}
    for row in range(len(lines)):
        if row not in bad and not empty[row]:
            labels[row] = classes.index(names[int(np.nanargmax(table[row]))])
    return Labels(labels, classes, kind, wrong, empty.tolist(), (unsure & empty).tolist())


def refuse_twins(path: Path, first: Mapping[str, str], what: str) -> None:
    """Refuse two classes that one would take for the same, since they differ only in how they are spelt, and classes as long as texts."""
    known: dict[str, str] = {}
    if endless := [name for name in first if len(name) > LONGEST_CLASS]:
        raise UserError(f"{path}, {first[endless[0]]}: {what} {shown(endless[0])} is a text, not the name of a class; expected "
                        f"{LONGEST_CLASS} letters at most, and --label names another column")
    for name in sorted(first, key=lambda name: (int(first[name].split()[1]), name)):
        twin = known.setdefault(folded(name), name)
        if twin != name:
            how = "case" if twin.casefold() == name.casefold() else "blanks, dots, hyphens or letters that look alike"
            raise UserError(f"{path}, {first[name]}: {what} {_visible(name)} differs from {_visible(twin)} only by {how}, as {first[twin]} "
                            "has it; spell one class one way")


def _visible(name: str) -> str:
    """A name between quotes, with escapes where it holds letters that can be mistaken."""
    return repr(name) if name.isascii() else f"{name!r} = {name!a}"


def _refuse_mixed_words(path: Path, name: str, classes: Sequence[str]) -> None:
    ways = {*(pair for pair in (*PAIRS, ("0", "1")) for label in classes if label.casefold() in pair)}
    known = {label.casefold() for label in classes}
    if len(classes) > 2 and any(known > set(pair) for pair in ways) and known <= {word for pair in ways for word in pair}:
        raise UserError(f"{path}: column {name} says yes and no in several ways: {', '.join(classes)}; write them one way")


def _refuse_commas(path: Path, name: str, cells: Sequence[str], lines: Sequence[int], numbers: Mapping[str, float]) -> None:
    commas = {cell for cell in numbers if "," in cell and not numbers[cell].is_integer()}
    if commas and any("," not in cell for cell in numbers):
        row = next(row for row, cell in enumerate(cells) if cell in commas)
        raise UserError(f"{path}, line {lines[row]}: {name} is {shown(cells[row])}, which could be two labels or a number with decimals; "
                        f"write {cells[row].replace(',', '|')} or {cells[row].replace(',', '.')}")


def _refuse_measured(path: Path, name: str, values: Sequence[float]) -> None:
    """Refuse numbers that measure something: many different ones, few images of each, and not codes from 0 or 1 on."""
    numbers = set(values)
    distinct, each = len(numbers), len(values) / len(numbers)
    fractions = not all(value.is_integer() for value in numbers)
    codes = not fractions and min(numbers) in (0, 1) and max(numbers) - min(numbers) == distinct - 1
    named = MEASURED.search(re.sub(r"[^a-z0-9]+", "_", name.lower())) is not None
    if (fractions and distinct > 10 and each < 20) or (named and distinct > 12 and each < 20) or (
            not codes and distinct > 30 and each < 5) or (not codes and distinct > MANY and each < 2):
        raise UserError(f"{path}: column {name} holds {distinct:,} different numbers from {min(numbers):g} to {max(numbers):g}, which "
                        "looks like a measured number or an id; this tool classifies: bin it into a few classes in a column of its own, or "
                        "name another with --label")


def _refuse_names(path: Path, name: str, labels: Sequence[str], images: Sequence[str]) -> None:
    """Refuse names of images as classes: a label of its own for nearly every image."""
    pairs = [(label, image) for label, image in zip(labels, images, strict=True) if label]
    distinct = len({label for label, _ in pairs})
    same = distinct > 2 and all(label in (image, Path(image).name, Path(image).stem) for label, image in pairs)
    if same or (distinct > MANY and distinct > 0.5 * len(pairs)):
        examples = ", ".join(shown(label) for label in sorted({label for label, _ in pairs})[:3])
        raise UserError(f"{path}: column {name} holds {distinct:,} different labels for {len(pairs):,} images, such as {examples}: names "
                        "of images or numbers of patients rather than classes; --label names another column")


def _counted(words: Mapping[str, int]) -> str:
    return "cells of " + ", ".join(f"{word} ({count:,})" for word, count in words.items())


def _uncertain_text(uncertain: str) -> str:
    others = [f"--uncertain {word}" for word in UNCERTAIN if word != uncertain]
    return f"{uncertain} (uncertain; {' or '.join(others)} reads them otherwise)"


def _grade(label: str) -> tuple[float, str]:
    match = GRADE.fullmatch(label)
    return (float(match[1]), match[2]) if match else (number(label) or 0.0, "")
