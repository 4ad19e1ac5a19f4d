"""Does anything that names a patient leave? Names planted in headers, files, folders, every output of every command searched.

Owns: which commands are run on which set, the page. Does not own: the planted sets, the search (planted.py), leaks of exports alone
(cases/leaks.py). The search is tried first on words that are hidden on purpose, and on the one list that must hold them.

    python -m benchmarks.robustness.privacy
"""

from __future__ import annotations

import argparse
import base64
import gzip
import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.record import RESULTS, facts
from benchmarks.robustness.planted import (
    DATES,
    NIFTI_FIELDS,
    TEXTS,
    UIDS,
    WORD,
    Searched,
    dicom_set,
    nifti_set,
    picture_set,
    search,
    secrets,
)

SMALL = ["--student", "test_efficientnet", "--size", "32", "--epochs", "1", "--min-steps", "0", "--batch", "8", "--bootstrap", "5",
         "--device", "cpu", "--threads", "1"]
TEACHER = ["--teacher", "test_resnet", "--teacher-weights", "random", "--teacher-size", "32", "--bank-runtime", "torch", "--bank-views",
           "1"]
SETS: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "DICOM files, class folders": (dicom_set, []), "NIfTI volumes, a table": (nifti_set, ["--slices", "6"]),
    "PNG, JPEG, TIFF, class folders, --hide-names always": (picture_set, ["--hide-names", "always"])}
COMMANDS = {"rd-distill": "distill.cli", "rd-adapt": "distill.adaptation.cli", "rd-export": "export.cli", "rd-verify": "runtimes.cli",
            "rd-bench": "runtimes.bench.cli", "rd-info": "runtimes.info_cli"}


@dataclass(frozen=True)
class Row:
    """What was searched of one set: its outputs, what the commands printed, the list of names."""

    name: str
    outputs: Searched
    printed: Searched
    listed: Searched


def lines_of(data: Path, flags: list[str]) -> list[list[str]]:
    """The commands of one set, each with every place that a name could come in by."""
    source = ["--data", str(data), *flags]
    export = ["--samples", "20", "--golden-images", "8", "--threads", "1"]
    return [
        ["rd-distill", *source, *SMALL, "--method", "vanilla", "--out", f"ward/{WORD}/vanilla"],
        ["rd-distill", *source, *SMALL, *TEACHER, "--method", "rd", "--bank", "bank", "--out", "rd"],
        ["rd-adapt", *source, "--teacher", "test_resnet", "--teacher-weights", "random", "--teacher-size", "32", "--method", "linear",
         "--epochs", "1", "--min-steps", "2", "--bootstrap", "5", "--device", "cpu", "--threads", "1", "--bank-runtime", "torch",
         "--out", "teacher"],
        ["rd-export", "--student-dir", f"ward/{WORD}/vanilla", "--out", "artifact", *export],
        ["rd-export", "--student-dir", "rd", "--data", str(data), "--out", "artifact-rd", *export, "--parity-pictures", "2"],
        ["rd-verify", "artifact"],
        ["rd-bench", "artifact", "--batch", "1", "--threads", "1", "--paths", "array", "--seconds", "0.1", "--samples", "20",
         "--no-roofline", "--no-profile", "--out", "bench"],
        ["rd-info", "rd"],
    ]


