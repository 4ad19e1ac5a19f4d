"""DICOM files of a set as series: which files are one volume, what is none and left out, and a note where series are read as images.

Owns: `look_at_slices`, `series_rows`, `note_series`, `volume_files`. Does not own: folders and tables (folders.py, tables.py), reading a
series (runtimes.images.dicom_series). Headers are read up to the number of frames, in threads, and no pixels; a series is known by a
keyed hash (HMAC-SHA-256) under a random key that lives as long as the listing.
"""

from __future__ import annotations

import hmac
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from distill.data.dicom_headers import IDENTITIES, HeaderFacts
from runtimes.errors import UserError
from runtimes.images.dicom_header import is_dicom, seems_dicom, slice_facts
from runtimes.images.dicom_series import series_files

THREADS = 8
FEWEST_POSITIONS = 5  # of a series that is worth a word where it is read as images


@dataclass(frozen=True, slots=True)
class SliceLook:
    """What is kept of a DICOM file before it is read: a keyed hash of its series, its frames, and what it is if it is no slice."""

    series: str
    frames: int
    kind: str


def look_at_slices(paths: Sequence[Path], key: bytes) -> list[SliceLook | None]:
    """A look at each file's header; None for a file of another format, an empty one for DICOM that cannot be read."""
    def look(path: Path) -> SliceLook | None:
        if not seems_dicom(path):
            return None
        try:
            uid, frames, kind = slice_facts(path)
        except (UserError, OSError):  # said in full when it is opened as what it is taken for
            return SliceLook("", 1, "")
        return SliceLook(hmac.digest(key, uid.encode("utf-8", "surrogatepass"), "sha256").hex()[:32] if uid else "", frames, kind)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(look, paths))


@dataclass(frozen=True)
class SeriesRows:
    """Rows of a listing as volumes: the files of each, the first of its rows, its key, and notes on what was left out."""

    items: list[Path | tuple[Path, ...]]
    rows: list[int]
    keys: list[str]
    mixed: list[tuple[int, int]]
    notes: list[str]


def series_rows(paths: Sequence[Path], keys: Sequence[str], labels: Sequence[tuple[str, ...]]) -> SeriesRows:
    """Files grouped to volumes: those that share a series, and each file of many frames; others stay what they are.

    keys: names below the root, with `/`. labels: what all files of a series must agree in; `mixed` holds two rows that do not. A volume's
    key is the folder that holds all its files, with the first one's name where that folder is no key of its own.
    """
    looks = look_at_slices(paths, os.urandom(32))
    groups: dict[str, list[int]] = defaultdict(list)
    left_out: Counter[str] = Counter()
    example = ""
    for row, look in sorted(enumerate(looks), key=lambda pair: keys[pair[0]]):
        if look is None:
            groups[f"file {row}"].append(row)
        elif look.kind:
            left_out[look.kind] += 1
            example = example or keys[row]
        else:
            groups[f"frames {row}" if look.frames > 1 or not look.series else look.series].append(row)
    mixed = [(rows[0], row) for rows in groups.values() for row in rows[1:] if labels[row] != labels[rows[0]]]
    folders = {name: os.path.commonpath([os.path.dirname(keys[row]) for row in rows]) for name, rows in groups.items()
               if not name.startswith(("file ", "frames "))}
    several = Counter(folders.values())
    items: list[Path | tuple[Path, ...]] = []
    names: list[str] = []
    for name, rows in groups.items():
        items.append(paths[rows[0]] if name.startswith("file ") else tuple(paths[row] for row in rows))
        folder = folders.get(name, "").replace(os.sep, "/")
        alone = folder and several[folders[name]] == 1
        names.append(folder if alone else f"{folder}/{os.path.basename(keys[rows[0]])}" if folder else keys[rows[0]])
    if len(set(names)) < len(names):
        names = [keys[rows[0]] for rows in groups.values()]
    notes = []
    if left_out:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(left_out.items()))
        notes.append(f"{sum(left_out.values()):,} DICOM files that are no slices are left out: {counts}; such as {example}")
    order = sorted(range(len(names)), key=lambda place: names[place])
    first = [rows[0] for rows in groups.values()]
    return SeriesRows([items[place] for place in order], [first[place] for place in order], [names[place] for place in order], mixed, notes)


def note_series(headers: Sequence[HeaderFacts | None]) -> list[str]:
    """A note where files that are read as images lie behind one another in series."""
    positions: dict[str, set[tuple[float, ...]]] = defaultdict(set)
    place = IDENTITIES.index("SeriesInstanceUID")
    for header in headers:
        if header is not None and header.identities[place] and header.position is not None:
            positions[header.identities[place]].add(header.position)
    count = sum(len(places) >= FEWEST_POSITIONS for places in positions.values())
    if not count:
        return []
    return [f"{count:,} DICOM series of {FEWEST_POSITIONS} slices or more are read as single images; --dicom series takes each as a volume"]


def volume_files(paths: Sequence[Path]) -> tuple[list[Path | tuple[Path, ...]], list[str]]:
    """Files and folders of a table: folders become the DICOM files below them, DICOM files of many frames volumes; and what is wrong."""
    faults = ["" for _ in paths]
    items: list[Path | tuple[Path, ...]] = list(paths)
    for row, path in enumerate(paths):
        if path.is_dir():
            files = series_files(path)
            items[row] = files or path
            faults[row] = "" if files else "is a folder without a DICOM file; expected one series, or name a file"
    named = [row for row, path in enumerate(paths) if isinstance(items[row], Path) and is_dicom(path, b"") and path.is_file()]
    for row, look in zip(named, look_at_slices([paths[row] for row in named], os.urandom(32)), strict=True):
        if look is not None and look.frames > 1:
            items[row] = (paths[row],)
    return items, faults
