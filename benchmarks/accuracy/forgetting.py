"""What a teacher forgets when it is adapted to one task after another: BUSI, PneumoniaMNIST (rebuilt), NIH, by what is done about it.

Owns: the sequences, the figures of every task after every stage, the choice of the distillation's weight on validation images, the
tables. Does not own: training, keeping rows (study.py).

    python -m benchmarks.accuracy.forgetting --seeds 3 --workers 1
    python -m benchmarks.accuracy.forgetting --table
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.accuracy.recipes import ADAPTED_TEACHER, ADAPTERS, ADAPTING
from benchmarks.accuracy.sets import three_sets
from benchmarks.accuracy.study import Run, adapted, conduct, points
from benchmarks.commands import command
from benchmarks.record import RESULTS, read_rows
from distill.networks.tasks import TaskFolder, read_tasks
from runtimes.files.folder import read_json

SEQUENCE = ("BUSI", "pneumonia", "NIH")
FORWARD, REVERSED = ", ".join(SEQUENCE), ", ".join(reversed(SEQUENCE))
ZERO, KEPT = "mixture, start from zero", ("--keep-old", "distil", "--keep-images", "32")
KEEP: dict[str, tuple[str, ...]] = {
    "none": ("--keep-old", "none"), "distil": ("--keep-old", "distil"), "distil, 32 images a task": KEPT}
DISTIL, DISTIL_KEPT = "distil", "distil, 32 images a task"
# Weights of the distance to earlier features, tried with lora and one seed and judged on validation images; 0.3 was chosen.
WEIGHTS = {DISTIL: ("3", "1", "0.3", "0.1"), DISTIL_KEPT: ("3", "0.3")}
CHOICE = "weight, by validation"  # its rows were made before the guard: every adapter to its best epoch
DINO = ("--teacher", "dinov2-small", "--teacher-size", "112", *ADAPTING)
TRAINED = ("--keep-experts", "best")  # whether they gain or not; by default a task that gains nothing keeps its probe and changes nothing
FEWER_SEEDS = 1  # of further adapters and teachers


def runs(seeds: int, work: Path) -> Iterator[Run]:
    """First what chooses the weight; then seed by seed lora in both orders; then further adapters, the guard's default and dinov2-small."""
    three_sets(work)  # written once, before workers read it
    for way, weights in WEIGHTS.items():
        for weight in weights:
            yield Run(CHOICE, f"lora, {way}, {weight}", 0, (*ADAPTERS["lora"], *TRAINED, *KEEP[way], "--keep-weight", weight))
    for seed in range(seeds):
        for order in (FORWARD, REVERSED):
            for way, flags in KEEP.items():
                yield Run(order, f"lora, {way}", seed, (*ADAPTERS["lora"], *TRAINED, *flags))
    for seed in range(seeds):
        yield Run(FORWARD, "lora, none, where it gains (default)", seed, (*ADAPTERS["lora"], *KEEP["none"]))
    for seed in range(min(seeds, FEWER_SEEDS)):
        for method in ("spectral", ZERO):
            for way in ("none", DISTIL_KEPT):
                yield Run(FORWARD, f"{method}, {way}", seed, (*ADAPTERS[method], *TRAINED, *KEEP[way]))
        for way, flags in KEEP.items():
            yield Run(f"{FORWARD}; dinov2-small", f"lora, {way}", seed, (*ADAPTERS["lora"], *TRAINED, *flags))


def perform(run: Run, work: Path) -> dict[str, Any]:
    """Adapt to one task after another, each time from the folder before; what each folder says of its tasks after each stage."""
    stages: list[dict[str, Any]] = []
    folders: list[Path] = []
    sizes: list[dict[str, int]] = []
    data = dict(zip(SEQUENCE, three_sets(work).values(), strict=True))
    teacher, adapting = (DINO, ADAPTING) if "dinov2" in run.setting else (ADAPTED_TEACHER, ADAPTING)
    kept = KEPT if "--keep-images" in run.flags else ()
    method = run.flags[:run.flags.index("--keep-old")]
    order = SEQUENCE[::-1] if run.setting == REVERSED else SEQUENCE
    for name in order:
        own = ("--data", str(data[name]), "--skip-bad-images", "--task", name)
        if not folders:
            out, _ = adapted((*own, *method, *kept, *teacher), run.seed, work)
        else:
            out = work / f"{run.slug}-{name}"
            command("distill.adaptation.cli", [*own, *run.flags, "--teacher", str(folders[-1]), *adapting, "--overwrite",
                                               "--accept-forgetting", "--seed", str(run.seed), "--threads", "1", "--out", str(out)], work)
        folders.append(out)
        tasks = read_tasks(out)
        stages.append(judged(tasks))
        sizes.append({file: (out / file).stat().st_size if (out / file).is_file() else 0
                      for file in ("model.safetensors", "tasks.safetensors", "tasks.json")})
    added = int(read_json(folders[0] / "metrics.json")["adapters"]["added"])
    for folder in folders[1:]:
        shutil.rmtree(folder)
    final = {"test": {"student": {"auroc": stages[-1][order[-1]]["auroc"]}}}
    return {**run.row(work), "stages": stages, "added": added, "bytes": sizes, "splits": final}


