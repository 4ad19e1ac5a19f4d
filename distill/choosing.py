"""--method auto: which method serves this data and student, by cross-validation on the training images alone.

Owns: the folds, the methods tried, the choice. Does not own: training (training.py). Validation and test images are not looked at.
"""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from distill.bridges import build_branches
from distill.config import DistillSettings
from distill.models import Model
from distill.pixels import PixelStore
from distill.predict import judge
from distill.progress import say
from distill.splits import divide, merge_groups
from distill.teaching import Taught, probe_teacher
from distill.training import run_on, train
from distill.views import ViewSpec
from runtimes.errors import UserError
from runtimes.folder import read_json, write_json
from runtimes.images import ImageSet, ImageSpec

TRIED = ("vanilla", "kd", "fitnet", "rd", "drd")
NOTE = "choice.json"  # in the run's folder: the scores so far


def choose_method(settings: DistillSettings, images: ImageSet, spec: ImageSpec, views: ViewSpec, pixels: PixelStore, student: Model,
                  taught: Taught, run: Path, device: str) -> dict[str, Any]:
    """The method with the best mean score (AUROC, or minus the loss) on held-out training images, and all scores by fold.

    Each is trained --auto-steps from the same student; a killed run goes on at the next training.
    """
    methods = [one for one in TRIED if one != "drd" or taught.bank.stages]
    if len(methods) < len(TRIED):
        say("auto", "drd is left out: the bank holds no stages; --bank-grid 8 banks them")
    folds = held_out(images, settings.auto_folds, settings.split_seed)
    held: dict[str, float] = read_json(run / NOTE) if settings.resume and (run / NOTE).is_file() else {}
    for number, fold in enumerate(folds):
        own = probe_teacher(settings, fold, taught.bank, taught.facts, tell=False)
        for method in methods:
            name = f"{method}-{number}"
            if name in held:
                continue
            folder = run / f"auto-{name}"
            folder.mkdir(exist_ok=True)
            trial = replace(settings, method=method, epochs=1, min_steps=settings.auto_steps, select="last")  # type: ignore[arg-type]
            teacher = None if method == "vanilla" else own
            branches = build_branches(trial, copy.deepcopy(student), teacher, len(fold.rows("train")))
            train(trial, fold, spec, views, pixels, branches, teacher, folder, device)
            held[name] = judge(fold, run_on(branches, fold, spec, pixels, "val", teacher, device))["score"]
            write_json(run / NOTE, held)
            shutil.rmtree(folder)
    scores = {method: [held[f"{method}-{number}"] for number in range(len(folds))] for method in methods}
    return told(scores)


def told(scores: dict[str, list[float]]) -> dict[str, Any]:
    """Say what each method reached and take the best mean; of equals the simpler."""
    best = max(scores, key=lambda method: float(np.mean(scores[method])))
    say("auto", "held-out training images, mean of " + f"{len(scores[best])} folds: "
                + ", ".join(f"{method} {np.mean(found):.3f}" for method, found in scores.items()))
    gains = [found - plain for found, plain in zip(scores[best], scores["vanilla"], strict=True)]
    say("auto", f"taken: {best}" + ("" if best == "vanilla" else f", {np.mean(gains):+.3f} above vanilla "
                                                                  f"(by fold {', '.join(f'{gain:+.3f}' for gain in gains)})"))
    return {"method": best, "scores": scores}


def held_out(images: ImageSet, folds: int, seed: int) -> list[ImageSet]:
    """The training images divided into folds by patient and copy, stratified; each set validates on one and trains on the rest.

    Validation and test images belong to no split of a fold; unlabelled images train, unless their patient is held out.
    """
    rows = images.rows("train")
    labels = images.labels[rows]
    known = images.labelled[rows]
    positives = labels == 1 if images.task == "multilabel" else labels[:, None] == np.arange(len(images.classes))
    owners = [] if images.groups is None else [images.groups[rows].astype(str).tolist()]
    groups = merge_groups([*owners, [images.hashes[row] for row in rows]] if images.hashes else owners, len(rows))
    part = np.full(len(rows), -1)
    part[known] = divide(positives[known], groups[known], [1 / folds] * folds, seed)
    home = dict(zip(groups[known].tolist(), part[known].tolist(), strict=True))
    made = []
    for fold in range(folds):
        split = np.full(len(images), "", dtype=object)
        split[rows] = ["val" if mine == fold else "" if mine < 0 and home.get(group) == fold else "train"
                       for mine, group in zip(part.tolist(), groups.tolist(), strict=True)]
        if not (split == "val").any() or not (split == "train").any():
            raise UserError(f"--method auto divides the training images into {folds} folds, and there are too few; give more images, fewer "
                            "--auto-folds, or name a method")
        made.append(replace(images, split=split))
    return made
