"""What really runs once a runtime has opened an artifact: its layers that multiply, by the precision they compute in.

Owns: reading that back from ONNX Runtime's optimised graph, telling whether a request was honoured. Does not own: OpenVINO's and
TensorRT's own accounts (runtimes/backends/ov.py, to_tensorrt.py), the weights' precision (hygiene.py).
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from runtimes.backends.ort import PROVIDERS, load_runtime
from runtimes.errors import MISSING, UserError
from runtimes.measure.profile import FLOATING, INTEGER

if TYPE_CHECKING:
    import onnx


def executed_by_ort(model: Path, device: str = "cpu") -> dict[str, int]:
    """How many layers that multiply ONNX Runtime computes in each precision, from the graph it makes of a model file."""
    import onnx

    runtime = load_runtime()
    with tempfile.TemporaryDirectory(prefix="rd-executed-") as folder:
        options = runtime.SessionOptions()
        options.log_severity_level = 4
        # The layout transform behind this level renames convolutions and changes no precision.
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        runtime.InferenceSession(str(model), options, providers=[PROVIDERS[device]])
        return _count(onnx.load(options.optimized_model_filepath).graph)


def _count(graph: onnx.GraphProto) -> dict[str, int]:
    """Layers by the type of the weights, or what casts and casts alone have made of them, that reach them."""
    import onnx

    kinds = {onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.BFLOAT16: "bf16"}
    stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
    stored |= {info.name: info.type.tensor_type.elem_type for info in (*graph.value_info, *graph.input, *graph.output)}
    stored |= {node.output[0]: node.attribute[0].i for node in graph.node if node.op_type == "Cast"}
    counts: Counter[str] = Counter()
    for node in graph.node:
        if node.op_type in INTEGER:
            counts["int8"] += 1
        elif node.op_type in FLOATING:
            types = [stored[name] for name in node.input[:2] if name in stored]
            counts[next((kinds[code] for code in types if code in kinds), "fp32")] += 1
    return dict(sorted(counts.items()))


def shares(layers: Mapping[str, int]) -> dict[str, float]:
    """Share of layers by precision."""
    total = sum(layers.values())
    return {kind: round(count / total, 4) for kind, count in layers.items()} if total else {}


def check_honoured(precision: str, asked: Mapping[str, float], executed: Mapping[str, float], *, where: str, allowed: bool) -> str:
    """A line to print when layers run in another precision than the graph says; UserError (exit 5) unless that is allowed.

    asked: shares of the graph's layers; executed: of those that run. Layers that were left in float on purpose are no fault.
    """
    expected = 1.0 if precision in ("fp32", "bf16") else asked.get(precision, 0.0)
    actual = executed.get(precision, 0.0)
    if not executed or actual >= 0.7 * expected:  # layers are not weights, and some are fused away: a downgrade is most of them
        return ""
    summary = ", ".join(f"{100 * share:.0f} % {kind}" for kind, share in executed.items())
    text = f"asked for {precision}, {where} computes {summary}"
    if not allowed:
        raise UserError(f"{text}; it would be no faster here than the precision it runs in. Export on the device, choose another "
                        "--precision, or say --keep-upcast to write the artifact for a device that can", MISSING)
    return text
