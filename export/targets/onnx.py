"""The target onnx: ONNX Runtime on model.onnx, the graph itself.

Owns: its row, writing model.onnx (other targets keep one beside their own), int8 as Q/DQ in the graph, programs in four languages.
Does not own: the session (runtimes/backends/ort.py), what an int8 may cost (gate.py), the programs' text (listings/).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.progress import say
from export.facts import MODEL, Student, graph_size
from export.options import Build, EngineOptions, Execution, Quantisation
from export.precision.fp16 import in_half
from export.precision.int8 import Feeds, Form
from export.precision.lower import Int8Result, Int8Task, find_int8
from export.targets.executed import executed_by_ort
from export.targets.listings import fenced_listing
from export.targets.row import ExportedGraph, ExportTarget, Progress
from runtimes.artifact.artifact import INPUT_NAMES, Artifact
from runtimes.artifact.targets import Runtime
from runtimes.backends.ort import OrtSession, load_runtime
from runtimes.files.folder import write_atomic


def check_onnxruntime(_: EngineOptions) -> None:
    """Refuse (exit 5) where onnxruntime is missing; the converters of the other targets live in it, too."""
    load_runtime()


def write_onnx(folder: Path, graph: ExportedGraph, build: Build, _: EngineOptions) -> dict[str, Any]:
    """Write model.onnx."""
    write_atomic(folder / MODEL, graph.data)
    spec, (height, width) = graph.student.checkpoint.image_spec, graph_size(graph.student.checkpoint, build)
    say("export", f"{MODEL} {len(graph.data) / 1e6:.1f} MB, opset {build.opset}, input {INPUT_NAMES[build.input]} "
                  f"{spec.dtype if build.input == 'image' else 'float32'} at {f'{spec.slices} slices of ' if spec.slices else ''}"
                  f"{height}x{width}, batch open")
    return {}


def answers_of(runtime: Runtime, feeds: Feeds) -> NDArray[Any]:
    """Logits (N, C) for single images."""
    return np.concatenate([runtime.run(tuple(feed.values()))[0] for feed in feeds])


def by_ort(data: bytes, feeds: Feeds) -> NDArray[Any]:
    """Logits (N, C) of a graph for single images, by ONNX Runtime."""
    return answers_of(OrtSession(data, threads=1), feeds)


def in_the_graph(student: Student, result: Int8Result) -> ExportedGraph:
    """A result of the search whose int8 lies in the graph."""
    return ExportedGraph(result.data, student.calibrated(result.calibration), {"quantised_by": "Q/DQ in the graph", **result.record})


def find_in_graph(data: bytes, student: Student, problem: Int8Task, options: Quantisation, progress: Progress,
                  form: Form = "unsigned") -> ExportedGraph:
    """The best int8 as Q/DQ in the graph, judged by ONNX Runtime."""
    return in_the_graph(student, find_int8(data, problem, by_ort, method=options.calibration, sensitivity=options.sensitivity,
                                           progress=progress, form=form))


def _find_int8(data: bytes, student: Student, problem: Int8Task, options: Quantisation, threads: int, progress: Progress) -> ExportedGraph:
    return find_in_graph(data, student, problem, options, progress)


def _layers(_: Mapping[str, Any], model: Path, device: str) -> dict[str, int]:
    return executed_by_ort(model, device)


def plain_onnx(data: bytes, execution: Execution, _: EngineOptions) -> Runtime:
    """A graph in ONNX Runtime here."""
    return OrtSession(data, threads=execution.threads, device=execution.device)


def _floating(data: bytes, name: str, execution: Execution, options: EngineOptions) -> Runtime | None:
    if name == "bf16" or execution.device == "cpu":  # ONNX Runtime casts fp16 up on processors
        return None
    return plain_onnx(in_half(data), execution, options)


def onnxruntime_programs(artifact: Artifact, beside: str = "") -> list[str]:
    """Python with onnxruntime alone; beside: on which graph, in words."""
    return [f"Python with onnxruntime and numpy alone{beside}:", fenced_listing("onnxruntime.py.txt", artifact)]


def _programs(artifact: Artifact) -> list[str]:
    parts = [*onnxruntime_programs(artifact), "Node (`npm install onnxruntime-node`), from raw pixels:",
             fenced_listing("node.mjs.txt", artifact, web=True)]
    if artifact.image_spec.volume is None:
        parts += ["A web page: save it as `index.html` in a folder of its own, beside copies of "
                  f"`{artifact.model}` and of "
                  "`ort.wasm.min.mjs`, `ort-wasm-simd-threaded.mjs`, `ort-wasm-simd-threaded.wasm` of "
                  "`npm install onnxruntime-web` (folder `dist`), and serve the folder (`python -m http.server`). "
                  "Nothing is loaded from elsewhere, and no image leaves the machine.",
                  fenced_listing("web.html.txt", artifact)]
    return [*parts, "C++ with ONNX Runtime, from raw pixels:", fenced_listing("onnxruntime.cpp.txt", artifact, web=True)]


ONNX = ExportTarget(check_onnxruntime, _find_int8, write_onnx, _layers, plain_onnx, _floating, _programs)
