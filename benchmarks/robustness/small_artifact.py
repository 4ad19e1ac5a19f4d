"""A small but whole artifact for studies of what ships: a phantom student, trained for seconds by the real commands and exported.

Owns: the flags, running them. Does not own: any study. The student is worth nothing; its files are those of any other.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

STUDENT = ("--student", "mobilenetv3_small_050", "--size", "64", "--phantom-images", "300", "48", "48", "--phantom-size", "64",
           "--teacher", "mobilenetv3_small_050", "--teacher-weights", "random", "--teacher-size", "64", "--bank", "bank",
           "--bank-views", "1", "--bank-runtime", "torch", "--epochs", "4", "--min-steps", "1", "--bootstrap", "50", "--threads", "1",
           "--out", "student")


def typed(module: str, *flags: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command of ours in a process of its own: `runtimes.cli` is rd-verify, `distill.cli` rd-distill, `export.cli` rd-export."""
    return subprocess.run([sys.executable, "-m", module, *flags], cwd=folder, capture_output=True, text=True, timeout=600,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"})


def student(folder: Path) -> Path:
    """Distil in a folder; returns the student's folder."""
    _done("distill.cli", *STUDENT, folder=folder)
    return folder / "student"


def artifact(folder: Path, name: str, *flags: str) -> Path:
    """Export the student in a folder under a name; flags are further ones of rd-export. Returns the artifact's folder."""
    _done("export.cli", "--out", name, "--samples", "50", *flags, folder=folder)
    return folder / name


def _done(module: str, *flags: str, folder: Path) -> None:
    done = typed(module, *flags, folder=folder)
    if done.returncode != 0:
        sys.exit(f"{module}: exit {done.returncode}\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
