"""The file that an image cell of a table names: as written, or found by what is left of the name where that is one file only.

Owns: where a cell is looked for, names of another machine, names without a suffix. Does not own: opening files (scan.py), other
columns (columns.py).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from distill.data.folders import hidden
from distill.data.sources import SUFFIXES
from distill.data.table_text import INVISIBLE, shown

MOST_FOLDERS = 200  # below the table's own that a bare name is looked for in
LONGEST_NAME = 255  # bytes of a file's name
LONGEST_PATH = 3000  # bytes of a cell: with the folders above it, a path may have 4096


class Places:
    """Where the images of a table can be: beside it, in `images`, and for bare names in the folders beside it."""

    def __init__(self, folder: Path) -> None:
        self.bases = (folder, folder / "images")
        self._names: dict[Path, dict[str, list[Path]]] = {}
        self._folders: list[Path] | None = None

    def find(self, cell: str) -> list[Path]:
        """Every file that a cell may mean, best first: one where it is written in full, several where it is not clear which.

        A folder, which holds a DICOM series, is meant only where it is written in full and no file is.
        """
        names = dict.fromkeys((cell, cell.replace("\\", "/")))
        for name in names:
            for base in self.bases:
                if is_file(base / name):
                    return [base / name]
        if cell.strip("./\\") == "":
            return []
        name = cell.translate(INVISIBLE).replace("\\", "/").strip()
        foreign = re.match(r"([A-Za-z]:)?/", name)
        tails = name[foreign.end():].strip("/").split("/") if foreign else [name]
        for start in range(len(tails)):
            tail = "/".join(tails[start:])
            hits = [hit for base in self.bases for hit in self._alike(base / tail)]
            if not hits and "/" not in tail and not foreign:
                hits = [hit for folder in self._beside() for hit in self._alike(folder / tail)]
            if hits:
                return hits
        return [base / name for name in names for base in self.bases if is_folder(base / name)][:1]

    def _alike(self, target: Path) -> list[Path]:
        """Files of a folder whose name differs from the wanted one by case, Unicode form or a missing image suffix at most."""
        if ".." in target.parts:
            return []
        if target.parent not in self._names:
            names: dict[str, list[Path]] = {}
            for path in entries(target.parent):
                if not hidden(path.name):
                    for key in {_key(path.name), _key(_stem(path.name))}:
                        names.setdefault(key, []).append(path)
            self._names[target.parent] = names
        return [path for path in self._names[target.parent].get(_key(target.name), []) if is_file(path)]

    def _beside(self) -> list[Path]:
        if self._folders is None:
            visible = [path for path in entries(self.bases[0]) if not hidden(path.name) and path.is_dir()][:MOST_FOLDERS]
            self._folders = [place for path in visible if path != self.bases[1] for place in (path, path / "images")]
        return self._folders


def locate(folder: Path, cells: Sequence[str], lines: Sequence[int]) -> tuple[list[Path], list[str], list[str]]:
    """The file of every image cell, mistakes with their lines, and notes on names that were completed.

    A cell that names nothing keeps the place where its file was expected, and is reported when images are opened.
    """
    places = Places(folder)
    paths: list[Path] = []
    faults: list[str] = []
    completed: dict[Path, int] = {}
    for line, cell in zip(lines, cells, strict=True):
        hits: list[Path] = []
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://|data:", cell):
            faults.append(f"line {line}: {shown(cell)} is an address, not a file; fetch the images and name them")
        elif too_long(cell):
            faults.append(f"line {line}: the image cell {shown(cell)} is no name of a file: it is too long")
        else:
            hits = places.find(cell)
        if len(set(hits)) > 1:
            faults.append(f"line {line}: {shown(cell)} could be {' or '.join(sorted(str(hit) for hit in hits)[:3])}; write the whole name")
        path = hits[0] if hits else folder / ("" if too_long(cell) else cell)
        if not hits and is_special(path):
            faults.append(f"line {line}: {shown(cell)} is a pipe or a device, not a file")
        if hits and path not in (folder / cell, folder / "images" / cell) and completed.setdefault(path, line) != line:
            faults.append(f"line {line}: {shown(cell)} is taken for {path}, and so is line {completed[path]}")
        paths.append(path)
    written = {path: cell for path, cell in zip(paths, cells, strict=True)}
    examples = [path for path in completed if not _as_written(path, written[path])]
    notes = []
    if examples:
        notes.append(f"{len(examples):,} image names were completed to the one file they fit, such as {shown(written[examples[0]])} to "
                     f"{examples[0].relative_to(folder)}")
    return paths, faults, notes


def _as_written(path: Path, cell: str) -> bool:
    return str(path).endswith(cell.replace("\\", "/").removeprefix("./"))


def too_long(cell: str) -> bool:
    """Whether a name is longer than file systems take."""
    length = len(cell.encode("utf-8", "surrogatepass"))
    return length > LONGEST_PATH or (length > LONGEST_NAME and any(
        len(part.encode("utf-8", "surrogatepass")) > LONGEST_NAME for part in re.split(r"[\\/]", cell)))


def entries(folder: Path) -> list[Path]:
    """What a folder holds, in order; nothing where it cannot be listed."""
    try:
        return sorted(folder.iterdir())
    except (OSError, ValueError):
        return []


def is_file(path: Path) -> bool:
    """Whether a name is that of a file, no for every name that cannot be one."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether a name is that of a folder, no for every name that cannot be one."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def is_special(path: Path) -> bool:
    """Whether a name is that of a pipe, a socket or a device, which would be waited for without end."""
    try:
        return path.exists() and not path.is_file() and not path.is_dir()
    except (OSError, ValueError):
        return False


def _stem(name: str) -> str:
    suffix = next((suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if name.lower().endswith(suffix)), "")
    return name[:len(name) - len(suffix)]


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
