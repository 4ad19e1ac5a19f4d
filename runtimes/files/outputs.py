"""Where a command may write: never over what none of our commands wrote, never into an input, never two runs at once.

Owns: the checks of an output (`check_out`, `check_apart`), `claimed`, `new_folder`, what in a folder is not ours. Does not own: locks
(lock.py), the manifest and single files (folder.py), which inputs a command has (each command).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import shutil
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from runtimes.errors import USAGE, UserError
from runtimes.files.folder import MANIFEST, UNSIGNED, read_json, sha256_file, sync_folder
from runtimes.files.lock import described, held, holder, parse_note, writer_note
from runtimes.text import is_utf8

KINDS = {"student", "teacher", "bank", "artifact", "bench", "soak", "images"}
LONGEST_NOTE_BYTES = 4096
DROPPINGS = {".DS_Store", "Thumbs.db", "desktop.ini"}  # left by file managers, nobody's work
LONGEST_NAME_BYTES = 255 - 40  # what is written beside an output has a longer name than it


def foreign_entries(folder: Path) -> list[str]:
    """What in a folder none of our commands wrote, or was changed since: names below it; empty for an empty folder.

    Without a manifest of ours nothing in it is ours.
    """
    entries = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))
               if path.is_symlink() or not path.is_dir()}
    files = _named_files(folder)
    foreign = []
    for name, path in entries.items():
        if name in UNSIGNED and files is not None:
            continue
        if files is None or name not in files:
            if path.name not in DROPPINGS:
                foreign.append(name)
        elif not stat.S_ISREG(path.lstat().st_mode) or sha256_file(path) != files[name]:
            foreign.append(f"{name} (changed since)")
    return foreign


def _named_files(folder: Path) -> dict[str, str] | None:
    """The files that a folder's own manifest names, or None where it has none of ours."""
    path = folder / MANIFEST
    if path.is_symlink() or not path.is_file():
        return None
    try:
        manifest = read_json(path)
    except (UserError, OSError):
        return None
    files = manifest.get("files")
    return files if manifest.get("kind") in KINDS and isinstance(files, dict) else None


def remove_ours(folder: Path, files: re.Pattern[str], folders: re.Pattern[str] | None = None) -> list[str]:
    """Remove what one of our commands left in a folder, known by its names, then the folder if it is empty; the names of what is left.

    folders: names of folders in it that hold such files, too; what lies in others is somebody's own.
    """
    left = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            ours = folders is not None and folders.fullmatch(path.name)
            left += [f"{path.name}/{name}" for name in remove_ours(path, files)] if ours else [path.name]
        elif files.fullmatch(path.name) and not path.is_symlink():
            path.unlink()
        else:
            left.append(path.name)
    if not left:
        folder.rmdir()
    return left


def check_place(out: Path, flag: str = "--out") -> Path:
    """The place that an output means, links resolved; UserError (exit 2) where no folder can be written there."""
    text = str(out)
    if not is_utf8(text):
        raise UserError(f"{flag} {text!r} is not UTF-8, and what is written there must be readable everywhere; name another folder", USAGE)
    if "\0" in text or not text.isprintable():
        raise UserError(f"{flag} {text!r} holds a letter that cannot be seen; name another folder", USAGE)
    if text.startswith("~"):
        raise UserError(f"{flag} {out} begins with ~, which a shell resolves and this command does not; write the path in full", USAGE)
    place = Path(os.path.realpath(out))
    try:
        mode = place.stat().st_mode
    except FileNotFoundError:
        mode = 0
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{flag} {out} is a link that leads to itself; name another folder", USAGE) from None
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"{flag} has a name longer than this file system takes; choose a shorter one", USAGE) from None
        mode = 0
    if mode and not stat.S_ISDIR(mode):
        raise UserError(f"{flag} {out} is a file; name a folder", USAGE)
    here = Path.cwd()
    if place in (here, *here.parents):
        raise UserError(f"{flag} {text if text != '.' else '(nothing, or .)'} means {place}, the folder this command runs in or one above "
                        "it; name a folder of its own", USAGE)
    if place == Path(os.path.realpath(Path("~").expanduser())):
        raise UserError(f"{flag} {out} is the home folder; name a folder of its own", USAGE)
    if len(os.fsencode(place.name)) > LONGEST_NAME_BYTES:
        raise UserError(f"{flag} {place.name[:20]}... has a name of {len(place.name)} letters, and what is written beside it needs some, "
                        "too; choose a shorter one", USAGE)
    if mode and os.path.ismount(place):
        raise UserError(f"{flag} {out} is where a disk is mounted and cannot be replaced as a whole; name a folder below it", USAGE)
    above = next(folder for folder in place.parents if folder.exists())
    if not above.is_dir():
        raise UserError(f"{flag} {out} lies below {above}, which is a file; name a folder", USAGE)
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"{flag} {out} cannot be written: no right to write in {above}; name another folder", USAGE)
    for folder in place.parents:
        if _named_files(folder) is not None:
            raise UserError(f"{flag} {out} lies inside {folder}, which one of our commands has finished; name a folder outside", USAGE)
    return place


