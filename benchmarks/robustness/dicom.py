"""DICOM files of other people through our reader: each equal to pydicom's own functions or refused, and damaged ones in a child process.

Owns: which files, the table, damage to bytes. Does not own: what is right (dicom_reference.py), the process that reads damaged
files (child.py), the reader (runtimes.images.dicom). Files: those of pydicom's wheel, and of $RD_SHARED/data where they are.

    python -m benchmarks.robustness.dicom
    python -m benchmarks.robustness.dicom fuzz --cases 20000
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.record import RESULTS, SHARED, command_line, facts, store
from benchmarks.robustness.child import Child, Look, serve
from benchmarks.robustness.dicom_reference import reference
from runtimes.errors import UserError
from runtimes.images.decode import decode
from runtimes.images.dicom_header import has_magic, read_header

MOST_PIXELS = 64_000_000
LONGEST_S = 15.0
MOST_MB = 768
GUARD_BYTES = 3 << 30  # address space of the child
LARGEST_BYTES = 60_000  # of a file that is damaged: more of it would be pixels
MANY = 16  # files of one folder that end alike, in one row of the table
HUGE = (0, 1, 2, 127, 255, 256, 32767, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)


@dataclass(frozen=True)
class Row:
    """What became of one file."""

    name: str
    what: str
    end: str
    message: str


def collections() -> dict[str, list[Path]]:
    """Files that bear the mark of DICOM, by where they come from; a collection that is not here is empty."""
    import pydicom

    places = {"pydicom's wheel": Path(pydicom.__file__).parent / "data", "highdicom": SHARED / "highdicom_test_files",
              "CQ500, one CT": SHARED / "cq500_ct0_dicom"}
    return {name: sorted(path for path in folder.rglob("*") if path.is_file() and has_magic(path)) for name, folder in places.items()}


def look(path: Path, name: str, pictures: Path | None) -> Row:
    """Read one file and compare it."""
    try:
        levels = decode(path)
    except UserError as error:
        return Row(name, "", "refused", str(error).removeprefix(f"{path}: "))
    except BaseException as error:
        return Row(name, "", "crash", type(error).__name__)
    import pydicom

    header = read_header(path, MOST_PIXELS)
    wanted, white = reference(path)
    wanted = squared(wanted, header.stretch)
    depth = np.uint8 if white == 255 else np.uint16
    right = levels.shape == wanted.shape and levels.dtype == depth and bool(np.abs(levels - wanted).max() <= 0.5 + 1e-6)
    if pictures is not None:
        from PIL import Image

        pictures.mkdir(parents=True, exist_ok=True)
        shown = (levels >> 8).astype(np.uint8) if levels.dtype == np.uint16 else levels
        Image.fromarray(shown[..., 0] if shown.shape[2] == 1 else shown).save(pictures / f"{name.replace('/', '_')}.png")
    size = " x ".join(map(str, levels.shape))
    what = (f"{header.photometric}, {header.bits_stored} bits{', signed' if header.signed else ''}, "
            f"{pydicom.uid.UID(header.syntax).name.split(' (Process')[0]}")
    return Row(name, what, "read" if right else "read wrongly", f"{size} {levels.dtype}" + (", made square" if header.stretch != 1 else ""))


def squared(levels: np.ndarray, stretch: float) -> np.ndarray:
    """Levels on square pixels by numpy's own interpolation."""
    axis, times = (0, stretch) if stretch > 1 else (1, 1 / stretch)
    source = levels.shape[axis]
    at = (np.arange(round(source * times)) + 0.5) * source / round(source * times) - 0.5
    return np.apply_along_axis(lambda line: np.interp(at, np.arange(source), line), axis, levels)


def table(pictures: Path | None) -> int:
    """Write the table; how many files are read wrongly or end otherwise than they should."""
    lines, counts, absent = [], {}, []
    for origin, paths in collections().items():
        if not paths:
            absent.append(origin)
            continue
        folder = Path(os.path.commonpath(paths))
        rows = [look(path, path.relative_to(folder).as_posix(), pictures) for path in paths]
        counts[origin] = Counter(row.end for row in rows)
        lines += ["", f"## {origin}: {len(rows)} files", "", "| file | what it is | end | shape, or why not |", "|---|---|---|---|"]
        alike: dict[tuple[str, ...], list[str]] = {}
        for row in rows:
            alike.setdefault((str(Path(row.name).parent), row.what, row.end, row.message), []).append(row.name)
        for (_, what, end, message), names in alike.items():
            shown = names if len(names) <= MANY else [f"{names[0]} and {len(names) - 1} like it"]
            lines += [f"| {name} | {what} | {end} | {message.replace('|', '/')} |" for name in shown]
    total = sum(counts.values(), Counter())
    head = ["# DICOM files of other people, and what our reader makes of them", "",
            f"{total.total()} files: {total['read']} read, each equal to pydicom's own functions in float64, rounded; "
            f"{total['refused']} refused in one sentence; {total['read wrongly']} read wrongly; {total['crash']} ended otherwise. Made by "
            f"`python -m benchmarks.robustness.dicom` on {facts()['date']}." + (f" Not here: {', '.join(absent)}." if absent else ""), "",
            "| from | files | read | refused |", "|---|---|---|---|",
            *(f"| {origin} | {ends.total()} | {ends['read']} | {ends['refused']} |" for origin, ends in counts.items())]
    (RESULTS / "dicom.md").write_text("\n".join([*head, *lines]) + "\n", encoding="utf-8")
    print("\n".join(head))
    return total["read wrongly"] + total["crash"]


