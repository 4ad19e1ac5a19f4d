"""Whether a latency budget is kept when it is measured again later, and how long --student auto needs to screen its list.

Owns: random budgets, the second measurement in a fresh process, the time of a screening. Does not own: pruning (distill/pruning/prune.py),
timing (distill/pruning/timing.py).

    python -m benchmarks.deployment.budgets trials --trials 20
    python -m benchmarks.deployment.budgets screen
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import RESULTS, command_line, facts, read_rows, store
from distill.networks.models import ModelSpec
from distill.networks.students import build_student, timm_name
from distill.pruning.budget import Budget, cost_of, shrink
from distill.pruning.prune import open_pruner
from distill.pruning.timing import export_untrained, latency_ms
from distill.selection.candidates import screen
from runtimes.errors import BUDGET, UserError

STUDENTS = ("mobilenetv3-small", "mobilenetv3", "mobilenetv4-small", "efficientnet-lite0", "resnet18")
SIZES = (64, 96, 128)
AGAIN = """
import json, statistics, sys
from pathlib import Path
from distill.networks.models import ModelSpec
from distill.pruning.timing import MARGIN, example, open_file, p90_ms
spec = ModelSpec.from_dict(json.loads(sys.argv[2]))
print(statistics.median(p90_ms(open_file(Path(sys.argv[1]), example(spec))) for _ in range(3)) / MARGIN)
"""


def trial(seed: int) -> dict[str, Any]:
    """One random budget: the student cut to it, and its p90 measured again by another process (the median of three)."""
    random = np.random.default_rng(seed)
    name, size = str(random.choice(STUDENTS)), int(random.choice(SIZES))
    student = build_student(ModelSpec(timm_name(name), size, size, "multiclass", ("a", "b", "c")), None, seed)
    whole = cost_of(student, latency_ms)
    assert whole.latency_ms is not None
    budget = Budget(round(whole.params * random.uniform(0.3, 1)) if random.random() < 0.3 else None,
                    round(whole.macs * random.uniform(0.3, 1)) if random.random() < 0.3 else None,
                    float(whole.latency_ms * np.exp(random.uniform(np.log(0.12), np.log(0.9)))))
    row = {"seed": seed, "student": name, "size": size, "whole": str(whole), "budget": str(budget)}
    try:
        kept, cost = shrink(student, budget, open_pruner, measure=latency_ms)
    except UserError as error:
        return row | {"kept": error.exit_code == BUDGET, "refused": str(error)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "student.onnx"
        export_untrained(kept, path)
        answer = subprocess.run([sys.executable, "-c", AGAIN, str(path), json.dumps(kept.spec.as_dict())], check=True,
                                capture_output=True, text=True).stdout
    again, counted = float(answer), cost_of(kept)
    assert budget.latency_ms is not None
    return row | {"chosen": str(cost), "again_ms": again, "of_budget": again / budget.latency_ms,
                  "kept": again <= budget.latency_ms and not budget.over(counted)}


def main() -> None:
    """Run what is asked and store it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("trials", "screen"))
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--size", type=int, default=96)
    given = parser.parse_args()
    if given.what == "screen":
        start = time.monotonic()
        found = screen(ModelSpec("auto", given.size, given.size, "multiclass", ("a", "b", "c")), Budget(latency_ms=1e6), "onnx", 1)
        seconds = time.monotonic() - start
        print(f"{len(found)} candidates in {seconds:.0f} s")
        store(RESULTS / "screening.json", {"command": command_line(), "facts": facts(), "seconds": seconds,
                                           "candidates": [one.as_row() for one in found]})
        return
    path = RESULTS / "budgets.jsonl"
    finished = {row["seed"] for row in read_rows(path)}
    for seed in range(given.trials):
        if seed not in finished:
            with path.open("a") as file:
                file.write(json.dumps(trial(seed)) + "\n")
            print(read_rows(path)[-1], flush=True)
    rows = [row for row in read_rows(path) if row["seed"] < given.trials]
    print(f"{sum(row['kept'] for row in rows)} of {len(rows)} budgets kept, {sum('refused' in row for row in rows)} refused")


if __name__ == "__main__":
    main()
