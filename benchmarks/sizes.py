"""Size against accuracy: EfficientNet-Lite0 pruned to a share of its operations, distilled by RD or trained alone, on BUSI.

Owns: which runs make the study, the table. Does not own: running them and keeping their rows (study.py), pruning, training. "scratch" is
the same network cut to the same size without ImageNet weights: what pruning a pretrained network is worth.

    python benchmarks/sizes.py --seeds 3 --workers 2
    python benchmarks/sizes.py --table
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from study import SHARED, Run, conduct, distilled, points

SHARES = (100, 50, 25, 12, 6)
WHOLE = 70.5  # M MACs of Lite0 at 96 px
METHODS: dict[str, tuple[str, ...]] = {
    "rd": ("--method", "rd", "--student-weights", "pretrained", "--lr", "5e-4"),
    "vanilla": ("--method", "vanilla", "--student-weights", "pretrained", "--lr", "5e-4"),
    "rd, scratch": ("--method", "rd"),
}
DATA = ("--data", str(SHARED / "busi_256px"), "--skip-bad-images", "--student", "efficientnet-lite0", "--size", "96",
        "--teacher", "efficientnet-lite2", "--epochs", "20", "--min-steps", "600", "--bootstrap", "20", "--audit", "0.002")


def runs(seeds: int, work: Path) -> Iterator[Run]:
    """Every share by every method, seed by seed."""
    for seed in range(seeds):
        for share in SHARES:
            budget = () if share == 100 else ("--max-macs", f"{WHOLE * share / 100:.1f}M")
            for method, own in METHODS.items():
                yield Run(f"{share} %", method, seed, (*DATA, *budget, *own))


def table(rows: list[dict[str, Any]], split: str) -> str:
    """Markdown: a line a share, mean AUROC (sd over seeds) in points of each method, RD minus vanilla by seed."""
    lines = [f"| MACs left | M parameters | {' | '.join(METHODS)} | rd minus vanilla, by seed |", f"|{'---|' * (len(METHODS) + 3)}"]
    for share in SHARES:
        here = [row for row in rows if row["setting"] == f"{share} %"]
        found = {method: {row["seed"]: row["splits"][split]["student"]["auroc"] for row in here if row["method"] == method}
                 for method in METHODS}
        gains = ", ".join(f"{(value - found['vanilla'][seed]) * 100:+.1f}" for seed, value in sorted(found["rd"].items())
                          if seed in found["vanilla"])
        if here:
            lines.append(f"| {share} % | {here[0]['params'] / 1e6:.2f} "
                         f"| {' | '.join(points(list(found[method].values())) for method in METHODS)} | {gains} |")
    return "\n".join(lines)


if __name__ == "__main__":
    conduct(__doc__ or "", "sizes", runs, distilled, table)
