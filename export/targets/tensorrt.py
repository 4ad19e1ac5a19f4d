"""The target trt: an engine of TensorRT beside the ONNX that it was built from.

Owns: its row, the choice between engines for RTX GPUs and one for this very device. Does not own: building (to_tensorrt.py), running
(runtimes/backends/trt.py). An engine needs its GPU: where there is none, the ONNX beside it answers for it (commands.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.progress import say
from export.facts import Student
from export.options import Build, EngineOptions, Execution, Quantisation
from export.precision.fp16 import in_half
from export.precision.lower import Int8Task
from export.targets.listings import fenced_listing
from export.targets.onnx import check_onnxruntime, find_in_graph, onnxruntime_programs, write_onnx
from export.targets.row import ExportedGraph, ExportTarget, Progress
from runtimes.artifact.artifact import Artifact
from runtimes.artifact.targets import TARGETS, Runtime
from runtimes.files.folder import write_atomic
from runtimes.text import code


def _check(options: EngineOptions) -> None:
    from export.targets.to_tensorrt import RTX_EDGE, parse_gpus
    from runtimes.backends.trt_library import load_library

    check_onnxruntime(options)
    load_library("tensorrt" if options.on_device else "tensorrt_rtx")
    parse_gpus(options.gpus or RTX_EDGE)


def _find_int8(data: bytes, student: Student, problem: Int8Task, options: Quantisation, threads: int, progress: Progress) -> ExportedGraph:
    return find_in_graph(data, student, problem, options, progress, form="symmetric")  # TensorRT takes no zero points


def _write(folder: Path, graph: ExportedGraph, build: Build, options: EngineOptions) -> dict[str, Any]:
    from export.targets.to_tensorrt import RTX_EDGE, build_engine, build_on_device

    write_onnx(folder, graph, build, options)
    engine = (build_on_device(graph.data, max_batch=options.max_batch) if options.on_device else
              build_engine(graph.data, max_batch=options.max_batch, gpus=options.gpus or RTX_EDGE))
    name = TARGETS["trt"].model
    write_atomic(folder / name, engine.data)
    facts = {**engine.facts, "precision": build.precision}
    say("engine", f"{name} {len(engine.data) / 1e6:.1f} MB for {', '.join(facts['gpus'])}, {facts['library']} "
                  f"{facts['version']}, batches {facts['batches'][0]} to {facts['batches'][2]}, {engine.seconds:.1f} s")
    return {"engine": facts}


def _layers(facts: Mapping[str, Any], model: Path, device: str) -> dict[str, int]:
    return dict(facts.get("layers") or {})


def _plain(data: bytes, execution: Execution, options: EngineOptions) -> Runtime:
    """An engine for the GPU of this machine, which is there: the artifact's own engine runs on it."""
    from export.targets.to_tensorrt import RTX_EDGE, build_engine, build_on_device
    from runtimes.backends.trt import TrtSession

    engine = build_on_device(data) if options.on_device else build_engine(data, gpus=options.gpus or RTX_EDGE)
    return TrtSession(engine.data, engine.facts)


def _floating(data: bytes, name: str, execution: Execution, options: EngineOptions) -> Runtime | None:
    if name == "bf16" or execution.device == "cpu":  # bf16 of TensorRT is no precision of ours
        return None
    return _plain(in_half(data), execution, options)


def _programs(artifact: Artifact) -> list[str]:
    engine = artifact.manifest["engine"]
    names = ", ".join(f"`{name}`" for name in artifact.input_names)
    outputs = ", `probabilities`" if artifact.input_kind == "image" else ""
    return [*onnxruntime_programs(artifact, ", on the ONNX that the engine was built from"),
            f"C++ on the engine: {code(artifact.model)} is for {engine['library']} {engine['version']} and GPUs of "
            f"{', '.join(engine['gpus'])}, no other. Deserialise it with `createInferRuntime` and `deserializeCudaEngine`; bind "
            f"{names} and `logits`{outputs} by `setTensorAddress` in the shapes above, batches {engine['batches'][0]} to "
            f"{engine['batches'][2]}. Whether that runs, only its device can tell (`rd-verify`). C++ on the ONNX beside it:",
            fenced_listing("onnxruntime.cpp.txt", artifact)]


TENSORRT = ExportTarget(_check, _find_int8, _write, _layers, _plain, _floating, _programs)
