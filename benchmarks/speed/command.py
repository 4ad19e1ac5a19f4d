"""Speed as ratios taken in one run, interleaved A B A B: a step, a bank, a whole distillation, a session, a start, adapters.

Owns: flags, the sub-commands session and start, printing and storing. Does not own: the workshop's (training.py, whole.py, adapters.py).
The process is held to --cores cores (1 unless said), with as many threads unless --threads says otherwise, so that nothing
hides on another core: with `--cores 2 --threads 1` the next batch is made beside the step, as on any machine with two cores.

    python -m benchmarks.speed.command step
    python -m benchmarks.speed.command step --cores 2 --threads 1
    python -m benchmarks.speed.command bank --cores 2
    python -m benchmarks.speed.command whole --images 96 --epochs 40
    python -m benchmarks.speed.command session --artifact artifact-onnx-fp32
    python -m benchmarks.speed.command start
    python -m benchmarks.speed.command adapters --cores 2
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import RESULTS, command_line, facts, keep_memory, ratio, spread, store

BIN = Path(sys.executable).parent
COMMANDS = ("rd-distill", "rd-adapt", "rd-export", "rd-verify", "rd-bench", "rd-info")
TINY = ("--student", "mobilenetv3_small_050", "--size", "96", "--method", "vanilla", "--phantom-images", "64", "32", "32",
        "--epochs", "1", "--min-steps", "1", "--bootstrap", "20")


def session(artifact: Path | None, samples: int, threads: int) -> dict[str, Any]:
    """`Session.run` against the raw call of ONNX Runtime on the same array, call by call in turn, batches 1 and 8."""
    from runtimes.backends.ort import OrtSession
    from runtimes.session import CheckedSession, open_session

    with tempfile.TemporaryDirectory() as name:
        folder = artifact or make_artifact(Path(name))
        opened = open_session(folder, threads=threads)
        assert isinstance(opened, CheckedSession)
        assert isinstance(opened.runtime, OrtSession)
        raw, outputs = opened.runtime._session, opened.runtime._outputs
        height, width = opened.artifact.graph_size
        rows: dict[str, Any] = {}
        for batch in (1, 8):
            shape = (batch, height, width, opened.artifact.image_spec.channels)
            image = np.random.default_rng(batch).integers(0, 255, shape, dtype=np.uint8)
            feed = {opened.runtime._inputs[0]: image}
            times: dict[str, list[float]] = {"raw": [], "session": []}
            for turn in range(samples + 50):
                start = time.perf_counter()
                raw.run(outputs, feed)
                middle = time.perf_counter()
                opened.run(image)
                end = time.perf_counter()
                if turn >= 50:
                    times["raw"].append(middle - start)
                    times["session"].append(end - middle)
            found = {key: spread(values) for key, values in times.items()}
            rows[f"batch {batch}"] = {
                **found, "session / raw (goal 1.03, or 30 us)": ratio(found["session"], found["raw"]),
                "extra us": {way: (found["session"][f"{way}_ms"] - found["raw"][f"{way}_ms"]) * 1e3 for way in ("min", "median")}}
        opened.close()
    return rows


def make_artifact(folder: Path) -> Path:
    """A small student at 96 px, trained for a moment and exported."""
    command("rd-distill", *TINY, "--out", str(folder / "student"))
    command("rd-export", "--student-dir", str(folder / "student"), "--out", str(folder / "artifact"))
    return folder / "artifact"


def command(name: str, *flags: str) -> None:
    """Run one of our commands in silence; its error ends the benchmark."""
    done = subprocess.run([str(BIN / name), *flags], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name} {' '.join(flags)}\n{done.stderr}")


def start(samples: int) -> dict[str, Any]:
    """Fresh processes: `--help` of every command (goal 0.4 s), and the import of runtimes beyond numpy (goal 0.15 s)."""
    code = "import time, numpy; t = time.perf_counter(); from runtimes import open_session; print(time.perf_counter() - t)"
    rows: dict[str, Any] = {}
    for name in COMMANDS:
        seconds = []
        for _ in range(samples):
            begin = time.perf_counter()
            subprocess.run([str(BIN / name), "--help"], check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - begin)
        rows[f"{name} --help (goal 400 ms)"] = spread(seconds)
    answers = [subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout for _ in range(samples)]
    rows["import runtimes beyond numpy (goal 150 ms)"] = spread([float(answer) for answer in answers])
    return rows


def show(rows: Mapping[str, Any], indent: str = "") -> None:
    """Print nested results, one figure a line."""
    for name, value in rows.items():
        if isinstance(value, Mapping) and all(isinstance(one, int | float) for one in value.values()) and "min" in str(value):
            print(f"{indent}{name}: " + ", ".join(f"{key} {one:.4g}" for key, one in value.items()), flush=True)
        elif isinstance(value, Mapping):
            print(f"{indent}{name}", flush=True)
            show(value, indent + "  ")
        else:
            print(f"{indent}{name}: {value:.4g}" if isinstance(value, float) else f"{indent}{name}: {value}", flush=True)


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("step", "bank", "whole", "session", "start", "adapters"))
    parser.add_argument("--cores", type=int, default=1, help="cores this process is held to")
    parser.add_argument("--threads", type=int, help="threads of PyTorch and ONNX Runtime; as many as cores when not given")
    parser.add_argument("--keep-memory", action="store_true", help="have the C library keep freed memory (glibc), for everything timed")
    parser.add_argument("--samples", type=int, help="samples a round: steps, rows of a bank, calls or processes")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--teachers", nargs="*", default=["efficientnet-lite0", "efficientnet-lite2"])
    parser.add_argument("--images", type=int, default=32, help="training images of `whole`; 548 is the real thing and takes an hour")
    parser.add_argument("--epochs", type=int, default=40, help="turns through the images in `whole`")
    parser.add_argument("--artifact", type=Path, help="artifact of `session`; made on the fly when not given")
    parser.add_argument("--out", type=Path, help="JSON file; benchmarks/results/speed-<what>.json by default")
    given = parser.parse_args()
    if given.keep_memory:
        keep_memory()
    before, threads = os.getloadavg(), given.threads or given.cores
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-given.cores:])
    if given.what in ("step", "bank", "whole", "adapters"):
        import torch

        from benchmarks.speed.adapters import adapters
        from benchmarks.speed.training import bank, step
        from benchmarks.speed.whole import whole

        torch.set_num_threads(threads)
        rows = {"step": lambda: step(given.samples or 8, given.rounds),
                "bank": lambda: bank(given.samples or 64, given.rounds, tuple(given.teachers)),
                "adapters": lambda: adapters(given.samples or 3, given.rounds),
                "whole": lambda: whole(given.images, given.epochs, (548, 232, 40))}[given.what]()
    else:
        rows = session(given.artifact, given.samples or 1000, threads) if given.what == "session" else start(given.samples or 7)
    show(rows)
    about = facts(cores_used=given.cores, keep_memory=given.keep_memory, threads=threads, load_average_before=list(before))
    store(given.out or RESULTS / f"speed-{given.what}.json",
          {"format": 1, "command": command_line(), "facts": about, "rows": rows})


if __name__ == "__main__":
    main()
