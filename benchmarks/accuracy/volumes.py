"""Volumes, phantoms and hippocampi: attention over slices against their mean, a linear head against MoLRE, and their students.

Owns: which runs make the study, the table. Does not own: running them and keeping their rows (study.py), training. The label of the
hippocampus set, large_volume, is derived from its masks: a synthetic task on real volumes.

    python -m benchmarks.accuracy.volumes --seeds 3 --workers 2
    python -m benchmarks.accuracy.volumes --table
"""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.accuracy.recipes import TO_THE_END
from benchmarks.accuracy.study import Run, conduct, figures, points
from benchmarks.commands import command, rd_distill
from benchmarks.record import SHARED

TEACHER = ("--teacher", "efficientnet-lite0", "--teacher-size", "96", "--bank-views", "4", "--bootstrap", "20", *TO_THE_END)
DATA: dict[str, tuple[str, ...]] = {
    "phantom volumes": ("--data", "phantom-volumes"),
    "hippocampus": ("--data", str(SHARED / "msd_hippocampus" / "labels.csv"), "--label", "large_volume", "--axis", "coronal",
                    "--slices", "16"),
}
METHODS: dict[str, tuple[str, ...]] = {
    "linear, mean of slices": ("--method", "linear", "--slice-pooling", "mean"),
    "linear, attention": ("--method", "linear"),
    "molre, mean of slices": ("--method", "molre", "--slice-pooling", "mean"),
    "molre, attention": ("--method", "molre"),
}
DISTILLED, DISTILLED_SEEDS = ("molre, attention",), (0,)  # a student of volumes takes ten minutes: that it works, not by how much
STUDENT = ("--student", "mobilenetv3_small_050", "--size", "64", "--batch", "8", "--epochs", "10", "--min-steps", "400",
           "--bootstrap", "20", "--audit", "0.002")


def runs(seeds: int, work: Path) -> Iterator[Run]:
    """Every method on both sets, seed by seed."""
    for seed in range(seeds):
        for setting, data in DATA.items():
            for method, own in METHODS.items():
                yield Run(setting, method, seed, (*data, *own))


def perform(run: Run, work: Path) -> dict[str, Any]:
    """Adapt a teacher, distil a student where asked, read the figures of both, throw the folders away."""
    adapted, student = work / f"{run.slug}-teacher", work / run.slug
    common = ["--seed", str(run.seed), "--threads", "1", "--overwrite"]
    command("distill.adaptation.cli", [*run.flags, *TEACHER, *common, "--out", str(adapted)], work)
    row = {**run.row(work), **figures(adapted), "attention": attention(adapted)}
    if run.method in DISTILLED and run.seed in DISTILLED_SEEDS:
        pooling = ["--slice-pooling", "mean"] if "mean" in run.method else []
        bank = work / f"{run.slug}-bank"
        rd_distill([*DATA[run.setting], *STUDENT, *pooling, "--teacher", str(adapted), "--bank-views", "4", *common, "--bank", str(bank),
                    "--out", str(student)], work)
        row["student"] = figures(student) | {"attention": attention(student)}
        shutil.rmtree(student)
        shutil.rmtree(bank)
    shutil.rmtree(adapted)
    return row


def attention(folder: Path) -> dict[str, Any] | None:
    """Where attention lands on test volumes, as a folder's metrics tell."""
    found: dict[str, Any] | None = json.loads((folder / "metrics.json").read_text())["splits"]["test"].get("attention")
    return found


def table(rows: list[dict[str, Any]], split: str) -> str:
    """Markdown: mean (sd over seeds) in points; the share of attention on slices that hold a finding."""
    heads = ("data", "head and pooling", "seeds", "teacher AUROC", "attention on findings, if uniform", "heaviest slice holds one",
             "student AUROC", "student's attention on findings")
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for setting in dict.fromkeys(row["setting"] for row in rows):
        here = [row for row in rows if row["setting"] == setting]
        probe = {row["seed"]: row["splits"][split]["probe"]["auroc"] for row in here}
        lines.append(f"| {setting} | linear probe, mean of slices | {len(probe)} | {points(list(probe.values()))} | | | | |")
        for method in METHODS:
            own = [row for row in here if row["method"] == method]
            if own:
                students = [row["student"] for row in own if "student" in row]
                looked = [] if "mean" in method else [row["attention"] for row in own]
                lines.append(f"| {setting} | {method} | {len(own)} | {points([row['splits'][split]['student']['auroc'] for row in own])} "
                             f"| {landed(looked, 'on_findings', 'if_uniform')} | {landed(looked, 'heaviest_right')} "
                             f"| {points([one['splits'][split]['student']['auroc'] for one in students])} "
                             f"| {landed([one['attention'] for one in students], 'on_findings')} |")
    return "\n".join(lines)


def landed(found: list[dict[str, Any] | None], *names: str) -> str:
    """Means over seeds of what is known of attention."""
    known = [one for one in found if one]
    return ", ".join(f"{statistics.mean(one[name] for one in known):.2f}" for name in names) if known else ""


if __name__ == "__main__":
    conduct(__doc__ or "", "volumes", runs, perform, table)