def run(line: list[str], work: Path) -> str:
    """What a command printed, on both streams; the study ends where a command fails."""
    environment = {**os.environ, "USER": WORD, "LOGNAME": WORD, "HOSTNAME": WORD, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-m", COMMANDS[line[0]], *line[1:]], cwd=work, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(line)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout + done.stderr


def tried(name: str, make: Callable[[Path], Path], flags: list[str], work: Path) -> Row:
    """All commands on one set, and what they left."""
    data = make(work / "in")
    printed = work / "printed.txt"
    printed.write_text("\n".join(run(line, work) for line in lines_of(data, flags)), encoding="utf-8")
    lists = sorted(work.rglob("*.names.csv"))
    shutil.move(work / "ward" / WORD / "vanilla", work / "vanilla")  # the folder above was named on purpose
    outputs = [path for path in sorted(work.iterdir()) if path.name not in ("in", "ward", "printed.txt") and path not in lists]
    header = [text for text in secrets() if text != WORD]
    return Row(name, search(outputs, secrets()), search([printed], header), search(lists, [WORD]))


def controls() -> dict[str, bool]:
    """Words hidden on purpose, by how, and whether the search finds them."""
    packed, picture = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("names.txt", f"a {WORD}02 b")
    from PIL import Image, PngImagePlugin

    note = PngImagePlugin.PngInfo()
    note.add_text("Comment", f"{WORD}03", zip=True)
    Image.new("L", (8, 8)).save(picture, "PNG", pnginfo=note)
    held = {"as it is": f"{WORD}01".encode(), "lower case": f"{WORD}01".lower().encode(), "UTF-16": f"{WORD}01".encode("utf-16-le"),
            "UTF-16, big endian": b"\0x" + f"{WORD}01".encode("utf-16-be"), "member of a ZIP": packed.getvalue(),
            "gzip": gzip.compress(f"{WORD}04".encode()), "compressed text of a PNG": picture.getvalue(),
            "picture in a page, base64": b'<img src="data:image/png;base64,' + base64.b64encode(picture.getvalue()) + b'">',
            "SHA-256 of a PatientID": next(text for text in reversed(secrets()) if len(text) == 64).encode()}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, data in held.items():
            (Path(folder) / "out.bin").write_bytes(b"\1\2" + data + b"\3" if data[:1] not in (b"P", b"\x1f", b"\x89") else data)
            found[name] = search([Path(folder) / "out.bin"], secrets()).hits != ()
    return found


def page(rows: list[Row], seen: dict[str, bool], before: str) -> str:
    """The page of results; what stands behind the tables, written by hand, stays."""
    total = [sum(getattr(row.outputs, field) for row in rows) for field in ("files", "bytes")]
    hits = sum(len(row.outputs.hits) for row in rows)
    head = ["# Does anything that names a patient leave?", "",
            f"{total[0]} files, {total[1]:,} bytes (with all that was unpacked) of outputs searched, **{hits} found**. Made by "
            f"`python -m benchmarks.robustness.privacy` on {facts()['date']}.", "",
            f"A word of its own was planted in {len(TEXTS)} texts of the DICOM header, {len(UIDS)} UIDs and {len(DATES)} dates, three "
            f"sequences (nested), a private block, the preamble and the file meta information; in {len(NIFTI_FIELDS)} texts of the NIfTI "
            "header and an extension; in EXIF (ASCII and UTF-16), PNG text (plain, compressed, international), JPEG comments and TIFF "
            "tags; in names of files, of folders above and below the classes, of a table, of its columns and cells; in the folder above "
            "`--out` and in the environment (USER, HOSTNAME). Then `rd-distill` (vanilla; rd with a bank), `rd-adapt`, `rd-export` (with "
            "and without pictures), `rd-verify`, `rd-bench` and `rd-info` ran, and every byte of every output was searched: in any case, "
            "in one and two bytes a letter, in members of archives, gzip, base64 in pages, texts and pixels of pictures; also for MD5, "
            "SHA-1 and SHA-256 of planted values without a key.", "",
            "| set | files searched | bytes | found in outputs | texts of headers on the terminal | the list beside `--out` |",
            "|---|---|---|---|---|---|",
            *(f"| {row.name} | {row.outputs.files} | {row.outputs.bytes:,} | {len(row.outputs.hits)} | {len(row.printed.hits)} | "
              f"{row.listed.files} lists, names in {len(row.listed.hits)} |" for row in rows), "",
            *(f"- FOUND: {row.name}: {file} holds {text}" for row in rows for file, text in row.outputs.hits),
            f"The search can find: {sum(seen.values())} of {len(seen)} words that were hidden on purpose "
            f"({', '.join(f'{name}: ' + ('found' if hit else 'MISSED') for name, hit in seen.items())}).", ""]
    return "\n".join(line for line in head) + before


def main() -> None:
    """Run everything, write the page; exit 1 where something was found, or where the search is blind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "privacy.md")
    given = parser.parse_args()
    seen, rows = controls(), []
    for name, (make, flags) in SETS.items():
        with tempfile.TemporaryDirectory() as folder:
            rows.append(tried(name, make, flags, Path(folder)))
            print(f"{name}: {rows[-1].outputs.files} files, {rows[-1].outputs.bytes:,} bytes, {rows[-1].outputs.hits} found; terminal "
                  f"{rows[-1].printed.hits}; lists {len(rows[-1].listed.hits)}", flush=True)
    old = given.out.read_text(encoding="utf-8") if given.out.is_file() else ""
    _, mark, rest = old.partition("\n## ")
    given.out.write_text(page(rows, seen, f"{mark}{rest}"), encoding="utf-8")
    sys.exit(1 if any(row.outputs.hits or row.printed.hits for row in rows) or not all(seen.values()) else 0)


if __name__ == "__main__":
    main()
