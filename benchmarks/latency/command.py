"""Whether rd-bench can be believed, and what students, runtimes, precisions and threads are worth on this machine.

Owns: the command, overhead, noise. Does not own: parity with other tools (parity.py), the matrix and the weaker machine (matrix.py),
the tables of LATENCY.md (tables.py), rd-bench itself (runtimes/).

    python -m benchmarks.latency.command parity   --artifacts ARTIFACT...      rd-bench beside a bare loop and benchmark_app
    python -m benchmarks.latency.command overhead --artifacts ARTIFACT...      a Session over the raw call, call by call in turn
    python -m benchmarks.latency.command matrix   --student FOLDER --teacher FOLDER
    python -m benchmarks.latency.command kinds    --artifacts ARTIFACT...      where the time goes, by kind of operator
    python -m benchmarks.latency.command noise    --artifacts ARTIFACT
    python -m benchmarks.latency.command weaker   --artifacts ARTIFACT... --deadline-ms 5
    python -m benchmarks.latency.command tables                                the tables of LATENCY.md, from results/latency-*.json

Results are named after the machine with --machine (results/latency-matrix-NAME.json), so that other boxes can be added.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.latency import tables
from benchmarks.latency.matrix import matrix, weaker
from benchmarks.latency.parity import parity
from benchmarks.latency.rivals import raw_call
from benchmarks.record import RESULTS, code_hash, command_line, store
from runtimes.artifact.artifact import read_artifact
from runtimes.backends.machine import Watch, full_facts, same_machine
from runtimes.bench.crew import Crew
from runtimes.session import open_session
from runtimes.verify import read_golden


def overhead(artifacts: list[Path], threads: int, samples: int, repeats: int) -> dict[str, Any]:
    """`Session.run` over the raw call of the runtime on the same array, in turn within one process."""
    rows: dict[str, Any] = {}
    for folder in artifacts:
        session = open_session(folder, threads=threads)
        image = read_golden(session.artifact)[0][:1].copy()
        raw = raw_call(session, image)
        found = []
        for _ in range(repeats):
            times: tuple[list[int], list[int]] = ([], [])
            watch = Watch()
            for turn in range(samples + 50):
                start = time.perf_counter_ns()
                raw()
                middle = time.perf_counter_ns()
                session.run(image)
                end = time.perf_counter_ns()
                if turn >= 50:
                    times[0].append(middle - start)
                    times[1].append(end - middle)
            used = watch.others()
            raw_ms, own_ms = (statistics.median(one) / 1e6 for one in times)
            # of neighbours in time: a machine that changes its pace in between moves two medians apart, and no pair
            extra = statistics.median(own - bare for bare, own in zip(*times, strict=True)) / 1e3
            ratio = statistics.median(own / bare for bare, own in zip(*times, strict=True))
            found.append({"raw_p50_ms": raw_ms, "session_p50_ms": own_ms, "ratio": ratio, "extra_us": extra,
                          "others_share": max(0.0, used["busy"] - used["own"]) / used["capacity"],
                          "met": ratio <= 1.03 or extra <= 30})
            print(f"{folder.name}: raw {raw_ms:.3f} ms, session {own_ms:.3f} ms, x {ratio:.3f}, {extra:+.1f} us", flush=True)
        session.close()
        rows[folder.name] = found
    return rows


def kinds(artifacts: list[Path], threads: int) -> dict[str, Any]:
    """The share of every kind of operator in an artifact's time, by the runtime's own profiler."""
    rows = {}
    for folder in artifacts:
        with Crew() as crew:
            member = crew.open(folder.name, read_artifact(folder), threads=threads)
            rows[folder.name] = member.ask("inside", threads=threads, device="cpu", operators=True)["kinds"]
        print(f"{folder.name}: {tables.shares(rows[folder.name])}", flush=True)
    return rows


def noise(artifact: Path, repeats: int, seconds: float, threads: int) -> dict[str, Any]:
    """rd-bench ten times on the same artifact, and once beside a process that burns every core."""
    with tempfile.TemporaryDirectory() as name:
        found = [one_run(artifact, Path(name) / str(turn), seconds, threads) for turn in range(repeats)]
        burners = [multiprocessing.Process(target=burn, daemon=True) for _ in range(os.cpu_count() or 1)]
        for burner in burners:
            burner.start()
        try:
            beside = one_run(artifact, Path(name) / "busy", seconds, threads)
        finally:
            for burner in burners:
                burner.kill()
    middles = [one["p50_ms"] for one in found]
    quiet = [one["p50_ms"] for one in found if one["valid"]]
    return {"artifact": artifact.name, "threads": threads, "runs": found, "p50_ms": middles, "quiet_runs": len(quiet),
            "spread": (max(middles) - min(middles)) / statistics.median(middles),
            "spread_of_quiet_runs": (max(quiet) - min(quiet)) / statistics.median(quiet) if quiet else None,
            "sd": statistics.stdev(middles) / statistics.mean(middles), "beside_burners": beside}


def one_run(artifact: Path, out: Path, seconds: float, threads: int) -> dict[str, Any]:
    """One run of the command: p50 and what it says of the run."""
    done = subprocess.run([sys.executable, "-m", "runtimes.bench.cli", str(artifact), "--out", str(out), "--batch", "1", "--threads",
                           str(threads), "--paths", "array", "--seconds", str(seconds), "--no-roofline", "--no-profile"],
                          capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    row = json.loads((out / "report.json").read_text())["rows"][0]
    print(f"p50 {row['p50_ms']:.4f} ms, min {row['min_ms']:.4f}, others {100 * row['others_share']:.0f} %: {row['notices'] or 'valid'}",
          flush=True)
    return {key: row[key] for key in ("p50_ms", "min_ms", "p10_ms", "p90_ms", "samples", "others_share", "spread", "valid", "notices")}


def burn() -> None:
    """Keep one core busy."""
    while True:
        sum(range(10_000))


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("parity", "overhead", "matrix", "kinds", "noise", "weaker", "tables"))
    parser.add_argument("--artifacts", type=Path, nargs="+", default=[])
    parser.add_argument("--student", type=Path, help="student folder of `matrix`")
    parser.add_argument("--teacher", type=Path, help="its teacher, a student or teacher folder, of `matrix`")
    parser.add_argument("--work", type=Path, default=Path("runs/latency"), help="where `matrix` exports what is not there yet")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--seconds", type=float, help="of each cell or side")
    parser.add_argument("--samples", type=int, default=1000, help="calls of `overhead`")
    parser.add_argument("--repeats", type=int, help="3; 10 of `noise`")
    parser.add_argument("--rounds", type=int, default=10, help="at least, of `parity`: it goes on until it can tell")
    parser.add_argument("--deadline-ms", type=float, default=5.0, help="of `weaker`")
    parser.add_argument("--quota", type=float, default=0.5, help="cores' worth of time of the weaker machine")
    parser.add_argument("--machine", help="a short name of this machine, part of the result's file name")
    given = parser.parse_args()
    if given.what == "tables":
        tables.main()
        return
    if given.what != "matrix" and not given.artifacts:
        parser.error("name artifacts with --artifacts")
    if given.what == "matrix" and not (given.student and given.teacher):
        parser.error("name --student and --teacher")
    if given.what in ("parity", "matrix") and given.rounds < 2:
        parser.error(f"--rounds {given.rounds} leaves nothing to tell the spread by; take 2 at least")
    facts, repeats = full_facts(), given.repeats or (10 if given.what == "noise" else 3)
    rows = {"overhead": lambda: overhead(given.artifacts, given.threads[0], given.samples, repeats),
            "kinds": lambda: kinds(given.artifacts, given.threads[0]),
            "noise": lambda: noise(given.artifacts[0], repeats, given.seconds or 5.0, given.threads[0]),
            "parity": lambda: parity(given.artifacts, given.threads[0], given.seconds or 5.0, given.rounds, repeats),
            "matrix": lambda: matrix(given.student, given.teacher, given.work, given.threads, given.seconds or 4.0,
                                                    given.rounds),
            "weaker": lambda: weaker(given.artifacts, given.deadline_ms, given.quota, given.seconds or 4.0)}[given.what]()
    suffix = f"-{given.machine}" if given.machine else ""
    path = RESULTS / f"latency-{given.what}{suffix}.json"
    if path.is_file() and (other := same_machine(json.loads(path.read_text())["machine"], facts)):
        sys.exit(f"{path.name} is of another machine ({'; '.join(other)}); give this one a name with --machine")
    store(path, {"format": 1, "command": command_line(), "date": time.strftime("%Y-%m-%d", time.gmtime()),
                 "machine": facts, "code_sha256": code_hash(), "rows": rows})


if __name__ == "__main__":
    main()
