"""Which of two answers to the same images is better: losses at their best temperature, a gain with its standard error over patients.

Owns: cooled_losses, gain_of, groups_of. Does not own: which images judge (selection/judging.py), what a verdict is used for.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.data.image_set import ImageSet
from distill.evaluation.calibrate import HIGHEST_TEMPERATURE, LOWEST_TEMPERATURE
from distill.evaluation.losses import image_losses


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
