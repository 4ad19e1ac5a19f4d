"""Networks that see a volume at once, as timm sees a network: features, head, classifier. MONAI's by name, and Merlin's inflated ResNet.

Owns: SolidNet, the names and arguments of such networks. Does not own: their layers (monai_networks.py, inflated_resnet.py), networks that
see a volume slice by slice (slices.py), which of them are teachers and with which weights (distill/teacher/volume_teachers.py).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from torch import Tensor, nn

from distill.networks.inflated_resnet import InflatedResNet
from distill.networks.monai_networks import NARROW, NETWORKS
from runtimes.errors import USAGE, UserError

MONAI, INFLATED = "monai/", "inflated/"  # of ModelSpec.arch
PREFIXES = (MONAI, INFLATED)
TYPED = "monai:"  # what a user types before a name of MONAI
WIDTHS: Mapping[str, int] = {**{f"{MONAI}resnet{depth}": 512 for depth in (10, 18, 34)},
                             **{f"{MONAI}resnet{depth}-{width}": 8 * width for depth in (10, 18) for width in NARROW},
                             **{f"{MONAI}resnet{depth}": 2048 for depth in (50, 101, 152, 200)},
                             f"{MONAI}densenet121": 1024, f"{MONAI}swin_unetr": 768, f"{INFLATED}resnet152": 2048}


class SolidNet(nn.Module):
    """A body, volumes (B, C, X, Y, Z) to features (B, D), fed the pixels (B, S, 3, h, w) of slices; and a linear classifier behind it.

    channels: 1 takes the first of the three, which are alike for grey. ras: the body was trained on axes that point right, anterior and
    superior, and the slices are axial ones as radiologists see them; else slices, rows and columns are its axes.
    """

    def __init__(self, body: nn.Module, width: int, outputs: int = 0, *, channels: int = 1, ras: bool = False) -> None:
        super().__init__()
        self.body, self.width, self.channels, self.ras = body, width, channels, ras
        self.classifier: nn.Module = nn.Identity()
        self.reset_classifier(outputs)

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Pixels (B, S, 3, h, w) to pooled features (B, D)."""
        volume = pixels[:, :, :self.channels].transpose(1, 2)
        if self.ras:
            volume = volume.flip(3, 4).permute(0, 1, 4, 3, 2)
        return self.body(volume)  # type: ignore[no-any-return]

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Features to logits, or features as they are."""
        return features if pre_logits else self.classifier(features)  # type: ignore[no-any-return]

    def get_classifier(self) -> nn.Module:
        """The linear classifier."""
        return self.classifier

    def reset_classifier(self, outputs: int) -> None:
        """A fresh classifier; none where there are no outputs."""
        self.classifier = nn.Linear(self.width, outputs) if outputs else nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, S, 3, h, w) to logits, or to features where there is no classifier."""
        return self.forward_head(self.forward_features(pixels))


def is_solid(arch: str) -> bool:
    """Whether a network sees a volume at once."""
    return arch.startswith(PREFIXES)


def solid_name(typed: str) -> str:
    """The architecture behind monai:NAME; an unknown one is an error (exit 2) that names the nearest."""
    kind = typed.removeprefix(TYPED)
    if kind not in NETWORKS:
        near = difflib.get_close_matches(kind, NETWORKS, 1)
        raise UserError(f"{typed} is no network that is known here{f'; did you mean {TYPED}{near[0]}?' if near else ''}; expected {TYPED} "
                        f"and one of {', '.join(NETWORKS)}", USAGE)
    return f"{MONAI}{kind}"


def make_body(arch: str, channels: int) -> nn.Module:
    """The layers of a network without its classifier, random weights; UserError where MONAI is missing."""
    return NETWORKS[arch.removeprefix(MONAI)](channels) if arch.startswith(MONAI) else InflatedResNet()


def from_solid(arch: str, outputs: int, *, channels: int = 1, ras: bool = False) -> SolidNet:
    """A network of volumes with random weights."""
    return SolidNet(make_body(arch, channels), WIDTHS[arch], outputs, channels=channels, ras=ras)
