"""The teacher at every step: what it says of exactly the view that the student sees, for those whose device can afford it.

Owns: LiveTeacher. Does not own: running a teacher (forward.py), the views (data/views.py), the bank of clean images that a probe needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.data.pixels import PixelStore
from distill.data.views import view_pixels
from runtimes.images.spec import ImageSpec


@dataclass(frozen=True)
class LiveTeacher:
    """A frozen teacher, and all images at its size.

    forward: normalised pixels (B, 3, h, w) to features (B, D) on any device. batch: images that it takes at once.
    """

    forward: Callable[[Tensor], Tensor]
    pixels: PixelStore
    spec: ImageSpec
    batch: int

    def features(self, rows: NDArray[np.int64], matrices: NDArray[np.float32]) -> Tensor:
        """Features (B, D), float32 on the CPU, of images under affine views (B, 2, 3), as a bank would hold them but for its fp16."""
        parts = []
        for start in range(0, len(rows), self.batch):
            own = slice(start, start + self.batch)
            levels = list(self.pixels.rows(rows[own]))
            parts.append(self.forward(view_pixels(levels, matrices[own], np.zeros(len(levels), dtype=bool), self.spec)).float().cpu())
        return torch.cat(parts)
