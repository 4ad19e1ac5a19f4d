"""Does a weak teacher harm, and does --method auto foresee what a teacher is worth?

Owns: weak teachers beside strong ones, few and many labels, with and without unlabelled images; the word of auto against what came of it;
the tables. Does not own: the strong teachers' runs with unlabelled images (label_curve.py, whose rows it reads), running (study.py).

    python -m benchmarks.accuracy.weak_teachers --seeds 5 --workers 2
    python -m benchmarks.accuracy.weak_teachers --table
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.label_curve import FULL, SHARES, shared, teachers
from benchmarks.accuracy.paired import paired, scores, told
from benchmarks.accuracy.pneumonia import few_labels
from benchmarks.accuracy.recipes import LABEL_CURVE_STUDENT
from benchmarks.accuracy.sets import thinned
from benchmarks.accuracy.study import Run, conduct, distilled_here
from benchmarks.record import RESULTS, read_rows

WEAK = {"random weights": ("--teacher", "efficientnet-lite0", "--teacher-weights", "random", "--teacher-size", "64"),
        "dinov2-small, class token": ("--teacher", "dinov2-small", "--teacher-pool", "cls", "--teacher-size", "112")}
CASES = {"pneumonia": (24, 470), "BUSI": (47, 548), "NIH": (53, 530)}
WORTH = 1.0  # point of AUROC: what helps by less, or harms by less, ties
# The word is asked of two trials of each method; the training that follows is not what is looked at.
AUTO, AUTO_SEEDS = ("--method", "auto", "--auto-folds", "2", "--epochs", "1", "--min-steps", "1", "--pretrain-steps", "800"), 1


def runs(seeds: int, work: Path) -> Iterator[Run]:
    """Seed by seed: weak teachers everywhere, strong ones without unlabelled images; then the word of auto."""
    for seed in range(seeds):
        for name, counts in CASES.items():
            for count in counts:
                with_others, alone = flags_of(name, count, seed, work)
                for teacher, own in (WEAK | teachers(name, work)).items():
                    if teacher in WEAK:
                        yield Run(f"{name}, {count} labels, {teacher}", "rd", seed, (*with_others, *own, "--method", "rd"))
                    if count not in FULL:
                        yield Run(f"{name}, {count} labels alone, {teacher}", "rd", seed, (*alone, *own, "--method", "rd"))
    for seed in range(min(seeds, AUTO_SEEDS)):
        for name, counts in CASES.items():
            for count in counts:
                with_others, alone = flags_of(name, count, seed, work)
                for teacher, own in (WEAK | teachers(name, work)).items():
                    yield Run(f"{name}, {count} labels, {teacher}", "auto", seed, (*with_others, *own, *AUTO))
                    if count not in FULL:
                        yield Run(f"{name}, {count} labels alone, {teacher}", "auto", seed, (*alone, *own, *AUTO))


def flags_of(name: str, count: int, seed: int, work: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Flags of a set with all its images, and with the labelled training images alone."""
    if name == "pneumonia":
        data, hidden = few_labels(work, SHARES[count], seed)
        alone = ("--data", str(data), "--skip-bad-images", *LABEL_CURVE_STUDENT)
        return (*alone, *(() if hidden is None else ("--unlabelled", str(hidden)))), alone
    kept, whole = thinned(work, name, count, seed, keep_others=False), thinned(work, name, count, seed)
    more = ("--skip-bad-images", *LABEL_CURVE_STUDENT)
    return ("--data", str(whole), *more), ("--data", str(kept), *more)


def perform(run: Run, work: Path) -> dict[str, Any]:
    """A run; first stages are shared by ways and numbers of labels, but not by the trials of auto, which are shorter."""
    if run.method == "auto":
        return distilled_here(run, work)
    name, _, teacher = run.setting.split(", ", 2)
    slug = "".join(letter if letter.isalnum() else "-" for letter in f"{name}-{teacher}-{run.seed}")
    return distilled_here(run, work, "--pretrain-steps", "2400", first_stage=partial(shared, work / "first" / slug))


def outcome(rows: list[dict[str, Any]], curve: list[dict[str, Any]], setting: str, split: str) -> tuple[float, float, float]:
    """RD by default minus the student alone, in points, with its interval over seeds.

    Of strong teachers' runs, which the label curve made both ways, those with a first stage where auto's row says that it is taken.
    """
    labels = ", ".join(setting.split(", ")[:2]).removesuffix(" alone")
    alone = scores(curve, f"{labels}, no teacher", split).get("vanilla", {})
    own = scores(rows, setting, split).get("rd", {})
    if not own:
        begun = [row.get("pretrain", {}).get("used", False) for row in rows if row["setting"] == setting and row["method"] == "auto"]
        own = scores(curve, setting, split).get("first stage, rd" if any(begun) else "rd", {})
    return paired(own, alone) if own and alone else (float("nan"),) * 3


def table(rows: list[dict[str, Any]], split: str) -> str:
    """Markdown: a line a setting: what RD gained, what auto foresaw and whether it was right; then how often."""
    curve = read_rows(RESULTS / "label-curve.jsonl")
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    lines = ["| setting | rd minus alone | so it | auto said | rd's gain in held-out loss |", "|---|---|---|---|---|"]
    right: dict[str, list[bool]] = {"auto": [], "always rd": [], "always vanilla": []}
    for setting in settings:
        mean, low, high = outcome(rows, curve, setting, split)
        if np.isnan(mean):
            continue
        truth = word(mean)
        said = [row["choice"]["teacher"] for row in rows if row["setting"] == setting and row["method"] == "auto"]
        for verdict in said:
            right["auto"].append(verdict["word"] == truth)
            right["always rd"].append(truth == "helps")
            right["always vanilla"].append(truth == "harms")
        told_words = ", ".join(verdict["word"] for verdict in said)
        gains = ", ".join(f"{verdict['gain']:+.3f} +- {verdict['error']:.3f}" for verdict in said)
        lines.append(f"| {setting} | {told((mean, low, high))} | {truth} | {told_words} | {gains} |")
    shares = [f"{name} {sum(found)} of {len(found)}" for name, found in right.items() if found]
    return "\n".join(lines) + "\n\nRight: " + ", ".join(shares) if shares else "\n".join(lines)


def word(mean: float) -> str:
    """What a gain in points amounts to."""
    return "helps" if mean > WORTH else "harms" if mean < -WORTH else "ties"


if __name__ == "__main__":
    conduct(__doc__ or "", "weak-teachers", runs, perform, table, processes=True)
