"""The target ort: ONNX Runtime's own format, which its minimal builds load, and which opens without being optimised first.

Owns: its row, the conversion and the optimisation level. Does not own: reading such a file strictly (runtimes/models/ort_format.py), the
session (runtimes/backends/ort.py).
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from distill.progress import say
from export.graph.regions import MULTIPLYING
from export.options import Build, EngineOptions
from export.targets.listings import fenced_listing
from export.targets.onnx import ONNX, onnxruntime_programs
from export.targets.row import ExportedGraph
from runtimes.artifact.artifact import Artifact
from runtimes.artifact.targets import TARGETS
from runtimes.backends.ort import PROVIDERS, load_runtime
from runtimes.errors import UserError
from runtimes.files.folder import write_atomic
from runtimes.models.operators import check_ort
from runtimes.models.ort_format import read_ort


def to_ort(data: bytes) -> bytes:
    """The bytes of an ONNX file in ONNX Runtime's own format, optimised as far as any processor can take it."""
    runtime = load_runtime()
    options = runtime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    # Basic: constants folded, batch normalisation in its convolution, all of it in standard operators, so that the device holds this
    # file against the same list as an ONNX. Extended adds FusedConv of a private domain, and was no faster; beyond it convolutions
    # take a layout of one family of processors (NCHWc), which others cannot open.
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.save_model_format", "ORT")
    with tempfile.TemporaryDirectory(prefix="rd-ort-") as folder:
        options.optimized_model_filepath = str(Path(folder) / "model.ort")
        try:
            runtime.InferenceSession(data, options, providers=[PROVIDERS["cpu"]])
        except Exception as error:  # its own exceptions share no class below this one
            if "Failed to save" not in str(error):
                raise
            raise UserError(f"onnxruntime could not write its file in {tempfile.gettempdir()}; the disk is most likely full: make room "
                            "there, or set TMPDIR to a folder that has it, and run the same command again") from None
        converted = Path(options.optimized_model_filepath).read_bytes()
    try:
        check_ort(converted)  # as the device does before it opens the file
    except UserError as error:
        raise UserError(f"onnxruntime {runtime.__version__} makes of this graph what no device of ours opens: {error}; take --target onnx, "
                        "or another --student") from None
    return converted


def _write(folder: Path, graph: ExportedGraph, build: Build, _: EngineOptions) -> dict[str, Any]:
    name, converted, version = TARGETS["ort"].model, to_ort(graph.data), str(load_runtime().__version__)
    write_atomic(folder / name, converted)
    say("export", f"{name} {len(converted) / 1e6:.1f} MB, by onnxruntime {version}, opset {build.opset}")
    # The library writes tables in the order of a hash map: two conversions differ in some bytes, and the ONNX's hash tells what they are.
    return {"conversion": {"library": "onnxruntime", "version": version, "optimisation": "basic",
                           "onnx_sha256": hashlib.sha256(graph.data).hexdigest()}}


def _layers(_: Mapping[str, Any], model: Path, device: str) -> dict[str, int]:
    return {"fp32": sum(node.operator in MULTIPLYING for node in read_ort(model.read_bytes())[0].nodes)}  # it is not optimised again


def _programs(artifact: Artifact) -> list[str]:
    return [*onnxruntime_programs(artifact), "C++ with ONNX Runtime, also a minimal build of it, from raw pixels:",
            fenced_listing("onnxruntime.cpp.txt", artifact)]


ORT = replace(ONNX, write=_write, layers=_layers, programs=_programs)
