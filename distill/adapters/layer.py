"""One adapter layer: low-rank experts beside a frozen linear layer or convolution, stacked, with a gate or without.

Owns: Router, Adapter. Does not own: their spec (experts.py), which layers get one (insert.py), starting weights from an SVD
(spectral.py), folding into plain weights (merge.py). LoRA is one expert without a gate; MoLRE is K experts under a soft gate; Sparse
Spectral LoRA is N experts with top-k (METHODS of the three papers; arXiv 2603.00675, 2604.01310).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.adapters.experts import AdapterSpec
from runtimes.errors import UserError


class Router(nn.Module):
    """Gates over experts for features (..., n): softmax, optionally of the top k only and renormalised, (..., E), rows sum to 1.

    Of an ensemble each member's experts have a softmax of their own, and all are divided by the number of members.
    The logits are share * map(x) + (1 - share) * bias: at share 0 the gates are constants and a fold is exact.
    """

    def __init__(self, width: int, spec: AdapterSpec) -> None:
        super().__init__()
        self.top_k = spec.top_k
        self.members = spec.members
        self.share = 0.0 if spec.constant else 1.0
        self.bias = nn.Parameter(torch.zeros(spec.experts))
        self.map: nn.Module = nn.Linear(width, spec.experts, bias=False) if spec.gate == "linear" else nn.Sequential(
            nn.Linear(width, spec.hidden), nn.GELU(), nn.Linear(spec.hidden, spec.experts))
        self.balance: Tensor | None = None

    def logits(self, features: Tensor) -> Tensor:
        """Logits of the gates (..., E)."""
        if self.share == 0.0:
            return self.bias.expand(*features.shape[:-1], -1)
        return self.rest(self.first(features))

    @property
    def first(self) -> nn.Linear:
        """The map's first layer, for callers that compute it together with other maps of the same features."""
        return self.map if isinstance(self.map, nn.Linear) else self.map[0]  # type: ignore[index,no-any-return]

    def rest(self, hidden: Tensor) -> Tensor:
        """Logits from the first layer's output."""
        if isinstance(self.map, nn.Sequential):
            hidden = self.map[2](self.map[1](hidden))
        return hidden if self.share == 1.0 else self.share * hidden + (1 - self.share) * self.bias

    def forward(self, features: Tensor) -> Tensor:
        """Gates (..., E) of features; in training also the balance loss of this call."""
        return self.gates(self.logits(features)).to(features.dtype)

    def gates(self, logits: Tensor) -> Tensor:
        """Gates (..., E) of logits: softmax over those of the top k, which is the whole softmax renormalised."""
        logits = logits.float()
        if self.members > 1:
            own = logits.unflatten(-1, (self.members, -1))
            return sparse_softmax(own, self.top_k).flatten(-2) / self.members
        gates = sparse_softmax(logits, self.top_k)
        if self.training:
            places = logits.flatten(0, -2)
            if self.share == 1.0:  # where the gates would stand still, should they have to: their logits' running mean
                with torch.no_grad():
                    self.bias.lerp_(places.mean(0).to(self.bias.dtype), 0.05)
            self.balance = balance_of(places, gates.flatten(0, -2), self.top_k)
        return gates


def sparse_softmax(logits: Tensor, top_k: int) -> Tensor:
    """Softmax over the last axis, of the top k alone where k is not 0."""
    scores = torch.where(logits >= logits.topk(top_k, dim=-1).values[..., -1:], logits, -math.inf) if top_k else logits
    return torch.softmax(scores, dim=-1)


def balance_of(logits: Tensor, gates: Tensor, top_k: int) -> Tensor:
    """Balance loss (...) of logits and gates (..., n, E), 1 when balanced (GOAT, arXiv 2502.16894, appendix C)."""
    experts = logits.shape[-1]
    on = (gates.detach() > 0).float().mean(-2) * experts / (top_k or experts)
    return (on * torch.softmax(logits, dim=-1).mean(-2)).sum(-1)


