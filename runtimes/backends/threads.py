"""How many threads a command may ask for.

Owns: check_threads. Does not own: starting them (ort.py, ov.py, PyTorch), which cores a process may use (machine.py).
"""

from __future__ import annotations

import os

from runtimes.errors import USAGE, UserError

THREADS_A_CORE = 4  # more of them only wait for each other: 1,024 on two cores answer 40 times slower, 10,000 not within a minute


def most_threads() -> int:
    """The most threads that a command starts here; at least 64, so that a setting made for a larger machine runs on a small one."""
    return max(64, THREADS_A_CORE * (os.cpu_count() or 1))


def check_threads(count: int | None, flag: str = "--threads") -> None:
    """UserError (exit 2) for a count of threads that is none, or more than this machine can use."""
    if count is not None and not 1 <= count <= most_threads():
        raise UserError(f"{flag} {count}: expected 1 to {most_threads()}, or none to leave it to the machine", USAGE)
