"""Files that appear whole or not at all, and the manifest that names a folder's bytes.

Owns: atomic writes, hashes, `manifest.json`. Does not own: where a command may write (outputs.py), what the files mean, who signed
them (signature.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtimes.errors import UserError
from runtimes.files.reading import JSON_BYTES, MANIFEST_BYTES, kind_of, most_bytes_of, open_plain, read_file
from runtimes.files.schema import anything, check, mapping_of, maybe, object_of, text, truth
from runtimes.files.strict_json import strict_json

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"  # beside the manifest and over its bytes: the one file a manifest cannot name
UNSIGNED = {MANIFEST, SIGNATURE}  # what a manifest does not name
FORMAT = 1
# What every manifest holds, and of which kind is what several readers take from one; what only one reads it checks itself.
RECORD = object_of({"kind": text(), "format": anything, "files": mapping_of(text())},
                   {"settings": mapping_of(anything), "parents": mapping_of(maybe(text())), "versions": mapping_of(text()),
                    "command": text(1 << 20), "synthetic": truth, "licence": text()}, others=True)


def sha256_file(path: Path, most_bytes: int | None = None) -> str:
    """SHA-256 of a plain file's bytes, as hex."""
    with open_plain(path, most_bytes) as file:
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
    temporary, descriptor = _fresh_sibling(path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _fresh_sibling(path: Path) -> tuple[Path, int]:
    """A new file beside a path, under a name that nobody has, and its descriptor."""
    for number in itertools.count():
        temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}-{number}.tmp")
        with contextlib.suppress(FileExistsError):
            return temporary, os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o666)
    raise AssertionError("numbers do not end")


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, readable and with keys in the given order; NaN is refused."""
    write_atomic(path, (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path, most_bytes: int = JSON_BYTES) -> dict[str, Any]:
    """Read a JSON object, or say which file is missing or broken."""
    if not os.path.lexists(path):
        raise UserError(f"{path} is missing; expected a file written by one of the rd- commands")
    return parse_json(read_file(path, most_bytes), path)


def parse_json(data: bytes, path: Path) -> dict[str, Any]:
    """A JSON object from the bytes of the file at `path`, or say that the file is broken."""
    try:
        content = strict_json(data.decode("utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not readable JSON ({error}); make it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds {type(content).__name__}, expected a JSON object")
    return content


def write_manifest(folder: Path, kind: str, facts: dict[str, Any]) -> None:
    """Write manifest.json last: kind, format, facts and the SHA-256 of every other file; without it a folder does not count."""
    files = {path.relative_to(folder).as_posix(): sha256_file(path)
             for path in sorted(folder.rglob("*")) if path.is_file() and path not in [folder / name for name in UNSIGNED]}
    write_json(folder / MANIFEST, {"kind": kind, "format": FORMAT, **facts, "files": files})


def read_manifest(folder: Path, *kinds: str, data: bytes | None = None) -> dict[str, Any]:
    """Read a folder's manifest and check that it is of an expected kind and format; data: its bytes, where they were read already."""
    if not folder.is_dir():
        found = "is not a folder" if os.path.lexists(folder) else "does not exist"
        raise UserError(f"{folder} {found}; expected a folder of kind {' or '.join(kinds)}")
    if not (folder / MANIFEST).is_file():
        raise UserError(f"{folder} has no {MANIFEST}; expected a finished folder of kind {' or '.join(kinds)}")
    manifest = read_json(folder / MANIFEST, MANIFEST_BYTES) if data is None else parse_json(data, folder / MANIFEST)
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
    named: dict[str, Any] = manifest.get("files", {})
    problems = [problem for name, digest in named.items() if (problem := _difference(folder, name, digest))]
    added = sorted(set(_files_below(folder)) - set(named) - UNSIGNED)
    return problems + [f"{name if name.isprintable() else repr(name)} is not named in the manifest" for name in added]


def _difference(folder: Path, name: str, digest: Any) -> str:
    """What is wrong with one file that a manifest names, "" for nothing; no link of its path is followed."""
    parts = name.split("/")
    if not name.isprintable() or not set(parts).isdisjoint(("", ".", "..")):
        return f"{name[:200]!r} lies outside the folder, or is no name of a file"
    path = folder
    try:
        for place, part in enumerate(parts):
            path = path / part
            kind = kind_of(os.lstat(path).st_mode)
            if place < len(parts) - 1 and kind != "a folder":
                return f"{name} lies below {part}, which is {kind or 'a file'}"
            if place == len(parts) - 1 and kind:
                return f"{name} is {kind}, expected a file"
        return "" if sha256_file(path, most_bytes_of(name)) == digest else f"{name} has other bytes than the manifest says"
    except FileNotFoundError:
        return f"{name[:200]} is missing"
    except UserError as error:  # too large
        return str(error)
    except OSError as error:
        return f"{name[:200]} cannot be read ({error.strerror})"


def _files_below(folder: Path) -> Iterator[str]:
    """Names of everything below a folder that is no folder; links are named, never followed."""
    waiting = [""]
    while waiting:
        place = waiting.pop()
        with os.scandir(folder / place) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{place}{entry.name}/")
                else:
                    yield place + entry.name


def check_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Refuse a folder whose files are not the ones its manifest names."""
    problems = changed_files(folder, manifest)
    if problems:
        raise UserError(f"{folder} is not what was written: {'; '.join(problems[:5])}; make it again or copy it again")
