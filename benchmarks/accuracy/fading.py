"""What to do about a teacher that knows less than the student: leave it out, let it fade, keep it; judged on held-out images of BUSI.

Owns: the ways, the teachers, the table. Does not own: the trial (distill/selection/weak.py), the fade (distill/training/student.py),
running (study.py), the folds (sets.py).

    python -m benchmarks.accuracy.fading --seeds 3 --workers 2
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.accuracy.paired import by_seed, paired, scores, told
from benchmarks.accuracy.recipes import FOLDS
from benchmarks.accuracy.sets import fold_of
from benchmarks.accuracy.study import Run, conduct, distilled_here, points
from benchmarks.accuracy.weak_teachers import KEEP, KEPT, STUDENT, WEAK

TEACHERS = {"random weights": WEAK["random weights"], "ImageNet": ("--teacher", "efficientnet-lite0", "--teacher-size", "96")}
WAYS: dict[str, tuple[str, ...]] = {
    "rd": (), KEPT: KEEP, "rd, --decay outgrown": (*KEEP, "--decay", "outgrown"), "rd, --decay linear": (*KEEP, "--decay", "linear")}


def runs(seeds: int, work: Path) -> Iterator[Run]:
    """Every way with every teacher on every fold; a fold is a seed as well, so --seeds is the number of folds (3)."""
    for fold in range(min(seeds, FOLDS)):
        own = ("--data", str(fold_of(work, fold, as_test=True)), *STUDENT)
        yield Run("no teacher", "vanilla", fold, (*own, "--method", "vanilla"))
        for teacher, flags in TEACHERS.items():
            for way, more in WAYS.items():
                yield Run(teacher, way, fold, (*own, *flags, *more))


def table(rows: list[dict[str, Any]], split: str) -> str:
    """Markdown: mean (sd over folds) of AUROC in points on the held-out third, paired differences to vanilla and to a teacher kept."""
    lines = ["| teacher | way | folds | AUROC | minus vanilla | by fold | minus a teacher that is kept |", "|---|---|---|---|---|---|---|"]
    alone = scores(rows, "no teacher", split)["vanilla"]
    lines.append(f"| none | vanilla | {len(alone)} | {points([value / 100 for value in alone.values()])} |  |  |  |")
    for teacher in TEACHERS:
        found = scores(rows, teacher, split)
        for way, values in found.items():
            kept = told(paired(values, found[KEPT])) if way != KEPT and KEPT in found else ""
            lines.append(f"| {teacher} | {way} | {len(values)} | {points([value / 100 for value in values.values()])} | "
                         f"{told(paired(values, alone))} | {by_seed(values, alone)} | {kept} |")
    return "\n".join(lines)


if __name__ == "__main__":
    conduct(__doc__ or "", "fading", runs, distilled_here, table, processes=True)
