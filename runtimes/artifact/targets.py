"""The table of targets on a device: which files a model of each is, who reads and opens them, what it can be asked for.

Owns: Target, Precision, Runtime (what every vendor's session can do), DeviceTarget and its rows. A new target is a row here, the file
that opens it, and a row in export/targets. Does not own: reading files (artifact.py), the readers and the vendors themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from runtimes.errors import USAGE, UserError
from runtimes.models.graph_facts import GraphFacts, ir_facts, onnx_facts
from runtimes.models.operators import check_ir, check_onnx, check_ort
from runtimes.models.ort_format import read_ort

Target = Literal["onnx", "openvino", "trt", "ort"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
Files = tuple[bytes, ...]  # the bytes of what a runtime opens, the model first


class Runtime(Protocol):
    """One vendor's runtime with a model in it."""

    def run(self, batch: Any) -> tuple[NDArray[np.float32], Any, Any]:
        """Logits, probabilities and slice attention of a batch as the graph takes it; None for what a graph does not answer."""

    def facts(self) -> dict[str, Any]:
        """Library, version, provider, threads."""

    def close(self) -> None:
        """Free the model's memory."""


@dataclass(frozen=True)
class Opening:
    """How a model is opened; a target leaves out what it has no choice of. engine: the record of a compiled model, name: for messages."""

    name: str
    precision: Precision
    threads: int | None = None
    device: str = "cpu"
    spin: bool | None = None
    hint: Literal["latency", "throughput"] = "latency"
    cache: Path | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DeviceTarget:
    """One target as a device knows it.

    model: the name its file has. beside: suffix of a file of weights that the runtime opens with it. origin: the graph beside a compiled
    model, which it was built from and which speaks for it. check refuses bytes that no runtime shall see; facts: what a file says of
    itself; libraries open it. spins: whether its threads can be told how to wait; profiler: whose account of single operators there is.
    """

    model: str
    precisions: tuple[Precision, ...]
    libraries: tuple[str, ...]
    check: Callable[[Files], None]
    facts: Callable[[bytes], GraphFacts]
    open: Callable[[Files, Opening], Runtime]
    beside: str = ""
    origin: str = ""
    spins: bool = False
    profiler: Literal["", "onnxruntime", "openvino"] = ""

    @property
    def suffix(self) -> str:
        """What the names of its files end in: under another name a model would pass unchecked."""
        return Path(self.model).suffix

    def opened(self, model: str) -> tuple[str, ...]:
        """The files that the runtime opens, by the name of the model."""
        return (model, model.removesuffix(self.suffix) + self.beside) if self.beside else (model,)

    def needed(self, model: str) -> tuple[str, ...]:
        """The files that a model never comes without."""
        return (*self.opened(model), *((self.origin,) if self.origin else ()))


def _open_onnx(model: Files, opening: Opening) -> Runtime:
    from runtimes.backends.ort import OrtSession

    return OrtSession(model[0], threads=opening.threads, device=opening.device, spin=opening.spin, name=opening.name)


def _open_ort(model: Files, opening: Opening) -> Runtime:
    if opening.device != "cpu":  # its operators were given to the processor when it was made
        raise UserError(f"device {opening.device!r} cannot run an .ort file of rd-export, which is for cpu; export --target onnx", USAGE)
    return _open_onnx(model, opening)


def _open_ir(model: Files, opening: Opening) -> Runtime:
    from runtimes.backends.ov import OpenVinoSession

    return OpenVinoSession(model, precision=opening.precision, threads=opening.threads, device=opening.device, hint=opening.hint,
                           cache=opening.cache, name=opening.name)


def _open_engine(model: Files, opening: Opening) -> Runtime:
    from runtimes.backends.trt import TrtSession

    return TrtSession(model[0], opening.engine, name=opening.name)


def _engine_says_nothing(_: bytes) -> GraphFacts:
    raise UserError("a compiled engine says nothing of itself")


TARGETS: dict[Target, DeviceTarget] = {
    "onnx": DeviceTarget("model.onnx", ("fp32", "fp16", "int8"), ("onnxruntime",), lambda model: check_onnx(model[0]),
                         lambda data: onnx_facts(memoryview(data)), _open_onnx, spins=True, profiler="onnxruntime"),
    "openvino": DeviceTarget("openvino_model.xml", ("fp32", "fp16", "bf16", "int8"), ("openvino",),
                             lambda model: check_ir(model[0], len(model[1])), ir_facts, _open_ir, beside=".bin", profiler="openvino"),
    # Nobody can read an engine: it counts only beside its ONNX (artifact.py), and its record names the library that opens it.
    "trt": DeviceTarget("model.engine", ("fp32", "fp16", "int8"), (), lambda model: None, _engine_says_nothing, _open_engine,
                        origin="model.onnx"),
    "ort": DeviceTarget("model.ort", ("fp32",), ("onnxruntime",), lambda model: check_ort(model[0]), lambda data: read_ort(data)[1],
                        _open_ort, spins=True, profiler="onnxruntime"),
}


def target_of(file: str) -> DeviceTarget:
    """The row of a model's file, by the end of its name; UserError for the name of no model."""
    for row in TARGETS.values():
        if file.endswith(row.suffix):
            return row
    raise UserError(f"{file} is no model: expected a name that ends in {', '.join(row.suffix for row in TARGETS.values())}")
