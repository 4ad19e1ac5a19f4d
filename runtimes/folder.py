"""Folders and files that appear whole or not at all, and the manifest that names their bytes.

Owns: atomic writes, hashes, `manifest.json`. Does not own: what the files mean, who signed them (signature.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtimes.errors import USAGE, UserError
from runtimes.schema import anything, check, mapping_of, maybe, object_of, text, truth
from runtimes.strict_json import strict_json

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"  # beside the manifest and over its bytes: the one file a manifest cannot name
FORMAT = 1
# What every manifest holds, and of which kind is what several readers take from one; what only one reads it checks itself.
RECORD = object_of({"kind": text(), "format": anything, "files": mapping_of(text())},
                   {"settings": mapping_of(anything), "parents": mapping_of(maybe(text())), "versions": mapping_of(text()),
                    "command": text(1 << 20), "synthetic": truth, "licence": text()}, others=True)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes) -> None:
    """Write bytes so that the path holds the old content or the new, never half: temporary sibling, fsync, rename, fsync."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, readable and with keys in the given order; NaN is refused."""
    write_atomic(path, (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, or say which file is missing or broken."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing; expected a file written by one of the rd- commands") from None
    return parse_json(data, path)


def parse_json(data: bytes, path: Path) -> dict[str, Any]:
    """A JSON object from the bytes of the file at `path`, or say that the file is broken."""
    try:
        content = strict_json(data.decode("utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not readable JSON ({error}); make it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds {type(content).__name__}, expected a JSON object")
    return content


def check_out(out: Path, *, overwrite: bool) -> None:
    """Refuse, before any work, an output folder that cannot be written, or is not empty and not to be replaced (exit 2)."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; name a folder", USAGE)
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir():
        raise UserError(f"--out {out} lies below {above}, which is a file; name a folder", USAGE)
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"--out {out} cannot be written: no right to write in {above}; name another folder", USAGE)
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise UserError(f"--out {out} is not empty; add --overwrite to replace it, or name another folder", USAGE)


@contextmanager
def new_folder(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling that becomes `out` when the block ends well, and vanishes when it does not."""
    out.parent.mkdir(parents=True, exist_ok=True)
    for old in out.parent.glob(f".{out.name}.tmp-old-*"):  # a kill between the two renames below: the old folder comes back
        if not out.exists():
            os.replace(old, out)
    check_out(out, overwrite=overwrite)
    for orphan in out.parent.glob(f".{out.name}.tmp-*"):  # left by a killed run, never read by anything
        shutil.rmtree(orphan, ignore_errors=True)
    temporary = out.with_name(f".{out.name}.tmp-{os.getpid()}")
    temporary.mkdir()
    try:
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            else:
                sync_folder(path)
        sync_folder(temporary)
        old = out.with_name(f".{out.name}.tmp-old-{os.getpid()}")
        if out.exists():
            os.replace(out, old)
        os.replace(temporary, out)
        sync_folder(out.parent)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_manifest(folder: Path, kind: str, facts: dict[str, Any]) -> None:
    """Write manifest.json last: kind, format, facts and the SHA-256 of every other file; without it a folder does not count."""
    files = {path.relative_to(folder).as_posix(): sha256_file(path)
             for path in sorted(folder.rglob("*")) if path.is_file() and path not in (folder / MANIFEST, folder / SIGNATURE)}
    write_json(folder / MANIFEST, {"kind": kind, "format": FORMAT, **facts, "files": files})


def read_manifest(folder: Path, *kinds: str, data: bytes | None = None) -> dict[str, Any]:
    """Read a folder's manifest and check that it is of an expected kind and format; data: its bytes, where they were read already."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; expected one of kind {' or '.join(kinds)}")
    if not (folder / MANIFEST).is_file():
        raise UserError(f"{folder} has no {MANIFEST}; expected a finished folder of kind {' or '.join(kinds)}")
    manifest = read_json(folder / MANIFEST) if data is None else parse_json(data, folder / MANIFEST)
    if manifest.get("kind") not in kinds:
        raise UserError(f"{folder} is of kind {manifest.get('kind')!r}, expected {' or '.join(kinds)}")
    if manifest.get("format") != FORMAT:
        raise UserError(f"{folder} has format {manifest.get('format')!r}, this version reads {FORMAT}; make it again")
    if not isinstance(manifest.get("files"), dict):
        raise UserError(f"{folder / MANIFEST} names no files; make the folder again")
    check(manifest, RECORD, str(folder / MANIFEST), "make the folder again")
    return manifest


def changed_files(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """List what differs between a folder and its manifest: changed, missing and added files, one sentence each."""
    named: dict[str, str] = manifest.get("files", {})
    problems = []
    for name, digest in named.items():
        path = folder / name
        if "\0" in name or not name.isprintable():
            problems.append(f"{name!r} is no file name")
        elif not path.resolve().is_relative_to(folder.resolve()) or path.is_symlink():
            problems.append(f"{name} lies outside the folder or is a link")
        elif not path.is_file():
            problems.append(f"{name} is missing")
        elif sha256_file(path) != digest:
            problems.append(f"{name} has other bytes than the manifest says")
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}
    problems += [f"{name} is not named in the manifest" for name in sorted(present - set(named) - {MANIFEST, SIGNATURE})]
    return problems


def check_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Refuse a folder whose files are not the ones its manifest names."""
    problems = changed_files(folder, manifest)
    if problems:
        raise UserError(f"{folder} is not what was written: {'; '.join(problems[:5])}; make it again or copy it again")
