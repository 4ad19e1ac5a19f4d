"""Training images divided into folds: each validates on one and trains on the rest.

Owns: held_out. Does not own: what is tried on a fold (choosing.py), who judges (judging.py).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from distill.data.image_set import ImageSet
from distill.data.splits import divide, merge_groups
from runtimes.errors import UserError


def held_out(images: ImageSet, folds: int, seed: int) -> list[ImageSet]:
    """The training images divided into folds by patient and near copy, stratified; each set validates on one and trains on the rest.

    Validation and test images belong to no split of a fold; unlabelled images train, unless their patient is held out.
    """
    rows = images.rows("train")
    labels = images.labels[rows]
    known = images.labelled[rows]
    positives = labels == 1 if images.task == "multilabel" else labels[:, None] == np.arange(len(images.classes))
    owners = [] if images.groups is None else [images.groups[rows].astype(str).tolist()]
    near = [] if images.alike is None else [[str(number) for number in images.alike[rows].tolist()]]
    groups = merge_groups([*owners, *near, *([[images.hashes[row] for row in rows]] if images.hashes else [])], len(rows))
    part = np.full(len(rows), -1)
    part[known] = divide(positives[known], groups[known], [1 / folds] * folds, seed)
    home = dict(zip(groups[known].tolist(), part[known].tolist(), strict=True))
    image_sets = []
    for fold in range(folds):
        split = np.full(len(images), "", dtype=object)
        split[rows] = ["val" if mine == fold else "" if mine < 0 and home.get(group) == fold else "train"
                       for mine, group in zip(part.tolist(), groups.tolist(), strict=True)]
        if not (split == "val").any() or not (split == "train").any():
            raise UserError(f"--method auto divides the training images into {folds} folds, and there are too few; give more images, fewer "
                            "--auto-folds, or name a method")
        image_sets.append(replace(images, split=split))
    return image_sets
