"""Writing what one file was answered: the checks before any work, then the report, then the trace, each whole or not at all.

Owns: `check_results`, `write_results`, `sources_of`, which file may be replaced. Does not own: what they hold (trace.py, dicom_sr.py),
atomic writing (files/folder.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from runtimes.errors import USAGE, UserError
from runtimes.files.folder import write_atomic
from runtimes.files.outputs import check_apart
from runtimes.images.dicom_guard import load_pydicom
from runtimes.images.dicom_header import has_magic
from runtimes.images.dicom_series import series_files
from runtimes.results.dicom_sr import is_ours, load_highdicom, report_bytes
from runtimes.results.findings import Finding, Origin
from runtimes.results.trace import hashes_of, is_trace, trace_bytes, trace_of


def check_results(path: Path, *, trace: Path | None, dicom_sr: Path | None, overwrite: bool) -> None:
    """Refuse, before any work, results that could not be written (exit 2), or not without a package (exit 5).

    path: the image or volume that will be read. overwrite replaces only a trace or a report that this software wrote.
    """
    check_apart({"--trace": trace, "--dicom-sr": dicom_sr}, {"--image": path})
    is_dicom = path.is_file() and has_magic(path)
    if is_dicom:
        load_pydicom(path)  # now: importing it takes longer than reading most files
    if trace is not None:
        _check_file(trace, "--trace", is_trace, overwrite)
    if dicom_sr is not None:
        load_highdicom(dicom_sr)
        _check_file(dicom_sr, "--dicom-sr", is_ours, overwrite)
        if path.exists() and not (is_dicom if path.is_file() else sources_of(path)):
            raise UserError(f"--dicom-sr {dicom_sr}: {path} is no DICOM file and no folder of any, so a report could not say whose image "
                            "it is; bring the DICOM files, or leave --dicom-sr out", USAGE)


def _check_file(out: Path, flag: str, ours: Callable[[Path], bool], overwrite: bool) -> None:
    if out.is_dir():
        raise UserError(f"{flag} {out} is a folder; name a file", USAGE)
    if os.path.lexists(out):
        if not overwrite:
            raise UserError(f"{flag} {out} is there already; add --overwrite to replace it, or name another file", USAGE)
        if not ours(out):
            raise UserError(f"{flag} {out} was not written by rd-verify {flag}, and --overwrite replaces only what was; name another file",
                            USAGE)
    if not out.parent.is_dir():
        raise UserError(f"{flag} {out}: there is no folder {out.parent}; make it, or name another one", USAGE)
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise UserError(f"{flag} {out} cannot be written: no right to write in {out.parent}; name another folder", USAGE)


def sources_of(path: Path) -> list[Path]:
    """The files that a path to an image or a volume means: itself, or of a folder all files of DICOM in it but indexes of a disk."""
    return list(series_files(path)) if path.is_dir() else [path]


def state_of(path: Path) -> list[tuple[str, int, int]]:
    """What shows that files were changed meanwhile: name, size and time of each that a path means; nothing where it is not there."""
    return [(file.name, status.st_size, status.st_mtime_ns) for file in sources_of(path) if file.exists() for status in (file.stat(),)]


def write_results(files: Sequence[Path], findings: Sequence[Finding], origin: Origin, ms: Mapping[str, float],
                  notes: Sequence[str] = (), *, trace: Path | None, dicom_sr: Path | None) -> None:
    """Write what these files, of one image or volume, were answered, atomically.

    UserError where their header cannot be taken over, and then neither is written.
    """
    report = None if dicom_sr is None else report_bytes(dicom_sr, files, findings, origin)
    content = None if trace is None else trace_bytes(trace_of(findings, origin, ms, hashes_of(files), notes))
    for out, data in ((dicom_sr, report), (trace, content)):
        if out is not None and data is not None:
            write_atomic(out, data)
