"""What a target of rd-export is: a row of functions, and the graph that they are handed.

Owns: ExportTarget (the form of a row), ExportedGraph. Does not own: the rows (table.py names them), what a device knows of a target
(runtimes/artifact/targets.py): its files, its precisions, who opens it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from export.facts import Student
from export.options import Build, EngineOptions, Execution, Quantisation
from export.precision.lower import Int8Task
from runtimes.artifact.artifact import Artifact
from runtimes.artifact.targets import Runtime

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ExportedGraph:
    """A graph that may ship: ONNX bytes, the student with the calibration of this precision, how it came about.

    model: the vendor's own model where that made the better int8; its ONNX is then fp32 and does not ship.
    """

    data: bytes
    student: Student
    record: dict[str, Any] = field(default_factory=dict)
    model: Any = None


class FindInt8(Protocol):
    """The best int8 of an fp32 graph that passes, by whatever ways a target has; UserError (exit 3) where none does."""

    def __call__(self, data: bytes, student: Student, problem: Int8Task, options: Quantisation, threads: int,
                 progress: Progress) -> ExportedGraph:
        """data: the fp32 graph; problem: the images and limits it is judged by."""


@dataclass(frozen=True)
class ExportTarget:
    """One target as rd-export makes it.

    check: exit 5 without its library, 2 for options that it cannot take. find_int8. temper: new temperatures into a vendor's own model.
    write: its files, and what the manifest says of them beside the rest. layers: of what runs here, by precision. plain: the fp32 graph
    on it here; floating: the graph in another floating precision, None where it has none of its own here. programs: how to run it.
    """

    check: Callable[[EngineOptions], None]
    find_int8: FindInt8
    write: Callable[[Path, ExportedGraph, Build, EngineOptions], dict[str, Any]]
    layers: Callable[[Mapping[str, Any], Path, str], dict[str, int]]
    plain: Callable[[bytes, Execution, EngineOptions], Runtime]
    floating: Callable[[bytes, str, Execution, EngineOptions], Runtime | None]
    programs: Callable[[Artifact], list[str]]
    temper: Callable[[Any, tuple[float, ...]], None] | None = None
