"""Methods against one another on the same seeds: paired differences with their interval, as a table and a picture.

Owns: the interval (Student's t over seeds), the table, the drawing. Does not own: running a study (study.py).

    python -m benchmarks.accuracy.paired benchmarks/results/accuracy-methods.jsonl --picture benchmarks/results/accuracy-methods.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.accuracy.study import points
from benchmarks.record import read_rows


def scores(rows: list[dict[str, Any]], setting: str, split: str) -> dict[str, dict[int, float]]:
    """AUROC in points by method and seed."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        if row["setting"] == setting:
            found.setdefault(row["method"], {})[int(row["seed"])] = 100 * row["splits"][split]["student"]["auroc"]
    return found


def paired(one: dict[int, float], other: dict[int, float]) -> tuple[float, float, float]:
    """Mean difference over the seeds both have, and its 95 % interval (t); the interval is nan for fewer than two."""
    gaps = np.asarray([one[seed] - other[seed] for seed in sorted(one) if seed in other])
    if len(gaps) < 2:
        return float(gaps.mean()) if len(gaps) else float("nan"), float("nan"), float("nan")
    half = float(stats.t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / np.sqrt(len(gaps)))
    return float(gaps.mean()), float(gaps.mean()) - half, float(gaps.mean()) + half


def rival(method: str) -> bool:
    """Whether a method competes with RD: neither RD, a form of it, DRD nor vanilla."""
    return method not in ("drd", "vanilla") and not method.startswith("rd")


def best_rival(found: dict[str, dict[int, float]]) -> str:
    """The method with the best mean among those that compete with RD."""
    rivals = {name: np.mean(list(values.values())) for name, values in found.items() if rival(name)}
    return max(rivals, key=lambda name: float(rivals[name])) if rivals else ""


def table(rows: list[dict[str, Any]], split: str) -> str:
    """Markdown: a line a method; mean (sd), paired difference to vanilla and to the best other distillation with its interval."""
    lines = [f"| setting | method | seeds | AUROC on {split} | minus vanilla | minus the best other KD |", "|---|---|---|---|---|---|"]
    for setting in dict.fromkeys(row["setting"] for row in rows):
        found = scores(rows, setting, split)
        best, alone = best_rival(found), without_teacher(rows, setting, split, found)
        for name, values in sorted(found.items(), key=lambda pair: -float(np.mean(list(pair[1].values())))):
            cells = [told(paired(values, base)) if base and base is not values else "" for base in (alone, found.get(best))]
            label = f"{name} (best other KD)" if name == best else name
            mean = points([one / 100 for one in values.values()])
            lines.append(f"| {setting} | {label} | {len(values)} | {mean} | {' | '.join(cells)} |")
    return "\n".join(lines)


def without_teacher(rows: list[dict[str, Any]], setting: str, split: str, found: dict[str, dict[int, float]]) -> dict[int, float]:
    """Vanilla among the scores `found` of a setting; where several teachers share one, that of "DATA, no teacher"."""
    return found.get("vanilla") or scores(rows, f"{setting.split(',')[0]}, no teacher", split).get("vanilla", {})


def by_seed(one: dict[int, float], other: dict[int, float]) -> str:
    """The differences of the seeds both have, in points."""
    return ", ".join(f"{value - other[seed]:+.1f}" for seed, value in sorted(one.items()) if seed in other)


def told(difference: tuple[float, float, float]) -> str:
    """A difference with its interval, in points."""
    mean, low, high = difference
    return f"{mean:+.1f}" + ("" if np.isnan(low) else f" ({low:+.1f} to {high:+.1f})")


def picture(rows: list[dict[str, Any]], split: str, path: Path) -> None:
    """Draw each method's difference to vanilla: a dot a seed, the mean with its interval; one panel a setting."""
    from matplotlib.figure import Figure

    settings = list(dict.fromkeys(row["setting"] for row in rows))
    figure = Figure(figsize=(7.2, 0.6 + 0.32 * sum(len(scores(rows, one, split)) for one in settings)), layout="constrained")
    panels = np.atleast_1d(figure.subplots(len(settings), 1, sharex=True))
    for axes, setting in zip(panels, settings, strict=True):
        found = scores(rows, setting, split)
        base = without_teacher(rows, setting, split, found)
        found.pop("vanilla", None)
        names = sorted(found, key=lambda name: paired(found[name], base)[0])
        for place, name in enumerate(names):
            gaps = [value - base[seed] for seed, value in found[name].items() if seed in base]
            mean, low, high = paired(found[name], base)
            colour = "tab:gray" if rival(name) else "tab:blue"
            axes.plot(gaps, [place] * len(gaps), ".", color=colour, alpha=0.5)
            axes.errorbar([mean], [place], xerr=[[mean - low], [high - mean]], fmt="o", color=colour, capsize=3)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(names)), names)
        axes.set_title(setting, fontsize=9)
    panels[-1].set_xlabel(f"macro AUROC on {split} minus vanilla, points (95 % interval)")
    figure.savefig(path, dpi=130)


def main() -> None:
    """Print the table of a study's rows, draw its picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--split", default="test", choices=("test", "val"))
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    rows = read_rows(given.rows)
    print(table(rows, given.split))
    if given.picture:
        picture(rows, given.split, given.picture)


if __name__ == "__main__":
    main()
