"""Training a student of rd-distill by its settings, whole or a little, and what its branches answer afterwards.

Owns: how settings become batches, weights and the loop's arguments. Does not own: the loop (fit.py), what is trained beside the student
(bridges.py), the order of the steps (commands.py).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.batches import Batches
from distill.bridges import build_branches
from distill.config import DistillSettings
from distill.fit import fit
from distill.layout import channels_last
from distill.losses import prevalence_weights
from distill.models import Model
from distill.objective import PROBED, STAGED, Branches, Weights, parts
from distill.pixels import PixelStore
from distill.predict import Predictions, judge, predict
from distill.progress import say, track
from distill.teaching import Taught
from distill.views import ViewSpec
from runtimes.images import ImageSet, ImageSpec

GRADIENT_BATCHES = 4  # behind taylor importance
RANDOM_LR, GIVEN_LR = 5e-3, 2e-3
WATCHED_IMAGES = 2000  # validation images looked at after each epoch; the last figures are over all


def train(settings: DistillSettings, images: ImageSet, spec: ImageSpec, views: ViewSpec, pixels: PixelStore, branches: Branches,
          taught: Taught | None, run: Path, device: str) -> list[dict[str, Any]]:
    """Train the branches and return a row an epoch."""
    method = settings.method
    assert method != "auto", "a choice comes before training"
    rows = images.rows("train")
    labelled = rows[images.labelled[rows]]
    labels = torch.from_numpy(images.labels)
    probed = distils_probe(settings, images)
    probe = taught.probe if taught and (probed or method in PROBED) else None
    batches = Batches(pixels, labels, labelled if taught is None else rows, labelled, spec, views, settings.seed, settings.batch,
                      settings.labelled_batch, settings.views, taught.bank if taught else None, taught.rows if taught else None,
                      images.hashes, settings.bank_seed, probe,
                      stages=tuple(taught.bank.deepest(settings.stages - 1)) if taught and settings.method in STAGED else ())
    weights = Weights(settings.teacher_weight, settings.kd_weight, settings.cka_weight, settings.hint_weight, settings.temperature,
                      settings.cka == "debiased", settings.focal_gamma, raw=settings.cka_against == "teacher", probed=probed)
    class_weights = prevalence_weights(labels[labelled]).to(device) if images.task == "multilabel" else None
    watched = np.sort(np.random.default_rng(0).permutation(images.rows("val"))[:WATCHED_IMAGES])

    def evaluate(judged: Branches) -> dict[str, float]:
        made = predict(judged, pixels, spec, watched, device=device, bank=taught.bank if taught else None,
                       bank_rows=taught.rows if taught else None, probe=None)
        return judge(images, made)

    decay = settings.decay if settings.decay != "auto" else "linear" if settings.method == "drd" else "none"
    with track("train") as update:
        return fit(branches, batches, method, weights, epochs=settings.epochs, min_steps=settings.min_steps,
                   lr=peak_lr(settings), weight_decay=settings.weight_decay, phi_lr=settings.phi_lr,
                   phi_weight_decay=settings.phi_weight_decay, warmup=settings.warmup, decay=decay, ema=settings.ema,
                   precision=settings.precision, device=device, class_weights=class_weights, seed=settings.seed, folder=run,
                   resume=settings.resume, evaluate=evaluate, select=settings.select, progress=update,
                   resumed=lambda epoch: say("resume", f"from epoch {epoch} of {settings.epochs}" if epoch else "from the start"))


def peak_lr(settings: DistillSettings) -> float:
    """The peak learning rate: what was asked, else the one that suits random or given weights (benchmarks/pruning.py)."""
    return settings.lr if settings.lr is not None else RANDOM_LR if settings.student_weights is None else GIVEN_LR


def distils_probe(settings: DistillSettings, images: ImageSet) -> bool:
    """Whether rd or drd distils the logits of the teacher's probe, not of the teacher branch.

    Left to itself rd takes those that made the better student on held-out images (benchmarks/variants.py). Of volumes the probe sees
    the mean of slices alone, the branch what the student's pooling makes of them.
    """
    if settings.kd_from != "auto":
        return settings.kd_from == "probe"
    return settings.method == "rd" and images.volume is None and bool(images.labelled[images.rows("train")].all())


def task_gradients(settings: DistillSettings, images: ImageSet, spec: ImageSpec, views: ViewSpec, pixels: PixelStore,
                   model: Model) -> torch.Tensor:
    """The task loss of a model on some labelled training images, to be differentiated for taylor importance."""
    rows = images.rows("train")
    labelled, labels = rows[images.labelled[rows]], torch.from_numpy(images.labels)
    batches = Batches(pixels, labels, labelled, labelled, spec, views, settings.seed, settings.batch, settings.labelled_batch)
    weights = Weights(focal_gamma=settings.focal_gamma)
    channels_last(model)
    return torch.stack([parts("vanilla", Branches(model), batches(step), weights)["task"] for step in range(GRADIENT_BATCHES)]).mean()


def train_a_little(settings: DistillSettings, images: ImageSet, spec: ImageSpec, views: ViewSpec, pixels: PixelStore, model: Model,
                   taught: Taught | None, folder: Path, device: str) -> Model:
    """Train a student between two rounds of pruning, by the method that it will be trained by."""
    folder.mkdir(parents=True, exist_ok=True)
    branches = build_branches(settings, model, taught, len(images.rows("train")))
    train(replace(settings, epochs=1, min_steps=settings.prune_steps), images, spec, views, pixels, branches, taught, folder, device)
    return branches.student.to("cpu")


def run_on(branches: Branches, images: ImageSet, spec: ImageSpec, pixels: PixelStore, split: str, taught: Taught | None,
           device: str) -> Predictions:
    """What all branches answer on a split."""
    return predict(branches, pixels, spec, images.rows(split), device=device, bank=taught.bank if taught else None,
                   bank_rows=taught.rows if taught else None, probe=taught.probe if taught else None)
