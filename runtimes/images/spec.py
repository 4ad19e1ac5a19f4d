"""The one rule from a raw image to what a network sees.

Owns: ImageSpec (dtype, window, channels, resize, mean, std) and read_image. A volume is an image of several slices, (D, H, W, C): every
slice goes the way of an image, and missing ones are zeros. Does not own: decoding files (decode.py), cutting volumes (volumes.py),
augmentation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from runtimes.errors import UserError
from runtimes.files.schema import list_of, number, object_of, one_of, whole
from runtimes.images.decode import decode
from runtimes.images.volumes import VOLUME, VolumeSpec

LUMA = np.asarray([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as Pillow's "L"


@lru_cache(maxsize=64)
def resize_matrix(source: int, target: int) -> NDArray[np.float32]:
    """Rows that resize a length `source` to `target` by antialiased bilinear filtering, (target, source).

    The same weights as torch's `interpolate(mode="bilinear", antialias=True, align_corners=False)`.
    """
    scale = source / target
    support = max(scale, 1.0)
    centres = (np.arange(target, dtype=np.float64) + 0.5) * scale
    offsets = (np.arange(source, dtype=np.float64)[None, :] + 0.5 - centres[:, None]) / support
    weights = np.clip(1.0 - np.abs(offsets), 0.0, None)
    matrix = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    matrix.setflags(write=False)
    return matrix


# What the JSON form of a spec holds.
LEVEL = number(-1e6, 1e6)
SPEC = object_of(
    {"height": whole(8, 4096), "width": whole(8, 4096), "channels": one_of(1, 3), "dtype": one_of("uint8", "uint16"),
     "window": list_of(LEVEL, 2, 2), "mean": list_of(number(-1e3, 1e3), 3, 3), "std": list_of(number(1e-4, 1e4), 3, 3)},
    {"volume": VOLUME})


@dataclass(frozen=True)
class ImageSpec:
    """How a raw image becomes a network's input: level = clip((raw - low) / (high - low)), resize, (level - mean) / std."""

    height: int
    width: int
    channels: Literal[1, 3] = 1
    dtype: Literal["uint8", "uint16"] = "uint8"
    window: tuple[float, float] = (0.0, 255.0)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    volume: VolumeSpec | None = None

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 8 or max(self.height, self.width) > 4096:
            raise UserError(f"model size {self.height}x{self.width} is outside 8 to 4096 pixels a side")
        if not self.window[0] < self.window[1] or self.window[1] - self.window[0] < 1e-6:  # narrower, the scale would overflow
            raise UserError(f"window {self.window} is empty; expected low < high")
        if min(self.std) <= 0:
            raise UserError(f"std {self.std} must be above 0")

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> ImageSpec:
        """Rebuild a spec from its JSON form; unknown or missing keys, other types and values out of range are errors."""
        problem = SPEC(content, "image")
        if problem:
            raise UserError(problem)
        values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
        return cls(**{**values, **({"volume": VolumeSpec.from_dict(content["volume"])} if "volume" in content else {})})

    def as_dict(self) -> dict[str, Any]:
        """The JSON form; it speaks of volumes only where there are some."""
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items() if key != "volume"}
        return plain if self.volume is None else {**plain, "volume": self.volume.as_dict()}

    @property
    def slices(self) -> int:
        """Slices of a volume that the network takes; 0 for plain images."""
        return 0 if self.volume is None else self.volume.slices

    def slices_of(self, raw: NDArray[Any]) -> int:
        """How many of the network's slices a raw volume fills; 1 for an image."""
        return 1 if self.volume is None else len(self.volume.places(len(raw)))

    def each(self, raw: NDArray[Any], make: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
        """What `make` makes of every slice of a raw volume that the network sees, the rest of (S, h, w, C) zeros."""
        assert self.volume is not None
        slices = [make(raw[place]) for place in self.volume.places(len(raw)).tolist()]
        stack = np.zeros((self.volume.slices, *slices[0].shape), dtype=slices[0].dtype)
        stack[:len(slices)] = slices
        return stack

    def channelled(self, raw: NDArray[Any]) -> NDArray[Any]:
        """Give a raw image (H, W, C) the spec's number of channels: grey is repeated, colour is weighed to luma."""
        channels = raw.shape[-1]
        if channels == self.channels:
            return raw
        if self.channels == 3:
            return np.repeat(raw, 3, axis=-1)
        if (raw[..., 0] == raw[..., 1]).all() and (raw[..., 0] == raw[..., 2]).all():
            return np.ascontiguousarray(raw[..., :1])
        return np.rint(raw.astype(np.float32) @ LUMA)[..., None].astype(raw.dtype)

    def levels(self, raw: NDArray[Any]) -> NDArray[np.float32]:
        """Windowed grey levels 0 to 255 of a raw image, float32, same shape."""
        low, high = self.window
        if (low, high) == (0.0, 255.0) and raw.dtype == np.uint8:
            return raw.astype(np.float32)
        return np.clip((raw.astype(np.float32) - low) * np.float32(255.0 / (high - low)), 0.0, 255.0)

    def resized(self, raw: NDArray[Any]) -> NDArray[Any]:
        """A raw image (H, W, C) at model size, same dtype: the resize a device applies before the graph; volumes slice by slice."""
        if raw.ndim == 4:
            return self.each(raw, self.resized)
        height, width, _ = raw.shape
        if (height, width) == (self.height, self.width):
            return raw
        clipped = np.clip(raw.astype(np.float32), *self.window)  # clip, then filter: the order of `stored` and of the graph
        return np.rint(self._filter(clipped)).astype(raw.dtype)

    def stored(self, raw: NDArray[Any]) -> NDArray[np.uint8]:
        """Model-size grey levels as uint8 (height, width, channels): what training keeps of an image; volumes slice by slice."""
        if raw.ndim == 4:
            return self.each(raw, self.stored)
        levels = self.levels(self.channelled(raw))
        if levels.shape[:2] != (self.height, self.width):
            levels = self._filter(levels)
        return np.rint(levels).astype(np.uint8)

    def normalised(self, levels: NDArray[Any]) -> NDArray[np.float32]:
        """Grey levels (..., h, w, C) to network input (..., 3, h, w), float32."""
        unit = levels.astype(np.float32) / np.float32(255.0)
        shifted = (unit - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(np.moveaxis(shifted, -1, -3))

    def _filter(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        height, width, channels = image.shape
        rows, columns = resize_matrix(height, self.height), resize_matrix(width, self.width)
        narrow = (rows @ image.reshape(height, width * channels)).reshape(self.height, width, channels)
        return np.einsum("xw,hwc->hxc", columns, narrow, optimize=True)


def read_image(item: Path | NDArray[Any], volume: VolumeSpec | None = None) -> NDArray[Any]:
    """A file or array as a raw array: an image (H, W, C), or a volume as grey slices (D, H, W, 1); images in arrays are what they are."""
    if not isinstance(item, Path):
        return item if volume is None else volume.levels(item)
    return decode(item) if volume is None else volume.read(item)
