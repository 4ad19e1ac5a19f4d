"""A volume as a stack of slices: brought to a spacing, cut along an axis, brought to grey levels and a size, thinned out for a network.

Owns: VolumeSpec and `read_volume`. Does not own: reading files (scans.py), resampling (resample.py), how a slice becomes a network's
input (images.py), pooling of slices. Slices stand as radiologists look at them, the patient's right on the left, and run from inferior
to superior, posterior to anterior or left to right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from runtimes.errors import UserError
from runtimes.files.schema import list_of, number, object_of, one_of, whole
from runtimes.images.physical import MAX_VOXELS
from runtimes.images.resample import straightened, to_size, to_spacing
from runtimes.images.scans import Scan, is_nifti, read_scan, scan_name

MAX_SLICES = 512
MIN_SPACING_MM, MAX_SPACING_MM, MAX_SIDE = 0.05, 100.0, 1024
MAX_FILL = 1e30  # float32 holds it, and differences of it
NARROWEST = 16.0  # of physical values, which are whole numbers: in a narrower range their steps would show
Axis = Literal["axial", "coronal", "sagittal"]
# From RAS+ voxels (x, y, z) to (slice, row, column); rows and columns are reversed afterwards.
ORDER: dict[str, tuple[int, int, int]] = {"axial": (2, 1, 0), "coronal": (1, 2, 0), "sagittal": (0, 2, 1)}


VOLUME = object_of({"slices": whole(0, MAX_SLICES), "axis": one_of(*get_args(Axis)), "scaling": one_of("percentile", "window", "values"),
                    "window": list_of(number(-1e9, 1e9), 2, 2)}, {"fill": number(-MAX_FILL, MAX_FILL), "solid": one_of(True),
                                                        "spacing_mm": list_of(number(MIN_SPACING_MM, MAX_SPACING_MM), 3, 3),
                                                        "size": list_of(whole(1, MAX_SIDE), 3, 3)})


@dataclass(frozen=True)
class VolumeSpec:
    """How a volume becomes grey slices: axis, most slices a network takes (0: as many as there are), and the scaling of intensities.

    percentile: `window` holds two percentiles of the volume itself; window: two intensities, the same for all volumes; values: intensities
    stay what they are, whole numbers of int16 such as HU, for windows inside the network's graph. fill: the intensity that stands for NaN;
    None refuses NaN. spacing_mm: that volumes are resampled to, to the right, front and top. size: voxels in these directions that are cut
    out of the middle, after scaling; what lies beyond is black, of values the lowest one. solid: the network sees the volume at once, and
    always as many slices. The JSON form speaks of the last four only where they are set.
    """

    slices: int = 0
    axis: Axis = "axial"
    scaling: Literal["percentile", "window", "values"] = "percentile"
    window: tuple[float, float] = (0.5, 99.5)
    fill: float | None = None
    spacing_mm: tuple[float, float, float] | None = None
    size: tuple[int, int, int] | None = None
    solid: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.slices <= MAX_SLICES:
            raise UserError(f"{self.slices} slices a volume; expected 1 to {MAX_SLICES}")
        if self.axis not in get_args(Axis) or self.scaling not in ("percentile", "window", "values"):
            raise UserError(f"volume axis {self.axis!r}, scaling {self.scaling!r}; expected one of {', '.join(get_args(Axis))}, and "
                            "percentile, window or values")
        if not self.window[0] < self.window[1]:
            raise UserError(f"volume window {self.window} is empty; expected low < high")
        if self.fill is not None and not abs(self.fill) <= MAX_FILL:
            raise UserError(f"volume fill {self.fill!r}; expected an intensity between -{MAX_FILL:g} and {MAX_FILL:g}")
        if self.spacing_mm is not None and not all(MIN_SPACING_MM <= side <= MAX_SPACING_MM for side in self.spacing_mm):
            raise UserError(f"volume spacing {self.spacing_mm}; expected {MIN_SPACING_MM:g} to {MAX_SPACING_MM:g} mm in each direction")
        if self.size is not None and not all(1 <= side <= MAX_SIDE for side in self.size):
            raise UserError(f"volume size {self.size}; expected 1 to {MAX_SIDE} voxels in each direction")

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> VolumeSpec:
        """Rebuild a spec from its JSON form; unknown or missing keys, other types and values out of range are errors."""
        problem = VOLUME(content, "volume")
        if problem:
            raise UserError(problem)
        values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """The JSON form; of what is optional it speaks only where it is set, so that specs without hash as they always did."""
        usual = {"fill": None, "spacing_mm": None, "size": None, "solid": False}
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {key: value for key, value in plain.items() if key not in usual or value != usual[key]}

    def places(self, depth: int) -> NDArray[np.int64]:
        """Which of `depth` slices the network sees: all, or as many as it takes, evenly spread from first to last."""
        if self.slices == 0 or depth <= self.slices:
            return np.arange(depth)
        return np.rint(np.linspace(0, depth - 1, self.slices)).astype(np.int64)

    def levels(self, stack: NDArray[Any]) -> NDArray[Any]:
        """A stack (D, H, W) or (D, H, W, 1) of intensities as grey levels (D, H, W, 1), uint8, or as values, int16.

        UserError for NaN, or nothing to see.
        """
        stack = stack[..., None] if stack.ndim == 3 else stack
        if stack.ndim != 4 or stack.shape[3] != 1 or 0 in stack.shape:
            raise UserError(f"volume of shape {stack.shape}, expected (slices, height, width)")
        if stack.size > MAX_VOXELS:
            raise UserError(f"volume of {stack.size:,} voxels, the limit is {MAX_VOXELS:,}")
        if not (np.issubdtype(stack.dtype, np.integer) or np.issubdtype(stack.dtype, np.floating)):
            raise UserError(f"volume of dtype {stack.dtype}, expected numbers")
        if self.scaling == "window" and self.window == (0.0, 255.0) and stack.dtype == np.uint8:
            return stack
        stack = self._without_nan(stack)
        if stack.dtype.kind == "f" and not all(np.isfinite(plane.astype(np.float32)).all() for plane in stack):
            holes = int(np.isnan(stack).sum())
            raise UserError("volume holds NaN or Inf; expected finite intensities" + (
                f" (NaN in {holes:,} of {stack.size:,} voxels: train with --volume-fill VALUE, such as the intensity of air, which then "
                "stands for NaN on the device too)" if holes else ""))
        if self.scaling == "values":
            return _whole(stack)
        low, high = self.window if self.scaling == "window" else np.percentile(
            np.array(stack, dtype=np.float32, order="C"), self.window, overwrite_input=True).tolist()
        if low >= high:  # next to nothing stands out of a flat volume: its whole range, then
            low, high = float(np.float32(stack.min())), float(np.float32(stack.max()))
        if low == high:
            raise UserError(f"volume with the single value {low:g} everywhere; nothing in it can be classified")
        grey = np.empty(stack.shape, np.uint8)
        for place, plane in enumerate(stack):  # slice by slice: as numbers a volume would take four times its memory
            values = plane.astype(np.float32)
            grey[place] = np.rint(np.clip((values - low) * np.float32(255.0 / (high - low)), 0.0, 255.0))
        return grey

    def read(self, item: Path | Sequence[Path]) -> NDArray[Any]:
        """A file, a folder of one DICOM series, or its files, as grey slices (D, H, W, 1) along the axis."""
        return self.of_scan(read_scan(item), scan_name(item))

    def of_scan(self, scan: Scan, name: Path | str = "") -> NDArray[Any]:
        """A scan as grey slices (D, H, W, 1) along the axis; `name` is what messages begin with."""
        try:
            values = self._without_nan(scan.values)
            if any(scan.shift) and (self.spacing_mm is not None or self.size is not None or ORDER[self.axis][0] != scan.across):
                values = straightened(values, scan.across, scan.shift)
            if self.spacing_mm is not None:
                values = to_spacing(values, scan.spacing_mm, self.spacing_mm)
            return self._sized(self.levels(self.cut(values)))
        except UserError as error:
            if not str(name) or str(name) in str(error):
                raise
            raise UserError(f"{name}: {error}") from None

    def of_array(self, stack: NDArray[Any]) -> NDArray[Any]:
        """A stack (D, H, W) or (D, H, W, 1) of intensities along the axis as grey slices; UserError where a spacing is asked for."""
        if self.spacing_mm is not None:
            raise UserError(f"a volume in an array says nothing of its spacing, and this one is to have {self.spacing_mm} mm; give a NIfTI "
                            "file or DICOM, or a runtimes.images.scans.Scan with its spacing_mm")
        return self._sized(self.levels(stack))

    def _without_nan(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values in which `fill` stands for NaN, for neighbours would take it over; without one they are as they were."""
        if values.dtype.kind != "f" or self.fill is None:
            return values
        holes = np.isnan(values)
        return np.where(holes, np.float32(self.fill), values) if holes.any() else values

    def _sized(self, stack: NDArray[Any]) -> NDArray[Any]:
        """Grey slices (D, H, W, 1) with the middle of the volume, `size` voxels of it, black around."""
        if self.size is None:
            return stack
        upright = stack[:, ::-1, ::-1, 0].transpose(np.argsort(ORDER[self.axis]))  # (x, y, z): where the middle is depends on it
        return self.cut(to_size(upright, self.size, int(stack.min()) if self.scaling == "values" else 0))[..., None]

    def cut(self, volume: NDArray[Any]) -> NDArray[Any]:
        """RAS+ voxels (x, y, z) as a stack of slices (D, H, W), seen as radiologists do."""
        return volume.transpose(ORDER[self.axis])[:, ::-1, ::-1]


def _whole(stack: NDArray[Any]) -> NDArray[np.int16]:
    """Intensities as whole numbers; a copy only where they are none yet: a CT has 100 million voxels."""
    low, high = float(stack.min()), float(stack.max())
    if low == high:
        raise UserError(f"volume with the single value {low:g} everywhere; nothing in it can be classified")
    if high - low < NARROWEST:
        raise UserError(f"volume of values from {low:g} to {high:g}, which as whole numbers lose too much; --windows is for CT in HU and "
                        "the like: leave it out, or use --volume-window")
    if low < -32768 or high > 32767:
        stack = np.clip(stack, -32768, 32767)
    return (stack if np.issubdtype(stack.dtype, np.integer) else np.rint(stack)).astype(np.int16, copy=False)


def is_volume(path: Path | str) -> bool:
    """Whether a file's name is that of a volume; DICOM does not say so by its name."""
    return is_nifti(path)


def read_volume(item: Path | Sequence[Path]) -> NDArray[Any]:
    """Voxels (x, y, z) of a file, a folder of one DICOM series or its files, as `read_scan` gives them."""
    return read_scan(item).values