def check_out(out: Path, *, overwrite: bool, flag: str = "--out") -> Path:
    """Refuse, before any work, an output that cannot be written, or is not empty and not to be replaced (exit 2); its place.

    Only a folder that one of our commands wrote is replaced, and only while nothing was added to it or changed in it.
    """
    place = check_place(out, flag)
    if not place.is_dir() or not any(place.iterdir()):
        return place
    if not overwrite:
        raise UserError(f"{flag} {out} is not empty; add --overwrite to replace it, or name another folder", USAGE)
    if foreign := foreign_entries(place):
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise UserError(f"{flag} {out} holds what none of our commands wrote: {', '.join(foreign[:3])}{more}; --overwrite replaces only "
                        "what they wrote: move it away, or name another folder", USAGE)
    return place


def check_apart(outputs: Mapping[str, Path | str | None], inputs: Mapping[str, Path | str | None]) -> None:
    """Refuse (exit 2) an output that equals, contains or lies inside an input, links resolved; both by their flags, None left out.

    Outputs must lie apart from one another, too. What is not there, such as the name of a network, is no input that could be lost.
    """
    written = {flag: _chain(path) for flag, path in outputs.items() if path is not None}
    read = {flag: (path, _chain(path)) for flag, path in inputs.items() if path is not None and _is_there(path)}
    for out, chain in written.items():
        for flag, (path, other) in read.items():
            if relation := _relation(chain, other):
                raise UserError(f"{out} {outputs[out]} {relation} {flag} {path}, which this run reads; name a folder apart from it", USAGE)
    names = list(written)
    for place, out in enumerate(names):
        for other_out in names[place + 1:]:
            if relation := _relation(written[out], written[other_out]):
                raise UserError(f"{out} {outputs[out]} {relation} {other_out} {outputs[other_out]}, which this run writes, too; "
                                "name folders apart from each other", USAGE)


def _is_there(path: Path | str) -> bool:
    try:
        return os.path.lexists(Path(path).expanduser())
    except (ValueError, RuntimeError):  # a NUL in it, a home that is not known
        return False


def _chain(path: Path | str) -> list[object]:
    """A path and all folders above it, each by its identity on disk where it is there: links, mounts and letter case do not matter."""
    real = Path(os.path.realpath(Path(path).expanduser()))
    chain: list[object] = []
    for folder in (real, *real.parents):
        try:
            status = folder.stat()
        except OSError:
            chain.append(str(folder))
        else:
            chain.append((status.st_dev, status.st_ino))
    return chain


def _relation(out: list[object], other: list[object]) -> str:
    if out[0] == other[0]:
        return "is"
    if out[0] in other:
        return "holds"
    return "lies inside" if other[0] in out else ""


