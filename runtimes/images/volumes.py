"""A volume as a stack of slices: read from NIfTI, cut along an axis, brought to grey levels, thinned out to what a network takes.

Owns: VolumeSpec and `read_volume`. Does not own: how a slice becomes a network's input (images.py), pooling of slices. Slices stand as
radiologists look at them, the patient's right on the left, and run from inferior to superior, posterior to anterior or left to right.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from runtimes.errors import MISSING, UserError
from runtimes.files.schema import list_of, number, object_of, one_of, whole

SUFFIXES = (".nii", ".nii.gz")
MAX_VOXELS = 512 * 512 * 2048
MAX_SLICES = 512
MAX_FILL = 1e30  # float32 holds it, and differences of it
Axis = Literal["axial", "coronal", "sagittal"]
# From RAS+ voxels (x, y, z) to (slice, row, column); rows and columns are reversed afterwards.
ORDER: dict[str, tuple[int, int, int]] = {"axial": (2, 1, 0), "coronal": (1, 2, 0), "sagittal": (0, 2, 1)}


VOLUME = object_of({"slices": whole(0, MAX_SLICES), "axis": one_of(*get_args(Axis)), "scaling": one_of("percentile", "window", "values"),
                    "window": list_of(number(-1e9, 1e9), 2, 2)}, {"fill": number(-MAX_FILL, MAX_FILL), "solid": one_of(True)})


@dataclass(frozen=True)
class VolumeSpec:
    """How a volume becomes grey slices: axis, most slices a network takes (0: as many as there are), and the scaling of intensities.

    percentile: `window` holds two percentiles of the volume itself; window: two intensities, the same for all volumes; values: intensities
    stay what they are, whole numbers of int16 such as HU, for windows inside the network's graph. fill: the intensity that stands for NaN;
    None refuses NaN. solid: the network sees the volume at once, and always as many slices. The JSON form speaks of the last two only
    where they are set.
    """

    slices: int = 0
    axis: Axis = "axial"
    scaling: Literal["percentile", "window", "values"] = "percentile"
    window: tuple[float, float] = (0.5, 99.5)
    fill: float | None = None
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

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> VolumeSpec:
        """Rebuild a spec from its JSON form; unknown or missing keys, other types and values out of range are errors."""
        problem = VOLUME(content, "volume")
        if problem:
            raise UserError(problem)
        return cls(**{**content, "window": tuple(content["window"])})

    def as_dict(self) -> dict[str, Any]:
        """The JSON form; it speaks of a fill only where there is one, so that specs without hash as they always did."""
        usual = {"fill": None, "solid": False}
        plain = {**asdict(self), "window": list(self.window)}
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
        if self.scaling == "values" and np.issubdtype(stack.dtype, np.integer):  # no copy in float32: a CT has 100 million voxels
            return self._whole(stack)
        values = stack.astype(np.float32)
        if self.fill is not None:
            values[np.isnan(values)] = self.fill
        if not np.isfinite(values).all():
            holes = int(np.isnan(values).sum())
            raise UserError("volume holds NaN or Inf; expected finite intensities" + (
                f" (NaN in {holes:,} of {values.size:,} voxels: train with --volume-fill VALUE, such as the intensity of air, which then "
                "stands for NaN on the device too)" if holes else ""))
        if self.scaling == "values":
            return self._whole(values)
        low, high = self.window if self.scaling == "window" else np.percentile(values, self.window).tolist()
        if low >= high:  # next to nothing stands out of a flat volume: its whole range, then
            low, high = float(values.min()), float(values.max())
        if low == high:
            raise UserError(f"volume with the single value {low:g} everywhere; nothing in it can be classified")
        return np.rint(np.clip((values - low) * np.float32(255.0 / (high - low)), 0.0, 255.0)).astype(np.uint8)

    @staticmethod
    def _whole(values: NDArray[Any]) -> NDArray[np.int16]:
        low, high = float(values.min()), float(values.max())
        if low == high:
            raise UserError(f"volume with the single value {low:g} everywhere; nothing in it can be classified")
        if high - low < 16:  # the steps of whole numbers would show
            raise UserError(f"volume of values from {low:g} to {high:g}, which as whole numbers lose too much; --windows is for CT in HU "
                            "and the like: leave it out, or use --volume-window")
        if low < -32768 or high > 32767:
            values = np.clip(values, -32768, 32767)
        return (values if np.issubdtype(values.dtype, np.integer) else np.rint(values)).astype(np.int16, copy=False)

    def read(self, path: Path) -> NDArray[Any]:
        """A NIfTI file as grey slices (D, H, W, 1) along the axis."""
        try:
            return self.levels(self.cut(read_volume(path)))
        except UserError as error:
            if str(path) in str(error):
                raise
            raise UserError(f"{path}: {error}") from None

    def cut(self, volume: NDArray[Any]) -> NDArray[Any]:
        """RAS+ voxels (x, y, z) as a stack of slices (D, H, W), seen as radiologists do."""
        return volume.transpose(ORDER[self.axis])[:, ::-1, ::-1]


def is_volume(path: Path | str) -> bool:
    """Whether a file's name is that of a volume."""
    return str(path).lower().endswith(SUFFIXES)


def read_volume(path: Path) -> NDArray[Any]:
    """Voxels (x, y, z) of a NIfTI file in the nearest RAS+ orientation, scaled as its header says.

    Raises UserError for a missing, damaged or too large file, one that is not one volume, and (exit 5) without nibabel.
    """
    try:
        import nibabel
    except ImportError:
        raise UserError(f"{path}: NIfTI files are read by nibabel, which is missing; pip install 'rd-distill[volume]'", MISSING) from None
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{path}: the file is empty")
        image: Any = nibabel.load(path)
        shape = tuple(int(side) for side in image.shape)
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        if len(shape) != 3:
            raise UserError(f"{path}: shape {tuple(image.shape)}, expected one volume (x, y, z)")
        if int(np.prod(shape)) > MAX_VOXELS:
            raise UserError(f"{path}: {int(np.prod(shape)):,} voxels, the limit is {MAX_VOXELS:,}")
        upright: Any = nibabel.as_closest_canonical(image)
        return np.asarray(upright.dataobj).reshape(upright.shape[:3])
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: cannot be opened (No such file or directory)") from None
    except Exception as error:  # nibabel, gzip and numpy raise many types on damaged files; each means the same to the user
        text = str(error).strip()
        raise UserError(f"{path}: damaged or truncated ({type(error).__name__}{': ' + text.splitlines()[0] if text else ''})") from None
