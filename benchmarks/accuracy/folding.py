"""What folding routed adapters costs: mean gates, least squares, and training that makes the gates constant; BUSI and pneumonia.

Owns: which runs make the study, folding a finished teacher both ways, the table. Does not own: folds (distill/adapters/merge.py), rows
(study.py).

    python -m benchmarks.accuracy.folding --seeds 3 --workers 2
    python -m benchmarks.accuracy.folding --table
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.accuracy.recipes import ADAPTED_TEACHER
from benchmarks.accuracy.sets import three_sets
from benchmarks.accuracy.study import Run, adapted, conduct, figures, points
from distill.adaptation.folding import FoldReport, MergeMode, batched, fold_teacher
from distill.data.image_set import ImageSet
from distill.data.loading import load_images
from distill.data.views import normalise, unit_levels
from distill.evaluation.calibrate import apply_temperatures
from distill.evaluation.evaluate import evaluate
from distill.networks.checkpoint import Checkpoint, load_checkpoint
from runtimes.files.folder import read_json
from runtimes.images.spec import ImageSpec

SETTINGS = ("pneumonia, 470 labels", "BUSI")
METHODS: dict[str, tuple[str, ...]] = {
    "mixture, start from zero": ("--method", "moe"),
    "spectral": ("--method", "spectral"),
    "molre, in the blocks": ("--method", "molre", "--place", "blocks", "--experts", "4", "--rank", "2"),
}
AWARE = 0.3
FOLD_IMAGES = 256


def runs(seeds: int, work: Path) -> Iterator[Run]:
    """Every method on both sets, as it is and with gates that become constants."""
    data = three_sets(work)
    for setting in SETTINGS:
        for seed in range(seeds):
            for method, own in METHODS.items():
                flags = ("--data", str(data[setting]), "--skip-bad-images", *own)
                yield Run(setting, method, seed, flags)
                yield Run(setting, f"{method}, merge-aware", seed, (*flags, "--merge-aware", str(AWARE)))


def perform(run: Run, work: Path) -> dict[str, Any]:
    """Adapt, and fold what stays in both ways, measured on the test images; gates are averaged over training images."""
    out, _ = adapted((*run.flags, *ADAPTED_TEACHER), run.seed, work)
    row = {**run.row(work), **figures(out), "merge": read_json(out / "metrics.json")["adapters"]["merge"], "folds": {}}
    if "--merge-aware" not in run.flags:
        images = load_images(run.flags[1], skip_bad_images=True)
        modes: tuple[MergeMode, ...] = ("mean", "least-squares")
        for mode in modes:
            found = folded(load_checkpoint(out), images, mode, run.seed).as_dict()["merge"]
            layers = found.pop("layers")
            found["median_error_of_change"] = statistics.median(one["of_change"] for one in layers.values())
            found["median_error_of_output"] = statistics.median(one["of_output"] for one in layers.values())
            row["folds"][mode] = found
    row["merge"].pop("layers")
    return row


def folded(checkpoint: Checkpoint, images: ImageSet, mode: MergeMode, seed: int) -> FoldReport:
    """One fold of a teacher, judged on its whole test split."""
    spec, model = checkpoint.image_spec, checkpoint.model.to(memory_format=torch.channels_last)
    own = ImageSpec(spec.height, spec.width, images.facts.get("channels", 3), mean=spec.mean, std=spec.std)
    train = np.sort(np.random.default_rng([seed, 13]).permutation(images.rows("train"))[:FOLD_IMAGES])
    test = images.rows("test")

    def load(rows: NDArray[np.int64]) -> tuple[torch.Tensor, ...]:
        levels = unit_levels(np.stack([own.stored(images.raw(int(row))) for row in rows]))
        return (normalise(levels, own.mean, own.std).contiguous(memory_format=torch.channels_last),)

    def logits() -> NDArray[np.float32]:
        with torch.no_grad():
            return torch.cat([model(*inputs) for inputs in batched(test, load)]).numpy()

    def auroc(found: NDArray[np.float32]) -> float | None:
        answers = apply_temperatures(found, (1.0,), images.task)
        return float(evaluate(images.labels[test], answers, task=images.task, classes=images.classes, n_bootstrap=0)["auroc"]["value"])

    return fold_teacher(model, mode, most=float("inf"), train=lambda: batched(train, load), val=lambda: batched(test, load), logits=logits,
                        decide=lambda found: found.argmax(axis=1), auroc=auroc)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a row a method and fold; errors in per cent, AUROC in points, flips in per cent of the test images."""
    heads = ("data", "adapter", "fold", "seeds", "change, median layer", "layer output", "logits", "AUROC change", "flips", "AUROC")
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for setting in SETTINGS:
        for method in METHODS:
            own = [row for row in rows if (row["setting"], row["method"]) == (setting, method)]
            aware = [row for row in rows if (row["setting"], row["method"]) == (setting, f"{method}, merge-aware")]
            if own:
                lines.append(f"| {setting} | {method} | none: kept | {len(own)} | 0 | 0 | 0 | 0 | 0 "
                             f"| {points([row['splits']['test']['student']['auroc'] for row in own])} |")
            for mode in ("mean", "least-squares") if own else ():
                folds = [row["folds"][mode] for row in own]
                errors = [f"{points([fold[name] for fold in folds])} %"
                          for name in ("median_error_of_change", "median_error_of_output", "logit_error")]
                moved = points([fold["auroc_after"] - fold["auroc_before"] for fold in folds])
                flips = points([fold["flips"] / fold["images"] for fold in folds])
                lines.append(f"| {setting} | {method} | {mode} | {len(own)} | {' | '.join(errors)} | {moved} | {flips} % "
                             f"| {points([fold['auroc_after'] for fold in folds])} |")
            if aware:
                error = max(row["merge"]["logit_error"] for row in aware)
                lines.append(f"| {setting} | {method} | merge-aware, exact | {len(aware)} | 0 | 0 | {100 * error:.1g} % at most | 0 | "
                             f"{sum(row['merge']['flips'] for row in aware)} of all "
                             f"| {points([row['splits']['test']['student']['auroc'] for row in aware])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    conduct(__doc__ or "", "folds", runs, perform, lambda rows, _: table(rows))
