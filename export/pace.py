"""How fast an artifact is beside the same graph in fp32, turn by turn in one process.

Owns: `pace`, the times of the precisions that a target has here, the refusal of an int8 that is no faster. Does not own: the choice
among them (advice.py), latency as it is reported (runtimes/latency.py).
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import numpy as np

from distill.progress import say
from export.advice import advise
from export.half import in_half
from export.options import Build, EngineOptions, Execution
from runtimes.errors import BUDGET, UserError
from runtimes.ort import OrtSession
from runtimes.session import Runtime

CALLS = 60  # of each of two models, behind a ratio of their speeds


def pace(one: Runtime, other: Runtime, batch: Any, calls: int = CALLS) -> float:
    """Median time of a call of `one` over that of `other`, turn by turn on the same batch."""
    clock = time.perf_counter_ns
    times: tuple[list[int], list[int]] = ([], [])
    for index in range(calls + 5):
        for place, runtime in ((0, one), (1, other)) if index % 2 else ((1, other), (0, one)):
            start = clock()
            runtime.run(batch)
            times[place].append(clock() - start)
    return float(np.median(times[0][5:]) / np.median(times[1][5:]))


def against_fp32(data: bytes, way: str, runtime: Runtime, batch: Any, build: Build, execution: Execution, engine: EngineOptions, *,
                 keep_slower: bool) -> dict[str, Any]:
    """Time of the artifact over that of the same graph in fp32, turn by turn, and which precision to ship here for what reason.

    Exit 4 where int8 is no faster, unless that is allowed.
    """
    if build.precision == "fp32":
        return {}
    whole = plain_runtime(data, build, execution, engine)
    try:
        times = {build.precision: pace(runtime, whole, batch), **_others(data, whole, batch, build, execution, engine)}
    finally:
        whole.close()
    ratio, advice = times[build.precision], advise(times)
    text = f"{build.precision} takes {ratio:.2f} of the time of fp32 on {build.target} here"
    if build.precision == "int8" and ratio >= 1 and not keep_slower:
        raise UserError(f"{text}: no faster, and less exact. Ship {advice.ship} ({advice.reason}), or say --keep-slower when the device is "
                        "another one (processors with VNNI or AMX, TensorRT); no artifact was written", BUDGET)
    say("speed", text + (f" ({way})" if way else ""))
    other = "" if advice.ship == build.precision else f"; rd-export --target {build.target} --precision {advice.ship}"
    say("advice", f"ship {advice.ship}: {advice.reason}{other}")
    return {"time_over_fp32": round(ratio, 3), "times_over_fp32": {name: round(time_, 3) for name, time_ in times.items()},
            "advice": asdict(advice)}


def _others(data: bytes, whole: Runtime, batch: Any, build: Build, execution: Execution, engine: EngineOptions) -> dict[str, float]:
    """Times over fp32 of the other floating precisions that this target computes here; what it only emulates is left out."""
    found = {}
    for name in ("bf16", "fp16"):
        if name == build.precision:
            continue
        try:
            other = _in_precision(data, name, build, execution, engine)
        except UserError:  # what the target cannot open here is no choice here
            continue
        if other is None:
            continue
        try:
            found[name] = pace(other, whole, batch)
        finally:
            other.close()
    return found


def _in_precision(data: bytes, name: str, build: Build, execution: Execution, engine: EngineOptions) -> Runtime | None:
    """The graph in another floating precision on the target, None where the target has none of its own here."""
    if build.target == "openvino":
        from runtimes.ov import OpenVinoSession, capabilities

        if name.upper() not in capabilities(execution.device):
            return None
        return OpenVinoSession(data if name == "bf16" else in_half(data), precision=name, threads=execution.threads,
                               device=execution.device)
    if name == "bf16" or execution.device == "cpu":  # ONNX Runtime casts fp16 up on processors, TensorRT's bf16 is no target of ours
        return None
    return plain_runtime(in_half(data), build, execution, engine)


def plain_runtime(data: bytes, build: Build, execution: Execution, engine: EngineOptions) -> Runtime:
    """The runtime of a target with the fp32 graph in it: what a lower precision is compared with."""
    if build.target == "openvino":
        from runtimes.ov import OpenVinoSession

        return OpenVinoSession(data, threads=execution.threads, device=execution.device)
    if build.target == "trt":
        return _plain_engine(data, engine)
    return OrtSession(data, threads=execution.threads, device=execution.device)


def _plain_engine(data: bytes, options: EngineOptions) -> Runtime:
    """An fp32 engine for the GPU of this machine, which is there: the artifact's own engine runs on it."""
    from export.to_tensorrt import RTX_EDGE, build_engine, build_on_device
    from runtimes.trt import TrtSession

    engine = build_on_device(data) if options.on_device else build_engine(data, gpus=options.gpus or RTX_EDGE)
    return TrtSession(engine.data, engine.facts)
