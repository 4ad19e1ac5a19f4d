"""What rd-bench refuses before it measures: artifacts that cannot be compared, threads that cannot run side by side.

Owns: names of artifacts, `check_alike`, `thread_counts`. Does not own: reading an artifact (artifact.py), settings (config.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtimes.artifact.artifact import Artifact
from runtimes.backends.machine import core_set
from runtimes.errors import USAGE, UserError


def names_of(folders: Sequence[Path]) -> list[str]:
    """A name for each folder: its last part, or as many parts as tell two apart; UserError for the same folder twice."""
    parts = [folder.absolute().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise UserError(f"the same artifact is named twice: {', '.join(str(folder) for folder in folders)}", USAGE)
    length = 1
    while len({part[-length:] for part in parts}) < len(parts):
        length += 1
    return ["/".join(part[-length:]) for part in parts]


def check_alike(artifacts: dict[str, Artifact], *, mixed: bool) -> None:
    """Refuse artifacts whose figures would not answer the same question: other classes, or another input (unless `mixed`)."""
    (first, reference), *others = artifacts.items()
    for name, other in others:
        if (reference.task, reference.classes) != (other.task, other.classes):
            raise UserError(f"{first} decides {reference.task} between {', '.join(reference.classes)}, {name} {other.task} between "
                            f"{', '.join(other.classes)}; measure them in two reports", USAGE)
        different = [f"{what} {mine} and {theirs}" for what, mine, theirs in zip(
            ("graph size", "input", "pixels", "channels", "slices"), entrance(reference), entrance(other), strict=True) if mine != theirs]
        if different and not mixed:
            raise UserError(f"{first} and {name} take different inputs ({'; '.join(different)}), so their latencies are of different work; "
                            "say --mixed to have them in one report all the same", USAGE)


def entrance(artifact: Artifact) -> tuple[Any, ...]:
    """What an artifact takes."""
    spec = artifact.image_spec
    return artifact.graph_size, artifact.input_kind, spec.dtype, spec.channels, spec.slices


def thread_counts(asked: Sequence[int], cores: Sequence[int]) -> list[int]:
    """Thread counts to measure, one and all when none is asked for; UserError for more threads than cores."""
    allowed = core_set()
    strangers = sorted(set(cores) - set(allowed))
    if strangers:
        raise UserError(f"--cores {' '.join(map(str, strangers))}: this process may use cores {', '.join(map(str, allowed))}", USAGE)
    most = len(cores) or len(allowed)
    for count in asked:
        if not 1 <= count <= most:
            raise UserError(f"--threads {count}: expected 1 to {most}, the cores this process may use; threads that share a core "
                            "wait for one another", USAGE)
    return sorted(set(asked)) or sorted({1, most})
