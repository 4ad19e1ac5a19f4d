"""What a teacher forgets when it is adapted to one task after another: BUSI, PneumoniaMNIST (rebuilt), NIH, by method and seed.

Owns: the sequence, the figures of every kept head after every stage, the table. Does not own: training, keeping rows (study.py).

    python -m benchmarks.accuracy.forgetting --seeds 3 --workers 2
    python -m benchmarks.accuracy.forgetting --table
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.accuracy.recipes import ADAPTED_TEACHER, ADAPTERS, ADAPTING
from benchmarks.accuracy.sets import three_sets
from benchmarks.accuracy.study import Run, adapted, conduct, points
from benchmarks.commands import command
from distill.data.image_set import ImageSet
from distill.data.loading import load_images
from distill.data.views import normalise, unit_levels
from distill.evaluation.calibrate import apply_temperatures
from distill.evaluation.evaluate import evaluate
from distill.networks.checkpoint import load_checkpoint
from distill.networks.heads import TaskHead, load_heads
from distill.networks.models import Model
from runtimes.files.folder import read_json
from runtimes.images.spec import ImageSpec

METHODS = ("lora", "mixture, start from zero", "spectral")
SEQUENCE = ("BUSI", "pneumonia", "NIH")


def runs(seeds: int, work: Path) -> Iterator[Run]:
    """Every method, seed by seed."""
    three_sets(work)  # written once, before workers read it
    for seed in range(seeds):
        for method in METHODS:
            yield Run("BUSI, pneumonia, NIH", method, seed, ADAPTERS[method])


def perform(run: Run, work: Path) -> dict[str, Any]:
    """Adapt to one task after another, each time from the folder before, and try every head kept so far."""
    stages: list[dict[str, Any]] = []
    folders: list[Path] = []
    data = dict(zip(SEQUENCE, three_sets(work).values(), strict=True))
    for name, path in data.items():
        flags = ("--data", str(path), "--skip-bad-images", *run.flags)
        if not folders:
            out, _ = adapted((*flags, *ADAPTED_TEACHER), run.seed, work)
        else:
            out = work / f"{run.slug}-{name}"
            command("distill.adaptation.cli", [*flags, "--teacher", str(folders[-1]), *ADAPTING, "--overwrite", "--seed", str(run.seed),
                                          "--threads", "1", "--out", str(out)], work)
        folders.append(out)
        stages.append(judged(out, data))
    added = int(read_json(folders[0] / "metrics.json")["adapters"]["added"])
    for folder in folders[1:]:
        shutil.rmtree(folder)
    final = {"test": {"student": {"auroc": stages[-1][SEQUENCE[-1]]["auroc"]}}}
    return {**run.row(work), "stages": stages, "added": added, "splits": final}


def judged(folder: Path, data: dict[str, Path]) -> dict[str, Any]:
    """AUROC and accuracy of every kept head on the test split of its own task, by the network as it is now."""
    checkpoint = load_checkpoint(folder)
    found = {}
    for head, (name, path) in zip(load_heads(folder), data.items(), strict=False):
        images = load_images(str(path), skip_bad_images=True)
        found[name] = figures_of(checkpoint.model, checkpoint.image_spec, head, images)
    return found


@torch.no_grad()
def figures_of(model: Model, spec: ImageSpec, head: TaskHead, images: ImageSet) -> dict[str, float]:
    """One head's figures on a test split."""
    rows = images.rows("test")
    own = ImageSpec(spec.height, spec.width, images.facts.get("channels", 3), mean=spec.mean, std=spec.std)
    logits = []
    for start in range(0, len(rows), 32):
        levels = np.stack([own.stored(images.raw(int(row))) for row in rows[start:start + 32]])
        pixels = normalise(unit_levels(levels), own.mean, own.std).to(memory_format=torch.channels_last)
        logits.append(head.logits(model.features(pixels)))
    ones = tuple(1.0 for _ in (head.classes if head.task == "multilabel" else [0]))
    answers = apply_temperatures(torch.cat(logits).numpy(), ones, head.task)
    scores = evaluate(images.labels[rows], answers, task=head.task, classes=head.classes, n_bootstrap=0)
    return {name: scores[name]["value"] for name in ("auroc", "accuracy", "balanced_accuracy") if name in scores}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: AUROC of each task right after it was learnt and at the end, forgetting in points and relative to chance."""
    heads = ("method", "seeds", "parameters added", *(f"{name}: when learnt" for name in SEQUENCE),
             *(f"{name}: at the end" for name in SEQUENCE[:-1]), "forgotten, points of AUROC", "of what was above chance")
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    names = SEQUENCE
    for method in METHODS:
        own = [row for row in rows if row["method"] == method]
        if not own:
            continue
        learnt = [points([row["stages"][index][name]["auroc"] for row in own]) for index, name in enumerate(names)]
        last = [points([row["stages"][-1][name]["auroc"] for row in own]) for name in names[:-1]]
        lost = [statistics.mean(row["stages"][index][name]["auroc"] - row["stages"][-1][name]["auroc"]
                                for index, name in enumerate(names[:-1])) for row in own]
        above = [statistics.mean((row["stages"][index][name]["auroc"] - row["stages"][-1][name]["auroc"])
                                 / (row["stages"][index][name]["auroc"] - 0.5) for index, name in enumerate(names[:-1])) for row in own]
        cells = [method, str(len(own)), f"{own[0]['added']:,}", *learnt, *last, points(lost), f"{points(above)} %"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    conduct(__doc__ or "", "forgetting", runs, perform, lambda rows, _: table(rows))
