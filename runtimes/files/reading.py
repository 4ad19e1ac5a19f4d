"""Files read once and whole: plain files of a plausible size, whose bytes are hashed and used without a second look at the disk.

Owns: the limits of size by kind of file, the refusal of pipes, devices, folders and links where a file is expected. Does not own:
what the bytes mean, which bytes are expected (folder.py, artifact.py).
"""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from pathlib import Path

from runtimes.errors import UserError

MIB = 1 << 20
MANIFEST_BYTES = 16 * MIB  # of an artifact, a student, a bank: a few kilobytes as a rule
JSON_BYTES = 512 * MIB  # the plan of a bank names every image, samples.json of a benchmark every call
DEVICE_JSON_BYTES = 16 * MIB
# By the suffix of a file in a folder of ours; features and weights of the workshop (.safetensors) have none.
LIMITS = {
    ".json": JSON_BYTES, ".sig": 64 * 1024, ".onnx": 2048 * MIB,  # protobuf holds no more than 2 GiB
    ".xml": 64 * MIB, ".bin": 8192 * MIB, ".engine": 8192 * MIB, ".pb": 2048 * MIB}
OTHER_BYTES = 4096 * MIB
KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"),
         (stat.S_ISBLK, "a device"), (stat.S_ISLNK, "a link"))


def most_bytes_of(name: str) -> int | None:
    """How large a file of a folder of ours may be, by its name; None where no size is too large."""
    suffix = Path(name).suffix
    return None if suffix == ".safetensors" else LIMITS.get(suffix, OTHER_BYTES)


def kind_of(mode: int) -> str:
    """What lies at a path by its mode, in words; "" for a plain file."""
    return "" if stat.S_ISREG(mode) else next((name for is_kind, name in KINDS if is_kind(mode)), "no plain file")


def open_plain(path: Path, most_bytes: int | None = None) -> BufferedReader:
    """Open a file for reading; UserError for a pipe, a device, a folder or more bytes than expected, OSError as `open` raises it."""
    if kind := kind_of(os.stat(path).st_mode):  # before it is opened: opening a device may already do something
        raise UserError(f"{path} is {kind}; expected a file")
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
    file = os.fdopen(descriptor, "rb")
    try:
        status = os.fstat(descriptor)
        if kind := kind_of(status.st_mode):  # it may be another one by now
            raise UserError(f"{path} is {kind}; expected a file")
        if most_bytes is not None and status.st_size > most_bytes:
            raise UserError(f"{path} has {status.st_size:,} bytes; expected at most {most_bytes:,} in a file of this kind")
    except BaseException:
        file.close()
        raise
    return file


def read_file(path: Path, most_bytes: int) -> bytes:
    """All bytes of a plain file; UserError where it cannot be read, is no file, or has more bytes than expected."""
    try:
        with open_plain(path, most_bytes) as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(size + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None
    except ValueError:
        raise UserError(f"{str(path)!r} is no name of a file") from None  # a NUL in it
    except MemoryError:
        raise UserError(f"{path}: this machine has not the memory for its {size:,} bytes") from None
    if len(data) > size:
        raise UserError(f"{path} grew while it was read; wait until it is written, then repeat")
    return data
