"""Phantom volumes: heads of several slices, each finding in a few neighbouring ones, so that it is known where attention must land.

Owns: which slices of a volume hold which finding, its depth. Does not own: how a slice is drawn (images.py). Nothing is stored: volume i
is drawn from (seed, size, i) alone. Only findings with a place are used: a midline shift or wide ventricles span the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt

from distill.phantom.images import FINDINGS, draw, stream

LOCAL = ("bleed", "infarct", "mass", "fracture")
DEPTHS = (10, 20)  # slices of the thinnest and the thickest volume
EXTENTS = (2, 4)  # slices of a finding
TOP = 0.75  # of the head's radius: the height of the first and the last slice below and above its middle
OWN = 100  # the stream of a volume's own draws, apart from those of its slices
VERSION = 1  # part of every key: raise it when a change of this code changes a voxel


@dataclass(frozen=True)
class PhantomVolumes(Sequence[npt.NDArray[np.uint8]]):
    """Sequence of n volumes, uint8 (depth, size_px, size_px, 1); ValueError for a negative n or seed or a size under 32."""

    n: int
    seed: int = 0
    size_px: int = 96

    def __post_init__(self) -> None:
        if self.n < 0 or self.seed < 0 or self.size_px < 32:
            raise ValueError(f"phantom volumes: got n={self.n}, seed={self.seed}, size_px={self.size_px}; expected n >= 0, seed >= 0 and "
                             "size_px >= 32: smaller slices cannot show a fracture. Correct the settings.")

    def __len__(self) -> int:
        return self.n

    @overload
    def __getitem__(self, index: int) -> npt.NDArray[np.uint8]: ...
    @overload
    def __getitem__(self, index: slice) -> list[npt.NDArray[np.uint8]]: ...
    def __getitem__(self, index: int | slice) -> npt.NDArray[np.uint8] | list[npt.NDArray[np.uint8]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.n))]
        place = self._place(index)
        labels = self.slice_labels(place)
        heights = np.linspace(-TOP, TOP, len(labels)).tolist()
        return np.stack([draw(_all_findings(findings), self.seed, place, self.size_px, height, grain)
                         for grain, (findings, height) in enumerate(zip(labels, heights, strict=True))])

    def _place(self, index: int) -> int:
        place = int(index) + self.n if index < 0 else int(index)
        if not 0 <= place < self.n:
            raise IndexError(f"phantom: volume {index} asked for, but there are {self.n}")
        return place

    def slice_labels(self, index: int) -> npt.NDArray[np.float32]:
        """Which findings each slice of a volume holds, float32 (depth, 4) in the order of LOCAL."""
        rng = stream(self.seed, self._place(index), OWN)
        depth = int(rng.integers(DEPTHS[0], DEPTHS[1] + 1))
        labels = np.zeros((depth, len(LOCAL)), np.float32)
        for place in range(len(LOCAL)):
            shown, extent, start = rng.random() < 0.3, int(rng.integers(EXTENTS[0], EXTENTS[1] + 1)), rng.random()
            first = 1 + int(start * (depth - extent - 1))  # never the first or the last slice
            labels[first:first + extent, place] = shown
        return labels

    def labels(self, index: int) -> npt.NDArray[np.float32]:
        """The findings of a volume, float32 (4,), without drawing it."""
        return np.asarray(self.slice_labels(index).max(axis=0))

    def all_labels(self) -> npt.NDArray[np.float32]:
        """The findings of all volumes, float32 (n, 4)."""
        return np.array([self.labels(i) for i in range(self.n)], np.float32).reshape(self.n, len(LOCAL))

    def key(self, index: int) -> str:
        """The name of one volume's content: the same string means the same voxels, in any process."""
        return f"phantom-volumes/v{VERSION}/seed{self.seed}/size{self.size_px}/{self._place(index):07d}"


def _all_findings(local: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    findings = np.zeros(len(FINDINGS), np.float32)
    findings[[FINDINGS.index(name) for name in LOCAL]] = local
    return findings
