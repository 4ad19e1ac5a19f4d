"""How long a call takes: raw nanoseconds, warm-ups apart, with the facts of the machine they were taken on.

Owns: LatencyReport, `measure`, machine facts. Does not own: what is called; tables and comparisons (rd-bench).
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from runtimes.errors import UserError
from runtimes.ort import allowed_cores

# Fewest samples behind a percentile (MLPerf Inference's early stopping); below that it is not shown.
FEWEST_SAMPLES = {50: 1, 90: 64, 95: 130, 99: 662}


@dataclass(frozen=True)
class LatencyReport:
    """Timings of single calls in nanoseconds, in order, one request in flight; `facts` names machine, library and artifact."""

    warmup_ns: tuple[int, ...]
    samples_ns: tuple[int, ...]
    facts: dict[str, Any]

    def percentiles_ms(self) -> dict[str, float]:
        """Minimum, mean and those percentiles that the number of samples supports, in milliseconds."""
        values = np.asarray(self.samples_ns, dtype=np.float64) / 1e6
        shown = {"min_ms": float(values.min()), "mean_ms": float(values.mean())}
        for percent, fewest in FEWEST_SAMPLES.items():
            if len(values) >= fewest:
                shown[f"p{percent}_ms"] = float(np.percentile(values, percent))
        return shown

    def as_dict(self) -> dict[str, Any]:
        """The JSON form, percentiles beside the raw values."""
        return {"format": 1, **self.percentiles_ms(), **asdict(self)}


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
    found = {**machine_facts(), "load_average_before": load_before, "load_average_after": _load_average(), **(facts or {})}
    return LatencyReport(tuple(times[:warmups]), tuple(times[warmups:]), found)


def machine_facts() -> dict[str, Any]:
    """What a timing depends on and a reader cannot see: processor, cores this process may use, versions."""
    return {"cpu": _cpu_model(), "cores_allowed": allowed_cores(), "cores": os.cpu_count(), "system": platform.system(),
            "architecture": platform.machine(), "python": platform.python_version(), "numpy": np.__version__}


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                key, _, value = line.partition(":")
                if key.strip() in ("model name", "Model"):  # x86; some ARM boards
                    return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _load_average() -> float | None:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None
