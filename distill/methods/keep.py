"""A network held to what it answered before it was adapted to another task: the distance of its features to a frozen copy's.

Owns: Keeping. Does not own: when a network is held (adaptation/continual.py), what else is trained (adapt.py). It is no method of
rd-distill and has no row in the table.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.data.views import normalise, unit_levels
from distill.networks.models import Model
from runtimes.images.spec import ImageSpec

A_STEP = 16  # kept images that a step looks at
LEAST_SPREAD = 0.1  # of the mean spread: features that hardly vary would weigh as if they did


class Keeping:
    """The squared distance of standardised features (mean over features and images) to those of the network as it was.

    before: that network, frozen. sd: spread (D,) of its features on the images at hand. kept: grey levels (N, h, w, C) of images of
    earlier tasks and how their network is fed; with some the distance is taken on them, else on the new task's images.
    """

    def __init__(self, before: Model, sd: Tensor, weight: float, kept: Sequence[tuple[NDArray[np.uint8], ImageSpec]] = ()) -> None:
        self.before, self.weight = before, weight
        self.pixels = [normalise(unit_levels(levels), spec.mean, spec.std) for levels, spec in kept]
        self.targets: list[Tensor] = []
        if self.pixels:
            with torch.no_grad():
                self.targets = [torch.cat([before.adapted(before.trunk(part)) for part in pixels.split(A_STEP)]) for pixels in self.pixels]
            sd = torch.cat(self.targets).std(dim=0)
        self.sd = sd.clamp_min(LEAST_SPREAD * float(sd.mean()))

    def loss(self, student: Model, pixels: Tensor, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """The weighted distance: of a step's features (B, D), or of slices (B, S, D) under their mask (B, S); or on kept images."""
        if self.pixels:
            return self._on_kept(student, features.device)
        if self.before.head.weight.device != pixels.device:
            self.before = self.before.to(pixels.device)
        with torch.no_grad():
            target = self.before.adapted(self.before.trunk(pixels.flatten(0, 1) if features.ndim == 3 else pixels))
        apart = ((features - target.view_as(features)) / self.sd.to(features.device)).square().mean(dim=-1)
        return self.weight * (apart.mean() if mask is None else (apart * mask).sum() / mask.sum().clamp_min(1))

    def _on_kept(self, student: Model, device: torch.device) -> Tensor:
        parts = []
        for pixels, targets in zip(self.pixels, self.targets, strict=True):  # as many of each task, whatever its images look like
            places = torch.randint(len(pixels), (-(-A_STEP // len(self.pixels)),))
            now = student.adapted(student.trunk(pixels[places].to(device).contiguous(memory_format=torch.channels_last)))
            parts.append(((now - targets[places].to(device)) / self.sd.to(device)).square().mean())
        return self.weight * torch.stack(parts).mean()
