"""How fast one opened model is beside another, turn by turn in one process.

Owns: `pace`. Does not own: which models are compared (speed.py, targets/), latency as it is reported (runtimes/measure/latency.py).
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from runtimes.artifact.targets import Runtime

CALLS = 60  # of each of two models, behind a ratio of their speeds


def pace(first: Runtime, second: Runtime, batch: Any, calls: int = CALLS) -> float:
    """Median time of a call of `first` over that of `second`, turn by turn on the same batch."""
    clock = time.perf_counter_ns
    times: tuple[list[int], list[int]] = ([], [])
    for index in range(calls + 5):
        for place, runtime in ((0, first), (1, second)) if index % 2 else ((1, second), (0, first)):
            start = clock()
            runtime.run(batch)
            times[place].append(clock() - start)
    return float(np.median(times[0][5:]) / np.median(times[1][5:]))