@contextmanager
def claimed(out: Path, *, flag: str = "--out", wait: bool = False) -> Iterator[Path]:
    """Hold an output for as long as a run lives and yield its place; UserError (exit 2) where another run writes it, or above it.

    The folder above it is made where it is missing. wait: wait for the other run instead.
    """
    place = check_place(out, flag)
    for folder in place.parents:
        if folder.name and (note := holder(folder)) is not None:
            raise UserError(f"{flag} {out} lies inside {folder}, which is being written by {described(note)}; name a folder outside", USAGE)
    place.parent.mkdir(parents=True, exist_ok=True)
    with held(place, f"{flag} {out}", wait=wait):
        _bring_back(place)
        yield place


def _siblings(place: Path, pattern: str) -> list[Path]:
    """Folders beside a place, hidden ones of its own name and a tail."""
    fits = re.compile(re.escape(f".{place.name}.") + pattern)
    return [path for path in place.parent.iterdir() if fits.fullmatch(path.name) and path.is_dir() and not path.is_symlink()]


def _bring_back(place: Path) -> None:
    """After a kill between the two renames of a replacement: the old folder comes back, or goes where the new one is there."""
    for old in _siblings(place, r"tmp-old-\d+"):
        if not os.path.lexists(place):
            os.replace(old, place)
        elif _named_files(old) is not None and not foreign_entries(old):  # else nobody's, or no longer as it was
            shutil.rmtree(old, ignore_errors=True)


def _writer(temporary: Path) -> Path:
    """The note beside a temporary folder that says who writes it: without one, a folder of such a name is somebody's own."""
    return temporary.with_name(f"{temporary.name}.writer")


def _sweep(place: Path) -> None:
    """Remove the temporary folders of writers that died; the lock of the place is held, so no living one of this machine is among them."""
    for orphan in _siblings(place, r"tmp-\d+"):
        path = _writer(orphan)
        try:
            status = path.lstat()
            note = parse_note(path.read_bytes()) if stat.S_ISREG(status.st_mode) and status.st_size < LONGEST_NOTE_BYTES else None
        except OSError:
            continue
        if note is not None and note["host"] == socket.gethostname():  # of another machine it cannot be known
            shutil.rmtree(orphan, ignore_errors=True)
            path.unlink()


@contextmanager
def new_folder(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling that becomes `out` when the block ends well, and vanishes when it does not.

    What came to lie in `out` meanwhile is not replaced: the finished folder then keeps a name beside it, and an error says which.
    """
    with claimed(out) as place:
        check_out(out, overwrite=overwrite)
        _sweep(place)
        temporary = _fresh(place)
        try:
            yield temporary
            _sync(temporary)
            try:
                check_out(out, overwrite=overwrite)
            except UserError as error:
                beside = (place.with_name(f"{place.name}.new-{number}") for number in itertools.count(1))
                fallback = next(path for path in beside if not os.path.lexists(path))
                os.replace(temporary, fallback)
                raise UserError(f"{error}; what was made now is in {fallback}", error.exit_code) from None
            old = place.with_name(f".{place.name}.tmp-old-{temporary.name.rpartition('-')[2]}")
            if place.exists() and any(place.iterdir()):
                os.replace(place, old)  # an empty folder is replaced where it is
            os.replace(temporary, place)
            sync_folder(place.parent)
            if old.exists():
                shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            _writer(temporary).unlink(missing_ok=True)


def _fresh(place: Path) -> Path:
    """Make a hidden folder beside a place under a name that nobody has, and the note that says whose it is."""
    for number in itertools.count(os.getpid()):
        folder = place.with_name(f".{place.name}.tmp-{number}")
        if any(os.path.lexists(path) for path in (folder, _writer(folder), place.with_name(f".{place.name}.tmp-old-{number}"))):
            continue
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            _writer(folder).write_text(json.dumps(writer_note()), encoding="utf-8")
            return folder
    raise AssertionError("numbers do not end")


def _sync(folder: Path) -> None:
    """Make all that is in a folder survive a power cut."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            sync_folder(path)
    sync_folder(folder)
