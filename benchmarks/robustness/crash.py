"""kill -9 at random moments of an rd-distill run, then --resume: the weights must be those of an unbroken run, bit for bit.

Owns: killing, resuming, comparing `weights_hash`, the table. Does not own: the run, which is small but whole: bank building,
probe, training, report, on the synthetic phantom with a teacher of random weights.

    python -m benchmarks.robustness.crash --kills 20 --workers 2
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.record import RESULTS, code_hash, command_line, facts, store

BIN = Path(sys.executable).parent
FLAGS = ("--student", "mobilenetv3_small_050", "--size", "64", "--phantom-images", "600", "48", "48", "--phantom-size", "64",
         "--teacher", "mobilenetv3_small_050", "--teacher-weights", "random", "--teacher-size", "64", "--bank", "bank",
         "--bank-views", "1", "--bank-runtime", "torch", "--epochs", "20", "--min-steps", "1", "--bootstrap", "50", "--ema", "0.9",
         "--threads", "1", "--out", "student")
ENDING_S = 600


@dataclass(frozen=True)
class Kill:
    """One killed run: when, in which phase, how many epochs it had kept, how it ended after --resume."""

    at_s: float
    phase: str
    epochs_kept: int
    code: int
    weights_hash: str
    equal: bool
    left: str


def run(folder: Path, *more: str, seconds: float | None = None) -> int | None:
    """Run rd-distill in a folder to its end, or kill it after some seconds; None when it was killed."""
    with (folder / "log.txt").open("a") as log:
        child = subprocess.Popen([str(BIN / "rd-distill"), *FLAGS, *more], cwd=folder, stdout=log, stderr=subprocess.STDOUT,
                                 env={**os.environ, "OMP_NUM_THREADS": "1"})
        try:
            return child.wait(seconds if seconds is not None else ENDING_S)
        except subprocess.TimeoutExpired:
            child.kill()  # SIGKILL: nothing in the process can tidy up
            child.wait()
            return None


def phase(folder: Path) -> tuple[str, int]:
    """What the run was doing when it died, by what lies in its folder and by the last thing it announced; epochs kept."""
    labels = [line.split(" ")[0] for line in (folder / "log.txt").read_text().splitlines() if line and not line.startswith(" ")]
    kept = 0
    state = folder / "student.partial" / "state.json"
    if state.is_file():
        kept = max((entry["epoch"] for entry in json.loads(state.read_text().split("\n")[1])), default=0)
    if (folder / "student").is_dir():
        return "done", kept
    if kept or (folder / "student.partial" / "pixels.json").is_file():
        return "report" if "test" in labels else f"training, after epoch {kept}", kept
    if (folder / "bank.partial").is_dir():
        shards = len(list((folder / "bank.partial").glob("*.safetensors")))
        return f"bank, {shards} shards", kept
    return f"after {labels[-1]!r}" if labels else "start", kept


def perform(work: Path, number: int, at: float, expected: str) -> Kill:
    """Start, kill at a moment, resume, compare."""
    folder = work / f"{number:02d}"
    folder.mkdir()
    done = run(folder, seconds=at)
    where, kept = phase(folder)
    if done is not None:
        where = "ended before the kill"
    code = run(folder, "--resume")
    manifest = folder / "student" / "manifest.json"
    found = json.loads(manifest.read_text())["weights_hash"] if manifest.is_file() else "none"
    left = [path.name for path in folder.iterdir() if path.name not in ("student", "bank", "log.txt") and not path.name.endswith(".lock")]
    if code != 0 or found != expected:
        print((folder / "log.txt").read_text()[-1500:], file=sys.stderr)
    else:
        shutil.rmtree(folder)
    result = Kill(round(at, 2), where, kept, -1 if code is None else code, found, found == expected and code == 0, ", ".join(left))
    said = "equal" if result.equal else "DIFFERENT"
    print(f"{number:2d}  {at:6.2f} s  {where:<28} exit {result.code}  {said}  {result.left}", flush=True)
    return result


def table(kills: list[Kill]) -> str:
    """Markdown."""
    rows = "\n".join(f"| {one.at_s:.2f} | {one.phase} | {one.epochs_kept} | {one.code} | {'yes' if one.equal else 'NO'} |"
                     for one in sorted(kills, key=lambda one: one.at_s))
    return f"| killed at (s) | phase | epochs kept | exit code of --resume | weights equal |\n|---|---|---|---|---|\n{rows}"


def main() -> None:
    """One unbroken run, then killed and resumed ones; exit 1 when any ends with other weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "crash.json")
    given = parser.parse_args()
    code = code_hash()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "whole").mkdir()
        start = time.monotonic()
        if run(work / "whole") != 0:
            sys.exit((work / "whole" / "log.txt").read_text())
        total = time.monotonic() - start
        expected = json.loads((work / "whole" / "student" / "manifest.json").read_text())["weights_hash"]
        print(f"unbroken run: {total:.1f} s, weights {expected[:16]}", flush=True)
        draw = random.Random(given.seed)
        # one moment in each twentieth of the run: random, and yet every phase is hit
        moments = [total * (number + draw.random()) / given.kills for number in range(given.kills)]
        with ThreadPoolExecutor(given.workers) as pool:
            kills = list(pool.map(lambda pair: perform(work, pair[0], pair[1], expected), enumerate(moments)))
    print(table(kills))
    if code_hash() != code:
        sys.exit("the code changed while it was being tried; run this again")
    wrong = sum(not one.equal for one in kills)
    print(f"\n{len(kills)} killed runs, {len(kills) - wrong} ended with the unbroken run's weights")
    store(given.out, {"format": 1, "command": command_line(), "facts": facts(), "seconds_unbroken": total,
                      "weights_hash": expected, "equal": len(kills) - wrong, "kills": [asdict(one) for one in kills]})
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
