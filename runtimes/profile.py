"""Inside a network as its runtime sees it: multiply-adds, the precision of its layers, and its slowest operators.

Owns: reading ONNX Runtime's own profile and OpenVINO's graph and counters. Does not own: the pace of the machine (gemm.py), latency:
a profiler slows down what it watches. No onnx package: the runtime itself tells the shapes.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from runtimes.artifact import Artifact
from runtimes.errors import UserError

INTEGER = frozenset(["QLinearConv", "QLinearMatMul", "QGemm", "MatMulInteger", "ConvInteger", "MatMulIntegerToFloat",
                     "DynamicQuantizeMatMul"])
FLOATING = frozenset(["Conv", "FusedConv", "NhwcFusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"])
KINDS = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "double": "fp64"}
RUNS = 20  # profiled calls behind a mean
SLOWEST = 10


def inside(artifact: Artifact, batch: Sequence[Any], *, threads: int, device: str = "cpu", operators: bool = True) -> dict[str, Any]:
    """Of one image: `macs`, `io_bytes`, `layers` by precision, and the ten slowest `operators`; a `reason` for what is not known."""
    one = tuple(part[:1].copy() for part in batch)
    io_bytes = sum(part.nbytes for part in one) + 8 * len(artifact.classes)
    if artifact.target == "openvino":
        return {"io_bytes": io_bytes, **_openvino(artifact, one, threads, device, operators)}
    graph = artifact.folder / artifact.model if artifact.target == "onnx" else next(artifact.folder.glob("*.onnx"), None)
    if graph is None:
        return {"io_bytes": io_bytes, "reason": "no ONNX file beside the engine to count in"}
    macs = sum(macs_of(event["args"]) for event in ort_events(graph, one, threads=threads, optimise=False, runs=1))
    if artifact.target != "onnx" or device != "cpu":
        return {"io_bytes": io_bytes, "macs": macs, "reason": f"no profile of {artifact.target} on {device}; use the vendor's own tools"}
    events = ort_events(graph, one, threads=threads, optimise=True, runs=RUNS)
    return {"io_bytes": io_bytes, "macs": macs, "layers": layers_of(events), **({"operators": slowest(
        [(str(event["name"]).removesuffix("_kernel_time"), event["args"]["op_name"], float(event["dur"])) for event in events], RUNS)}
        if operators else {})}


def ort_events(graph: Path, batch: tuple[Any, ...], *, threads: int, optimise: bool, runs: int) -> list[dict[str, Any]]:
    """What ONNX Runtime's profiler says of every operator it ran, in order."""
    from runtimes.ort import OrtSession

    with tempfile.TemporaryDirectory(prefix="rd-profile-") as folder:
        session = OrtSession(graph, threads=threads, optimise=optimise, profile=Path(folder) / "profile")
        for _ in range(5 if runs > 1 else 0):
            session.run(batch)
        for _ in range(runs):
            session.run(batch)
        events = json.loads(session.profiled().read_text(encoding="utf-8"))
        session.close()
    found = [one for one in events if one.get("cat") == "Node" and str(one.get("name")).endswith("_kernel_time")]
    return found[len(found) // (5 + runs) * 5:] if runs > 1 else found  # the first calls are warm-up


def macs_of(told: Mapping[str, Any]) -> int:
    """Multiply-adds of one operator from the shapes that the profiler saw; 0 for one that does not multiply."""
    kind, outputs = told["op_name"], _shapes(told["output_type_shape"])
    given = _shapes(told["input_type_shape"])
    if kind in ("Conv", "FusedConv"):
        return prod(outputs[0]) * prod(given[1][1:])
    if kind in ("MatMul", "Gemm", "FusedMatMul", "FusedGemm", "MatMulInteger"):
        return prod(outputs[0]) * given[0][-1]
    if kind == "QLinearConv":
        raise UserError("a graph of QLinearConv holds no float shapes to count; expected one with Q/DQ pairs")
    return 0


def layers_of(events: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many layers that multiply ran in each precision."""
    seen = {event["args"]["node_index"]: event["args"] for event in events}
    found: Counter[str] = Counter()
    for told in seen.values():
        if told["op_name"] in INTEGER:
            found["int8"] += 1
        elif told["op_name"] in FLOATING:
            kind = next(iter(told["input_type_shape"][0]))
            found[KINDS.get(kind, kind)] += 1
    return dict(sorted(found.items()))


def slowest(times: Sequence[tuple[str, str, float]], runs: int) -> list[dict[str, Any]]:
    """The ten operators that took longest: (name, kind, microseconds) of every call -> mean and share of all."""
    spent: dict[tuple[str, str], float] = {}
    for name, kind, micros in times:
        spent[(name, kind)] = spent.get((name, kind), 0.0) + micros
    total = sum(spent.values()) or 1.0
    ranked = sorted(spent.items(), key=lambda one: -one[1])[:SLOWEST]
    return [{"name": name, "kind": kind, "us": micros / runs, "share": micros / total} for (name, kind), micros in ranked]


def _shapes(told: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    return [list(next(iter(one.values()), [])) for one in told]


def _openvino(artifact: Artifact, one: tuple[Any, ...], threads: int, device: str, operators: bool) -> dict[str, Any]:
    from runtimes.ov import counted_macs, profiled

    macs = counted_macs(artifact.model_path, [part.shape for part in one])
    layers, times = profiled(artifact.model_path, one, precision=artifact.precision, threads=threads, device=device, runs=RUNS)
    return {"macs": macs, "layers": layers, **({"operators": slowest(times, RUNS)} if operators else {})}
