"""Which precision a target should ship, from times measured side by side: the most exact one that nothing beats clearly.

Owns: `advise`, the margins. Pure numbers. Does not own: taking the times (pace.py), whether a precision is accurate (gate.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

INT8_MARGIN = 1.2  # int8 must be this much faster than the best floating precision: it costs calibration, and some decisions
HALF_MARGIN = 1.05  # fp16 and bf16 over fp32: a difference that two runs agree on
EXACT_FIRST = ("fp32", "fp16", "bf16")


@dataclass(frozen=True)
class Advice:
    """The precision to ship, and why, in words."""

    ship: str
    reason: str


def advise(times: Mapping[str, float]) -> Advice:
    """Choose among precisions by time over fp32 (fp32 itself is 1); each of them has passed, or will have to pass, its own proof."""
    timings = ", ".join(f"{name} takes {times[name]:.2f}" for name in sorted(times, key=lambda name: times[name]) if name != "fp32")
    ship, best = "fp32", 1.0
    for name in EXACT_FIRST[1:]:
        if name in times and times[name] * HALF_MARGIN <= 1.0 and times[name] < best:
            ship, best = name, times[name]
    if "int8" in times:
        if times["int8"] * INT8_MARGIN <= best:
            return Advice("int8", f"{timings} of the time of fp32; int8 is at least {INT8_MARGIN:g} times faster than {ship}")
        return Advice(ship, f"{timings} of the time of fp32; int8 is not {INT8_MARGIN:g} times faster than {ship}")
    return Advice(ship, f"{timings} of the time of fp32")
