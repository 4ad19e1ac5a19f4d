"""Our commands, run by studies as a user runs them: a process each, stopped with its own words where it fails.

Owns: `command`, `rd_distill`, the processor seconds of a run. Does not own: what is run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

# Freed memory is kept, not given back: without this a training step of a teacher spends up to a quarter of its time in page faults.
MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1), "MALLOC_TOP_PAD_": str(64 << 20)}


def rd_distill(flags: list[str], work: Path) -> float:
    """Run rd-distill and return the processor seconds it took; stop with its own words when it fails."""
    return command("distill.cli", flags, work)


def command(module: str, flags: list[str], work: Path) -> float:
    """Run one of our commands and return the processor seconds it took; stop with its own words when it fails."""
    with tempfile.TemporaryFile("w+") as said:
        running = subprocess.Popen([sys.executable, "-m", module, *flags], cwd=work, stdout=said, stderr=subprocess.STDOUT,
                                   env={**os.environ, **MEMORY})
        _, status, used = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
        if running.returncode:
            said.seek(0)
            sys.exit(f"{module} {' '.join(flags)}\n{said.read()[-3000:]}")
    return used.ru_utime + used.ru_stime
