"""One model shape for teacher and student: stages, pool, head; and the JSON that rebuilds it.

Owns: Model, ModelSpec, building a model from its spec, counting parameters and MACs.
Does not own: making the bare network (nets.py), names and weights a user may ask for (students.py, teachers.py), files (checkpoint.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from distill.adapters.experts import AdapterSpec
from distill.adapters.insert import POOLED, SLICES, insert
from distill.networks.architectures import check_spec
from distill.networks.cuts import Cuts, make_cuts
from distill.networks.nets import build_net, classifier_of, pooled_features
from distill.networks.slices import Pooling, SlicePool, mean_of_slices
from distill.networks.solid import is_solid
from runtimes.errors import UserError
from runtimes.scores import Task


@dataclass(frozen=True)
class ModelSpec:
    """What rebuilds a model without its weights: architecture, input size, task, classes, adapters, slices of a volume, cuts."""

    arch: str
    height: int
    width: int
    task: Task
    classes: tuple[str, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    adapters: Mapping[str, AdapterSpec] = field(default_factory=dict)
    slices: int = 0
    pooling: Pooling = "attention"
    cuts: Cuts = field(default_factory=dict)

    @property
    def outputs(self) -> int:
        """Width of the head: one score a class, or one a threshold between classes for ordinal tasks."""
        return len(self.classes) - (self.task == "ordinal")

    @property
    def solid(self) -> bool:
        """Whether the network sees a volume at once."""
        return is_solid(self.arch)

    @property
    def bag(self) -> int:
        """Slices that the network sees one by one, and pools; 0 for images and for volumes seen at once."""
        return 0 if self.solid else self.slices

    @property
    def beyond_timm(self) -> str:
        """What timm lacks of the network, in words; empty where timm makes all of it from the architecture and its arguments."""
        return ("of volumes" if self.solid else "of another library" if "/" in self.arch else "with routed adapters" if self.adapters else
                f"on {self.slices} slices of a volume" if self.slices else "pruned" if self.cuts else "")

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        adapters = {"adapters": {name: adapter.as_dict() for name, adapter in self.adapters.items()}} if self.adapters else {}
        absent = {"adapters"} | (set() if self.slices else {"slices", "pooling"}) | (set() if self.cuts else {"cuts"})
        own = {key: value for key, value in asdict(self).items() if key not in absent}
        return {**own, "classes": list(self.classes), "arguments": dict(self.arguments), **adapters}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ModelSpec:
        """Rebuild a spec from its JSON form, whose every value is checked: it may come from anywhere."""
        check_spec(content)
        try:
            adapters = {name: AdapterSpec(**entry) for name, entry in content.get("adapters", {}).items()}
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
    """A timm network seen as stages, pool and one linear head; for volumes slices are pooled before the head."""

    def __init__(self, spec: ModelSpec, net: nn.Module) -> None:
        super().__init__()
        self.spec = spec
        self.net = net
        head = classifier_of(net)[-1]
        if not isinstance(head, nn.Linear):
            raise UserError(f"{spec.arch} ends in {type(head).__name__}, expected one linear classifier; "
                            "choose another network (mobilenetv3, resnet18, efficientnet-lite0 and vit names work)")
        if spec.bag and not hasattr(net, SLICES):
            setattr(net, SLICES, SlicePool(int(head.in_features), spec.pooling))

    @property
    def head(self) -> nn.Linear:
        """The linear classifier, one object for both branches in Reprogramming Distillation."""
        head = classifier_of(self.net)[-1]
        assert isinstance(head, nn.Linear)
        return head

    def features(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features before the head: of images (B, 3, h, w), or of volumes (B, S, 3, h, w) with a mask (B, S), to (B, D)."""
        if not self.spec.bag:
            return self.adapted(self.trunk(pixels))
        return self.pool(self.slice_features(pixels, mask), mask)

    def trunk(self, pixels: Tensor) -> Tensor:
        """The network's pooled features, (B, 3, h, w), or (B, S, 3, h, w) where it sees volumes at once, to (B, D)."""
        features = pooled_features(self.net, pixels)
        for layer in classifier_of(self.net)[:-1]:
            features = layer(features)
        return features

    def slice_features(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features of every slice, (B, S, 3, h, w) to (B, S, D); in training only of those that are there, the rest zeros."""
        flat = pixels.flatten(0, 1)
        if self.training and mask is not None:  # empty slices would enter the statistics of normalisation
            there = torch.nonzero(mask.flatten() > 0).squeeze(1)
            some = self.trunk(flat[there].contiguous(memory_format=torch.channels_last))
            features = some.new_zeros(len(flat), some.shape[1]).index_copy(0, there, some)
        else:
            features = self.trunk(flat)
        return self.adapted(features.unflatten(0, (-1, self.spec.slices)))

    def pool(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """The volume's feature (B, D) of slice features (B, S, D); features of images stay as they are.

        A network that pools no slices itself takes the mean of another's.
        """
        if features.ndim == 2:
            return features
        whole = features.new_ones(features.shape[:2], dtype=torch.float32) if mask is None else mask
        return self.slice_pool(features, whole) if self.spec.bag else mean_of_slices(features, whole)

    @property
    def slice_pool(self) -> SlicePool:
        """How slices become a volume."""
        pool = getattr(self.net, SLICES)
        assert isinstance(pool, SlicePool)
        return pool

    def adapted(self, pooled: Tensor) -> Tensor:
        """Pooled features (..., D) behind the adapter of pooled features, where there is one; of volumes slice by slice."""
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

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalised pixels, (B, 3, h, w) or of volumes (B, S, 3, h, w) with a mask (B, S), to logits (B, classes)."""
        return self.logits(self.features(pixels, mask))


def build_model(spec: ModelSpec) -> Model:
    """Create a model with random weights from its spec."""
    model = Model(replace(spec, adapters={}), build_net(spec.arch, spec.height, spec.width, spec.outputs, **spec.arguments))
    make_cuts(model.net, spec.cuts)
    return adapt_model(model, spec.adapters) if spec.adapters else model


def adapt_model(model: Model, adapters: Mapping[str, AdapterSpec]) -> Model:
    """The same model, frozen, with fresh adapters in place beside those it has; its head and the pooling of slices stay trainable."""
    insert(model.net, adapters, feature_width(model))
    model.head.requires_grad_(True)
    if model.spec.bag:
        model.slice_pool.requires_grad_(True)
    model.spec = replace(model.spec, adapters={**model.spec.adapters, **adapters})
    return model


def feature_width(model: Model) -> int:
    """Width D of the pooled features: what the head takes."""
    return int(model.head.in_features)


def count_parameters(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, height: int, width: int) -> int:
    """Multiply-accumulates of one image, or of one volume with all its slices, counted by torch's flop counter."""
    from torch.utils.flop_counter import FlopCounterMode

    device, slices = next(model.parameters()).device, model.spec.slices if isinstance(model, Model) else 0
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, *((slices,) if slices else ()), 3, height, width, device=device))
    except (RuntimeError, AssertionError) as error:
        stack, setting = (f"{slices} slices of ", "--size or --slices") if slices else ("", "--size")
        raise UserError(f"the network cannot take {stack}{height}x{width} pixels ({str(error).splitlines()[0]}); choose another "
                        f"{setting}") from None
    model.train(training)
    return int(counter.get_total_flops()) // 2


def weights_hash(module: nn.Module) -> str:
    """SHA-256 over names, shapes, dtypes and bytes of all weights and buffers."""
    return state_hash(module.state_dict())


def state_hash(state: Mapping[str, Tensor]) -> str:
    """The same of a state dict."""
    import hashlib

    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
