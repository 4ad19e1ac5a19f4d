"""What an adapter is made of, as data: experts, ranks, scale and gate; importing this loads no torch.

Owns: AdapterSpec, the scaling rule. Does not own: the layer built from it (adapters.py).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from runtimes.errors import USAGE, UserError


@dataclass(frozen=True)
class AdapterSpec:
    """What rebuilds an adapter beside its layer: experts of a rank each, their scale, and the gate over them.

    gate: none (all experts count 1), linear (one bias-free map, as GOAT and Sparse Spectral LoRA), mlp (two layers, as MoLRE).
    top_k: experts that stay on for an input, 0 for all. constant: the gates no longer depend on the input. members: groups that the
    experts and the hidden units are counted over, each under a softmax of its own with its own top_k: an ensemble whose changes are
    averaged. standardised: of pooled features alone; experts see, and add to, (x - mean) / sd.
    """

    experts: int = 1
    rank: int = 8
    scale: float = 1.0
    gate: Literal["none", "linear", "mlp"] = "none"
    hidden: int = 32
    top_k: int = 0
    constant: bool = False
    members: int = 1
    standardised: bool = False

    def __post_init__(self) -> None:
        if min(self.experts, self.rank) < 1:
            raise UserError(f"an adapter needs at least one expert of rank 1, found {self.experts} of rank {self.rank}", USAGE)
        if self.members < 1 or self.experts % self.members or (self.gate == "mlp" and self.hidden % self.members):
            raise UserError(f"{self.experts} experts and {self.hidden} hidden units do not divide among {self.members} members", USAGE)
        each = self.experts // self.members
        if not 0 <= self.top_k <= each:
            raise UserError(f"top-k {self.top_k} of {each} experts is impossible; choose 1 to {each}, or 0 for all", USAGE)

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


def theory_scale(inputs: int, rank: int, eta: float = 1.0) -> float:
    """s = sqrt(3 n eta / r) of a layer with n inputs and experts of rank r (GOAT appendix D.6)."""
    return math.sqrt(3 * inputs * eta / rank)
