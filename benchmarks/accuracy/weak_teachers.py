"""Does a weak teacher harm, and does --method auto foresee what a teacher is worth?

Owns: weak teachers beside strong ones, few and many labels, with and without unlabelled images, each by rd-distill's defaults; the word
of auto against what came of it; the table. Does not own: running (study.py).

    python -m benchmarks.accuracy.weak_teachers --seeds 5 --workers 2
    python -m benchmarks.accuracy.weak_teachers --table
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.label_curve import FULL, SHARES, teachers
from benchmarks.accuracy.paired import paired, scores, told
from benchmarks.accuracy.pneumonia import few_labels
from benchmarks.accuracy.sets import thinned
from benchmarks.accuracy.study import Run, conduct, distilled_here
from distill.selection.choosing import WORTH_POINTS, gained_points
from distill.selection.trials import word_of

WEAK = {"random weights": ("--teacher", "efficientnet-lite0", "--teacher-weights", "random", "--teacher-size", "64"),
        "dinov2-small, class token": ("--teacher", "dinov2-small", "--teacher-pool", "cls", "--teacher-size", "112")}
CASES = {"pneumonia": (24, 470), "BUSI": (47, 548), "NIH": (530,)}  # with fewer labels of NIH every way is near chance
FEWER_SEEDS = {"NIH": 1}  # where every way is near chance
STUDENT = ("--student", "mobilenetv3_small_050", "--size", "64", "--bootstrap", "0", "--audit", "0", "--skip-bad-images")
KEPT, KEEP = "rd, --weak-teacher keep", ("--weak-teacher", "keep")  # where a trial may leave the teacher out by default: without that
# The word is asked of two trials of each method; the training that follows is not what is looked at.
AUTO, AUTO_SEEDS = ("--method", "auto", "--auto-folds", "2", "--epochs", "1", "--min-steps", "1"), 1


def runs(seeds: int, work: Path) -> Iterator[Run]:
    """Seed by seed: the student alone, every teacher by default, weak ones of few labels without further images, too; then auto's word."""
    for seed in range(seeds):
        yield from (run for run in taught(seed, work) if run.method != "auto")
    for seed in range(min(seeds, AUTO_SEEDS)):
        yield from (run for run in taught(seed, work) if run.method == "auto")


def taught(seed: int, work: Path) -> Iterator[Run]:
    """Every run of a seed."""
    for name, counts in CASES.items():
        for count in counts if seed < FEWER_SEEDS.get(name, seed + 1) else ():
            with_others, alone = flags_of(name, count, seed, work)
            yield Run(f"{name}, {count} labels, no teacher", "vanilla", seed, (*alone, "--method", "vanilla"))
            for teacher, own in (WEAK | teachers(name, work)).items():
                for flags, place in ((with_others, ""), (alone, " alone")):
                    if not place or (count not in FULL and teacher in WEAK):
                        yield Run(f"{name}, {count} labels{place}, {teacher}", "rd", seed, (*flags, *own))
                        if "--unlabelled" not in flags and (place or count in FULL):
                            yield Run(f"{name}, {count} labels{place}, {teacher}", KEPT, seed, (*flags, *own, *KEEP))
                        yield Run(f"{name}, {count} labels{place}, {teacher}", "auto", seed, (*flags, *own, *AUTO))


def flags_of(name: str, count: int, seed: int, work: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Flags of a set with all its images, and with the labelled training images alone."""
    if name == "pneumonia":
        data, hidden = few_labels(work, SHARES[count], seed)
        alone = ("--data", str(data), *STUDENT)
        return (*alone, *(() if hidden is None else ("--unlabelled", str(hidden)))), alone
    kept, whole = thinned(work, name, count, seed, keep_others=False), thinned(work, name, count, seed)
    return ("--data", str(whole), *STUDENT), ("--data", str(kept), *STUDENT)


def outcome(rows: list[dict[str, Any]], setting: str, split: str, way: str = "rd") -> tuple[float, float, float]:
    """RD by default, or another way, minus the student alone, in points, with its interval over seeds."""
    labels = ", ".join(setting.split(", ")[:2]).removesuffix(" alone")
    alone = scores(rows, f"{labels}, no teacher", split).get("vanilla", {})
    own = scores(rows, setting, split).get(way, {})
    return paired(own, alone) if own and alone else (float("nan"),) * 3


def table(rows: list[dict[str, Any]], split: str) -> str:
    """Markdown: a line a setting: what RD gained, what auto foresaw and whether it was right; then how often, by AUROC and by loss."""
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    heads = ("setting", "rd minus alone", "so it", "with `--weak-teacher keep`", "auto says", "rd's gain in its trials, points",
             "in held-out loss")
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    right: dict[str, list[bool]] = {"auto": [], "the same trials by loss": [], "always rd": [], "always vanilla": []}
    for setting in settings:
        mean, low, high = outcome(rows, setting, split)
        if np.isnan(mean):
            continue
        truth = word_of(mean, WORTH_POINTS)
        choices = [row["choice"] for row in rows if row["setting"] == setting and row["method"] == "auto"]
        points = [gained_points(choice["scores"]) for choice in choices]
        for choice, gain in zip(choices, points, strict=True):
            own = choice["teacher"]
            for name, said in (("auto", word_of(gain, WORTH_POINTS)), ("the same trials by loss", word_of(own["gain"], own["error"])),
                               ("always rd", "helps"), ("always vanilla", "harms")):
                right[name].append(said == truth)
        kept = outcome(rows, setting, split, KEPT)
        lines.append("| " + " | ".join([
            setting, told((mean, low, high)), truth, "" if np.isnan(kept[0]) else told(kept),
            ", ".join(word_of(gain, WORTH_POINTS) for gain in points),
            ", ".join(f"{gain:+.1f}" for gain in points),
            ", ".join(f"{choice['teacher']['gain']:+.3f} +- {choice['teacher']['error']:.3f}" for choice in choices)]) + " |")
    shares = [f"{name} {sum(answers)} of {len(answers)}" for name, answers in right.items() if answers]
    return "\n".join(lines) + "\n\nRight: " + ", ".join(shares) if shares else "\n".join(lines)


if __name__ == "__main__":
    conduct(__doc__ or "", "weak-teachers", runs, distilled_here, table, processes=True)
