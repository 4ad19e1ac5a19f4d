"""How fast and under which decay experts leave the probe: what they gain on held-out images, by rate and decay; no test image is looked at.

Owns: the settings that are compared, the table. Does not own: the sets (experts.py), training (distill/adaptation), rows (study.py).

    python -m benchmarks.accuracy.rates --seeds 2 --workers 1
    python -m benchmarks.accuracy.rates --table
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy.experts import DEFAULTS, named_course, prepared
from benchmarks.accuracy.study import Run, conduct
from distill.adaptation.from_probe import choose_members
from distill.networks.models import feature_width

SETS = ("BUSI", "phantom", "pneumonia, 4,708 labels")
RATES = {"molre": ((1e-3, 1.0), (3e-4, 0.1)), "linear": ((1e-3, 1.0), (1e-4, 1.0))}


def runs(seeds: int, work: Path) -> Iterator[Run]:
    """Every rate of every head, set by set."""
    for name in SETS:
        for seed in range(seeds):
            for head in DEFAULTS:
                for rate, decay in RATES[head]:
                    yield Run(name, f"{head}, rate {rate:g}, decay {decay:g}", seed, (head, str(rate), str(decay)))


def perform(run: Run, work: Path) -> dict[str, Any]:
    """The verdict on one training; its figure stands where other studies have one of test images."""
    torch.set_num_threads(1)
    model, images, signals = prepared(run.setting, work, run.seed)
    head, rate, decay = run.flags
    course = replace(named_course(head, images, feature_width(model), run.seed), lr=float(rate), weight_decay=float(decay))
    _, verdict, history = choose_members(course, model, images, signals, "best", split_seed=run.seed)
    return {**run.row(work), "verdict": verdict.as_dict(), "losses": [row["held_out_loss"] for row in history],
            "splits": {"test": {"student": {}}}}


def table(rows: list[dict[str, Any]], split: str) -> str:
    """Markdown: gain in held-out loss over the probe at the best look and its standard error, means over seeds; loss at the last look."""
    lines = ["| data | experts | seeds | gain at the best look | standard error | steps there | gain at the last look |", f"|{'---|' * 7}"]
    for setting, method in dict.fromkeys((row["setting"], row["method"]) for row in rows):
        own = [row for row in rows if (row["setting"], row["method"]) == (setting, method)]
        means = [statistics.mean(row["verdict"][name] for row in own) for name in ("gain", "error")]
        last = statistics.mean(row["losses"][0] - row["losses"][-1] for row in own)
        steps = ", ".join(row["verdict"]["trained"].split()[0] for row in own)
        lines.append(f"| {setting} | {method} | {len(own)} | {means[0]:+.4f} | {means[1]:.4f} | {steps} | {last:+.4f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    conduct(__doc__ or "", "rates", runs, perform, table)
