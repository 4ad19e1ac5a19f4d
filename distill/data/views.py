"""Views of an image: crop, flip and small rotation as one affine matrix, and the photometric changes of training.

Owns: ViewSpec, the deterministic views of the bank, the fresh views of a training step, applying both.
Does not own: decoding, resizing to model size, what is cached.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from runtimes.images.spec import ImageSpec


@dataclass(frozen=True)
class ViewSpec:
    """Ranges of a view: side of the crop (share of the image), aspect, probability of a mirror image, rotation.

    solid: of volumes that every network of the run sees at once: the crop has a depth, too.
    """

    crop: tuple[float, float] = (0.7, 1.0)
    aspect: float = 1.15
    flip: float = 0.5
    rotation_deg: float = 8.0
    solid: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The JSON form; it speaks of `solid` only where it is set."""
        return {key: value for key, value in {**asdict(self), "crop": list(self.crop)}.items() if key != "solid" or value}


IDENTITY = np.asarray([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=np.float32)


def draw_views(spec: ViewSpec, count: int, generator: np.random.Generator) -> NDArray[np.float32]:
    """Draw affine matrices (count, 2, 3), of solid views (count, 3, 4), from output to input coordinates, as torch's `affine_grid` does."""
    draws = generator.random((count, 8 if spec.solid else 6))
    side = spec.crop[0] + (spec.crop[1] - spec.crop[0]) * draws[:, 0]
    stretch = np.exp((2 * draws[:, 1] - 1) * np.log(spec.aspect) / 2)
    width, height = np.minimum(side * stretch, 1.0), np.minimum(side / stretch, 1.0)
    angle = np.deg2rad(spec.rotation_deg) * (2 * draws[:, 2] - 1)
    mirror = np.where(draws[:, 3] < spec.flip, -1.0, 1.0)
    across, down = (1 - width) * (2 * draws[:, 4] - 1), (1 - height) * (2 * draws[:, 5] - 1)
    cosine, sine = np.cos(angle), np.sin(angle)
    rows = [np.stack([mirror * width * cosine, -height * sine, across], axis=1),
            np.stack([mirror * width * sine, height * cosine, down], axis=1)]
    matrices = np.stack(rows, axis=1)
    if not spec.solid:
        return matrices.astype(np.float32)
    solid = np.zeros((count, 3, 4))
    solid[:, :2, :2], solid[:, :2, 3] = matrices[:, :, :2], matrices[:, :, 2]
    solid[:, 2, 2] = spec.crop[0] + (spec.crop[1] - spec.crop[0]) * draws[:, 6]
    solid[:, 2, 3] = (1 - solid[:, 2, 2]) * (2 * draws[:, 7] - 1)
    return solid.astype(np.float32)


def bank_views(spec: ViewSpec, seed: int, image_hash: str, count: int) -> NDArray[np.float32]:
    """The views 0..count of one image (count + 1, 2, 3): view 0 is clean, view v depends on seed, image and v alone."""
    views = [np.eye(3, 4, dtype=np.float32) if spec.solid else IDENTITY]
    for view in range(1, count + 1):
        digest = hashlib.sha256(f"{seed}/{image_hash}/{view}".encode()).digest()
        generator = np.random.Generator(np.random.Philox(int.from_bytes(digest[:16], "little")))
        views.append(draw_views(spec, 1, generator)[0])
    return np.stack(views)


def warp(pixels: Tensor, matrices: Tensor) -> Tensor:
    """Apply affine views to pixels (B, C, h, w), bilinear, the border repeated; (B, 2, 3) matrices.

    Slices of volumes, (B, S, C, h, w), all move alike by such matrices; by (B, 3, 4) they move as a solid.
    """
    if matrices.shape[1] == 3:
        solid = pixels.transpose(1, 2)
        grid = F.affine_grid(matrices, list(solid.shape), align_corners=False)
        return F.grid_sample(solid, grid, mode="bilinear", padding_mode="border", align_corners=False).transpose(1, 2)
    if pixels.ndim == 5:
        count, slices = pixels.shape[:2]
        return warp(pixels.flatten(0, 1), matrices.repeat_interleave(slices, 0)).unflatten(0, (count, slices))
    grid = F.affine_grid(matrices, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)


def photometric(unit: Tensor, generator: np.random.Generator, noise: float = 0.02) -> Tensor:
    """Random contrast (0.75 to 1.3), brightness (+-0.12) and noise on levels 0 to 1, (B, C, h, w), drawn per image."""
    count = unit.shape[0]
    draws = torch.from_numpy(generator.random((3, count, 1, 1, 1)).astype(np.float32)).to(unit.device)
    contrast = 0.75 + 0.55 * draws[0]
    brightness = 0.24 * draws[1] - 0.12
    mean = unit.mean(dim=(1, 2, 3), keepdim=True)
    source = torch.Generator().manual_seed(int(generator.integers(2**62)))
    grain = torch.randn(unit.shape, generator=source).to(unit.device)
    return torch.addcmul(torch.addcmul(mean * (1 - contrast) + brightness, unit, contrast), grain, noise * draws[2])


def normalise(unit: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Levels 0 to 1 (..., 1 or 3, h, w) to network input (..., 3, h, w)."""
    shift = torch.tensor(mean, dtype=unit.dtype, device=unit.device).view(3, 1, 1)
    scale = torch.tensor(std, dtype=unit.dtype, device=unit.device).view(3, 1, 1)
    return (unit - shift) / scale


def unit_levels(levels: NDArray[np.uint8]) -> Tensor:
    """Stored grey levels (..., h, w, C), uint8, to floats 0 to 1 (..., C, h, w)."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(levels, -1, -3))).float().div_(255.0)


def fresh_pixels(levels: NDArray[np.uint8], matrices: NDArray[np.float32], generator: np.random.Generator, spec: ImageSpec) -> Tensor:
    """A training step's input (B, 3, h, w), or (B, S, 3, h, w): levels (B, h, w, C), or (B, S, h, w, C), under views (B, 2, 3).

    All slices of a volume move alike, and share contrast and brightness: one patient, one scan.
    """
    unit = unit_levels(levels)
    if unit.ndim == 4:
        return normalise(photometric(warp(unit, torch.from_numpy(matrices)), generator), spec.mean, spec.std)
    slices = unit.shape[1]
    turned = warp(unit, torch.from_numpy(matrices))
    tall = turned.transpose(1, 2).flatten(2, 3)  # (B, C, S h, w): a volume as one tall image
    changed = photometric(tall, generator).unflatten(2, (slices, spec.height)).transpose(1, 2)
    return normalise(changed, spec.mean, spec.std)


def view_pixels(levels: Sequence[NDArray[np.uint8]], matrices: NDArray[np.float32], clean: NDArray[np.bool_],
                spec: ImageSpec) -> Tensor:
    """Normalised pixels (B, 3, h, w) of views of stored images, (B, S, 3, h, w) of volumes; clean rows are not resampled."""
    unit = unit_levels(np.stack(levels))
    turned = np.flatnonzero(~clean)
    if len(turned):
        unit[turned] = warp(unit[turned], torch.from_numpy(matrices[turned]))
    return normalise(unit, spec.mean, spec.std)
