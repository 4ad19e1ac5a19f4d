"""Cutting channels out of a network step by step: torch-pruning behind our own small door, and a path of our own for ViTs.

Owns: which channels, heads and MLP units go, by importance. Does not own: how many (budget.py), the cuts as data (cuts.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from distill.networks.models import Model
from distill.networks.slices import SlicePool
from runtimes.errors import UserError

Importance = Literal["magnitude", "taylor", "bn-scale"]
Scope = Literal["layer", "network"]
STEPS = 40  # from the whole network to the smallest; each takes some 2.4 % of what there was
SMALLEST = 0.03  # share of its channels that every layer keeps
WORKING = "mobilenetv3, mobilenetv4-small, efficientnet-lite0, resnet18, mobileone, repvit, convnext-atto and vit-tiny can be pruned"


class Pruner(Protocol):
    """Takes a little more out of a network, in place."""

    def step(self) -> bool:
        """Take the next, least important part out; False when nothing more can go."""


def open_pruner(model: Model, importance: Importance = "magnitude", scope: Scope = "layer", *, unit: int = 8,
                gradients: Callable[[], Tensor] | None = None) -> Pruner:
    """The pruner for a model: whole heads and MLP units of a ViT, channels of anything else; outputs of head and slice pooling stay.

    scope: "layer" ranks within a layer (and those that hang together with it) and takes the same share of each, "network" over all,
    which leaves the early, costly layers of small networks with next to nothing. unit: channels are kept in multiples of it.
    gradients: a loss to be differentiated before each step, for taylor. Raises UserError when the network cannot be pruned; the
    model may then be half cut, so hand in a copy.
    """
    from timm.layers.attention import Attention

    if importance == "taylor" and gradients is None:
        raise ValueError("taylor importance needs a loss")
    transformer = any(type(module) is Attention for module in model.net.modules())
    if importance == "bn-scale" and (transformer or not any(isinstance(module, nn.BatchNorm2d) for module in model.net.modules())):
        raise UserError(f"--importance bn-scale: {model.spec.arch} has no batch normalisation; use magnitude or taylor")
    if transformer and scope == "network":
        raise UserError(f"--prune-scope network: of {model.spec.arch} every block loses the same share; use --prune-scope layer")
    way: _BlockPruner | _ChannelPruner = (_BlockPruner(model, importance, unit) if transformer
                                          else _ChannelPruner(model, importance, scope, unit))
    return _Steps(model, way.cut, gradients if importance == "taylor" else None)


class _Steps:
    """Counts steps down to the smallest, and gives each the gradients it asks for."""

    def __init__(self, model: Model, cut: Callable[[int], None], gradients: Callable[[], Tensor] | None) -> None:
        self.model, self.cut, self.gradients, self.steps = model, cut, gradients, 0

    def step(self) -> bool:
        if self.steps == STEPS:
            return False
        self.steps += 1
        if self.gradients is not None:
            self.model.zero_grad(set_to_none=True)
            self.gradients().backward()  # type: ignore[no-untyped-call]
        self.cut(self.steps)
        self.model.zero_grad(set_to_none=True)
        return True


class _ChannelPruner:
    """torch-pruning (Fang et al. 2023): groups of channels that hang together, ranked within each or over the whole network."""

    def __init__(self, model: Model, importance: Importance, scope: Scope, unit: int) -> None:
        import torch_pruning as tp

        self.model = model
        scores = {"magnitude": tp.importance.GroupMagnitudeImportance, "taylor": tp.importance.GroupTaylorImportance,
                  "bn-scale": tp.importance.BNScaleImportance}
        spec, training = model.spec, model.training
        model.eval()
        whole = [model.head, *(layer for pool in model.net.modules() if isinstance(pool, SlicePool) for layer in pool.children())]
        example = torch.zeros(2, *((spec.slices,) if spec.slices else ()), 3, spec.height, spec.width)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it remarks about parameters it leaves alone
            self.pruner: Any = self._try(lambda: tp.pruner.BasePruner(
                model, example, scores[importance](), global_pruning=scope == "network", pruning_ratio=1 - SMALLEST,
                max_pruning_ratio=1 - SMALLEST, iterative_steps=STEPS, ignored_layers=whole, round_to=unit))
        model.train(training)

    def cut(self, steps: int) -> None:
        """Take the next step; torch-pruning counts for itself."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._try(self.pruner.step)
        _tell_blocks(self.model)

    def _try(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:  # its failures on networks it cannot follow come in many types
            raise UserError(f"{self.model.spec.arch} cannot be pruned: torch-pruning does not follow its layers "
                            f"({type(error).__name__}); {WORKING}") from None


class _BlockPruner:
    """Whole attention heads and MLP units of timm's transformer blocks, the same share of every block; token width stays."""

    def __init__(self, model: Model, importance: Importance, unit: int) -> None:
        from timm.layers.attention import Attention
        from timm.layers.mlp import Mlp

        self.importance, self.unit = importance, unit
        self.attentions: list[Any] = [attention for attention in model.net.modules() if type(attention) is Attention
                                      and attention.gate is None and isinstance(attention.norm, nn.Identity)]
        self.mlps: list[Any] = [mlp for mlp in model.net.modules() if type(mlp) is Mlp and isinstance(mlp.fc1, nn.Linear)
                                and isinstance(mlp.norm, nn.Identity)]
        self.heads = [attention.num_heads for attention in self.attentions]
        self.units = [mlp.fc1.out_features for mlp in self.mlps]

    def cut(self, steps: int) -> None:
        """Keep, of what every block had, the share that is left after so many steps."""
        share = 1 - (1 - SMALLEST) * steps / STEPS
        for mlp, units in zip(self.mlps, self.units, strict=True):
            count = max(self.unit, int(units * share) // self.unit * self.unit)
            if count < mlp.fc1.out_features:
                rows = _best(self._scores(mlp.fc1.weight, 0) + self._scores(mlp.fc2.weight, 1), count)
                _keep(mlp.fc1, rows, 0)
                _keep(mlp.fc2, rows, 1)
        for attention, heads in zip(self.attentions, self.heads, strict=True):
            count = max(1, round(heads * share))
            if count < attention.num_heads:
                width, before = attention.head_dim, attention.num_heads
                scores = self._scores(attention.qkv.weight, 0).view(3, before, width).sum((0, 2))
                chosen = _best(scores + self._scores(attention.proj.weight, 1).view(before, width).sum(1), count)
                places = torch.arange(before * width).view(before, width)[chosen].flatten()
                _keep(attention.qkv, torch.cat([places + part * before * width for part in range(3)]), 0)
                _keep(attention.proj, places, 1)
                attention.num_heads, attention.attn_dim = count, count * width

    def _scores(self, weight: Tensor, dim: int) -> Tensor:
        """Importance of each row or column: squared magnitude, or of the change of the loss when it goes."""
        if self.importance != "taylor":
            return weight.detach().pow(2).sum(1 - dim)
        return weight.new_zeros(weight.shape[dim]) if weight.grad is None else (weight.detach() * weight.grad).pow(2).sum(1 - dim)


def _tell_blocks(model: nn.Module) -> None:
    """timm's MobileOne and RepVGG blocks remember their groups and fuse by them: of depthwise ones as many as channels are left."""
    for block in model.modules():
        if hasattr(block, "reparameterize") and isinstance(getattr(block, "groups", None), int):
            block.groups = next(layer.groups for layer in block.modules() if isinstance(layer, nn.Conv2d))  # type: ignore[assignment]


def _best(scores: Tensor, count: int) -> Tensor:
    """Places of the `count` highest scores, in order."""
    return scores.topk(count).indices.sort().values


def _keep(layer: nn.Linear, places: Tensor, dim: int) -> None:
    """Keep some outputs (dim 0) or inputs (dim 1) of a linear layer."""
    weight = layer.weight
    gradient = None if weight.grad is None else weight.grad.index_select(dim, places)
    layer.weight = nn.Parameter(weight.detach().index_select(dim, places).clone(), weight.requires_grad)
    layer.weight.grad = gradient
    if dim == 0:
        layer.out_features = len(places)
        if layer.bias is not None:
            layer.bias = nn.Parameter(layer.bias.detach()[places].clone(), layer.bias.requires_grad)
    else:
        layer.in_features = len(places)
