"""One model shape for teacher and student: stages, pool, head; and the JSON that rebuilds it.

Owns: Model, ModelSpec, building a timm network from them, counting parameters and MACs.
Does not own: names and weights a user may ask for (students.py, teachers.py), files (checkpoint.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from distill.encoders import PREFIX, from_config
from distill.experts import AdapterSpec
from distill.insert import POOLED, insert
from runtimes.errors import UserError
from runtimes.scores import Task


@dataclass(frozen=True)
class ModelSpec:
    """What rebuilds a model without its weights: timm architecture, input size, task, classes, adapters by layer."""

    arch: str
    height: int
    width: int
    task: Task
    classes: tuple[str, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    adapters: Mapping[str, AdapterSpec] = field(default_factory=dict)

    @property
    def outputs(self) -> int:
        """Width of the head: one score a class, or one a threshold between classes for ordinal tasks."""
        return len(self.classes) - (self.task == "ordinal")

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        adapters = {"adapters": {name: one.as_dict() for name, one in self.adapters.items()}} if self.adapters else {}
        own = {key: value for key, value in asdict(self).items() if key != "adapters"}
        return {**own, "classes": list(self.classes), "arguments": dict(self.arguments), **adapters}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ModelSpec:
        """Rebuild a spec from its JSON form."""
        try:
            adapters = {name: AdapterSpec(**one) for name, one in content.get("adapters", {}).items()}
            return cls(**{**content, "classes": tuple(content["classes"]), "adapters": adapters})
        except (TypeError, KeyError) as error:
            raise UserError(f"model spec is not complete: {error}") from None


def class_scores(scores: Tensor, task: Task) -> Tensor:
    """Head outputs to logits (B, classes); ordinal thresholds become log-probabilities of a continuation-ratio model.

    P(y > k | y >= k) = sigmoid(z_k), so log P(y = k) is a sum of log-sigmoids (CORN; Shi, Cao, Raschka 2021) and the
    cumulative probabilities are monotone by construction.
    """
    if task != "ordinal":
        return scores
    count = scores.shape[1]
    # log sigmoid(z) and log sigmoid(-z) as a softmax over (z, 0): unlike softplus, runtimes compute it row by row, so that
    # an image alone and the same image in a batch give the same bits.
    above, below = torch.log_softmax(torch.stack((scores, torch.zeros_like(scores)), dim=2), dim=2).unbind(dim=2)
    passed = torch.triu(scores.new_ones(count, count + 1), diagonal=1)  # class k has passed thresholds 0..k-1
    stopped = torch.eye(count, count + 1, dtype=scores.dtype, device=scores.device)
    return above @ passed + below @ stopped


class Model(nn.Module):
    """A timm network seen as stages, pool and one linear head."""

    def __init__(self, spec: ModelSpec, net: nn.Module) -> None:
        super().__init__()
        self.spec = spec
        self.net = net
        head = net.get_classifier()  # type: ignore[operator]
        if not isinstance(head, nn.Linear):
            raise UserError(f"{spec.arch} ends in {type(head).__name__}, expected one linear classifier; "
                            "choose another network (mobilenetv3, resnet18, efficientnet-lite0 and vit names work)")

    @property
    def head(self) -> nn.Linear:
        """The linear classifier, one object for both branches in Reprogramming Distillation."""
        head = self.net.get_classifier()  # type: ignore[operator]
        assert isinstance(head, nn.Linear)
        return head

    def features(self, pixels: Tensor) -> Tensor:
        """Pooled features before the head, (B, 3, h, w) to (B, D)."""
        return self.adapted(self.net.forward_head(self.net.forward_features(pixels), pre_logits=True))  # type: ignore[operator]

    def adapted(self, pooled: Tensor) -> Tensor:
        """Pooled features (B, D) behind the adapter of pooled features, where there is one."""
        adapter = getattr(self.net, POOLED, None)
        return pooled if adapter is None else adapter(pooled)

    def train(self, mode: bool = True) -> Model:
        """As any module; with adapters the frozen network keeps the statistics of its normalisation."""
        super().train(mode)
        if self.spec.adapters:
            for module in self.net.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def logits(self, features: Tensor) -> Tensor:
        """Logits from pooled features, (B, D) to (B, classes)."""
        return class_scores(self.head(features), self.spec.task)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, h, w) to logits (B, classes)."""
        return self.logits(self.features(pixels))


def build_net(arch: str, height: int, width: int, outputs: int, **arguments: Any) -> nn.Module:
    """Create a timm network (or a transformers encoder by its config) with random weights, or say why it cannot be made."""
    if arch.startswith(PREFIX):
        return from_config(arch, outputs, **arguments)
    import timm

    sized: dict[str, Any] = {"img_size": (height, width)} if takes_image_size(arch) else {}
    try:
        net: nn.Module = timm.create_model(arch, pretrained=False, num_classes=outputs, in_chans=3, **sized, **arguments)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise UserError(f"timm cannot make {arch} for {height}x{width} pixels: {error}") from None
    return net


def build_model(spec: ModelSpec) -> Model:
    """Create a model with random weights from its spec."""
    model = Model(replace(spec, adapters={}), build_net(spec.arch, spec.height, spec.width, spec.outputs, **spec.arguments))
    return adapt_model(model, spec.adapters) if spec.adapters else model


def adapt_model(model: Model, adapters: Mapping[str, AdapterSpec]) -> Model:
    """The same model, frozen, with fresh adapters in place beside those it has; its head stays trainable."""
    insert(model.net, adapters, feature_width(model))
    model.head.requires_grad_(True)
    model.spec = replace(model.spec, adapters={**model.spec.adapters, **adapters})
    return model


def takes_image_size(arch: str) -> bool:
    """Whether a timm network is built for one input size (ViT and its kin)."""
    import timm

    config = timm.get_pretrained_cfg(arch.split(":")[-1], allow_unregistered=True)
    return bool(config is not None and config.fixed_input_size)


def feature_width(model: Model) -> int:
    """Width D of the pooled features: what the head takes."""
    return int(model.head.in_features)


def count_parameters(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, height: int, width: int) -> int:
    """Multiply-accumulates of one image, counted by torch's flop counter."""
    from torch.utils.flop_counter import FlopCounterMode

    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, height, width, device=device))
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"the network cannot take {height}x{width} pixels ({str(error).splitlines()[0]}); choose another --size") from None
    model.train(training)
    return int(counter.get_total_flops()) // 2


def weights_hash(module: nn.Module) -> str:
    """SHA-256 over names, shapes, dtypes and bytes of all weights and buffers."""
    import hashlib

    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
