"""One writer for one output: a lock held for as long as a run lives, which says who holds it.

Owns: `held`, the note inside a lock file, whether its writer still lives. Does not own: what is written (outputs.py). The kernel
frees the lock of a process that died, also by a power cut; what its file still says is told, and never believed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtimes.errors import USAGE, UserError
from runtimes.files.strict_json import strict_json

KIND = "lock of rd-distill"
LONGEST_BYTES = 4096
LOOKS, LOOK_S = 5, 0.03  # another run that looks whether a lock is held has it for a moment
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
HOLDERS: dict[str, int] = {}  # lock file to the thread of this process that holds it


def writer_note() -> dict[str, Any]:
    """Who writes, for others to read: process, machine, since when."""
    return {"kind": KIND, "pid": os.getpid(), "host": socket.gethostname(), "boot": _boot(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}


def parse_note(data: bytes) -> dict[str, Any] | None:
    """A writer's note, or None for anything else."""
    try:
        note = strict_json(data.decode("utf-8"))
    except ValueError:
        return None
    whole = isinstance(note, dict) and note.get("kind") == KIND and isinstance(note.get("pid"), int) and 0 < note["pid"] < 2**31
    return note if whole else None


def lives(note: dict[str, Any]) -> bool | None:
    """Whether the writer of a note still runs; None where that cannot be known from here, on another machine."""
    if note.get("host") != socket.gethostname():
        return None
    if note.get("boot") != _boot():
        return False
    try:
        os.kill(note["pid"], 0)
    except ProcessLookupError:
        return False
    except OSError:  # it runs, and is somebody else's
        return True
    return True


def described(note: dict[str, Any] | None) -> str:
    """A note as words."""
    if note is None:
        return "another run"
    return f"process {note['pid']} on {note.get('host')}, since {note.get('since')}"


def lock_file(place: Path) -> Path:
    """The lock of an output, beside it."""
    return place.with_name(f".{place.name}.rd-lock")


@contextmanager
def held(place: Path, name: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of an output whose parent folder exists; UserError (exit 2) where another run holds it, unless told to wait.

    place: the output, links resolved; name: as the user knows it, such as `--out student`. A thread that holds it may hold it again.
    """
    path, thread = lock_file(place), threading.get_ident()
    key = str(path)
    if HOLDERS.get(key) == thread:
        yield
        return
    descriptor = _acquire(path, name, wait)
    HOLDERS[key] = thread
    try:
        yield
    finally:
        HOLDERS.pop(key, None)
        with contextlib.suppress(OSError):
            path.unlink()  # while it is held: who comes next makes a file of its own
        os.close(descriptor)


def holder(place: Path) -> dict[str, Any] | None:
    """The note of a living run that holds an output's lock, or None; this process's own do not count."""
    path = lock_file(place)
    if str(path) in HOLDERS:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        free = _flock(descriptor, wait=False)
        note = parse_note(os.pread(descriptor, LONGEST_BYTES, 0))
        locked = free is False or (free is None and note is not None and lives(note) is True)
        return (note or writer_note()) if locked else None
    finally:
        os.close(descriptor)


def _acquire(path: Path, name: str, wait: bool) -> int:
    """Open and lock the file of a lock; its descriptor. Retries where the file was removed between the two, or was only looked at."""
    tries = 0
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR):
                raise UserError(f"{name}: {path} is in the way of its lock; move it away", USAGE) from None
            raise
        try:
            free = _flock(descriptor, wait=wait)
            data = os.pread(descriptor, LONGEST_BYTES, 0)
            note = parse_note(data)
            if free is False or (free is None and note is not None and lives(note) is True):
                tries += 1
                if tries < LOOKS:
                    time.sleep(LOOK_S)
                    os.close(descriptor)
                    continue
                raise UserError(f"{name} is being written by {described(note)}; wait for it, stop it, or name another folder", USAGE)
            if not _same_file(descriptor, path):
                os.close(descriptor)
                continue
            if data and note is None:
                raise UserError(f"{name}: {path} is in the way of its lock, and none of our commands wrote it; move it away", USAGE)
            if note is not None:
                _tell_stale(name, note)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(writer_note()).encode(), 0)
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(descriptor)
            raise
        return descriptor


def _tell_stale(name: str, note: dict[str, Any]) -> None:
    """Say that an earlier run ended without a word, and what cannot be known of it."""
    if lives(note) is None:
        tail = (f"nothing holds its lock here, but whether it still runs on {note.get('host')} cannot be seen from this machine: "
                "stop this run if it does")
    else:
        tail = "that run has ended, and its lock does not count"
    print(f"note: {name} was left locked by {described(note)}; {tail}", file=sys.stderr)


def _flock(descriptor: int, *, wait: bool) -> bool | None:
    """Whether the lock was free and is ours now; None where the file system, or the system, knows no such locks."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in NO_LOCKS:
            return None
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _boot() -> str:
    """What changes when the machine starts anew; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
