"""Making a bare network by its name, of timm or a library seen as timm, pooling its tokens otherwise, and finding its classifier.

Owns: which library makes a network, input sizes, pooled features, the layers of a classifier. Does not own: what a network is part of
(models.py).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from distill.networks.architectures import LAYERS, check_architecture
from distill.networks.encoders import PREFIX, TORCHVISION, TokenPooling, TransformersNet, from_config, from_torchvision, pool_tokens
from distill.networks.own import PREFIX as OWN
from distill.networks.solid import from_solid, is_solid
from runtimes.errors import USAGE, UserError

POOLING = "rd_pooling"  # what a timm network carries whose tokens are not pooled as it pools them itself


def build_net(arch: str, height: int, width: int, outputs: int, **arguments: Any) -> nn.Module:
    """Create a timm network (or a transformers encoder by its config) with random weights, or say why it cannot be made."""
    check_architecture(arch, arguments)
    if arch.startswith(OWN):
        raise UserError(f"{arch} is a network of somebody's own, which only its folder holds; load it with distill.load_checkpoint")
    if arch.startswith(PREFIX):
        return from_config(arch, outputs, **arguments)
    if is_solid(arch):
        return from_solid(arch, outputs, **arguments)
    if arch.startswith(TORCHVISION):
        return from_torchvision(arch, outputs)
    import timm
    import timm.layers

    pooling: TokenPooling = arguments.pop("pooling", "auto")

    try:
        sized: dict[str, Any] = {"img_size": (height, width)} if takes_image_size(arch) else {}
        layers = {name: getattr(timm.layers, value) for name, value in arguments.items() if value in LAYERS}
        net: nn.Module = timm.create_model(arch, pretrained=False, num_classes=outputs, in_chans=3, **sized, **(arguments | layers))
    except Exception as error:  # timm's networks raise many types for sizes and arguments that they cannot take
        raise UserError(f"timm cannot make {arch} for {height}x{width} pixels: {error or type(error).__name__}") from None
    if pooling != "auto":
        pool_otherwise(net, pooling, arch)
        renew_classifier(net, outputs)
    return net


def pool_otherwise(net: nn.Module, pooling: TokenPooling, name: str) -> None:
    """Have a timm network's tokens pooled in another way than its own, from now on; UserError (exit 2) where it has no such tokens."""
    before_patches = getattr(net, "num_prefix_tokens", None)
    if before_patches is None or pooling == "pooler" or (pooling != "mean" and not before_patches):
        raise UserError(f"--teacher-pool {pooling}: {name} has no such tokens; leave it out", USAGE)
    setattr(net, POOLING, pooling)


def pooling_of(net: nn.Module) -> TokenPooling:
    """How a network's tokens are pooled; auto: as it pools them itself."""
    return getattr(net, "pooling" if isinstance(net, TransformersNet) else POOLING, "auto")  # type: ignore[no-any-return]


def pooled_features(net: nn.Module, pixels: Tensor) -> Tensor:
    """Features (B, D) before the classifier, of pixels (B, 3, h, w), of a volume seen at once (B, S, 3, h, w)."""
    answer: Tensor = net.forward_features(pixels)  # type: ignore[operator]
    pooling = getattr(net, POOLING, "auto")
    if pooling == "auto":
        return net.forward_head(answer, pre_logits=True)  # type: ignore[operator,no-any-return]
    return pool_tokens(answer, int(net.num_prefix_tokens), pooling)  # type: ignore[arg-type]


def renew_classifier(net: nn.Module, outputs: int) -> None:
    """Give a timm network a fresh classifier, as wide as its features are pooled."""
    net.reset_classifier(outputs)  # type: ignore[operator]
    if getattr(net, POOLING, "auto") == "auto":
        return
    layer = classifier_of(net)[-1]
    name = next(name for name, module in net.named_modules() if module is layer)
    holder, _, own = name.rpartition(".")
    width = int(net.num_features) * (2 if pooling_of(net) == "cls+mean" else 1)  # type: ignore[arg-type]
    setattr(net.get_submodule(holder), own, nn.Linear(width, outputs) if outputs else nn.Identity())


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
