"""The text of a CSV as a header and rows, whichever program wrote it, and every mistake in its form told with its line number.

Owns: encodings, delimiters, `sep=` and comment lines, quotes, ragged rows, `stop` for mistakes. Does not own: what a column means
(columns.py), what a cell means (labels.py).
"""

from __future__ import annotations

import codecs
import csv
import io
import re
import unicodedata
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from distill.data.scan import SHOWN
from runtimes.errors import USAGE, UserError

Row = tuple[int, list[str]]
DELIMITERS = ",;\t|"
SAMPLE = 20  # rows that a delimiter is judged by
JUDGED = 200_000  # and characters
LONGEST = 60  # characters of a cell that a message shows
MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
         (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))  # the longer mark before the shorter one it begins with
FOREIGN = {b"PK\x03\x04": "a zip archive or an Excel workbook", b"\xd0\xcf\x11\xe0": "an old Excel workbook", b"\x1f\x8b": "gzip",
           b"PAR1": "a Parquet file", b"%PDF": "a PDF"}
SEPARATOR = re.compile(r'"?sep=(\\t|[^"\r\n])"?[,;\t|]*', re.IGNORECASE)
LINE = re.compile(r"\r\n|\r|\n")
BLANKS = re.compile("[ \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]+")
INVISIBLE = dict.fromkeys(map(ord, "\u200b\u2060\ufeff\u00ad"))  # zero width space, word joiner, byte order mark, soft hyphen


def read_rows(path: Path) -> tuple[list[str], list[Row]]:
    """Header and rows (line number, stripped cells) of a CSV; UTF-8, or UTF-16 with a byte order mark; comma, semicolon, tab or bar.

    `sep=` and comment lines above the header are passed over. UserError names the line of every mistake.
    """
    text, skipped, delimiter = _preamble(_decoded(path))
    records: list[Row] = []
    delimiter = delimiter or _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                records.append((line + skipped, [cell.strip() for cell in cells]))
            line = reader.line_num + 1
    except csv.Error as error:
        never = "unexpected end" in str(error) or "field larger" in str(error)
        what = "a quote is opened and not closed" if never else str(error)
        raise UserError(f"{path}, line {line + skipped}: {what}; expected cells parted by {delimiter!r} and quotes in pairs") from None
    if len(records) < 2:
        what = "a header but no row" if records else "no content"
        raise UserError(f"{path} has {what}; expected a header and one row per image")
    header, rows = records[0][1], records[1:]
    header = [tidy(name) for name in (header[0].lstrip("#"), *header[1:])]
    named = [name for name in header if name]
    twice = sorted({name for name in named if named.count(name) > 1})
    if twice:
        raise UserError(f"{path}: column {shown(twice[0])} occurs twice in the header; rename one")
    stop(path, [f"line {line}: {len(cells)} cells, the header has {len(header)}"
                + (" (comments are read only above the header)" if cells[0].startswith("#") else "")
                for line, cells in rows if len(cells) != len(header)])
    return header, rows


