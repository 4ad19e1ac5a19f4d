"""What each adapter does for a teacher, and for the student distilled from it, over seeds: BUSI, PneumoniaMNIST (rebuilt), NIH.

Owns: which runs make the study, the table. Does not own: running them and keeping their rows (study.py), training.

    python -m benchmarks.accuracy.adapters --seeds 3 --workers 2
    python -m benchmarks.accuracy.adapters --table
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.accuracy.paired import table as differences
from benchmarks.accuracy.recipes import ADAPTED_TEACHER, ADAPTER_SIDE, ADAPTERS, BY_PROBE, CORE, PLAIN_TEACHER, PUBLISHED
from benchmarks.accuracy.sets import three_sets
from benchmarks.accuracy.study import Run, adapted, conduct, figures, points
from benchmarks.commands import rd_distill

STUDENT = ("--student", "mobilenetv3_small_050", "--size", ADAPTER_SIDE, "--epochs", "10", "--min-steps", "800", "--bootstrap", "20",
           "--audit", "0.002", "--bank-runtime", "torch")
# Where adapters help a teacher, its students by further methods than RD as published, and one without a teacher.
MORE_ON, MORE_OF = "pneumonia, 470 labels", ("none", "lora", "molre, behind the pool", "spectral")
WAYS = ("kd", BY_PROBE)


def runs(seeds: int, work: Path) -> Iterator[Run]:
    """Every method on every set, seed by seed, so that a study cut short has whole seeds."""
    data = three_sets(work)
    for seed in range(seeds):
        for setting, path in data.items():
            for method, own in ADAPTERS.items():
                yield Run(setting, method, seed, ("--data", str(path), "--skip-bad-images", *own))
    for seed in range(seeds):
        flags = ("--data", str(data[MORE_ON]), "--skip-bad-images")
        yield Run(MORE_ON, "vanilla", seed, flags)
        for way in WAYS:  # not adapter by adapter: two workers would train the same teacher
            for method in MORE_OF:
                yield Run(MORE_ON, f"{method}; {way}", seed, (*flags, *ADAPTERS[method]))


def perform(run: Run, work: Path) -> dict[str, Any]:
    """Adapt a teacher, distil a student from it where asked, read the figures of both, throw the student away."""
    student, bank = work / run.slug, work / f"{run.slug}-bank"
    row, (adapter, _, way) = run.row(work), run.method.partition("; ")
    teacher, taught = [] if adapter == "vanilla" else [*PLAIN_TEACHER], CORE.get(way or adapter, PUBLISHED)
    if adapter not in ("vanilla", "none"):
        folder, seconds = adapted((*run.flags, *ADAPTED_TEACHER), run.seed, work)
        row |= {"adapt_cpu_seconds": round(seconds), "teacher": figures(folder),
                "adapters": json.loads((folder / "metrics.json").read_text())["adapters"]}
        row["adapters"]["merge"].pop("layers")
        teacher = ["--teacher", str(folder), "--bank-views", "4", "--bank", str(bank)]  # the plain teacher's bank serves all seeds
    rd_distill([*run.flags[:3], *teacher, *STUDENT, *taught, "--seed", str(run.seed), "--threads", "1", "--overwrite",
                "--out", str(student)], work)
    row |= figures(student)
    for made in (student, bank):
        shutil.rmtree(made, ignore_errors=True)
    return row


def table(rows: list[dict[str, Any]], split: str) -> str:
    """Markdown: every adapter with its student by RD, then, where there are some, students by further methods."""
    more = [row for row in rows if row["method"] == "vanilla" or "; " in row["method"]]
    return "\n\n".join([every_adapter(rows, split), *([by_ways(more, split)] if more else [])])


def by_ways(rows: list[dict[str, Any]], split: str) -> str:
    """Markdown: a line an adapter and method, each against the student without a teacher and against KD from the same teacher."""
    teachers = {"vanilla": "no teacher", "none": "plain teacher"}
    named = [(row, *row["method"].partition("; ")[::2]) for row in rows]
    return differences([{**row, "setting": f"{row['setting'].split(',')[0]}, {teachers.get(adapter, adapter)}", "method": way or adapter}
                        for row, adapter, way in named], split)


def every_adapter(rows: list[dict[str, Any]], split: str) -> str:
    """Markdown: mean (sd over seeds) in points; parameters added, seconds a run."""
    heads = ("data", "adapter", "seeds", "parameters added", "teacher AUROC", "teacher accuracy", "student AUROC",
             "student minus the plain teacher's, by seed", "processor seconds of rd-adapt")
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for setting in dict.fromkeys(row["setting"] for row in rows):
        here = [row for row in rows if row["setting"] == setting]
        plain = {row["seed"]: row["splits"][split]["student"]["auroc"] for row in here if row["method"] == "none"}
        for method in ADAPTERS:
            own = sorted((row for row in here if row["method"] == method), key=lambda row: int(row["seed"]))
            if not own:
                continue
            side = [row["teacher"]["splits"][split]["student"] if "teacher" in row else row["splits"][split]["probe"] for row in own]
            student = {row["seed"]: row["splits"][split]["student"]["auroc"] for row in own if "splits" in row}
            gains = ", ".join(f"{(value - plain[seed]) * 100:+.1f}" for seed, value in student.items() if seed in plain)
            lines.append(f"| {setting} | {method if method != 'none' else 'none: linear probe'} | {len(own)} "
                         f"| {own[0].get('adapters', {}).get('added', 0):,} "
                         f"| {points([one['auroc'] for one in side])} | {points([one['accuracy'] for one in side])} "
                         f"| {points(list(student.values()))} | {gains if method != 'none' else ''} "
                         f"| {sum(row.get('adapt_cpu_seconds', 0) for row in own) // len(own) or ''} |")
    return "\n".join(lines)


if __name__ == "__main__":
    conduct(__doc__ or "", "adapters", runs, perform, table)
