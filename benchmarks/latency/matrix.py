"""A trained student and its teacher in every runtime and precision, beside PyTorch, in the same turns; the choice on a weaker machine.

Owns: which cells make the matrix, one core with a CPU quota. Does not own: measuring (runtimes/bench/command.py), PyTorch's side
(rivals.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.latency.parity import RIVALS
from runtimes.artifact.artifact import read_artifact
from runtimes.bench.command import bench
from runtimes.bench.config import BenchSettings
from runtimes.bench.crew import Crew, Member
from runtimes.errors import UserError

CELLS = {"onnx": ("fp32", "fp16", "int8"), "openvino": ("fp32", "bf16", "int8")}
GROUP = Path("/sys/fs/cgroup")
KEPT = ("artifact", "target", "precision", "batch", "threads", "samples", "p50_ms", "p90_ms", "p99_ms", "min_ms", "mean_ms", "sd_ms",
        "max_ms", "others_share", "spread", "valid", "notices", "layers", "macs", "roofline", "runtime", "version", "provider",
        "model_bytes", "peak_rss_mib", "load_ms", "first_ms", "score", "model_sha256", "block_p50_ms")


def matrix(student: Path, teacher: Path, work: Path, threads: list[int], seconds: float, rounds: int) -> dict[str, Any]:
    """Export what is not there yet, then measure all of it and PyTorch in the same turns, single images, array to decision."""
    refused: dict[str, str] = {}
    artifacts = [made for role, folder in (("student", student), ("teacher", teacher)) for target, precisions in CELLS.items()
                 for precision in precisions if (made := exported(role, folder, target, precision, work, refused))]

    def rivals(crew: Crew, counts: list[int]) -> list[Member]:
        return [crew.open(f"{role}, torch {mode}", read_artifact(work / f"{role}-onnx-fp32"), threads=count, worker=(
            *RIVALS, mode, str(folder.absolute()))) for role, folder in (("student", student), ("teacher", teacher))
            for mode in ("eager", "compile") for count in counts]

    out = work / "report"
    bench(BenchSettings(tuple(artifacts), out=out, overwrite=True, batch=(1,), threads=tuple(threads), paths=("array",), seconds=seconds,
                        rounds=rounds, profile=False), "python -m benchmarks.latency.command matrix", rivals=rivals)
    report = json.loads((out / "report.json").read_text())
    return {"rows": [{key: row.get(key) for key in KEPT} for row in report["rows"]], "peaks": report["peaks"], "int8": report["int8"],
            "before": report["before"]["load_average"], "after": report["after"]["load_average"], "not_exported": refused}


def exported(role: str, folder: Path, target: str, precision: str, work: Path, refused: dict[str, str]) -> Path | None:
    """An artifact of the matrix, made by rd-export unless it is there; None, with the reason kept, where rd-export refuses."""
    out = work / f"{role}-{target}-{precision}"
    said = out.with_name(out.name + ".refused")
    if said.is_file():
        refused[out.name] = said.read_text()
        return None
    if not (out / "manifest.json").is_file():
        done = subprocess.run([sys.executable, "-m", "export.cli", "--target", target, "--precision", precision, "--student-dir",
                               str(folder), "--out", str(out), "--keep-slower", "--keep-upcast", "--max-flips", "3%"],
                              capture_output=True, text=True)
        if done.returncode:
            refused[out.name] = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            said.write_text(refused[out.name])
            print(f"{out.name}: {refused[out.name]}", flush=True)
            return None
    return out


def weaker(artifacts: list[Path], deadline_ms: float, quota: float, seconds: float) -> dict[str, Any]:
    """The student that a deadline leaves, on the whole machine and on one core with a share of its time; its clock stays what it is."""
    whole = measured(artifacts, deadline_ms, seconds, len(os.sched_getaffinity(0)))
    with weak(quota) as how:
        small = measured(artifacts, deadline_ms, seconds, 1, cores=[sorted(os.sched_getaffinity(0))[0]])
    found: dict[str, Any] = {"deadline_ms": deadline_ms, "quota": quota, "how": how, "whole": whole, "weaker": small,
                             "choice": {name: chosen(rows, deadline_ms) for name, rows in (("whole", whole), ("weaker", small))}}
    for name in ("whole", "weaker"):
        for row in found[name]:
            print(f"{name:<7} {row['artifact']}: p50 {row['p50_ms']:.3f}, p90 {row['p90_ms']:.3f} ms, AUROC {row['auroc']}", flush=True)
        print(f"{name:<7} chosen for p90 within {deadline_ms:g} ms: {found['choice'][name]}", flush=True)
    return found


def measured(artifacts: list[Path], deadline_ms: float, seconds: float, threads: int,
             cores: list[int] | None = None) -> list[dict[str, Any]]:
    """Rows of rd-bench, in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        held = ["--cores", *map(str, cores)] if cores else []
        done = subprocess.run([sys.executable, "-m", "runtimes.bench.cli", *map(str, artifacts), "--out", f"{name}/report", "--batch", "1",
                               "--paths", "array", "--threads", str(threads), "--seconds", str(seconds), "--deadline-ms", str(deadline_ms),
                               "--no-roofline", "--no-profile", *held], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        rows = json.loads(Path(name, "report", "report.json").read_text())["rows"]
    shown = ("artifact", "threads", "p50_ms", "p90_ms", "p99_ms", "min_ms", "valid", "others_share", "deadline")
    return [{**{key: row.get(key) for key in shown},
             "auroc": ((row["score"] or {}).get("auroc") or {}).get("value")} for row in rows]


def chosen(rows: list[dict[str, Any]], deadline_ms: float) -> str | None:
    """Of those whose p90 keeps the deadline, the one of the best AUROC; of equals the faster."""
    fit = [row for row in rows if row["p90_ms"] <= deadline_ms]
    return max(fit, key=lambda row: (row["auroc"] or 0, -row["p90_ms"]))["artifact"] if fit else None


@contextlib.contextmanager
def weak(quota: float) -> Iterator[str]:
    """Put this process and its children into a control group with so many cores' worth of time; UserError without the right to."""
    old = GROUP / "cpu" / "cpu.shares"
    group = (GROUP / "cpu" if old.exists() else GROUP) / f"rd-weaker-{os.getpid()}"
    try:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # a real-time process cannot enter such a group
        group.mkdir()
        if old.exists():
            (group / "cpu.shares").write_text("262144")  # all of its quota, whoever else is at work
            (group / "cpu.cfs_period_us").write_text("100000")
            (group / "cpu.cfs_quota_us").write_text(str(round(quota * 100_000)))
        else:
            (group / "cpu.weight").write_text("10000")
            (group / "cpu.max").write_text(f"{round(quota * 100_000)} 100000")
        (group / "cgroup.procs").write_text(str(os.getpid()))
    except OSError as error:
        raise UserError(f"no right to make a control group in {group.parent} ({error.strerror}); run this as root, or under "
                        f"`systemd-run --scope -p CPUQuota={round(100 * quota)}%`") from None
    try:
        yield f"1 core, {quota:g} of its time in periods of 100 ms (control group); the clock cannot be lowered here"
    finally:
        (group.parent / "cgroup.procs").write_text(str(os.getpid()))
        with contextlib.suppress(OSError):
            group.rmdir()
