"""Standard streams that cannot end a run: a closed one is replaced, one that nobody reads any more is let go.

Owns: `Stream`, `open_streams`. Does not own: what is printed, how a command ends (errors.py).
"""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO


class Stream:
    """A text stream whose failed writes are dropped, and told once: progress that nobody reads must not cost a training."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream = stream
        self._name = name

    def write(self, text: str) -> int:
        """Write text; its length, also where nothing could be written."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError) as error:  # a closed pipe, a full disk, a closed file
            self._let_go(error)
            return len(text)

    def flush(self) -> None:
        """Flush what was written, if anybody reads it."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._let_go(error)

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def isatty(self) -> bool:
        """Whether a person watches a terminal."""
        try:
            return self._stream.isatty()
        except ValueError:
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _let_go(self, error: Exception) -> None:
        """From here on the stream goes nowhere; a reader that left wanted no more, any other reason is told on stderr."""
        self._stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - lives as long as the process
        for descriptor, own in ((1, "output"), (2, "error")):
            if self._name == own:  # what libraries print themselves, and what Python flushes at its end, goes nowhere, too
                os.dup2(self._stream.fileno(), descriptor)
        if self._name == "output" and not isinstance(error, BrokenPipeError):
            reason = getattr(error, "strerror", None) or error
            print(f"note: standard output cannot be written any more ({reason}); the work goes on", file=sys.stderr)


def open_streams() -> None:
    """Make stdin, stdout and stderr usable whatever the parent process left: closed, unread, or of an encoding with few letters."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # else the next file opened would get this number, and what a library prints would land in it
            os.open(os.devnull, os.O_RDWR)
    for name, own in (("stdout", "output"), ("stderr", "error")):
        stream = getattr(sys, name)
        if stream is None:  # Python's answer to a closed descriptor, and to a program without a console
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - lives as long as the process
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        if not isinstance(stream, Stream):
            setattr(sys, name, Stream(stream, own))
