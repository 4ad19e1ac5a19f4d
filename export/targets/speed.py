"""How fast an artifact is beside the same graph in fp32, and beside the other precisions that its target has here.

Owns: `against_fp32`, the refusal of an int8 that is no faster. Does not own: taking turns (pace.py), the choice among precisions
(advice.py), which ones a target has (targets/).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from distill.progress import say
from export.options import Build, EngineOptions, Execution
from export.precision.advice import advise
from export.precision.pace import pace
from export.targets.table import TARGETS
from runtimes.artifact.targets import Runtime
from runtimes.errors import BUDGET, UserError


def against_fp32(data: bytes, way: str, runtime: Runtime, batch: Any, build: Build, execution: Execution, engine: EngineOptions, *,
                 keep_slower: bool) -> dict[str, Any]:
    """Time of the artifact over that of the same graph in fp32, turn by turn, and which precision to ship here for what reason.

    Exit 4 where int8 is no faster, unless that is allowed.
    """
    if build.precision == "fp32":
        return {}
    whole = TARGETS[build.target].plain(data, execution, engine)
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
    times = {}
    for name in ("bf16", "fp16"):
        if name == build.precision:
            continue
        try:
            other = TARGETS[build.target].floating(data, name, execution, engine)
        except UserError:  # what the target cannot open here is no choice here
            continue
        if other is None:
            continue
        try:
            times[name] = pace(other, whole, batch)
        finally:
            other.close()
    return times
