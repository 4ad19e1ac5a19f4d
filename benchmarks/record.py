"""What every benchmark writes beside its figures, and where: machine, versions, load, date; and how two timings become a ratio.

Owns: `facts`, `code_hash`, `command_line`, `store`, `read_rows`, `keep_memory`, `spread`, `interleave`, the folders that studies read
and write. Does not own: what is measured.
"""

from __future__ import annotations

import ctypes
import datetime
import hashlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from runtimes.backends.machine import machine_facts

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"
RESULTS = BENCHMARKS / "results"
RUNS = ROOT / "runs"  # students and artifacts of studies, unless --work says otherwise
SHARED = Path(os.environ.get("RD_SHARED", ROOT.parent / "shared")) / "data"  # real data
PACKAGES = ("rd-distill", "torch", "timm", "numpy", "onnxruntime", "scikit-learn")


def facts(**more: Any) -> dict[str, Any]:
    """The machine and the moment a figure was taken on."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"date": today, **machine_facts(), "versions": versions, "code_sha256": code_hash(),
            "load_average": list(os.getloadavg()), **more}


def code_hash() -> str:
    """SHA-256 over the code of the packages: whether two runs ran the same program."""
    digest = hashlib.sha256()
    for package in ("distill", "export", "runtimes"):
        found = find_spec(package)
        for place in (found.submodule_search_locations or []) if found else []:
            for path in sorted(Path(place).rglob("*.py")):
                digest.update(path.read_bytes())
    return digest.hexdigest()


def keep_memory() -> None:
    """Have glibc keep freed memory instead of giving it back: without this PyTorch's large tensors fault in anew at every use."""
    library = ctypes.CDLL(None)
    for parameter, value in ((-3, 1 << 30), (-1, 2**31 - 1), (-2, 64 << 20)):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD
        library.mallopt(parameter, value)


def store(path: Path, content: Mapping[str, Any]) -> None:
    """Write a result as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"\n{path}")


def read_rows(rows: Path) -> list[dict[str, Any]]:
    """The rows of a study so far."""
    return [json.loads(line) for line in rows.read_text().splitlines()] if rows.is_file() else []


def command_line() -> str:
    """The study's own command as it was typed; of a path its last part, so that no folder of this machine is told."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = f"-m {spec.name}" if spec else Path(sys.argv[0]).name
    return " ".join(["python", program, *(part if "/" not in part else Path(part).name for part in sys.argv[1:])])


def spread(seconds: list[float]) -> dict[str, float]:
    """Minimum and median in milliseconds, and how many samples."""
    return {"min_ms": min(seconds) * 1e3, "median_ms": statistics.median(seconds) * 1e3, "samples": len(seconds)}


def ratio(above: Mapping[str, float], below: Mapping[str, float]) -> dict[str, float]:
    """One spread over another, by minimum and by median."""
    return {"min": above["min_ms"] / below["min_ms"], "median": above["median_ms"] / below["median_ms"]}


def interleave(calls: Mapping[str, Callable[[], list[float]]], rounds: int) -> dict[str, dict[str, float]]:
    """Take turns, A B A B, so that a noisy minute hits all; each call returns its own samples in seconds."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            samples[name] += call()
    return {name: spread(values) for name, values in samples.items()}


def timed(call: Callable[[], object]) -> list[float]:
    """One sample: how long a call took, in seconds."""
    start = time.perf_counter()
    call()
    return [time.perf_counter() - start]
