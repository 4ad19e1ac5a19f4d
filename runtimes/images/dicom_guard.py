"""How a DICOM file is read without harm: pydicom loaded when it is needed, silent, bounded, its errors in one sentence.

Owns: `load_pydicom`, `quiet`, Bounded. Does not own: what a header says (dicom_header.py). Texts of pydicom's warnings and errors may
quote the file, a patient's name too: none of them gets out.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from runtimes.errors import MISSING, UserError

LOGGERS = ("pydicom", "pylibjpeg", "libjpeg", "openjpeg", "highdicom")  # the last one names a patient whose name looks wrong to it
MAX_READS = 400_000  # of a header: some 100,000 elements, 50 times what one frame has
MANY_READS = 4_000_000  # of a header that says of each of many frames where it lies


def load_pydicom(path: Path) -> Any:
    """The package pydicom; UserError with exit code 5 where it is missing."""
    try:
        import pydicom
        import pydicom.encaps
        import pydicom.pixels
    except ImportError:
        raise UserError(f"{path}: DICOM files are read by pydicom, which is missing; pip install 'rd-distill[dicom]'", MISSING) from None
    return pydicom


class _Silence:
    """Warnings and log lines of pydicom and its decoders, which may quote the file, are off while any thread reads, and come back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._levels: list[int] = []
        self._warnings: Any = None

    def __enter__(self) -> None:
        with self._lock:
            self._readers += 1
            if self._readers == 1:
                loggers = [logging.getLogger(name) for name in LOGGERS]
                self._levels = [logger.level for logger in loggers]
                for logger in loggers:
                    logger.setLevel(logging.CRITICAL + 1)
                self._warnings = warnings.catch_warnings()
                self._warnings.__enter__()
                warnings.simplefilter("ignore")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._readers -= 1
            if self._readers == 0:
                self._warnings.__exit__(None, None, None)
                for name, level in zip(LOGGERS, self._levels, strict=True):
                    logging.getLogger(name).setLevel(level)


SILENCE = _Silence()


@contextmanager
def quiet(path: Path) -> Iterator[None]:
    """Read within this: no line of pydicom leaks, and whatever it raises becomes one sentence."""
    with SILENCE:
        try:
            yield
        except UserError:
            raise
        except MemoryError:
            raise UserError(f"{path}: damaged or truncated (MemoryError)") from None
        except Exception as error:  # pydicom and its decoders raise many types on damaged files, with texts that quote the file
            raise UserError(f"{path}: damaged or truncated ({type(error).__name__})") from None


class Bounded:
    """A file whose reads are counted and never ask for more than is there: a length in a header is no reason to reserve memory."""

    def __init__(self, path: Path, stream: BinaryIO, size_bytes: int, many: bool = False) -> None:
        self.name = ""  # pydicom writes it into warnings
        self._path, self._stream, self._size_bytes = path, stream, size_bytes
        self._most_reads = MANY_READS if many else MAX_READS
        self._reads = 0

    def read(self, count: int = -1) -> bytes:
        """Up to `count` bytes."""
        self._reads += 1
        if self._reads > self._most_reads:
            raise UserError(f"{self._path}: damaged (a header of more than {self._most_reads // 4:,} elements)")
        left = max(self._size_bytes - self._stream.tell(), 0)
        return self._stream.read(left if count is None or count < 0 else min(count, left))

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place; none lies before the file's first byte."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """The place of the next byte."""
        return self._stream.tell()

    def close(self) -> None:
        """Left to whoever opened it."""
