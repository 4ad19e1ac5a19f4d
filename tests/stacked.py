"""A tiny student of volumes, its images and its folder.

Owns: SPEC, volume, model, image_set, write. Does not own: what is expected of them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from conftest import TINY

from distill.data.image_set import ImageSet
from distill.networks.checkpoint import Calibration, save_checkpoint
from distill.networks.models import Model, ModelSpec, build_model
from runtimes.files.folder import write_manifest
from runtimes.images.spec import ImageSpec
from runtimes.images.volumes import VolumeSpec

SLICES = 4
SPEC = ImageSpec(32, 32, volume=VolumeSpec(SLICES))
RANDOM = np.random.default_rng(0)


def volume(depth: int, side: tuple[int, int] = (32, 32), seed: int = 0) -> np.ndarray:
    """Intensities of a scanner (depth, h, w), smooth and of any range."""
    random = np.random.default_rng([seed, depth])
    coarse = random.normal(300, 150, (depth, side[0] // 8 + 1, side[1] // 8 + 1))
    return (coarse.repeat(8, 1).repeat(8, 2)[:, :side[0], :side[1]] + random.normal(0, 20, (depth, *side))).astype(np.float32)


def model() -> Model:
    torch.manual_seed(0)
    made = build_model(ModelSpec("resnet18", 32, 32, "multiclass", ("a", "b", "c"), TINY, slices=SLICES))
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    torch.nn.init.normal_(made.slice_pool.weigh.weight)  # type: ignore[union-attr]
    torch.nn.init.normal_(made.head.weight)
    return made.eval()


def image_set() -> ImageSet:
    """Grey stacks of 1 to 9 slices, all of it validation."""
    stacks = [SPEC.volume.levels(volume(1 + row % 9, seed=row)) for row in range(12)]  # type: ignore[union-attr]
    fixed = VolumeSpec(SLICES, scaling="window", window=(0.0, 255.0))
    return ImageSet(stacks, tuple(map(str, range(12))), np.arange(12) % 3, ("a", "b", "c"), "multiclass",
                    np.asarray(["val"] * 12, dtype=object), volume=fixed)


def write(folder: Path, spec: ImageSpec) -> None:
    folder.mkdir()
    save_checkpoint(folder, model(), spec, Calibration((1.5,)), {"teacher": "none"})
    write_manifest(folder, "student", {"settings": {"data": "memory"}, "parents": {}, "teacher": "none"})
