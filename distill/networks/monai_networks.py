"""MONAI's networks as encoders of whole volumes: features before any classifier, random weights until a file is placed in them.

Owns: NETWORKS, the short list of those that were tried with the layouts their weights are published in. Does not own: weights, how a
volume reaches them (solid.py). MONAI is imported where a network is made, and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from runtimes.errors import UserError

NARROW = (8, 16, 32)  # channels of the first stage, where the published networks have 64


def _nets() -> Any:
    try:
        from monai.networks import nets
    except ModuleNotFoundError:
        raise UserError("MONAI's networks need MONAI; pip install 'rd-distill[monai]'") from None
    return nets


def require_monai() -> None:
    """UserError where MONAI is missing."""
    _nets()


def _resnet(depth: int) -> Callable[[int], nn.Module]:
    """MONAI's ResNet without classifier, with the shortcuts of MedicalNet's weights (MONAI's get_medicalnet_pretrained_resnet_args)."""
    plain = depth in (18, 34)
    return lambda channels: getattr(_nets(), f"resnet{depth}")(
        spatial_dims=3, n_input_channels=channels, feed_forward=False, shortcut_type="A" if plain else "B", bias_downsample=False)


def _narrow(depth: int, width: int) -> Callable[[int], nn.Module]:
    """MONAI's ResNet of basic blocks, as narrow as a small device asks for: `width` channels in its first stage, twice as many in each
    next one, shortcuts with weights."""
    layers = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2)}[depth]
    return lambda channels: _nets().ResNet(  # type: ignore[no-any-return]
        block="basic", layers=list(layers), block_inplanes=[width << stage for stage in range(4)], spatial_dims=3,
        n_input_channels=channels, feed_forward=False, shortcut_type="B", bias_downsample=False)


def _densenet(channels: int) -> nn.Module:
    net: Any = _nets().DenseNet121(spatial_dims=3, in_channels=channels, out_channels=1)
    net.class_layers.out = nn.Identity()
    return net  # type: ignore[no-any-return]


class LastMaps(nn.Module):
    """The mean of the deepest maps of a Swin transformer, which answers with those of every stage; weights are placed in its `net`."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, volumes: Tensor) -> Tensor:
        return self.net(volumes)[-1].mean((2, 3, 4))  # type: ignore[no-any-return]


def _swin(channels: int) -> nn.Module:
    """The encoder of Swin UNETR at 48 features, the size that was published with self-supervised and with SuPreM's weights."""
    _nets()
    from monai.networks.nets.swin_unetr import SwinTransformer

    return LastMaps(SwinTransformer(in_chans=channels, embed_dim=48, window_size=(7, 7, 7), patch_size=(2, 2, 2), depths=(2, 2, 2, 2),
                                     num_heads=(3, 6, 12, 24), spatial_dims=3))


NETWORKS: Mapping[str, Callable[[int], nn.Module]] = {
    **{f"resnet{depth}": _resnet(depth) for depth in (10, 18, 34, 50, 101, 152, 200)},
    **{f"resnet{depth}-{width}": _narrow(depth, width) for depth in (10, 18) for width in NARROW},
    "densenet121": _densenet, "swin_unetr": _swin}


def own_name(key: str) -> str:
    """A tensor's name in MONAI's Swin transformer, of which self-supervised weights were published under timm's names for its MLP."""
    return re.sub(r"\.mlp\.fc([12])\.", r".mlp.linear\1.", key)
