"""How to prune a network that starts from ImageNet weights, and at what learning rate to train it, on held-out training images of BUSI.

Owns: which runs make the study, the table. Does not own: the folds (sets.py), running and keeping rows (study.py), pruning.
Every run of a size takes as many steps, those between rounds of pruning included; students are trained alone, at 64 px.

    python -m benchmarks.accuracy.pruning --seeds 3 --workers 2
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.accuracy.paired import by_seed, paired, scores, told
from benchmarks.accuracy.recipes import FOLDS
from benchmarks.accuracy.sets import fold_of
from benchmarks.accuracy.study import Run, conduct, distilled, points

SIZE, WHOLE = 64, 31.34  # pixels; M MACs of Lite0 there
SCRATCH = "random weights"
GIVEN = ("--student-weights", "pretrained")
AT_ONCE: dict[str, tuple[str, ...]] = {
    SCRATCH: (),
    "network, magnitude": (*GIVEN, "--prune-scope", "network", "--importance", "magnitude", "--prune-rounds", "1"),
    "layer, magnitude": (*GIVEN, "--importance", "magnitude", "--prune-rounds", "1"),
    "layer, taylor": (*GIVEN, "--importance", "taylor", "--prune-rounds", "1"),
    "layer, taylor, --lr 5e-3": (*GIVEN, "--importance", "taylor", "--prune-rounds", "1", "--lr", "5e-3"),
}
IN_ROUNDS: dict[int, dict[str, tuple[str, ...]]] = {
    12: {"layer, magnitude, in 3 rounds": (*GIVEN, "--importance", "magnitude", "--prune-rounds", "3"),
         "layer, taylor, in 3 rounds": (*GIVEN, "--importance", "taylor", "--prune-rounds", "3"),
         "layer, taylor, in 3 rounds, --lr 5e-3": (*GIVEN, "--importance", "taylor", "--prune-rounds", "3", "--lr", "5e-3")},
    6: {"layer, taylor, in 4 rounds": (*GIVEN, "--importance", "taylor", "--prune-rounds", "4"),
        "layer, taylor, in 4 rounds, --lr 5e-3": (*GIVEN, "--importance", "taylor", "--prune-rounds", "4", "--lr", "5e-3")},
}
RATES: dict[str, tuple[str, ...]] = {
    f"ImageNet weights, --lr {rate}": (*GIVEN, "--lr", rate) for rate in ("5e-4", "2e-3", "5e-3")}
SETTINGS = {100: RATES, 50: AT_ONCE, 12: AT_ONCE | IN_ROUNDS[12], 6: {SCRATCH: ()} | IN_ROUNDS[6]}
STEPS, PAUSES = 600, {12: 400, 6: 600}  # after pruning; between its rounds, together


def runs(seeds: int, work: Path) -> Iterator[Run]:
    """Every size and way on every fold; a fold is a seed as well, so --seeds is the number of folds (3)."""
    for fold in range(min(seeds, FOLDS)):
        data = ("--data", str(fold_of(work, fold)), "--skip-bad-images", "--size", str(SIZE), "--student", "efficientnet-lite0",
                "--method", "vanilla", "--epochs", "20", "--bootstrap", "20")
        for share, ways in SETTINGS.items():
            budget = () if share == 100 else ("--max-macs", f"{WHOLE * share / 100:.1f}M")
            for name, own in ways.items():
                steps = STEPS + PAUSES.get(share, 0) * (name not in IN_ROUNDS.get(share, {}))
                yield Run(f"{share} %", name, fold, (*data, *budget, "--min-steps", str(steps), *own))


def table(rows: list[dict[str, Any]], split: str) -> str:
    """Markdown: mean (sd over folds) of AUROC in points on held-out training images, paired differences to random weights."""
    lines = ["| MACs left | way | folds | M parameters | AUROC | minus random weights | by fold |", "|---|---|---|---|---|---|---|"]
    for setting in dict.fromkeys(row["setting"] for row in rows):
        found = scores(rows, setting, "val")  # whatever --split asks: settings are not chosen on test
        for name, values in found.items():
            base = found.get(SCRATCH, {})
            params = next(row["params"] for row in rows if (row["setting"], row["method"]) == (setting, name)) / 1e6
            gains = f"{told(paired(values, base))} | {by_seed(values, base)}" if base and name != SCRATCH else " | "
            mean = points([one / 100 for one in values.values()])
            lines.append(f"| {setting} | {name} | {len(values)} | {params:.2f} | {mean} | {gains} |")
    return "\n".join(lines)


if __name__ == "__main__":
    conduct(__doc__ or "", "pruning", runs, distilled, table)
