"""What every training is given: the images, how they reach the network, how they are augmented, and their pixels.

Owns: TrainingData. Does not own: reading images (data.py), the store of pixels (pixels.py), batches (batches.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from distill.data.image_set import ImageSet
from distill.data.pixels import PixelStore
from distill.data.views import ViewSpec
from runtimes.images.spec import ImageSpec


@dataclass(frozen=True)
class TrainingData:
    """Images with labels and split, their form at the network's input, their augmentation, and their pixels in that form."""

    images: ImageSet
    spec: ImageSpec
    views: ViewSpec
    pixels: PixelStore

    def split_as(self, fold: ImageSet) -> TrainingData:
        """The same images and pixels under another split, such as a fold's."""
        return replace(self, images=fold)
