"""CSV files that a spreadsheet may open: no cell that we write is run as a formula, and our own reader gets every cell back.

Owns: the apostrophe before such cells and its removal, writing and reading tables. Does not own: what a table holds, the user's tables.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

# A cell begins at its own start and, to a spreadsheet of another country, behind any separator or line break inside it.
_FORMULA = re.compile(r"(^|[;,|\t\r\n])('*)(?=[=+\-@\t\r\n\uff0b\uff0d\uff1d\uff20])")
_GUARDED = re.compile(r"(^|[;,|\t\r\n])'('*)(?=[=+\-@\t\r\n\uff0b\uff0d\uff1d\uff20])")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def guarded(cell: str) -> str:
    """A cell as it is written: an apostrophe before whatever a spreadsheet would run; a number stays a number."""
    return cell if _NUMBER.fullmatch(cell) else _FORMULA.sub(r"\1'\2", cell)


def bare(cell: str) -> str:
    """A cell as it was before `guarded`."""
    return _GUARDED.sub(r"\1\2", cell)


def as_csv(names: Sequence[str], rows: Iterable[Mapping[str, Any]], *, line_end: str = "\r\n") -> str:
    """Rows as CSV text under these column names; a missing cell is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator=line_end)
    for row in ([*names], *([row.get(name, "") for name in names] for row in rows)):
        writer.writerow([guarded(cell) if isinstance(cell, str) else cell for cell in row])
    return text.getvalue()


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV under the union of their keys, in order of appearance."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    path.write_bytes(as_csv(names, rows).encode("utf-8"))


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV that write_table wrote, every cell as it was given, as text."""
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = ([bare(cell) for cell in row] for row in csv.reader(file))
    return [dict(zip(header, row, strict=True)) for row in rows]
