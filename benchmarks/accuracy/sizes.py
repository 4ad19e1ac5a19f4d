"""Size against accuracy: EfficientNet-Lite0 pruned to a share of its operations, distilled by RD or trained alone, on BUSI.

Owns: which runs make the study, the table, the picture. Does not own: running them and keeping their rows (study.py), pruning, training.
"scratch" is the same network cut to the same operations without ImageNet weights, and trained for as many steps, those between the
rounds of pruning included: what pruning a pretrained network is worth.

    python -m benchmarks.accuracy.sizes --seeds 3 --workers 2
    python -m benchmarks.accuracy.sizes --table --picture benchmarks/results/sizes.png
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.paired import paired, scores, told
from benchmarks.accuracy.recipes import BY_PROBE as OURS
from benchmarks.accuracy.recipes import PROBED
from benchmarks.accuracy.study import Run, conduct, distilled, points
from benchmarks.record import SHARED

ROUNDS = {100: 1, 50: 1, 25: 2, 12: 3, 6: 4}  # of pruning, by the share of operations left: one for every halving
SHARES = tuple(ROUNDS)
WHOLE = 70.5  # M MACs of Lite0 at 96 px
METHODS: dict[str, tuple[str, ...]] = {
    OURS: (*PROBED, "--student-weights", "pretrained"),
    "vanilla": ("--method", "vanilla", "--student-weights", "pretrained"),
    f"{OURS}, scratch": PROBED,
}
OTHERS = [method for method in METHODS if method != OURS]
STEPS, BETWEEN = 600, 200  # in all after pruning, and between two rounds of it, as rd-distill does by default
DATA = ("--data", str(SHARED / "busi_256px"), "--skip-bad-images", "--student", "efficientnet-lite0", "--size", "96",
        "--teacher", "efficientnet-lite2", "--epochs", "20", "--bootstrap", "20", "--audit", "0.002")


def runs(seeds: int, work: Path) -> Iterator[Run]:
    """Every share by every method, seed by seed."""
    for seed in range(seeds):
        for share in SHARES:
            budget = () if share == 100 else ("--max-macs", f"{WHOLE * share / 100:.1f}M")
            for method, own in METHODS.items():
                steps = STEPS + BETWEEN * (ROUNDS[share] - 1) * ("pretrained" not in own)
                yield Run(f"{share} %", method, seed, (*DATA, *budget, "--min-steps", str(steps), *own))


def curves(rows: list[dict[str, Any]], split: str) -> dict[str, dict[int, dict[int, float]]]:
    """AUROC in points by method, share and seed."""
    found: dict[str, dict[int, dict[int, float]]] = {method: {} for method in METHODS}
    for share in SHARES:
        for method, seeds in scores(rows, f"{share} %", split).items():
            found[method][share] = seeds
    return found


def table(rows: list[dict[str, Any]], split: str) -> str:
    """Markdown: a line a share, mean AUROC (sd over seeds) in points of each method, RD minus the others with a 95 % interval (t).

    Last line: every seed's mean over the shares, so that its interval is one of seeds.
    """
    heads = ("MACs left", "M MACs", "M parameters", *METHODS, *(f"the first minus {method}" for method in OTHERS))
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    found = curves(rows, split)
    for share in SHARES:
        here = [row for row in rows if row["setting"] == f"{share} %"]
        if here:
            values = {method: found[method].get(share, {}) for method in METHODS}
            cells = [f"{share} %", *(f"{min(one) / 1e6:.2f} to {max(one) / 1e6:.2f}" for one in (
                         [row[count] for row in here] for count in ("macs", "params"))), *compared(values)]
            lines.append(f"| {' | '.join(cells)} |")
    whole = {method: {seed: float(np.mean([line[share][seed] for share in SHARES]))
                      for seed in set.intersection(*(set(line.get(share, {})) for share in SHARES))} for method, line in found.items()}
    if all(whole.values()):
        lines.append(f"| {' | '.join(['mean of all', '', '', *compared(whole)])} |")
    return "\n".join(lines)


def compared(values: dict[str, dict[int, float]]) -> list[str]:
    """Cells of one line: every method's mean (sd), then RD minus each other with its interval."""
    return [*(points([one / 100 for one in values[method].values()]) for method in METHODS),
            *(told(paired(values[OURS], values[method])) for method in OTHERS)]


def picture(rows: list[dict[str, Any]], split: str, path: Path) -> None:
    """Draw AUROC against operations: a dot a seed, a line through the means."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    for (method, line), colour in zip(curves(rows, split).items(), ("tab:blue", "black", "tab:cyan"), strict=True):
        shares = sorted(line)
        at = [WHOLE * share / 100 for share in shares]
        label = method if "scratch" in method else f"{method}, ImageNet weights"
        axes.plot(at, [np.mean(list(line[share].values())) for share in shares], color=colour, label=label)
        for place, share in zip(at, shares, strict=True):
            axes.plot([place] * len(line[share]), list(line[share].values()), ".", color=colour, alpha=0.5)
    axes.set(xscale="log", xlabel="million multiply-adds of the pruned Lite0", ylabel=f"macro AUROC on {split}, points")
    ticks = [WHOLE * share / 100 for share in SHARES]
    axes.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
    axes.minorticks_off()
    axes.legend(fontsize=8, loc="upper left")
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    conduct(__doc__ or "", "sizes", runs, distilled, table, picture)