class Adapter(nn.Module):
    """A frozen layer with experts beside it: y = base(x) + s B ((g(x) spread over ranks) * (A x)), no loop over experts.

    Linear layers take (..., n). Convolutions: A has the layer's own kernel and stride, B is 1x1; a 1x1 layer's gate is per
    place, a wider one's per image. An Identity base of a given width makes the adapter of pooled features, which may standardise them:
    then base and experts take (x - mean) / sd.
    """

    def __init__(self, base: nn.Module, spec: AdapterSpec, width: int = 0) -> None:
        super().__init__()
        self.base = base
        self.spec = spec
        ranks = spec.experts * spec.rank
        self.stride: tuple[int, ...] | None = None
        self.pointwise = False
        if isinstance(base, nn.Conv2d):
            self.stride = base.stride
            self.pointwise = base.kernel_size == (1, 1)
            inputs = base.in_channels
            self.down: nn.Module = _reduced(base, ranks)
            self.up: nn.Module = nn.Conv2d(ranks, base.out_channels, 1, bias=False)
        else:
            inputs, outputs = (base.in_features, base.out_features) if isinstance(base, nn.Linear) else (width, width)
            self.down = nn.Linear(inputs, ranks, bias=False)
            self.up = nn.Linear(ranks, outputs, bias=False)
        nn.init.kaiming_uniform_(self.down.weight.view(ranks, -1), a=math.sqrt(5))  # type: ignore[operator,union-attr]
        nn.init.zeros_(self.up.weight)  # type: ignore[arg-type]
        self.router = None if spec.gate == "none" else Router(inputs, spec)
        if spec.standardised:
            self.register_buffer("mean", torch.zeros(inputs))
            self.register_buffer("sd", torch.ones(inputs))
        for parameter in base.parameters():
            parameter.requires_grad_(False)

    def __getattr__(self, name: str) -> Any:
        """What a network reads of the layer that stood here, its widths, kernel or weight, is the frozen layer's own.

        Where it reads the weight instead of calling the layer, insert.py finds that and leaves the layer alone.
        """
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base" or "base" not in self.__dict__.get("_modules", {}):
                raise
            return getattr(self.base, name)

    @property
    def foldable(self) -> bool:
        """Whether there is a weight to fold into: the adapter of pooled features stands beside none."""
        return isinstance(self.base, nn.Linear | nn.Conv2d)

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """Stacked A (E r, n) and B (m, E r), kernels flattened."""
        ranks = self.spec.experts * self.spec.rank
        return self.down.weight.reshape(ranks, -1), self.up.weight.reshape(-1, ranks)  # type: ignore[operator,union-attr]

    def gates(self, inputs: Tensor) -> Tensor | None:
        """Gates of an input, shaped to multiply the experts' axis; None without a gate."""
        if self.router is None:
            return None
        if self.stride is None:
            return self.router(inputs)  # type: ignore[no-any-return]
        if self.pointwise:
            places = inputs[:, :, ::self.stride[0], ::self.stride[1]].permute(0, 2, 3, 1)
            return self.router(places).permute(0, 3, 1, 2)  # type: ignore[no-any-return]
        return self.router(inputs.mean(dim=(2, 3)))[:, :, None, None]  # type: ignore[no-any-return]

    def low(self, inputs: Tensor) -> Tensor:
        """(g(x) spread over ranks) * (A x)."""
        low: Tensor
        gates: Tensor | None
        if self.pointwise and self.router is not None and self.router.share:
            low, gates = self._together(inputs, self.router)
        else:
            low, gates = self.down(inputs), self.gates(inputs)
        if gates is None:
            return low
        shape = (self.spec.experts, self.spec.rank)
        return ((low.unflatten(-1, shape) * gates.unsqueeze(-1)).flatten(-2) if self.stride is None else
                (low.unflatten(1, shape) * gates.unsqueeze(2)).flatten(1, 2))

    def _together(self, inputs: Tensor, router: Router) -> tuple[Tensor, Tensor]:
        """A x and the gates of a 1x1 convolution: one convolution reads its wide maps once for both."""
        down: Any = self.down
        bias = router.first.bias
        outputs = down._conv_forward(inputs, torch.cat([down.weight, router.first.weight[:, :, None, None]]),
                                     None if bias is None else torch.cat([bias.new_zeros(len(down.weight)), bias]))
        low, hidden = outputs.split([len(down.weight), len(router.first.weight)], dim=1)
        gates = router.gates(router.rest(hidden.permute(0, 2, 3, 1))).to(low.dtype)
        return low, gates.permute(0, 3, 1, 2)

    def change(self, inputs: Tensor) -> Tensor:
        """What the experts add to the frozen layer's output."""
        up: Any = self.up
        weight = self.spec.scale * up.weight  # s on a small weight, not on activations
        low = self.low(inputs)
        return F.linear(low, weight) if self.stride is None else F.conv2d(low, weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """The adapted layer's output, shaped as the frozen layer's."""
        if self.spec.standardised:
            inputs = (inputs - self.mean) / self.sd
        if not self.foldable or torch.compiler.is_exporting():
            return self.base(inputs) + self.change(inputs)  # type: ignore[no-any-return]
        # The same where the frozen layer's output lies: a second output of that width costs more than the sums in it.
        up: Any = self.up.weight
        if self.stride is not None:
            out: Tensor = self.base(inputs)
            places = out.permute(0, 2, 3, 1)
            if not places.is_contiguous():
                return out.add_(self.change(inputs))
            low = self.low(inputs).permute(0, 2, 3, 1).flatten(0, 2)
            places.view(-1, len(up)).addmm_(low.to(out.dtype), up.flatten(1).T.to(out.dtype), alpha=self.spec.scale)
            return out
        rows = inputs.flatten(0, -2)
        out = self.base(rows)
        return out.addmm_(self.low(rows).to(out.dtype), up.T.to(out.dtype), alpha=self.spec.scale).unflatten(0, inputs.shape[:-1])


def _reduced(base: nn.Conv2d, channels: int) -> nn.Conv2d:
    """The same convolution (kernel, stride, padding, also of subclasses that pad by themselves) to fewer channels, no bias."""
    if base.groups != 1:
        raise UserError(f"a convolution of {base.groups} groups takes no adapter")
    convolution = copy.deepcopy(base)
    convolution.out_channels = channels
    convolution.weight = nn.Parameter(torch.empty(channels, *base.weight.shape[1:], dtype=base.weight.dtype, device=base.weight.device))
    convolution.bias = None
    return convolution


def adapters_of(net: nn.Module) -> Iterator[tuple[str, Adapter]]:
    """The adapters inside a network, by name."""
    return ((name, module) for name, module in net.named_modules() if isinstance(module, Adapter))


def routers_of(net: nn.Module) -> list[Router]:
    """The gates inside a network whose gates still depend on the input."""
    return [adapter.router for _, adapter in adapters_of(net) if adapter.router is not None]


def balance_loss(net: nn.Module) -> Tensor | None:
    """Mean over adapted layers of the balance loss of the last training call, handed out once; None where nothing is sparse."""
    losses = []
    for router in routers_of(net):
        if router.balance is not None and router.top_k:
            losses.append(router.balance)
        router.balance = None  # it holds the whole graph of its step
    return torch.stack(losses).mean() if losses else None
