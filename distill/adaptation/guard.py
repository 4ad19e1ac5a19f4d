"""Whether experts earned their place: what they gained over the probe they started from, on images held out, and its standard error.

Owns: Verdict, a model's logits at their best temperature. Does not own: any training, the gain and its error (evaluation/gains.py).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from distill.networks.models import Model


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


@torch.no_grad()
def cool(model: Model, temperature: float) -> Model:
    """The model with its logits divided by a temperature, in place; ordinal thresholds, which are no logits, stay as they are."""
    if model.spec.task != "ordinal":
        model.head.weight.div_(temperature)
        model.head.bias.div_(temperature)
    return model