def _decoded(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    kind = next((kind for start, kind in FOREIGN.items() if data.startswith(start)), None)
    if kind:
        raise UserError(f"{path} is {kind}, not text; save the table as CSV UTF-8")
    encoding = next((encoding for mark, encoding in MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        name = {"utf-16": "UTF-16", "utf-32": "UTF-32"}.get(encoding, "UTF-8")
        raise UserError(f"{path}, line {line}, is not {name} text (byte {error.start}); save it as CSV UTF-8, or convert it from what it "
                        "is, such as: iconv -f latin1 -t utf-8") from None
    if "\0" in text:
        if encoding == "utf-8" and 4 * data.count(0) > len(data):
            raise UserError(f"{path} is not UTF-8 text: many bytes are 0, as in UTF-16 without a byte order mark; save it as CSV UTF-8")
        lines = LINE.split(text[:text.index("\0")])
        raise UserError(f"{path}, line {len(lines)}: holds a NUL character, which no text has; write the table again")
    return text


def _preamble(text: str) -> tuple[str, int, str]:
    """The text from its header on, how many lines stood above it, and the delimiter that a `sep=` line names ("" for none)."""
    delimiter, start, skipped = "", 0, 0
    while start < len(text):
        line, after = _line(text, start)
        if not skipped and (match := SEPARATOR.fullmatch(line.strip("\ufeff "))):
            delimiter = "\t" if match[1] == "\\t" else match[1]
        elif not line.startswith("#") or _is_header(line, _line(text, after)[0]):
            break
        start, skipped = after, skipped + 1
    return text[start:], skipped, delimiter


def _line(text: str, start: int) -> tuple[str, int]:
    """The line that begins at `start`, and where the next one begins."""
    end = LINE.search(text, start)
    return (text[start:end.start()], end.end()) if end else (text[start:], len(text))


def _is_header(line: str, below: str) -> bool:
    """Whether a line that begins with # is the header itself, as some programs write it: the row below it has as many cells."""
    return re.match(r"#\w", line) is not None and not below.startswith("#") and any(
        line.count(mark) and line.count(mark) == below.count(mark) for mark in DELIMITERS)


def _delimiter(text: str) -> str:
    """The delimiter that parts the header into most cells, rows of as many first; the comma where all are equal."""

    def judged(mark: str) -> tuple[float, int]:
        records: list[list[str]] = []
        try:
            for cells in csv.reader(io.StringIO(text, newline=""), delimiter=mark):
                if any(map(str.strip, cells)):
                    records.append(cells)
                if len(records) > SAMPLE:
                    break
        except csv.Error:
            pass
        width = len(records[0]) if records else 1
        alike = sum(len(cells) == width for cells in records[1:]) / max(1, len(records) - 1)
        return (alike if width > 1 else 0.0, width)

    if not any(mark in text for mark in DELIMITERS[1:]):
        return ","
    text = text[:JUDGED]
    return max(DELIMITERS, key=judged)  # max keeps the comma where all are equal


def stop(path: Path, faults: Sequence[str]) -> None:
    """Raise UserError with the first mistakes, where there are any."""
    if faults:
        more = f"\n  and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        listed = "\n  ".join(faults[:SHOWN])
        count = "1 mistake" if len(faults) == 1 else f"{len(faults)} mistakes"
        raise UserError(f"{path}: {count} in the table; mend them and repeat:\n  {listed}{more}")


def shown(text: str) -> str:
    """A cell as a message shows it: quoted, escapes for what cannot be seen, and not longer than a line takes."""
    return repr(text) if len(text) <= LONGEST else f"{text[:LONGEST]!r}... ({len(text):,} letters)"


def tidy(text: str) -> str:
    """Text as it looks: composed letters (NFC), no characters without width, any run of blanks as one space."""
    if text.isascii() and "  " not in text:
        return text.strip()
    return BLANKS.sub(" ", unicodedata.normalize("NFC", text.translate(INVISIBLE))).strip()


def plain(name: str) -> str:
    """A column's name for comparison: lower case, words joined by underscores."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def column_named(path: Path, header: Sequence[str], label: str) -> str:
    """The column that --label names; UserError (exit 2) with the nearest name where there is none."""
    exact = [name for name in header if name == tidy(label)]
    alike = exact or [name for name in header if name and plain(name) == plain(label)]
    if len(alike) == 1 or exact:
        return alike[0]
    if alike:
        raise UserError(f"{path} has the columns {', '.join(alike)}; --label {label} could be any of them: write it exactly", USAGE)
    near = get_close_matches(label, [name for name in header if name], 1)
    guess = f"; did you mean {near[0]}?" if near else ""
    raise UserError(f"{path} has no column {label!r}, it has {listed(header)}{guess}", USAGE)


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names with commas, the first ones, without those that are empty."""
    names = [name if len(name) <= LONGEST else f"{name[:LONGEST]}..." for name in names if name]
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
