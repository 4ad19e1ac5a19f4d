"""Making a bare network by its name, of timm or a library seen as timm, and finding its classifier.

Owns: which library makes a network, input sizes, the layers of a classifier. Does not own: what a network is part of (models.py).
"""

from __future__ import annotations

from typing import Any

from torch import nn

from distill.networks.architectures import LAYERS, check_architecture
from distill.networks.encoders import PREFIX, TORCHVISION, from_config, from_torchvision
from distill.networks.own import PREFIX as OWN
from runtimes.errors import UserError


def build_net(arch: str, height: int, width: int, outputs: int, **arguments: Any) -> nn.Module:
    """Create a timm network (or a transformers encoder by its config) with random weights, or say why it cannot be made."""
    check_architecture(arch, arguments)
    if arch.startswith(OWN):
        raise UserError(f"{arch} is a network of somebody's own, which only its folder holds; load it with distill.load_checkpoint")
    if arch.startswith(PREFIX):
        return from_config(arch, outputs, **arguments)
    if arch.startswith(TORCHVISION):
        return from_torchvision(arch, outputs)
    import timm
    import timm.layers

    try:
        sized: dict[str, Any] = {"img_size": (height, width)} if takes_image_size(arch) else {}
        layers = {name: getattr(timm.layers, value) for name, value in arguments.items() if value in LAYERS}
        net: nn.Module = timm.create_model(arch, pretrained=False, num_classes=outputs, in_chans=3, **sized, **(arguments | layers))
    except Exception as error:  # timm's networks raise many types for sizes and arguments that they cannot take
        raise UserError(f"timm cannot make {arch} for {height}x{width} pixels: {error or type(error).__name__}") from None
    return net


def classifier_of(net: nn.Module) -> list[nn.Module]:
    """The layers of a network's classifier; all but the last belong to its features (RepViT's normalisation, until it is fused)."""
    classifier: nn.Module = net.get_classifier()  # type: ignore[operator]
    inner = getattr(classifier, "head", None)
    return list(inner) if isinstance(inner, nn.Sequential) and not getattr(classifier, "distillation", False) else [classifier]


def takes_image_size(arch: str) -> bool:
    """Whether a timm network is built for one input size (ViT and its kin)."""
    import timm

    config = timm.get_pretrained_cfg(arch.split(":")[-1], allow_unregistered=True)
    return bool(config is not None and config.fixed_input_size)
