"""The one rule from a raw image to what a network sees.

Owns: ImageSpec (dtype, windows, channels, resize, mean, std) and read_image. A volume is an image of several slices, (D, H, W, C): every
slice goes the way of an image and missing ones are zeros, or, where the network sees the volume at once, all are resized to as many as
it takes. Does not own: decoding files (decode.py), cutting volumes (volumes.py), named windows (windows.py), augmentation.
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
from runtimes.images.scans import scan_name
from runtimes.images.volumes import NARROWEST, VOLUME, VolumeSpec
from runtimes.images.windows import MOST_WINDOWS

LUMA = np.asarray([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as Pillow's "L"


Item = Path | tuple[Path, ...] | NDArray[Any]  # an image or volume: a file, a folder of one series, the files of one, an array
Fit = Literal["squash", "crop", "pad"]
Filter = Literal["bilinear", "bicubic"]


@lru_cache(maxsize=64)
def resize_matrix(source: int, target: int, interpolation: Filter = "bilinear") -> NDArray[np.float32]:
    """Rows that resize a length `source` to `target` by antialiased filtering, (target, source).

    The same weights as torch's `interpolate(mode=..., antialias=True, align_corners=False)` and Pillow's, whose bicubic has a = -0.5.
    """
    scale = source / target
    reach = max(scale, 1.0)
    centres = (np.arange(target, dtype=np.float64) + 0.5) * scale
    offsets = np.abs((np.arange(source, dtype=np.float64)[None, :] + 0.5 - centres[:, None]) / reach)
    if interpolation == "bilinear":
        weights = np.clip(1.0 - offsets, 0.0, None)
    else:
        near = (1.5 * offsets - 2.5) * offsets**2 + 1.0
        far = ((-0.5 * offsets + 2.5) * offsets - 4.0) * offsets + 2.0
        weights = np.where(offsets < 1.0, near, np.where(offsets < 2.0, far, 0.0))
    matrix = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    matrix.setflags(write=False)
    return matrix


@lru_cache(maxsize=64)
def placed_matrix(source: int, between: int, target: int, interpolation: Filter = "bilinear") -> NDArray[np.float32]:
    """Rows that resize `source` to `between` and take the middle `target` of it, or set it in the middle of zeros, (target, source)."""
    whole = resize_matrix(source, between, interpolation)
    first = (between - target) // 2  # as transformers' centre crops begin
    if between >= target:
        return whole[first:first + target]
    matrix = np.zeros((target, source), dtype=np.float32)
    matrix[-first:between - first] = whole
    matrix.setflags(write=False)
    return matrix


# What the JSON form of a spec holds.
LEVEL = number(-1e6, 1e6)
SPEC = object_of(
    {"height": whole(8, 4096), "width": whole(8, 4096), "channels": one_of(1, 3), "dtype": one_of("uint8", "uint16", "int16"),
     "window": list_of(LEVEL, 2, 2), "mean": list_of(number(-1e3, 1e3), 3, 3), "std": list_of(number(1e-4, 1e4), 3, 3)},
    {"windows": list_of(list_of(LEVEL, 2, 2), 2, MOST_WINDOWS), "volume": VOLUME, "fit": one_of("squash", "crop", "pad"),
     "edge": whole(8, 8192), "interpolation": one_of("bilinear", "bicubic")})


@dataclass(frozen=True)
class ImageSpec:
    """How a raw image becomes a network's input: level = clip((raw - low) / (high - low)), resize, (level - mean) / std.

    fit: an image of another shape is squashed; or its shortest side comes to the model's size and the middle is cropped; or its longest
    side comes to the model's size and black is put around it. edge: squash, or bring the shortest side, to this larger size first, and
    crop the middle out of that, as the authors of some teachers do. dtype int16: physical values, such as HU, which are resized first and
    windowed then, on the device, too. windows: two or three of them, a channel each (the last twice where there are two); `window` spans
    them all.
    """

    height: int
    width: int
    channels: Literal[1, 3] = 1
    dtype: Literal["uint8", "uint16", "int16"] = "uint8"
    window: tuple[float, float] = (0.0, 255.0)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    volume: VolumeSpec | None = None
    fit: Fit = "squash"
    edge: int | None = None
    interpolation: Filter = "bilinear"
    windows: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 8 or max(self.height, self.width) > 4096:
            raise UserError(f"model size {self.height}x{self.width} is outside 8 to 4096 pixels a side")
        if not self.window[0] < self.window[1] or self.window[1] - self.window[0] < 1e-6:  # narrower, the scale would overflow
            raise UserError(f"window {self.window} is empty; expected low < high")
        if self.physical and any(high - low < NARROWEST for low, high in (self.window, *self.windows)):
            raise UserError(f"windows {self.windows or self.window} of physical values; expected {NARROWEST:g} units from low to high, at "
                            "least: the values are whole numbers")
        if self.windows and (not self.physical or self.channels != 1 or not 2 <= len(self.windows) <= MOST_WINDOWS or self.window != (
                min(low for low, _ in self.windows), max(high for _, high in self.windows))):
            raise UserError(f"windows {self.windows} with window {self.window}, dtype {self.dtype} and {self.channels} channels; expected "
                            "two or three windows of int16 values in one channel, and the window that spans them")
        if min(self.std) <= 0:
            raise UserError(f"std {self.std} must be above 0")
        if self.edge is not None and (self.fit == "pad" or self.height != self.width or self.edge < self.height):
            raise UserError(f"edge {self.edge} is for a square crop out of no fewer pixels, found {self.height}x{self.width} pixels and "
                            f"fit {self.fit}")

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> ImageSpec:
        """Rebuild a spec from its JSON form; unknown or missing keys, other types and values out of range are errors."""
        problem = SPEC(content, "image")
        if problem:
            raise UserError(problem)
        values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
        if "windows" in values:
            values["windows"] = tuple((float(low), float(high)) for low, high in values["windows"])
        return cls(**{**values, **({"volume": VolumeSpec.from_dict(content["volume"])} if "volume" in content else {})})

    def as_dict(self) -> dict[str, Any]:
        """The JSON form; of volumes and of a fit it speaks only where there is one."""
        usual = {"volume": None, "fit": "squash", "edge": None, "interpolation": "bilinear", "windows": ()}
        plain = {key: list(map(list, value)) if key == "windows" else list(value) if isinstance(value, tuple) else value
                 for key, value in asdict(self).items() if key not in usual or value != usual[key]}
        return plain if self.volume is None else {**plain, "volume": self.volume.as_dict()}

    @property
    def slices(self) -> int:
        """Slices of a volume that the network takes; 0 for plain images."""
        return 0 if self.volume is None else self.volume.slices

    @property
    def masked(self) -> bool:
        """Whether the network takes the slices of a volume one by one, and a mask of those that are there."""
        return self.volume is not None and not self.volume.solid

    @property
    def physical(self) -> bool:
        """Whether raw images hold physical values, such as HU, and no grey levels."""
        return self.dtype == "int16"

    @property
    def levels_channels(self) -> int:
        """Channels of the grey levels: those of the raw image, or three of several windows."""
        return 3 if self.windows else self.channels

    @property
    def channel_windows(self) -> tuple[tuple[float, float], ...]:
        """The window of each of three channels, of two the last twice; or the one of all channels."""
        return (*self.windows, *self.windows[-1:])[:3] or (self.window,)

    def read(self, item: Item) -> NDArray[Any]:
        """A file or array as the raw array that this spec is about; see read_image."""
        return read_image(item, self.volume, self.physical)

    def slices_of(self, raw: NDArray[Any]) -> int:
        """How many of the network's slices a raw volume fills; 1 for an image."""
        return 1 if self.volume is None else self.slices if self.volume.solid else len(self.volume.places(len(raw)))

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
        """Windowed grey levels 0 to 255 of a raw image, float32, same shape, of several windows with a channel each."""
        if self.windows:
            return np.concatenate([_shown(raw, *window) for window in self.channel_windows], axis=-1)
        low, high = self.window
        if (low, high) == (0.0, 255.0) and raw.dtype == np.uint8:
            return raw.astype(np.float32)
        return _shown(raw, low, high)

    def resized(self, raw: NDArray[Any]) -> NDArray[Any]:
        """A raw image (H, W, C) at model size, same dtype: the resize a device applies before the graph; volumes slice by slice.

        A volume that the network sees at once is resized along its slices, too.
        """
        if raw.ndim == 4 and self.masked:
            return self.each(raw, self.resized)
        if self._ready(raw):
            return raw
        low, high = self.window
        ground = np.float32(low if self.fit == "pad" else 0.0)  # around it: black
        # Clip, then filter: the order of `stored` and of the graph.
        filtered = self._filtered(raw, lambda plane: np.clip(plane.astype(np.float32), low, high) - ground) + ground
        if self.interpolation == "bicubic":  # which overshoots
            filtered = np.clip(filtered, low, high)
        return np.rint(filtered).astype(raw.dtype)

    def stored(self, raw: NDArray[Any]) -> NDArray[np.uint8]:
        """Model-size grey levels as uint8 (height, width, channels): what training keeps of an image; volumes slice by slice."""
        if raw.ndim == 4 and self.masked:
            return self.each(raw, self.stored)
        if self.physical:
            return np.rint(self.levels(self.resized(self.channelled(raw)))).astype(np.uint8)
        if self._ready(raw):
            return np.rint(self.levels(self.channelled(raw))).astype(np.uint8)
        levels = self._filtered(raw, lambda plane: self.levels(self.channelled(plane)))
        if self.interpolation == "bicubic":  # which overshoots
            levels = np.clip(levels, 0.0, 255.0)
        return np.rint(levels).astype(np.uint8)

    def normalised(self, levels: NDArray[Any]) -> NDArray[np.float32]:
        """Grey levels (..., h, w, C) to network input (..., 3, h, w), float32."""
        unit = levels.astype(np.float32) / np.float32(255.0)
        shifted = (unit - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(np.moveaxis(shifted, -1, -3))

    def keeps(self, height: int, width: int) -> bool:
        """Whether an image of this size is taken as it is."""
        return (height, width) == (self.height, self.width) and self.edge in (None, self.height)

    def between(self, height: int, width: int) -> tuple[int, int]:
        """The size that an image is resized to before it is cropped or padded to the model's."""
        if self.fit == "squash":
            return self.edge or self.height, self.edge or self.width
        if self.fit == "crop" and self.height == self.width:  # as torchvision and transformers count: the long side rounded down
            edge = self.edge or self.height
            return (edge, int(edge * width / height)) if height <= width else (int(edge * height / width), edge)
        scales = self.height / height, self.width / width
        scale = max(scales) if self.fit == "crop" else min(scales)
        return max(round(scale * height), 1), max(round(scale * width), 1)

    def matrices(self, height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What brings an image of this size to the model's: rows (self.height, height) and columns (self.width, width)."""
        tall, wide = self.between(height, width)
        return (placed_matrix(height, tall, self.height, self.interpolation), placed_matrix(width, wide, self.width, self.interpolation))

    def _ready(self, raw: NDArray[Any]) -> bool:
        """Whether an image, or a volume that is seen at once, has the size that the network takes."""
        return self.keeps(*raw.shape[-3:-1]) and (raw.ndim == 3 or len(raw) == self.slices)

    def _filtered(self, raw: NDArray[Any], prepare: Callable[[NDArray[Any]], NDArray[np.float32]]) -> NDArray[np.float32]:
        """A prepared image at model size; a volume plane by plane, so that it never stands in memory as floats, then along its slices."""
        if raw.ndim == 3:
            return self._filter(prepare(raw))
        planes = np.stack([prepare(plane) if self.keeps(*plane.shape[:2]) else self._filter(prepare(plane)) for plane in raw])
        return np.tensordot(resize_matrix(len(raw), self.slices, self.interpolation), planes, 1)

    def _filter(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        height, width, channels = image.shape
        rows, columns = self.matrices(height, width)
        narrow = (rows @ image.reshape(height, width * channels)).reshape(self.height, width, channels)
        return np.einsum("xw,hwc->hxc", columns, narrow, optimize=True)


def _shown(raw: NDArray[Any], low: float, high: float) -> NDArray[np.float32]:
    return np.clip((raw.astype(np.float32) - low) * np.float32(255.0 / (high - low)), 0.0, 255.0)


def read_image(item: Item, volume: VolumeSpec | None = None, values: bool = False) -> NDArray[Any]:
    """A file or array as a raw array: an image (H, W, C), or a volume as slices (D, H, W, 1); images in arrays are what they are.

    values: of an image file its physical values, int16, in place of display levels; of volumes `volume` says it.
    """
    if isinstance(item, np.ndarray):
        return item if volume is None else volume.of_array(item)
    if volume is not None:
        return volume.read(item)
    if isinstance(item, tuple):
        raise UserError(f"{scan_name(item)}: {len(item):,} files are one volume, and this reads images; give them one by one")
    return decode(item, values=values)
