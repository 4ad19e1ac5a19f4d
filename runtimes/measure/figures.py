"""What may be said of a row of latencies: percentiles that have enough samples behind them, bounds, ratios with an interval.

Owns: the fewest samples of a percentile, MLPerf Inference's early stopping, deadline misses, steadiness, the bootstrap of a ratio.
Pure: numbers in, numbers out. Does not own: taking the samples (latency.py, bench/worker.py), words about them (bench/rows.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.99  # MLPerf Inference's early stopping
# Fewest samples behind a percentile, by that rule: with fewer it is not shown, however nice it looks. See `fewest_samples`.
FEWEST_SAMPLES: dict[float, int] = {50: 1, 90: 64, 95: 130, 99: 662, 99.9: 6636}
WINDOW = 25  # calls whose median is compared with that of the calls before them


def binomial_cdf(most: int, count: int, chance: float) -> float:
    """Chance of at most `most` hits in `count` trials; in logarithms, so that large counts do not overflow."""
    if most >= count:
        return 1.0
    if most < 0:
        return 0.0
    hit, miss = math.log(chance), math.log1p(-chance)
    terms = [math.lgamma(count + 1) - math.lgamma(hits + 1) - math.lgamma(count - hits + 1) + hits * hit + (count - hits) * miss
             for hits in range(most + 1)]
    top = max(terms)
    return min(1.0, math.exp(top) * sum(math.exp(term - top) for term in terms))


def fewest_samples(percent: float) -> int:
    """Samples that MLPerf's early stopping needs to speak of a percentile at all: one above it has to be improbable enough."""
    low, high = 1, 2
    while binomial_cdf(1, high, 1 - percent / 100) > 1 - CONFIDENCE:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if binomial_cdf(1, middle, 1 - percent / 100) <= 1 - CONFIDENCE else (middle, high)
    return high


def early_stopping(samples: ArrayLike, percent: float) -> float | None:
    """A value that the percentile does not exceed, with 99 % confidence: MLPerf's single-stream figure; None with too few samples."""
    values = np.sort(np.asarray(samples, dtype=np.float64))
    if len(values) < fewest_samples(percent):
        return None
    low, high = 1, len(values)  # the most samples above the value that still leave it a bound
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if binomial_cdf(middle, len(values), 1 - percent / 100) <= 1 - CONFIDENCE else (low, middle)
    return float(values[len(values) - low])


def percentiles_ms(samples_ns: ArrayLike) -> dict[str, float]:
    """Minimum, p10, mean, deviation, maximum and the percentiles that the number of samples supports, in milliseconds."""
    values = np.asarray(samples_ns, dtype=np.float64) / 1e6
    shown = {"min_ms": float(values.min()), "p10_ms": float(np.percentile(values, 10)), "mean_ms": float(values.mean()),
             "sd_ms": float(values.std(ddof=1)) if len(values) > 1 else 0.0, "max_ms": float(values.max())}
    for percent, fewest in FEWEST_SAMPLES.items():
        if len(values) >= fewest:
            shown[f"p{percent:g}_ms"] = float(np.percentile(values, percent))
    return shown


def misses(samples_ns: ArrayLike, deadline_ms: float) -> dict[str, Any]:
    """How many calls were late, and the share of late calls that 95 % confidence does not exclude (Clopper and Pearson, one-sided)."""
    values = np.asarray(samples_ns, dtype=np.float64)
    late, count = int((values > deadline_ms * 1e6).sum()), len(values)
    low, high = late / count, 1.0
    while high - low > 1e-9 and late < count:
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_cdf(late, count, middle) > 0.05 else (low, middle)
    return {"deadline_ms": deadline_ms, "missed": late, "samples": count, "share": late / count, "share_at_most": high}


def steady(times_ns: Sequence[int], tolerance: float = 0.05) -> bool:
    """Whether the last calls took as long as those before them: medians of two windows within the tolerance."""
    if len(times_ns) < 2 * WINDOW:
        return False
    last, before = (float(np.median(part)) for part in (times_ns[-WINDOW:], times_ns[-2 * WINDOW:-WINDOW]))
    return abs(last - before) <= tolerance * before


def block_spread(blocks: Sequence[ArrayLike]) -> float:
    """How far medians of blocks lie apart: the middle half of them, over their median."""
    medians = np.asarray([np.median(np.asarray(block)) for block in blocks if np.asarray(block).size])
    low, middle, high = np.percentile(medians, [25, 50, 75])
    return float((high - low) / middle)


def ratio_interval(old: Sequence[ArrayLike], new: Sequence[ArrayLike], *, rounds: int = 2000, seed: int = 0,
                   confidence: float = 0.95) -> tuple[float, float, float]:
    """New p50 over old p50 and a bootstrap interval of it: (ratio, low, high).

    Calls of one block share their noise, so blocks are drawn first, then calls within them; a block is summed up by its median.
    """
    random = np.random.default_rng(seed)
    first, second = ([np.asarray(block, dtype=np.float64) for block in blocks] for blocks in (old, new))
    drawn = _medians(second, rounds, random) / _medians(first, rounds, random)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return float(np.median(np.concatenate(second)) / np.median(np.concatenate(first))), float(low), float(high)


def _medians(blocks: Sequence[NDArray[Any]], rounds: int, random: np.random.Generator) -> NDArray[np.float64]:
    """The median over drawn blocks, `rounds` times; each block's median stands for it, jittered by its own standard error."""
    middle = np.asarray([np.median(block) for block in blocks])
    error = np.asarray([_median_error(block) for block in blocks])
    drawn = random.integers(0, len(blocks), (rounds, len(blocks)))
    return np.asarray(np.median(middle[drawn] + error[drawn] * random.standard_normal(drawn.shape), axis=1))


def _median_error(block: NDArray[Any]) -> float:
    """Standard error of a median: half the width of its 68 % order-statistics interval."""
    if len(block) < 4:
        return 0.0
    values, half = np.sort(block), math.sqrt(len(block)) / 2
    low, high = max(0, int(len(block) / 2 - half)), min(len(block) - 1, int(len(block) / 2 + half))
    return float(values[high] - values[low]) / 2
