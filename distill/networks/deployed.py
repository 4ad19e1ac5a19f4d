"""A network as it runs once it is trained: training-time branches fused, pooling as the runtimes like it.

Owns: the copy that is exported and timed. Does not own: the graph around it (export), what is trained.
"""

from __future__ import annotations

from copy import deepcopy

from torch import Tensor, nn

from distill.networks.models import Model


def reparameterised(model: Model) -> Model:
    """A copy in eval mode whose training-time branches (RepVGG, MobileOne, RepViT, FastViT) are fused into single layers."""
    from timm.utils.model import reparameterize_model

    copy = deepcopy(model).eval()
    for parameter in copy.parameters():
        parameter.requires_grad_(False)
    copy.net = reparameterize_model(copy.net)
    for module in list(copy.net.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size in (1, (1, 1)):
                setattr(module, name, GlobalMean())
    return copy.eval()


class GlobalMean(nn.Module):
    """Mean over height and width, (B, C, h, w) to (B, C, 1, 1).

    Torch's own global pooling, traced in channels-last order, becomes `as_strided`, which ONNX spells as ten gathering nodes.
    """

    def forward(self, features: Tensor) -> Tensor:
        """The mean, as one ReduceMean."""
        return features.mean((2, 3), keepdim=True)