def reader(path: Path) -> Look:
    """What the child does for each damaged file: read it; a refusal must be one sentence that begins with the path."""
    def look() -> tuple[str, str]:
        try:
            levels = decode(path)
        except UserError as error:
            return ("refused" if str(error).startswith(str(path)) and "\n" not in str(error) else "another sentence"), str(error)
        return ("read" if levels.dtype in (np.uint8, np.uint16) and levels.ndim == 3 else "another array"), ""

    return look


def child_of(path: Path) -> Child:
    """A child that reads a file."""
    return Child("benchmarks.robustness.dicom", path, LONGEST_S, "fuzz")


def damaged(files: list[Path], count: int, seed: int) -> Iterator[tuple[str, str, bytes]]:
    """Kind of damage, the file's name and its bytes, `count` times."""
    chance = random.Random(seed)
    whole = {path: path.read_bytes() for path in files}
    kinds = ("a byte of the header", "a byte of the pixels", "several bytes", "cut short", "a length that lies", "a piece moved")
    for number in range(count):
        path, kind = chance.choice(files), kinds[number % len(kinds)]
        data = bytearray(whole[path])
        pixels = max(data.rfind(b"\xe0\x7f\x10\x00"), data.rfind(b"\x7f\xe0\x00\x10"), 200)
        if kind == "a byte of the header":
            data[chance.randrange(132, pixels + 12)] = chance.randrange(256)
        elif kind == "a byte of the pixels":
            data[chance.randrange(pixels, len(data))] = chance.randrange(256)
        elif kind == "several bytes":
            for _ in range(chance.randrange(2, 30)):
                data[chance.randrange(132, len(data))] = chance.randrange(256)
        elif kind == "cut short":
            del data[chance.randrange(133, len(data)):]
        elif kind == "a length that lies":
            at, width = chance.randrange(132, min(pixels + 200, len(data) - 4)), chance.choice((2, 4))
            data[at:at + width] = (chance.choice(HUGE) % (1 << 8 * width)).to_bytes(width, chance.choice(("little", "big")))
        else:
            start, length = chance.randrange(132, len(data)), chance.randrange(1, 300)
            piece = data[start:start + length]
            del data[start:start + length]
            at = chance.randrange(132, len(data) + 1)
            data[at:at] = piece * chance.choice((1, 2))
        yield kind, path.name, bytes(data)


@dataclass(frozen=True)
class Outcome:
    """What became of one damaged file."""

    kind: str
    name: str
    end: str
    told: str
    seconds: float
    peak_mb: float


def fuzz(cases: int, seed: int, out: Path) -> int:
    """Damage files and have a child read them; how many end otherwise than read or refused."""
    files = [path for path in collections()["pydicom's wheel"] if path.stat().st_size <= LARGEST_BYTES
             and look(path, path.name, None).end == "read" and "charset" not in str(path) and "dicomdirtests" not in str(path)]
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.dcm"
        child = child_of(path)
        for number, (kind, name, data) in enumerate(damaged(files, cases, seed)):
            path.write_bytes(data)
            start = time.monotonic()
            answer = child.ask()
            seconds = time.monotonic() - start
            outcomes.append(Outcome(kind, name, answer["end"], answer.get("told", ""), seconds, answer.get("peak_mb", 0.0)))
            if answer["end"] in ("crash", "hang"):
                print(f"{number}: {outcomes[-1]}", flush=True)
                child = child_of(path)
        child.close()
    ends, bad = Counter(one.end for one in outcomes), [one for one in outcomes if one.end not in ("read", "refused")]
    peak, slowest = max(one.peak_mb for one in outcomes), max(one.seconds for one in outcomes)
    kinds = {one.kind: Counter(other.end for other in outcomes if other.kind == one.kind) for one in outcomes[:6]}
    print(f"{dict(ends)}, slowest {slowest:.2f} s, at most {peak:.0f} MB, {len(files)} files")
    for kind, counts in kinds.items():
        print(f"| {kind} | {counts['refused']} | {counts['read']} | {counts['another error']} | {counts['crash']} | {counts['hang']} |")
    store(out, {"format": 1, "command": command_line(), "facts": facts(), "files": len(files), "cases": len(outcomes), "seed": seed,
                "ends": ends, "slowest_s": slowest, "peak_mb": peak, "by_kind": kinds, "not_as_wished": [asdict(one) for one in bad[:100]]})
    return len(bad) + (peak > MOST_MB)


def main() -> None:
    """The table, or the damage; exit 1 where something ends otherwise than read right or refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("table", "fuzz"), default="table")
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=Path, help="write what is read as PNG files into this folder")
    parser.add_argument("--out", type=Path, default=RESULTS / "fuzz-dicom.json")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(lambda: reader(given.serve), GUARD_BYTES, given.serve, "FILE")
    else:
        sys.exit(1 if (table(given.pictures) if given.what == "table" else fuzz(given.cases, given.seed, given.out)) else 0)


if __name__ == "__main__":
    main()
