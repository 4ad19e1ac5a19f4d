"""Names of files hidden: what images are called in results where a file or a folder may be named after a patient.

Owns: when names are hidden, the keys in their place. Does not own: the list of what they stand for, settings (settings/hidden.py),
reading images (loading.py). A key is the beginning of the file's SHA-256: the same in every run, and `sha256sum FILE` finds it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from distill.data.image_set import ImageSet
from distill.data.scan import ImageRecord
from runtimes.images.scans import scan_name
from runtimes.images.volumes import is_volume

DIGITS = 16  # of a hash: two of a million images share them once in 37 million sets


def hides(mode: str, images: Sequence[Any], records: Sequence[ImageRecord]) -> bool:
    """Whether names are hidden: by --hide-names, and of itself where the images come from a clinic, as DICOM or NIfTI."""
    if mode != "auto":
        return mode == "always"
    if any(record.header is not None for record in records):
        return True
    return isinstance(images, list) and any(isinstance(image, Path) and is_volume(image) for image in images)


def hidden_keys(hashes: Sequence[str]) -> tuple[str, ...]:
    """A key an image, of its hash; the second and further ones of one hash are numbered."""
    seen: Counter[str] = Counter()
    keys = []
    for digest in hashes:
        key = f"image-{digest[:DIGITS]}"
        seen[key] += 1
        keys.append(key if seen[key] == 1 else f"{key}-{seen[key]}")
    return tuple(keys)


def with_hidden_names(images: ImageSet) -> ImageSet:
    """The images under hidden keys; what each stands for is in `names`, which no result holds."""
    keys = hidden_keys(images.hashes)
    names = [str(scan_name(image)) if isinstance(image, Path | tuple) else key
             for image, key in zip(_each(images), images.keys, strict=True)]
    groups = images.groups
    if groups is not None:
        first: dict[str, str] = {}
        groups = np.asarray([f"that of {first.setdefault(group, key)}" for group, key in zip(groups.tolist(), keys, strict=True)],
                            dtype=object)
    return replace(images, keys=keys, groups=groups, names=tuple(names), facts={**images.facts, "names": "hidden"})


def _each(images: ImageSet) -> Sequence[Any]:
    """The images where they are paths; else one None each, for none is read to be named."""
    return images.images if isinstance(images.images, list) else [None] * len(images)
