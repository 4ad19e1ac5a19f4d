"""Which images judge what is tried before a training: validation, or folds of the training images.

Owns: judging_sets. Does not own: losses and gains on them (evaluation/gains.py), any training, the folds (folds.py).
"""

from __future__ import annotations

from distill.data.image_set import ImageSet
from distill.selection.folds import held_out
from runtimes.errors import UserError

FOLDS = 3
ENOUGH = 300  # labelled validation images that are trusted to judge; fewer choose badly, and training images in folds stand in


def judging_sets(images: ImageSet, seed: int, folds: int = FOLDS) -> list[ImageSet]:
    """What judges: the images as they are split where validation has enough, or more than there are to train on, else folds of the latter.

    Nothing where there are too few images to be divided.
    """
    known, trained_on = (int(images.labelled[images.rows(split)].sum()) for split in ("val", "train"))
    if known >= min(ENOUGH, max(trained_on, 2)):
        return [images]
    try:
        return held_out(images, folds, seed)
    except UserError:  # too few to divide, which is an answer here
        return []
