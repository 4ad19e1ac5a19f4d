"""Voxels turned to the nearest RAS+ orientation by their affine, and how far an affine is from right angles.

Owns: `nearest_ras`, `slant`. Does not own: reading affines (scans.py), building them (dicom_planes.py). Axes are chosen as nibabel's
`io_orientation` does, whose answers the tests compare: on a device that reads DICOM alone there is no nibabel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Orientation = tuple[tuple[int, int], ...]  # for each axis of the voxels: the axis of RAS+ it runs along, and 1 or -1


def orientation(affine: NDArray[np.float64]) -> Orientation:
    """The axis of RAS+ that each voxel axis is nearest to, and its direction; ValueError for an affine that is singular or not finite."""
    matrix = np.asarray(affine, dtype=np.float64)[:3, :3]
    sides = np.linalg.norm(matrix, axis=0)
    if not np.isfinite(affine).all() or not (sides > 0).all():
        raise ValueError("an affine without a length for each axis")
    left, sizes, right = np.linalg.svd(matrix / sides)
    if sizes.min() <= 1e-6:
        raise ValueError("an affine whose axes lie in one plane")
    turned = left @ right
    chosen: dict[int, tuple[int, int]] = {}
    for axis in np.argsort(np.min(-(turned**2), axis=0), kind="stable").tolist():
        column = turned[:, axis]
        target = int(np.argmax(np.abs(column)))
        chosen[axis] = target, -1 if column[target] < 0 else 1
        turned[target] = 0.0
    return tuple(chosen[axis] for axis in range(3))


def nearest_ras(values: NDArray[Any], turns: Orientation) -> NDArray[Any]:
    """A view of voxels (i, j, k) as (x, y, z)."""
    flipped = values[tuple(slice(None, None, direction) for _, direction in turns)]
    return flipped.transpose(np.argsort([axis for axis, _ in turns]))


def slant(affine: NDArray[np.float64]) -> float:
    """Degrees between the third voxel axis and the normal of the first two, or by which those two miss a right angle, if that is more."""
    first, second, third = (column / np.linalg.norm(column) for column in np.asarray(affine, dtype=np.float64)[:3, :3].T)
    normal = np.cross(first, second)
    sines = np.linalg.norm(np.cross(normal / np.linalg.norm(normal), third)), abs(first @ second)
    return float(np.degrees(np.arcsin(min(max(sines), 1.0))))
