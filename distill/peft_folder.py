"""Trained adapters as a PEFT folder: adapter_config.json and safetensors that `peft` loads onto the original base.

Owns: the low-rank form of an adapter against the weights before it was started, PEFT's names. Does not own: training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from distill.adapters import Adapter, adapters_of
from distill.merge import constant_gates
from runtimes.errors import UserError
from runtimes.folder import write_atomic, write_json


@dataclass(frozen=True)
class Start:
    """What a start from an SVD took out of a frozen weight: scale / E * B0 A0; None for a start from zero."""

    down: Tensor | None
    up: Tensor | None


def starts_of(net: nn.Module, spectral: bool) -> dict[str, Start]:
    """The starting factors of every adapter, to be taken before training."""
    return {name: Start(*(factor.detach().clone() for factor in adapter.factors)) if spectral else Start(None, None)
            for name, adapter in adapters_of(net)}


def low_rank(adapter: Adapter, start: Start) -> tuple[Tensor, Tensor]:
    """A (k, n) and B (m, k) with B A equal to the change of the original weight, in float64.

    [s g B | -(s / E) B0] [A ; A0]: PEFT's subtract_mutated_init for routed experts whose gates are constant.
    """
    gates = constant_gates(adapter)
    if gates is None:
        raise UserError("PEFT has no form for gates that depend on the input; train with --merge-aware, or use --method lora")
    spec = adapter.spec
    down, up = (factor.detach().double() for factor in adapter.factors)
    up = up * (spec.scale * gates.repeat_interleave(spec.rank))
    if start.down is None or start.up is None:
        return down, up
    return torch.cat([down, start.down.double()]), torch.cat([up, -spec.scale / spec.experts * start.up.double()], dim=1)


def write_peft(folder: Path, net: nn.Module, starts: dict[str, Start], base: str) -> None:
    """Write a folder that PeftModel.from_pretrained(net before adaptation, folder) loads with equal outputs (fp32).

    The head is not part of it. base: name of the original network, kept as a remark.
    """
    from safetensors.torch import save

    found = {name: low_rank(adapter, starts[name]) for name, adapter in adapters_of(net) if adapter.foldable}
    if not found:
        raise UserError("no adapter stands beside a layer, so there is nothing PEFT could load")
    tensors: dict[str, Tensor] = {}
    for name, (down, up) in found.items():
        adapter = net.get_submodule(name)
        assert isinstance(adapter, Adapter)
        if isinstance(adapter.base, nn.Conv2d):
            down, up = down.view(-1, *adapter.base.weight.shape[1:]), up[:, :, None, None]
        for kind, value in (("lora_A", down), ("lora_B", up)):
            tensors[f"base_model.model.{name}.{kind}.weight"] = value.float().contiguous()
    ranks = {name: len(down) for name, (down, _) in found.items()}
    most = max(ranks.values())
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "adapter_config.json", {
        "peft_type": "LORA", "task_type": None, "base_model_name_or_path": base, "inference_mode": True, "bias": "none",
        "target_modules": sorted(found), "r": most, "lora_alpha": most, "lora_dropout": 0.0, "use_rslora": False,
        "rank_pattern": {name: rank for name, rank in ranks.items() if rank != most},
        "alpha_pattern": {name: rank for name, rank in ranks.items() if rank != most}})
    write_atomic(folder / "adapter_model.safetensors", save(tensors, metadata={"format": "pt"}))
