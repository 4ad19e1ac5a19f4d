"""How long a call takes: raw nanoseconds, warm-ups apart, with the facts of the machine they were taken on.

Owns: LatencyReport, `measure`. Does not own: what is called; percentiles (figures.py), facts of the machine (machine.py), rd-bench.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from runtimes.backends.machine import machine_facts
from runtimes.errors import UserError
from runtimes.measure.figures import percentiles_ms, steady


@dataclass(frozen=True)
class LatencyReport:
    """Timings of single calls in nanoseconds, in order, one request in flight; `facts` names machine, library and artifact."""

    warmup_ns: tuple[int, ...]
    samples_ns: tuple[int, ...]
    facts: dict[str, Any]

    def percentiles_ms(self) -> dict[str, float]:
        """Minimum, mean, deviation, maximum and those percentiles that the number of samples supports, in milliseconds."""
        return percentiles_ms(self.samples_ns)

    def as_dict(self) -> dict[str, Any]:
        """The JSON form, percentiles beside the raw values."""
        return {"format": 1, **self.percentiles_ms(), **asdict(self)}


def warm_up(call: Callable[[], object], *, least: int, seconds: float) -> tuple[list[int], bool]:
    """Call until two windows of calls took alike, `least` times at least and after that for `seconds` at most: times, steady or not."""
    clock, times = time.perf_counter_ns, list[int]()
    start = clock()
    while len(times) < least or not steady(times):
        if len(times) >= least and clock() - start > seconds * 1e9:
            return times, False
        before = clock()
        call()
        times.append(clock() - before)
    return times, True


def timed_block(call: Callable[[], object], *, least: int, seconds: float) -> tuple[list[int], int]:
    """Time calls one after another, `least` of them and `seconds` long at least: nanoseconds of each, and of all together."""
    clock, times = time.perf_counter_ns, list[int]()
    start = now = clock()
    while len(times) < least or now - start < seconds * 1e9:
        before = clock()
        call()
        now = clock()
        times.append(now - before)
    return times, now - start


def measure(call: Callable[[], object], *, warmups: int, samples: int, facts: dict[str, Any] | None = None) -> LatencyReport:
    """Time `call` warmups + samples times, one after another; UserError for fewer than one sample."""
    if warmups < 0 or samples < 1:
        raise UserError(f"{warmups} warm-ups and {samples} samples; expected 0 or more and 1 or more")
    load_before = _load_average()
    clock = time.perf_counter_ns
    times = []
    for _ in range(warmups + samples):
        start = clock()
        call()
        times.append(clock() - start)
    conditions = {**machine_facts(), "load_average_before": load_before, "load_average_after": _load_average(), **(facts or {})}
    return LatencyReport(tuple(times[:warmups]), tuple(times[warmups:]), conditions)


def _load_average() -> float | None:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None
