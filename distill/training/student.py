"""Training a student by a recipe, whole or a little, and what its branches answer afterwards.

Owns: Recipe, and how it becomes batches, weights and the loop's arguments. Does not own: the loop (fit.py), what is
trained beside the student (methods), the order of the steps (commands.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from distill.data.image_set import ImageSet
from distill.data.training_data import TrainingData
from distill.evaluation.gains import cooled_losses
from distill.evaluation.losses import prevalence_weights
from distill.evaluation.predict import Predictions, judge
from distill.methods.build import build_branches, method_losses
from distill.methods.step import Branches, Weights
from distill.networks.layout import channels_last
from distill.networks.models import Model
from distill.progress import say, track
from distill.settings.method import MethodOptions
from distill.settings.method_table import METHODS
from distill.settings.training import TrainingOptions
from distill.teacher.teaching import TeacherSignals, whole_features
from distill.training.answers import predict
from distill.training.batches import Batches
from distill.training.fit import Losses, fit

GRADIENT_BATCHES = 4  # behind taylor importance
RANDOM_LR, GIVEN_LR = 5e-3, 2e-3
LEAD = 1e-4  # in loss an image, below which two are alike
WATCHED_IMAGES = 2000  # validation images looked at after each epoch; the last figures are over all


@dataclass(frozen=True)
class Recipe:
    """How a student is trained: its method, the length and rate of the training, its seed and where it runs."""

    method: MethodOptions
    training: TrainingOptions
    seed: int
    device: str

    def shortened(self, steps: int, method: str | None = None) -> Recipe:
        """The same for so many steps and the last of them, by another method where one is named."""
        by = self.method if method is None else replace(self.method, method=method)
        return replace(self, method=by, training=replace(self.training, epochs=1, min_steps=steps, select="last"))


def train(recipe: Recipe, data: TrainingData, branches: Branches, signals: TeacherSignals | None, run: Path, *,
          resume: bool) -> list[dict[str, Any]]:
    """Train the branches and return a row an epoch; the state lies in `run`."""
    options, training, images = recipe.method, recipe.training, data.images
    method = options.method
    assert method != "auto", "a choice comes before training"
    rows = images.rows("train")
    labelled = rows[images.labelled[rows]]
    labels = torch.from_numpy(images.labels)
    probed = distils_probe(options, images)
    probe = signals.probe if signals and (probed or METHODS[method].probe) else None
    stages = tuple(signals.bank.deepest(options.stages - 1)) if signals and METHODS[method].stages else ()
    batches = Batches(data.pixels, labels, labelled if signals is None else rows, labelled, data.spec, data.views, recipe.seed,
                      training.batch, options.labelled_batch, options.views, signals.bank if signals else None,
                      signals.rows if signals else None, images.hashes, signals.bank.key["seed"] if signals else 0, probe, stages=stages,
                      mixup=options.mixup, live=signals.live if signals else None)
    weights = Weights(options.teacher_weight, options.kd_weight, options.cka_weight, options.hint_weight, options.temperature,
                      options.cka == "debiased", training.focal_gamma, raw=options.cka_against == "teacher", probed=probed)
    fades = options.decay == "linear" or (options.decay == "auto" and METHODS[method].fades)
    shown = watched_rows(images, WATCHED_IMAGES)
    shown = shown[images.labelled[shown]]
    rival = None
    if signals is not None and options.decay == "outgrown" and len(shown):
        rival = cooled_losses(signals.probe.logits(whole_features(signals.bank, signals.rows[shown])), images, shown)[0]

    def answer(judged: Branches, watched: NDArray[np.int64]) -> Predictions:
        return predict(judged, data.pixels, data.spec, watched, device=recipe.device, bank=signals.bank if signals else None,
                       bank_rows=signals.rows if signals else None, probe=None)

    history = fit_by(training, images, branches, batches, partial(method_losses, method), weights, answer, watched=WATCHED_IMAGES,
                     seed=recipe.seed, device=recipe.device, run=run, resume=resume, phi_lr=options.phi_lr,
                     phi_weight_decay=options.phi_weight_decay, decay="linear" if fades else "none", ema=options.ema, rival=rival)
    ahead = sum(row.get("outgrown", False) for row in history)
    if ahead:
        say("teacher", f"outgrown: in {ahead} of {len(history)} epochs the student had less loss than its probe on validation; "
                       "after each the teacher's part of the loss went down to a quarter")
    return history


def fit_by(training: TrainingOptions, images: ImageSet, branches: Branches, batches: Batches, losses: Losses, weights: Weights,
           answer: Callable[[Branches, NDArray[np.int64]], Predictions], *, watched: int, seed: int, device: str, run: Path, resume: bool,
           phi_lr: float = 1.0, phi_weight_decay: float = 0.0, decay: Literal["none", "linear"] = "none", ema: float = 0.0,
           before_step: Callable[[int, int], None] | None = None, weighted: bool = True,
           score: Callable[[Predictions], float] | None = None,
           rival: NDArray[np.float64] | None = None) -> list[dict[str, Any]]:
    """Train branches on batches by the options of training, under a bar; returns a row an epoch.

    answer: what branches say of rows; watched: validation images that are looked at after each epoch. weighted: labels by their prevalence.
    score: what the best epoch is best by, where it is not the AUROC. rival: losses of the teacher's probe on those images that carry a
    label (n,); what the teacher says fades while the student does better.
    """
    assert training.lr is not None
    assert training.min_steps is not None
    assert training.weight_decay is not None
    class_weights = None
    if images.task == "multilabel" and weighted:
        rows = images.rows("train")
        class_weights = prevalence_weights(torch.from_numpy(images.labels)[rows[images.labelled[rows]]]).to(device)
    shown = watched_rows(images, watched)

    def evaluate(judged: Branches) -> dict[str, float]:
        predictions = answer(judged, shown)
        row: dict[str, Any] = judge(images, predictions) | ({"score": score(predictions)} if score else {})
        return row if rival is None else row | {"outgrown": outgrown(images, predictions, rival)}

    with track("train") as update:
        return fit(branches, batches, losses, weights, epochs=training.epochs, min_steps=training.min_steps, lr=training.lr,
                   weight_decay=training.weight_decay, phi_lr=phi_lr, phi_weight_decay=phi_weight_decay, warmup=training.warmup,
                   decay=decay, ema=ema, precision=training.precision, device=device, class_weights=class_weights, seed=seed, folder=run,
                   resume=resume, evaluate=evaluate, select=training.select, progress=update,
                   before_step=before_step, resumed=partial(say_resumed, training.epochs),
                   teacher_share=None if rival is None else teacher_share)


def outgrown(images: ImageSet, predictions: Predictions, rival: NDArray[np.float64]) -> bool:
    """Whether the student has less loss than the teacher's probe on watched images, each at its best temperature."""
    known = images.labelled[predictions.rows]
    losses, _ = cooled_losses(torch.from_numpy(predictions.student[known]), images, predictions.rows[known])
    return bool(losses.mean() < rival.mean() - LEAD)


