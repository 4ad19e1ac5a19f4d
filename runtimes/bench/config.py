"""The settings of rd-bench: command line, Python call and record in one.

Owns: BenchSettings. Does not own: the command (cli.py), what the settings do.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from runtimes.backends.threads import check_threads
from runtimes.commands.settings import Expert
from runtimes.errors import USAGE, UserError


@dataclass(frozen=True)
class BenchSettings:
    """Latency and score of artifacts on this machine, as a report; or --compare of two reports."""

    artifacts: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Folders written by rd-export."""
    config: Path | None = None
    """YAML file of settings; flags win."""
    out: Path = Path("bench")
    """Folder of the report."""
    overwrite: bool = False
    """Replace what is in --out."""
    batch: tuple[int, ...] = (1, 8, 32)
    """Images a call."""
    threads: tuple[int, ...] = ()
    """Thread counts of the runtime; 1 and all cores when not given."""
    paths: tuple[Literal["array", "file"], ...] = ("array", "file")
    """array: pixels in memory to probabilities and decision. file: file on disk to decision."""
    images: Path | None = None
    """Folder of images for the path from file; the golden images as PNG when not given."""
    teacher: Path | None = None
    """An artifact of the teacher, measured with the others and marked in the picture."""
    mixed: Annotated[bool, Expert] = False
    """Allow artifacts of different input size in one report."""
    device: str = "cpu"
    """cpu; cuda, or OpenVINO's gpu and npu."""
    cores: Annotated[tuple[int, ...], Expert] = ()
    """Hold every process to these cores."""
    pin: Annotated[bool, Expert] = False
    """Hold a process of n threads to n cores."""
    spin: Annotated[tuple[Literal["on", "off"], ...], Expert] = ("on",)
    """Whether ONNX Runtime's threads wait for the next call by burning their core; both can be measured."""
    streams: Annotated[tuple[int, ...], Expert] = ()
    """Sessions side by side, for throughput."""
    deadline_ms: float | None = None
    """Count calls that take longer."""
    warmups: Annotated[int, Expert] = 50
    """Calls before timing, at least; more until steady."""
    samples: int = 300
    """Timed calls of a cell, at least."""
    seconds: float = 10.0
    """Seconds of timed calls of a cell, at least."""
    rounds: Annotated[int, Expert] = 5
    """Blocks that a cell is divided into; all cells take turns."""
    roofline: Annotated[bool, Expert] = True
    """Measure what this machine could do, and how much of it is reached."""
    profile: Annotated[bool, Expert] = True
    """List the slowest operators by the runtime's own profiler."""
    save_table: Path | None = None
    """Also write the latencies as a device's table, for rd-distill --latency-table."""
    compare: tuple[Path, Path] | None = None
    """Two report.json, old and new: what got slower beyond noise."""
    gate: bool = False
    """Exit 4 when --compare finds something slower, or --soak-minutes a drift."""
    noise: Annotated[float, Expert] = 0.03
    """By how much two runs of the same thing may differ; --compare calls nothing slower that may be below it."""
    other_machine: Annotated[bool, Expert] = False
    """Let --compare set reports of two machines side by side."""
    soak_minutes: float | None = None
    """Call the one artifact for so long instead, and compare the last minute with the first."""

    def __post_init__(self) -> None:
        for name in ("batch", "streams"):
            if any(value < 1 for value in getattr(self, name)):
                raise UserError(f"--{name} {' '.join(map(str, getattr(self, name)))}: expected 1 or more", USAGE)
        for count in self.threads:
            check_threads(count)
        for name, least in (("warmups", 0), ("samples", 1), ("rounds", 1), ("seconds", 0), ("noise", 0)):
            if not least <= getattr(self, name) < math.inf:
                raise UserError(f"--{name} {getattr(self, name)}: expected {least} or more", USAGE)
        for name in ("deadline_ms", "soak_minutes"):
            if getattr(self, name) is not None and not 0 < getattr(self, name) < math.inf:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected more than 0", USAGE)
        for name in ("batch", "paths", "spin"):
            if not getattr(self, name):
                raise UserError(f"--{name} is empty; expected at least one", USAGE)
        if self.compare is None and not self.artifacts:
            raise UserError("no artifact; name folders written by rd-export, or two reports after --compare", USAGE)
        if self.soak_minutes is not None and len(self.artifacts) != 1:
            raise UserError(f"--soak-minutes takes one artifact, not {len(self.artifacts)}", USAGE)

    def plain(self) -> dict[str, Any]:
        """Settings for the record: names of folders, never a path of this machine."""
        def name(value: Any) -> Any:
            return value.name if isinstance(value, Path) else [name(part) for part in value] if isinstance(value, tuple) else value

        return {key: name(value) for key, value in asdict(self).items()}
