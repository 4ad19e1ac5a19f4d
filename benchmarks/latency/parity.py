"""rd-bench's p50 beside other ways to time the same file with the same threads, in the same turns: a bare loop, benchmark_app.

Owns: the three sides and their ratios. Does not own: the bare loop itself (rivals.py), rd-bench (runtimes/).
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from runtimes.artifact.artifact import Artifact, read_artifact
from runtimes.bench.crew import WORKER, Crew
from runtimes.bench.rows import used_by_others

RIVALS = ("-m", "benchmarks.latency.rivals")
NEAR = 0.05
SETTLED = 0.025  # half of the interval: above it nothing can be said of five per cent
LEAST_SECONDS = 1.0  # of a turn: benchmark_app knows no less, and a process of two tenths of a second has hardly begun
MOST = 8  # times as many rounds as asked for, before it is left unsettled


def parity(artifacts: list[Path], threads: int, seconds: float, rounds: int, repeats: int) -> list[dict[str, Any]]:
    """Sides take turns, each turn in a fresh process, as benchmark_app has: by where weights come to lie one is faster than another."""
    found = []
    for folder in artifacts:
        artifact = read_artifact(folder)
        for repeat in range(repeats):
            row = {"artifact": folder.name, "runtime": artifact.target, "threads": threads, "repeat": repeat + 1,
                   **one_repeat(artifact, threads, max(LEAST_SECONDS, seconds / rounds), rounds)}
            found.append(row)
            turns = row["turns_ms"]
            sides = ", ".join(f"{side} x {one['ratio']:.3f} ({one['low']:.3f} to {one['high']:.3f})"
                              for side, one in verdict(turns)["over"].items())
            print(f"{folder.name}, repeat {repeat + 1}: {row['p50_ms']['rd-bench']:.4f} ms, over {sides}, {len(turns['rd-bench'])} rounds; "
                  f"others {100 * row['others_share']:.0f} %", flush=True)
    return found


def one_repeat(artifact: Artifact, threads: int, seconds: float, rounds: int) -> dict[str, Any]:
    """p50 of each side, and rd-bench's over the others' of the same round; rounds go on until every interval is narrow enough to tell."""
    turns: dict[str, list[float]] = {}  # the median of each turn, in milliseconds
    blocks = []
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    tool = artifact.target == "openvino" and shutil.which("benchmark_app", path=places)

    def bench(side: str) -> float:
        if side == "benchmark_app":
            return benchmark_app(str(tool), artifact, threads, seconds)
        with Crew() as crew:
            member = crew.open(side, artifact, threads=threads, worker=WORKER if side == "rd-bench" else (*RIVALS, "bare"))
            member.ask("warm", path="array", batch=1, least=50, seconds=0.5)
            blocks.append(member.ask("block", path="array", batch=1, least=1, seconds=seconds))
        return statistics.median(blocks[-1]["samples_ns"]) / 1e6

    sides = ["rd-bench", "bare loop", *(["benchmark_app"] if tool else [])]
    for turn in range(MOST * rounds):
        for side in sides[::-1 if turn % 2 else 1]:
            turns.setdefault(side, []).append(bench(side))
        if turn + 1 >= rounds and verdict(turns)["settled"]:
            break
    return {"p50_ms": {side: statistics.median(values) for side, values in turns.items()}, "turns_ms": turns,
            **used_by_others(blocks, threads)}


def verdict(turns: dict[str, list[float]]) -> dict[str, Any]:
    """rd-bench `over` each other side of the same turns; whether all are `near` it, with their `whole` interval, narrow enough to tell."""
    over = {side: within_rounds(turns["rd-bench"], turns[side]) for side in turns if side != "rd-bench"}
    return {"over": over, "near": all(abs(one["ratio"] - 1) <= NEAR for one in over.values()),
            "whole": all(one["low"] >= 1 - NEAR and one["high"] <= 1 + NEAR for one in over.values()),
            "settled": all(one["high"] - one["low"] <= 2 * SETTLED for one in over.values())}


def within_rounds(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """The median ratio within a round and its 95 % interval, and the ratio of medians over all rounds.

    A machine that changes its pace moves two medians apart, and no round.
    """
    ratios = np.asarray(ours) / np.asarray(theirs)
    found = bootstrap((ratios,), np.median, method="percentile", n_resamples=2000, rng=0).confidence_interval
    return {"ratio": float(np.median(ratios)), "low": float(found.low), "high": float(found.high),
            "of_medians": statistics.median(ours) / statistics.median(theirs)}


def benchmark_app(tool: str, artifact: Artifact, threads: int, seconds: float) -> float:
    """The median latency in milliseconds that OpenVINO's own tool finds: one request, synchronous, precision and threads as ours."""
    height, width = artifact.graph_size
    shape = f"[1,{height},{width},{artifact.image_spec.channels}]"
    with tempfile.TemporaryDirectory() as folder:
        flags = {"-m": artifact.model_path, "-d": "CPU", "-api": "sync", "-hint": "none", "-nireq": 1, "-nthreads": threads,
                 "-infer_precision": "f32", "-t": max(1, round(seconds)), "-data_shape": shape, "-report_type": "no_counters",
                 "-report_folder": folder}
        done = subprocess.run([tool, *(str(part) for pair in flags.items() for part in pair)], capture_output=True, text=True)
    told = re.search(r"Median:\s+([\d.]+) (ms|us)", done.stdout)
    if not told:
        sys.exit(f"benchmark_app gave no median: {(done.stdout + done.stderr)[-800:]}")
    return float(told[1]) / (1 if told[2] == "ms" else 1000)
