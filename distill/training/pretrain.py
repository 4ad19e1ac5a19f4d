"""First every image, then the labels: the stage in which a student's trunk learns a teacher's features before any label is read.

Owns: how long it is, its batches, its resuming. Does not own: its loss (methods/trunk.py), the loop (fit.py).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from distill.data.training_data import TrainingData
from distill.methods import trunk
from distill.methods.build import method_losses
from distill.methods.step import Batch, Branches, Step, Weights
from distill.networks.models import Model
from distill.progress import track
from distill.settings.method import MethodOptions
from distill.teacher.teaching import TeacherSignals
from distill.training.batches import Batches
from distill.training.fit import fit
from distill.training.student import WATCHED_IMAGES, Recipe, say_resumed


class FirstStage(Protocol):
    """What trains a student before it sees a label; `pretrain` is one."""

    def __call__(self, recipe: Recipe, data: TrainingData, student: Model, signals: TeacherSignals, folder: Path, *,
                 resume: bool) -> tuple[Model, list[dict[str, Any]]]: ...


def first_steps(method: MethodOptions, following: int) -> int:
    """Steps of a first stage before a training of so many."""
    return method.pretrain_steps or 2 * following


def pretrain(recipe: Recipe, data: TrainingData, student: Model, signals: TeacherSignals, folder: Path, *,
             resume: bool) -> tuple[Model, list[dict[str, Any]]]:
    """The student whose trunk has learnt the teacher's features on all training images, and a row an epoch; the state lies in `folder`.

    As many steps as are asked for, else twice those of the training that follows; each of as many images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images, training = data.images, recipe.training
    assert training.lr is not None
    assert training.min_steps is not None
    assert training.weight_decay is not None
    rows = images.rows("train")
    mixed = not images.labelled[rows].all()
    batches = Batches(data.pixels, torch.from_numpy(images.labels), rows, rows, data.spec, data.views, recipe.seed,
                      training.batch + recipe.method.labelled_batch * mixed, 0, recipe.method.views, signals.bank, signals.rows,
                      images.hashes, signals.bank.key["seed"], live=signals.live)
    # what follows counts its steps by smaller batches
    epochs, following = training.epochs, replace(batches, batch=training.batch).steps_per_epoch(training.epochs, training.min_steps)
    steps = first_steps(recipe.method, epochs * following)
    epochs = min(epochs, steps)
    batches = replace(batches, steps=-(-steps // epochs))
    branches = trunk.build(student, signals)
    shown = np.sort(np.random.default_rng(0).permutation(images.rows("val"))[:WATCHED_IMAGES])

    def judged(own: Branches) -> dict[str, float]:
        distance = distance_on(own, data, shown, signals, recipe.device)
        return {"val_loss": distance, "score": -distance}

    with track("pretrain") as update:
        history = fit(branches, batches, partial(method_losses, "trunk"), Weights(), epochs=epochs, min_steps=0, lr=training.lr,
                      weight_decay=training.weight_decay, phi_lr=1.0, phi_weight_decay=0.0, warmup=training.warmup, decay="none", ema=0.0,
                      precision=training.precision, device=recipe.device, class_weights=None, seed=recipe.seed, folder=folder,
                      resume=resume, evaluate=judged, select="last", progress=update, resumed=partial(say_resumed, epochs))
    return branches.student, history


@torch.no_grad()
def distance_on(branches: Branches, data: TrainingData, rows: NDArray[np.int64], signals: TeacherSignals, device: str,
                size: int = 64) -> float:
    """Mean of 1 - cosine on clean images."""
    sums = 0.0
    size = max(1, size // max(branches.student.spec.slices, 1))
    for start in range(0, len(rows), size):
        own = rows[start:start + size]
        places = signals.rows[own]
        mask, clean = data.pixels.mask(own), torch.from_numpy(signals.bank.features(places)).to(device)
        taught_mask = torch.from_numpy(signals.bank.features(places, 0, "mask")).to(device) if signals.bank.masked else None
        batch = Batch(data.pixels.inputs(own, data.spec)[0].to(device), torch.empty(0), clean,
                      mask=None if mask is None else mask.to(device), taught_mask=taught_mask)
        sums += float(trunk.losses(Step(branches, batch, Weights()))["features"]) * len(own)
    return sums / max(len(rows), 1)
