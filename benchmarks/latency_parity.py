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

from runtimes.artifact import Artifact, read_artifact
from runtimes.bench_crew import WORKER, Crew
from runtimes.bench_rows import used_by_others

RIVALS = str(Path(__file__).with_name("rivals.py"))
NEAR = 0.05
STEADY = 0.10  # of the bare loop's own turns: above it the machine, or where a process came to lie, moves more than what is asked for


def parity(artifacts: list[Path], threads: int, seconds: float, rounds: int, repeats: int) -> list[dict[str, Any]]:
    """Sides take turns, each turn in a fresh process, as benchmark_app has: by where weights come to lie one is faster than another."""
    found = []
    for folder in artifacts:
        artifact = read_artifact(folder)
        for repeat in range(repeats):
            row = {"artifact": folder.name, "runtime": artifact.target, "threads": threads, "repeat": repeat + 1,
                   **one_repeat(artifact, threads, seconds, rounds)}
            found.append(row)
            sides = ", ".join(f"{side} {row['p50_ms'][side]:.4f} ms (x {row['ratio'].get(side, 1):.3f})" for side in row["p50_ms"])
            print(f"{folder.name}, repeat {repeat + 1}: {sides}; others {100 * row['others_share']:.0f} %, "
                  f"the bare loop's turns spread over {100 * row['bare_spread']:.0f} %", flush=True)
    return found


def one_repeat(artifact: Artifact, threads: int, seconds: float, rounds: int) -> dict[str, Any]:
    """p50 of each side, and rd-bench's over the others'."""
    turns: dict[str, list[float]] = {"rd-bench": [], "bare loop": []}  # the median of each turn, in milliseconds
    blocks = []
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    tool = artifact.target == "openvino" and shutil.which("benchmark_app", path=places)
    for turn in range(rounds):
        for side, worker in (("rd-bench", WORKER), ("bare loop", (RIVALS, "bare")))[::-1 if turn % 2 else 1]:
            with Crew() as crew:
                member = crew.open(side, artifact, threads=threads, worker=worker)
                member.ask("warm", path="array", batch=1, least=50, seconds=0.5)
                block = member.ask("block", path="array", batch=1, least=1, seconds=seconds / rounds)
            turns[side].append(statistics.median(block["samples_ns"]) / 1e6)
            blocks.append(block)
        if tool:
            turns.setdefault("benchmark_app", []).append(benchmark_app(str(tool), artifact, threads, seconds / rounds))
    middles = {side: statistics.median(values) for side, values in turns.items()}
    ratio = {side: middles["rd-bench"] / value for side, value in middles.items() if side != "rd-bench"}
    low, _, high = statistics.quantiles(turns["bare loop"], n=4)
    own_spread = (high - low) / middles["bare loop"]
    return {"p50_ms": middles, "turns_ms": turns, "ratio": ratio, "bare_spread": own_spread, "steady": own_spread <= STEADY,
            "extra_us": {side: (middles["rd-bench"] - value) * 1e3 for side, value in middles.items() if side != "rd-bench"},
            "within_5_percent": all(abs(one - 1) <= NEAR for one in ratio.values()), **used_by_others(blocks, threads)}


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
