"""A frozen teacher: its network, what it must be fed, what is taken of its answer; and what a user may state of these.

Owns: Teacher, TeacherInput, the sentence that describes a teacher. Does not own: loading one by its name (teachers.py), caching its
features (bank.py), adapting it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from distill.data.image_set import ImageSet
from distill.networks.encoders import TokenPooling, pool_tokens
from distill.networks.models import count_parameters
from distill.networks.own import vectors
from distill.networks.weight_files import first_line
from distill.progress import say
from runtimes.errors import USAGE, UserError
from runtimes.images.spec import ImageSpec

POOLED = {"auto": "as the network pools", "cls": "of the class token", "mean": "as the mean of patches",
          "cls+mean": "of the class token and the mean of patches", "pooler": "of the pooler"}
ASSUMED = "ImageNet's, assumed: the file says none; see --teacher-mean and --teacher-std"
ASSUMED_OF_NETWORK = "the network's own, assumed: a file of weights says none; see --teacher-mean and --teacher-std"


@dataclass(frozen=True)
class TeacherInput:
    """What a user says of a teacher in place of what its own files say: the side and normalisation of images, how they fit, the pooling.

    channels: 1 or 3, checked against what the network takes. features: the tensor of an ONNX graph that holds them.
    """

    size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    pool: TokenPooling = "auto"
    resize: Literal["auto", "squash", "crop", "pad"] = "auto"
    channels: int | None = None
    features: str | None = None


@dataclass(frozen=True)
class Teacher:
    """A frozen network, normalised pixels (B, 3, h, w) to pooled features (B, D), and what it must be fed.

    arch, arguments: the name of a timm network, and what it was made with beside it, as its weights asked for. channels: what the network
    was trained on; 1 sees the mean of colours. assumed: what its files do not say and nobody stated. weights: how many, where `net` hides
    them.
    """

    name: str
    net: nn.Module
    image_spec: ImageSpec
    hash: str
    licence: str = "unknown"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    pooling: str = POOLED["auto"]
    arch: str = ""
    channels: int = 3
    assumed: str = ""
    weights: int | None = None

    def introduce(self) -> None:
        """Say which it is, and how it is read."""
        spec = self.image_spec
        say("teacher", f"{self.name}, {self.parameters / 1e6:.2f} M parameters in fp32, "
                       f"{f'{spec.slices} slices of ' if spec.slices else ''}{spec.width} px, frozen, hash {self.hash[:12]}")
        say("", self.describe())

    def describe(self) -> str:
        """How images reach it and what is taken of its answer, in words."""
        spec = self.image_spec
        fit = {"squash": "squashed", "crop": "shortest side first, then the middle", "pad": "longest side first, black around"}[spec.fit]
        edge = f" of {spec.edge} px" if spec.edge else ""
        levels = ", ".join(f"{name} {' '.join(f'{value:.4g}' for value in values)}" for name, values in (
            ("mean", spec.mean), ("std", spec.std)))
        grey = ", one channel (the mean of colours)" if self.channels == 1 else ""
        if spec.volume is not None:
            if spec.volume.spacing_mm is not None:
                fit = f"{' x '.join(f'{side:g}' for side in spec.volume.size or ())} voxels of " + (
                    f"{' x '.join(f'{side:g}' for side in spec.volume.spacing_mm)} mm out of the middle")
            grey = f", the whole volume at once, {self.channels} channel(s)" + (
                f", {spec.window[0]:g} to {spec.window[1]:g} of values such as HU as black to white" if spec.physical else "")
        return (f"images {fit}{edge} ({spec.interpolation}){grey}, {levels}{f' ({self.assumed})' if self.assumed else ''}; features "
                f"{self.pooling}; licence {self.licence}")

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """Pooled features (B, D), float32."""
        return pooled(self.net(pixels), self.name).float()

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return count_parameters(self.net) if self.weights is None else self.weights


def fed(base: ImageSpec, images: ImageSet) -> ImageSpec:
    """How images reach a teacher: levels, channels and cuts are those of the images at hand, all else is the teacher's own.

    A teacher of whole volumes keeps its slices and, where the images are values such as HU, its own window. UserError for one that is shown
    single images.
    """
    if base.volume is None:
        return replace(base, **images.form)
    if images.volume is None:
        raise UserError("this teacher sees whole volumes, and the data are single images; name volumes (NIfTI files, series of DICOM, an "
                        ".npz of volumes), or another --teacher", USAGE)
    volume = replace(images.volume, slices=base.slices, solid=True)
    if base.volume.spacing_mm is not None and not isinstance(images.images[0], np.ndarray):  # arrays say nothing of their spacing
        volume = replace(volume, spacing_mm=base.volume.spacing_mm, size=base.volume.size, axis="axial")
    own = {"window": base.window, "windows": base.windows} if base.physical and images.values else {}
    return replace(base, **{**images.form, **own, "volume": volume})


def frozen(teacher: Teacher, remedy: str, called: str | None = None, size: int | None = None) -> Teacher:
    """The same teacher without gradients, once it has taken an image of zeros; UserError where it cannot take its own size.

    remedy: what to try then; called: what the message calls it, its name when not given. size: the side that a user asked for.
    """
    for parameter in teacher.net.parameters():
        parameter.requires_grad_(False)
    height, width = teacher.image_spec.height, teacher.image_spec.width
    try:
        teacher.features(torch.zeros(1, *((teacher.image_spec.slices,) if teacher.image_spec.slices else ()), 3, height, width))
        patch = _patch_of(teacher.net) if size is not None else 0
        blind = patch > 1 and _blind_at_the_edge(teacher)
    except UserError:
        raise
    except Exception as error:  # whatever a network's own code raises
        raise UserError(f"teacher {called or teacher.name} cannot take {height}x{width} pixels ({first_line(error)}); try "
                        f"{remedy}") from None
    if blind:
        raise UserError(f"--teacher-size {width}: teacher {called or teacher.name} does not see the last pixels of such images; take a "
                        f"multiple of its patch, {patch}, such as {max(width // patch, 1) * patch}", USAGE)
    return teacher


def _blind_at_the_edge(teacher: Teacher) -> bool:
    """Whether the last row or column of an image changes nothing: a network of patches leaves out what fills none, without a word."""
    height, width = teacher.image_spec.height, teacher.image_spec.width
    pixels = torch.randn(3, 3, height, width, generator=torch.Generator().manual_seed(0))
    pixels[1], pixels[2] = pixels[0], pixels[0]
    pixels[1, :, -1] += 2
    pixels[2, :, :, -1] -= 2
    whole, *edges = (teacher.features(pixels[row:row + 1]) for row in range(3))
    return any(torch.equal(whole, edge) for edge in edges)


def _patch_of(net: nn.Module) -> int:
    """The side of the patches that a network's first layer cuts images into; 0 where it cuts none."""
    first = next((module for module in net.modules() if isinstance(module, nn.Conv2d)), None)
    return int(first.stride[0]) if first is not None and first.kernel_size == first.stride else 0


def hash_with(digest: str, pooling: TokenPooling) -> str:
    """A teacher's hash with its pooling: of two that differ in it, neither takes the other's bank."""
    return digest if pooling == "auto" else hashlib.sha256(f"{digest} {pooling}".encode()).hexdigest()


def pooled(output: Any, name: str) -> Tensor:
    """One vector an image: (B, D) as it is, maps (B, C, h, w) and tokens (B, T, D) averaged over places."""
    return vectors(output, "auto", f"teacher {name}")


class Grey(nn.Module):
    """A network of one channel, fed the mean of three."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, h, w) to what the network answers."""
        return self.net(pixels.mean(dim=1, keepdim=True))  # type: ignore[no-any-return]


class Tokens(nn.Module):
    """A network that answers tokens (B, T, D), those of a square of patches last, and their pooling."""

    def __init__(self, net: nn.Module, pooling: TokenPooling) -> None:
        super().__init__()
        self.net, self.pooling = net, pooling

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels to pooled features (B, D)."""
        tokens = self.net(pixels)
        before = tokens.shape[1] - math.isqrt(tokens.shape[1]) ** 2
        return pool_tokens(tokens, before, self.pooling)
