"""Whether experts earned their place: what they gained over the probe they started from, on images held out, and its standard error.

Owns: Verdict, losses at their best temperature, the gain with its error over groups, the folds that stand in for a small validation
split. Does not own: any training.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.data.image_set import ImageSet
from distill.evaluation.calibrate import HIGHEST_TEMPERATURE, LOWEST_TEMPERATURE
from distill.evaluation.losses import image_losses
from distill.networks.models import Model
from distill.selection.choosing import held_out
from runtimes.errors import UserError

FOLDS = 3
ENOUGH = 300  # labelled validation images that are trusted to judge; fewer choose badly, and training images in folds stand in


@dataclass(frozen=True)
class Verdict:
    """Whether experts are used, their gain in held-out loss an image over the start, its standard error, and what it was seen on.

    images: 0 where there were too few to judge on. folds: of training images; 0 is the validation split. trained: steps or epochs of
    what was judged, in words. temperature: of the experts' scores where that loss is least; they and the start are judged each at its own.
    """

    used: bool
    gain: float
    error: float
    images: int
    folds: int
    trained: str
    temperature: float = 1.0

    def line(self) -> str:
        """One line for the user."""
        if not self.images:
            return f"used unjudged, {self.trained}" if self.used else "too few labelled images to judge them on: the probe is kept"
        seen = f"{self.images:,} training images, {self.folds} folds" if self.folds else f"{self.images:,} validation images"
        better = self.gain > self.error
        kept = f"used, {self.trained}{'' if better else ', as asked'}" if self.used else "the probe is kept"
        return f"gained {self.gain:.4f} +- {self.error:.4f} on held-out loss ({seen}): {kept}"

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


def cooled_losses(scores: Tensor, images: ImageSet, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], float]:
    """Loss of each of some labelled images (n,) at logits (n, C) divided by one temperature, that of the least mean, and the temperature.

    What training longer does to confidence, calibration undoes; what it does to the order of images is what experts are judged by.
    """
    from scipy.optimize import minimize_scalar

    labels = torch.from_numpy(images.labels[rows])

    def losses(log: float) -> NDArray[np.float64]:
        return image_losses(scores / math.exp(log), labels, images.task).double().numpy()

    found = minimize_scalar(lambda log: float(losses(log).mean()), bounds=(math.log(LOWEST_TEMPERATURE), math.log(HIGHEST_TEMPERATURE)),
                            method="bounded")
    return losses(float(found.x)), math.exp(float(found.x))


@torch.no_grad()
def cool(model: Model, temperature: float) -> Model:
    """The model with its logits divided by a temperature, in place; ordinal thresholds, which are no logits, stay as they are."""
    if model.spec.task != "ordinal":
        model.head.weight.div_(temperature)
        model.head.bias.div_(temperature)
    return model


def gain_of(start: NDArray[np.float64], end: NDArray[np.float64], groups: NDArray[Any]) -> tuple[float, float]:
    """Mean of start - end over images (n,), and its standard error over whole groups (n,); infinite for fewer than two groups."""
    gains = start - end
    mean = float(gains.mean())
    _, member = np.unique(groups, return_inverse=True)
    sums = np.bincount(member.reshape(-1), weights=gains - mean)
    if len(sums) < 2:
        return mean, float("inf")
    return mean, float(np.sqrt((sums**2).sum() * len(sums) / (len(sums) - 1)) / len(gains))


def groups_of(images: ImageSet, rows: NDArray[np.int64]) -> NDArray[Any]:
    """Patients or groups of some images, each its own where none are known."""
    return rows if images.groups is None else images.groups[rows].astype(str)


def judging_sets(images: ImageSet, seed: int) -> list[ImageSet]:
    """What experts are judged on: the images as they are split where validation has enough, else folds of the training images.

    Nothing where there are too few images to be divided.
    """
    validation = images.rows("val")
    if int(images.labelled[validation].sum()) >= ENOUGH:
        return [images]
    try:
        return held_out(images, FOLDS, seed)
    except UserError:  # too few to divide, which is an answer here
        return []
