"""Trained adapters as a PEFT folder: adapter_config.json and safetensors, for `peft` or for us to put onto the original base.

Owns: the low-rank form of an adapter against the weights before it was started, PEFT's names, writing such a folder and merging one
into its base, which must be the very one it was trained on. Does not own: training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill.adapters import Adapter, adapters_of
from distill.merge import constant_gates
from runtimes.errors import UserError
from runtimes.folder import read_json, write_atomic, write_json

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
BASE_HASH = "rd_base_hash"  # in the tensors' metadata: PEFT takes no unknown key in its config


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


def write_peft(folder: Path, net: nn.Module, starts: dict[str, Start], base: str, base_hash: str) -> None:
    """Write a folder that PeftModel.from_pretrained(net before adaptation, folder) loads with equal outputs (fp32).

    The head is not part of it. base: name of the original network, kept as a remark; base_hash: that of its weights.
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
    write_json(folder / CONFIG, {
        "peft_type": "LORA", "task_type": None, "base_model_name_or_path": base, "inference_mode": True, "bias": "none",
        "target_modules": sorted(found), "r": most, "lora_alpha": most, "lora_dropout": 0.0, "use_rslora": False,
        "rank_pattern": {name: rank for name, rank in ranks.items() if rank != most},
        "alpha_pattern": {name: rank for name, rank in ranks.items() if rank != most}})
    write_atomic(folder / TENSORS, save(tensors, metadata={"format": "pt", BASE_HASH: base_hash}))


@torch.no_grad()
def merge_peft(net: nn.Module, folder: Path, base_hash: str) -> int:
    """Add a PEFT LoRA folder's changes to the weights of its base, in place (float64, cast once); returns how many layers.

    base_hash: that of the weights at hand. UserError where the folder is damaged, of another kind, or made for another base.
    """
    from safetensors import SafetensorError, safe_open

    if not (folder / CONFIG).is_file() or not (folder / TENSORS).is_file():
        raise UserError(f"{folder} is no PEFT folder; expected {CONFIG} and {TENSORS}")
    config = read_json(folder / CONFIG)
    if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("bias", "none") != "none" or config.get("fan_in_fan_out"):
        raise UserError(f"{folder / CONFIG}: peft_type {config.get('peft_type')}, expected plain LORA without DoRA and biases")
    try:
        with safe_open(folder / TENSORS, framework="pt") as file:
            trained_on = (file.metadata() or {}).get(BASE_HASH)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder / TENSORS} cannot be read ({str(error).splitlines()[0]}); copy it again") from None
    if trained_on is not None and trained_on != base_hash:
        raise UserError(f"{folder} was trained on weights {trained_on[:16]} of {config.get('base_model_name_or_path')}, this teacher has "
                        f"{base_hash[:16]}; name the teacher, the --teacher-size and the --teacher-weights it was adapted from")
    names = sorted({name.rsplit(".lora_", 1)[0] for name in tensors if ".lora_" in name})
    for name in names:
        layer = name.removeprefix("base_model.model.")
        try:
            base: Any = net.get_submodule(layer)
            down, up = (tensors[f"{name}.lora_{part}.weight"].double().flatten(1) for part in "AB")
            base.weight.copy_((base.weight.double().flatten(1) + _scale(config, layer, len(down)) * up @ down).view_as(base.weight))
        except (AttributeError, KeyError, RuntimeError) as error:
            raise UserError(f"{folder} does not fit this teacher at layer {layer} ({str(error).splitlines()[0]}); it belongs to "
                            f"{config.get('base_model_name_or_path')}") from None
    if not names:
        raise UserError(f"{folder / TENSORS} holds no low-rank factors")
    return len(names)


def _scale(config: dict[str, Any], layer: str, rank: int) -> float:
    alpha = config.get("alpha_pattern", {}).get(layer, config["lora_alpha"])
    return float(alpha) / (rank ** 0.5 if config.get("use_rslora") else rank)
