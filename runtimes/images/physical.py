"""Physical values of a volume, gathered slice by slice: int16 as long as they are whole numbers that fit, else float32.

Owns: Values, `rescaled`. Does not own: where slices and factors come from (scans.py, dicom_series.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_VOXELS = 512 * 512 * 2048
LOW, HIGH = -(1 << 15), (1 << 15) - 1
SMALL = 1 << 14  # factors below it times 16 bits stay within 32


class Values:
    """Slices (count, rows, columns); what is kept depends on the values alone, never on the order in which they come."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.array: NDArray[Any] = np.zeros(shape, np.int16)

    def put(self, place: int, values: NDArray[Any]) -> None:
        """Set one slice (rows, columns) of any numeric type."""
        if self.array.dtype == np.int16 and not _fits(values):
            self.array = self.array.astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # beyond float32: Inf, which is refused where it is used
            self.array[place] = values


def _fits(values: NDArray[Any]) -> bool:
    if values.dtype.kind in "iub" and values.dtype.itemsize == 1:
        return True
    with np.errstate(invalid="ignore"):
        if not (values.min() >= LOW and values.max() <= HIGH):  # NaN is neither
            return False
        return values.dtype.kind in "iu" or bool((values == np.rint(values)).all())


def rescaled(stored: NDArray[Any], slope: float, intercept: float) -> NDArray[Any]:
    """Stored values times slope plus intercept: whole numbers stay whole, all else is worked out in float64."""
    if (slope, intercept) == (1.0, 0.0):
        return stored
    if stored.dtype.kind in "iu" and stored.dtype.itemsize <= 2 and slope == int(slope) and intercept == int(intercept) and (
            abs(slope) < SMALL and abs(intercept) < 1 << 28):
        return stored.astype(np.int32) * np.int32(slope) + np.int32(intercept)
    return stored.astype(np.float64) * slope + intercept
