"""Volumes brought to a spacing, and cropped or padded to a size, as MONAI's transforms do, in numpy; tilted ones straightened.

Owns: `to_spacing`, `to_size`, `straightened`. Does not own: where spacings come from (scans.py), what is asked for (volumes.py).
The rule of `to_spacing` is that of MONAI's `Spacing(mode="bilinear", padding_mode="border")`: the first voxels' centres stay where they
are, values between are interpolated linearly along each axis, nothing is smoothed before (no antialias), beyond the edge it repeats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.errors import UserError
from runtimes.images.physical import MAX_VOXELS

EQUAL_MM = 1e-3  # spacings this close are left alone
CHUNK = 1 << 24  # voxels worked on at once


def to_spacing(values: NDArray[Any], spacing_mm: Sequence[float], wanted_mm: Sequence[float]) -> NDArray[Any]:
    """Voxels (x, y, z) at another spacing, float32; the same array where it has that spacing. UserError where the result is too large."""
    steps = [1.0 if abs(old - new) <= EQUAL_MM else new / old for old, new in zip(spacing_mm, wanted_mm, strict=True)]
    if all(step == 1.0 for step in steps):
        return values
    shape = [int(np.round((side - 1) / step + 1.0)) for side, step in zip(values.shape, steps, strict=True)]
    if np.prod(shape, dtype=float) > MAX_VOXELS:
        size = " x ".join(map(str, shape))
        raise UserError(f"volume of {size} voxels at a spacing of {' x '.join(f'{side:g}' for side in wanted_mm)} mm, the limit is "
                        f"{MAX_VOXELS:,}; ask for wider steps")
    x, y, z = (_line(np.arange(target) * step, side) for side, target, step in zip(values.shape, shape, steps, strict=True))
    out = np.empty(shape[::-1], dtype=np.float32).transpose(2, 1, 0)
    plane = max(values.shape[0] * values.shape[1], shape[0] * shape[1])
    count = max(int(CHUNK / plane / max(steps[2], 1.0)), 1)
    for start in range(0, shape[2], count):
        part = slice(start, start + count)
        before, after = z[0][part], z[1][part]
        first = int(before.min())
        block = values[:, :, first:int(after.max()) + 1].astype(np.float32)
        out[:, :, part] = _along(_along(_along(block, 2, (before - first, after - first, z[2][part])), 1, y), 0, x)
    return out


Line = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]


def _line(at: NDArray[Any], source: int) -> Line:
    """For each new voxel of an axis, at places among the old ones: those before and after it, and the share of the latter."""
    at = np.clip(at, 0.0, source - 1.0)
    before = np.floor(at).astype(np.int64)
    return before, np.minimum(before + 1, source - 1), (at - before).astype(np.float32)


def _along(block: NDArray[np.float32], axis: int, line: Line) -> NDArray[np.float32]:
    before, after, share = line
    if len(before) == block.shape[axis] and not share.any() and bool((before == np.arange(len(before))).all()):
        return block
    shaped = share.reshape([-1 if place == axis else 1 for place in range(3)])
    low = block.take(before, axis)
    return low + (block.take(after, axis) - low) * shaped


def straightened(values: NDArray[Any], across: int, shift: Sequence[float]) -> NDArray[Any]:
    """Voxels (x, y, z) whose slices along `across` lie each `shift` voxels further than the one before, shifted back, same dtype.

    The field grows so that nothing is lost; around it is the lowest value. Within a slice values are interpolated linearly.
    """
    count, lowest = values.shape[across], values.min()
    axes = [axis for axis in range(3) if axis != across and abs(shift[axis]) * (count - 1) > 1e-3]
    shape, origins = list(values.shape), [0.0, 0.0, 0.0]
    for axis in axes:
        shape[axis] += int(np.ceil(abs(shift[axis]) * (count - 1)))
        origins[axis] = float(np.floor(min(shift[axis] * (count - 1), 0.0)))
    if np.prod(shape, dtype=float) > MAX_VOXELS:
        raise UserError(f"volume of {' x '.join(map(str, shape))} voxels once its slices are shifted back, the limit is {MAX_VOXELS:,}")
    out = np.empty(shape[::-1], dtype=values.dtype).transpose(2, 1, 0)
    rim = [(1, 1) if axis in axes else (0, 0) for axis in range(3)]  # of the lowest value, which edges fade to
    for place in range(count):
        at = tuple(slice(place, place + 1) if axis == across else slice(None) for axis in range(3))
        plane = np.pad(values[at].astype(np.float32), rim, constant_values=lowest)
        for axis in axes:
            side = plane.shape[axis]
            plane = _along(plane, axis, _line(np.arange(shape[axis]) + origins[axis] - place * shift[axis] + 1.0, side))
        out[at] = plane if values.dtype.kind == "f" else np.rint(plane)
    return out


def to_size(values: NDArray[Any], size: Sequence[int], fill: float) -> NDArray[Any]:
    """Voxels (x, y, z) cropped about the middle, and where they are fewer padded about it, to `size`; as MONAI's ResizeWithPadOrCrop."""
    crops, pads = [], []
    for side, target in zip(values.shape, size, strict=True):
        start = max(side // 2 - target // 2, 0) if target < side else 0
        crops.append(slice(start, start + min(side, target)))
        missing = max(target - side, 0)
        pads.append((missing // 2, missing - missing // 2))
    cropped = values[tuple(crops)]
    return np.pad(cropped, pads, constant_values=fill) if any(map(any, pads)) else cropped