def teacher_share(history: list[dict[str, Any]]) -> float:
    """What the teacher's parts of the loss weigh: a quarter after each epoch in which the student did better than its probe.

    Halved, and only for a lead beyond its standard error, it went too late (benchmarks/STUDIES.md).
    """
    return 0.25 ** sum(row["outgrown"] for row in history)


def watched_rows(images: ImageSet, count: int) -> NDArray[np.int64]:
    """The validation images that are looked at after each epoch: all, or so many of them, always the same."""
    return np.sort(np.random.default_rng(0).permutation(images.rows("val"))[:count])


def say_resumed(epochs: int, epoch: int) -> None:
    """Say where an interrupted training goes on."""
    say("resume", f"from epoch {epoch} of {epochs}" if epoch else "from the start")


def peak_lr(asked: float | None, *, given_weights: bool) -> float:
    """The peak learning rate: what was asked, else the one that suits random or given weights (benchmarks/accuracy/pruning.py)."""
    return asked if asked is not None else GIVEN_LR if given_weights else RANDOM_LR


def distils_probe(options: MethodOptions, images: ImageSet) -> bool:
    """Whether a method with a teacher branch distils the logits of the teacher's probe instead of the branch's.

    Left to itself rd takes those that made the better student on held-out images (benchmarks/accuracy/variants.py). Of volumes the probe
    sees the mean of slices alone, the branch what the student's pooling makes of them.
    """
    if options.kd_from != "auto":
        return options.kd_from == "probe"
    return METHODS[options.method].probe_when_labelled and images.volume is None and bool(images.labelled[images.rows("train")].all())


def task_gradients(recipe: Recipe, data: TrainingData, model: Model) -> torch.Tensor:
    """The task loss of a model on some labelled training images, to be differentiated for taylor importance."""
    images = data.images
    rows = images.rows("train")
    labelled, labels = rows[images.labelled[rows]], torch.from_numpy(images.labels)
    batches = Batches(data.pixels, labels, labelled, labelled, data.spec, data.views, recipe.seed, recipe.training.batch,
                      recipe.method.labelled_batch)
    weights = Weights(focal_gamma=recipe.training.focal_gamma)
    channels_last(model)
    return torch.stack([method_losses("vanilla", Branches(model), batches(step), weights)["task"]
                        for step in range(GRADIENT_BATCHES)]).mean()


def train_a_little(recipe: Recipe, steps: int, data: TrainingData, model: Model, signals: TeacherSignals | None, folder: Path, *,
                   resume: bool) -> Model:
    """Train a student between two rounds of pruning, by the method that it will be trained by."""
    folder.mkdir(parents=True, exist_ok=True)
    branches = build_branches(recipe.method, model, signals, len(data.images.rows("train")))
    short = replace(recipe, training=replace(recipe.training, epochs=1, min_steps=steps))
    train(short, data, branches, signals, folder, resume=resume)
    return branches.student.to("cpu")


def run_on(branches: Branches, data: TrainingData, split: str, signals: TeacherSignals | None, device: str) -> Predictions:
    """What all branches answer on a split."""
    return predict(branches, data.pixels, data.spec, data.images.rows(split), device=device, bank=signals.bank if signals else None,
                   bank_rows=signals.rows if signals else None, probe=signals.probe if signals else None)
