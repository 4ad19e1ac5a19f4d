"""The table of images that a command works on.

Owns: ImageSet (images, labels, classes, patients, split). Does not own: how an image becomes pixels (runtimes/images/spec.py), reading
tables and folders of labels (loading.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.images.spec import Item, read_image
from runtimes.images.volumes import VolumeSpec
from runtimes.scores import Task


@dataclass(frozen=True)
class ImageSet:
    """Images with labels, split and patients; `images[i]` is a path or a raw array (H, W, C), drawn or read when asked, or the
    paths of one DICOM series.

    volume: how files become stacks of slices (D, H, W, C), where the images are volumes; None otherwise. values: images are physical
    values, such as HU, of int16.
    labels: int64 (N,), -1 where unlabelled; for multi-label float32 (N, C), nan where missing. split: "train", "val", "test".
    names: where keys are hidden, the file of each; no result holds them. alike: a number an image, the same for near copies and what else
    is kept together, by which folds are made; None where there are no near copies. columns: what is known beside pixels, as results hold it
    (metadata.py), a value an image.
    """

    images: Sequence[Item]
    keys: tuple[str, ...]
    labels: NDArray[Any]
    classes: tuple[str, ...]
    task: Task
    split: NDArray[Any]
    groups: NDArray[Any] | None = None
    hashes: tuple[str, ...] = ()
    synthetic: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    volume: VolumeSpec | None = None
    values: bool = False
    names: tuple[str, ...] = ()
    alike: NDArray[np.int64] | None = None
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    def raw(self, index: int, volume: VolumeSpec | None = None) -> NDArray[Any]:
        """Image `index` as a raw array (H, W, C), uint8, uint16 or int16; a volume as (D, H, W, C), cut as the set's, or as asked."""
        return read_image(self.images[index], volume or self.volume, self.values)

    @property
    def form(self) -> dict[str, Any]:
        """What an ImageSpec takes over from the images: channels, dtype, window or windows, and how volumes are cut."""
        low, high = self.facts.get("window", (0.0, 255.0))
        return {"channels": self.facts.get("channels", 3), "dtype": self.facts.get("dtype", "uint8"), "window": (float(low), float(high)),
                "windows": tuple((float(low), float(high)) for low, high in self.facts.get("windows", ())), "volume": self.volume}

    def rows(self, split: str) -> NDArray[np.int64]:
        """Indices of the images of one split, in order."""
        return np.flatnonzero(self.split == split)

    @property
    def digest(self) -> str:
        """SHA-256 over the hashes and splits of all images: which data it is, without naming any; empty where there are no hashes."""
        lines = sorted(f"{digest} {split}" for digest, split in zip(self.hashes, self.split, strict=bool(self.hashes)))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest() if lines else ""

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """Which images carry at least one label, (N,)."""
        if self.task == "multilabel":
            return np.asarray(np.isfinite(self.labels).any(axis=1))
        return np.asarray(self.labels >= 0)
