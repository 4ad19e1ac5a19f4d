"""Inside a network as its runtime sees it: multiply-adds, the precision of its layers, and its slowest operators.

Owns: reading ONNX Runtime's own profile and OpenVINO's graph and counters. Does not own: the pace of the machine (gemm.py), latency:
a profiler slows down what it watches. No onnx package: the runtime itself tells the shapes.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, TypeVar

from runtimes.artifact.artifact import Artifact
from runtimes.errors import UserError

INTEGER = frozenset(["QLinearConv", "QLinearMatMul", "QGemm", "MatMulInteger", "ConvInteger", "MatMulIntegerToFloat",
                     "DynamicQuantizeMatMul"])
FLOATING = frozenset(["Conv", "FusedConv", "NhwcFusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"])
KINDS = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "double": "fp64"}
RUNS = 20  # profiled calls behind a mean
SLOWEST = 10
What = TypeVar("What", bound=Hashable)


def inside(artifact: Artifact, batch: Sequence[Any], *, threads: int, device: str = "cpu", operators: bool = True) -> dict[str, Any]:
    """Of one image: `macs`, `io_bytes`, `layers` by precision, the ten slowest `operators`, the time of all by `kinds`; or a `reason`."""
    single = tuple(part[:1].copy() for part in batch)
    io_bytes = sum(part.nbytes for part in single) + 8 * len(artifact.classes)
    if artifact.row.profiler == "openvino":
        return {"io_bytes": io_bytes, **_openvino(artifact, single, threads, device, operators)}
    (graph,) = artifact.model_bytes(artifact.row.origin)
    macs = sum(macs_of(event["args"]) for event in ort_events(graph, single, threads=threads, optimise=False, runs=1))
    if artifact.row.profiler != "onnxruntime" or device != "cpu":
        return {"io_bytes": io_bytes, "macs": macs, "reason": f"no profile of {artifact.target} on {device}; use the vendor's own tools"}
    events = ort_events(graph, single, threads=threads, optimise=True, runs=RUNS)
    return {"io_bytes": io_bytes, "macs": macs, "layers": layers_of(events), **(spent_by([
        (str(event["name"]).removesuffix("_kernel_time"), event["args"]["op_name"], float(event["dur"])) for event in events], RUNS)
        if operators else {})}


def ort_events(graph: bytes, batch: tuple[Any, ...], *, threads: int, optimise: bool, runs: int) -> list[dict[str, Any]]:
    """What ONNX Runtime's profiler says of every operator it ran, in order."""
    from runtimes.backends.ort import OrtSession

    with tempfile.TemporaryDirectory(prefix="rd-profile-") as folder:
        session = OrtSession(graph, threads=threads, optimise=optimise, profile=Path(folder) / "profile")
        for _ in range(5 if runs > 1 else 0):
            session.run(batch)
        for _ in range(runs):
            session.run(batch)
        events = json.loads(session.profiled().read_text(encoding="utf-8"))
        session.close()
    kernels = [event for event in events if event.get("cat") == "Node" and str(event.get("name")).endswith("_kernel_time")]
    return kernels[len(kernels) // (5 + runs) * 5:] if runs > 1 else kernels  # the first calls are warm-up


def macs_of(args: Mapping[str, Any]) -> int:
    """Multiply-adds of one operator from the shapes that the profiler saw; 0 for one that does not multiply."""
    kind, outputs = args["op_name"], _shapes(args["output_type_shape"])
    inputs = _shapes(args["input_type_shape"])
    if kind in ("Conv", "FusedConv"):
        return prod(outputs[0]) * prod(inputs[1][1:])
    if kind in ("MatMul", "Gemm", "FusedMatMul", "FusedGemm", "MatMulInteger"):
        return prod(outputs[0]) * inputs[0][-1]
    if kind == "QLinearConv":
        raise UserError("a graph of QLinearConv holds no float shapes to count; expected one with Q/DQ pairs")
    return 0


def layers_of(events: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many layers that multiply ran in each precision."""
    nodes = {event["args"]["node_index"]: event["args"] for event in events}
    counts: Counter[str] = Counter()
    for args in nodes.values():
        if args["op_name"] in INTEGER:
            counts["int8"] += 1
        elif args["op_name"] in FLOATING:
            kind = next(iter(args["input_type_shape"][0]))
            counts[KINDS.get(kind, kind)] += 1
    return dict(sorted(counts.items()))


def spent_by(times: Iterable[tuple[str, str, float]], runs: int) -> dict[str, list[dict[str, Any]]]:
    """Where the time went, longest first, from (name, kind, microseconds) of every call: the ten slowest `operators`, and all `kinds`.

    A kind is what stands before the bracket: OpenVINO's names its kernel there, "Convolution (jit_avx512)".
    """
    calls = list(times)
    total = sum(micros for _, _, micros in calls) or 1.0

    def figures(micros: float) -> dict[str, float]:
        return {"us": micros / runs, "share": micros / total}

    operators = _summed(((name, kind), micros) for name, kind, micros in calls)
    kinds = _summed((kind.partition(" (")[0], micros) for _, kind, micros in calls)
    return {"operators": [{"name": name, "kind": kind, **figures(micros)} for (name, kind), micros in operators[:SLOWEST]],
            "kinds": [{"kind": kind, **figures(micros)} for kind, micros in kinds]}


def _summed(times: Iterable[tuple[What, float]]) -> list[tuple[What, float]]:
    spent: dict[What, float] = {}
    for what, micros in times:
        spent[what] = spent.get(what, 0.0) + micros
    return sorted(spent.items(), key=lambda pair: -pair[1])


def _shapes(entries: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    return [list(next(iter(entry.values()), [])) for entry in entries]


def _openvino(artifact: Artifact, batch: tuple[Any, ...], threads: int, device: str, operators: bool) -> dict[str, Any]:
    from runtimes.backends.ov import counted_macs, profiled

    model = artifact.model_bytes()
    macs = counted_macs(model, [part.shape for part in batch])
    layers, times = profiled(model, batch, precision=artifact.precision, threads=threads, device=device, runs=RUNS)
    return {"macs": macs, "layers": layers, **(spent_by(times, RUNS) if operators else {})}