def judged(tasks: TaskFolder) -> dict[str, Any]:
    """AUROC of every task of a folder on test and validation, by the network that it answers with now.

    rd-adapt tries what goes on again on both splits; what stays bit for bit has the figures of its own run.
    """
    return {task.name: {"auroc": task.auroc("test"), "val_auroc": task.auroc("val")} for task in tasks.tasks}


def forgotten(row: dict[str, Any], key: str = "auroc") -> tuple[float, float]:
    """Points of AUROC lost at the end, and shares of what was above chance, means over all tasks but the last."""
    names = list(row["stages"][-1])[:-1]
    pairs = [(row["stages"][index][name][key], row["stages"][-1][name][key]) for index, name in enumerate(names)]
    return (statistics.mean(was - now for was, now in pairs), statistics.mean((was - now) / (was - 0.5) for was, now in pairs))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: the weight's choice on validation; then AUROC on test when learnt and at the end, and what was forgotten."""
    lines = ["| adapter, way, weight | newer tasks on validation | all three at the end, mean | of what was above chance lost |",
             "|---|---|---|---|"]
    for row in (row for row in rows if row["setting"] == CHOICE):
        last = row["stages"][-1]
        newer = statistics.mean(row["stages"][index][name]["val_auroc"] for index, name in enumerate(last) if index)
        lines.append(f"| {row['method']} | {points([newer])} | "
                     f"{points([statistics.mean(task['val_auroc'] for task in last.values())])} | "
                     f"{points([forgotten(row, 'val_auroc')[1]])} % |")
    heads = ("order", "adapter, --keep-old", "seeds", "when learnt", "at the end", "forgotten, points of AUROC", "of what was above chance")
    lines += ["", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    rows = [row for row in rows if row["setting"] != CHOICE]
    groups = dict.fromkeys((row["setting"], row["method"]) for row in rows)
    for setting, method in sorted(groups, key=lambda group: (group[0] != FORWARD, group[0], group[1])):
        own = [row for row in rows if (row["setting"], row["method"]) == (setting, method)]
        names = list(own[0]["stages"][-1])
        learnt = ", ".join(points([row["stages"][index][name]["auroc"] for row in own]) for index, name in enumerate(names))
        last = ", ".join(points([row["stages"][-1][name]["auroc"] for row in own]) for name in names[:-1])
        cells = [setting, method, str(len(own)), learnt, last, points([forgotten(row)[0] for row in own]),
                 f"{points([forgotten(row)[1] for row in own])} %"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += experts()
    return "\n".join(lines)


def experts() -> list[str]:
    """Rows of --keep-old experts: each task is a fresh adapter bit for bit, so its figures are those of the study of experts."""
    path = RESULTS / "experts.jsonl"
    fresh = read_rows(path) if path.is_file() else []
    lines = []
    for method, place in (("lora", ", inside blocks"), (ZERO, ", inside blocks"), ("spectral", ", inside blocks"), ("molre", "")):
        rows = {name: [row for row in fresh if (row["setting"], row["method"]) == (name + place, method)]
                for name in ("BUSI", "pneumonia, 470 labels", "NIH 1000")}
        own = {name: [row["splits"]["test"]["student"]["auroc"] for row in found] for name, found in rows.items()}
        if all(own.values()):
            learnt = [points(values) for values in own.values()]
            cells = [f"{FORWARD}, or any", f"{method}{place or ', behind the pool'}, experts", str(max(map(len, own.values()))),
                     ", ".join(learnt), ", ".join(learnt[:-1]), "0", "0 %"]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    conduct(__doc__ or "", "forgetting", runs, perform, lambda rows, _: table(rows))
