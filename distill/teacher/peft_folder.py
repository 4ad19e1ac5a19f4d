"""Trained adapters as a PEFT folder: adapter_config.json and safetensors, for `peft` or for us to put onto the original base.

Owns: the low-rank form of an adapter against the weights before it was started, PEFT's names, writing such a folder and merging one
into its base, which must be the very one it was trained on. Does not own: training, the settings of a folder (peft_config.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill.adapters.layer import Adapter, adapters_of
from distill.adapters.merge import constant_gates
from distill.networks.encoders import TransformersNet
from distill.networks.json_values import shown
from distill.teacher.peft_config import CONFIG, NOTHING_YET, LoraConfig, read_lora, targeted
from runtimes.errors import UserError
from runtimes.files.folder import write_atomic, write_json

TENSORS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # of every tensor: how peft wraps a network
BASE_HASH = "rd_base_hash"  # in the tensors' metadata: PEFT takes no unknown key in its config


@dataclass(frozen=True)
class Start:
    """What a start from an SVD took out of a frozen weight: scale / E * B0 A0; None for a start from zero."""

    down: Tensor | None
    up: Tensor | None


def starts_of(net: nn.Module, spectral: bool) -> dict[str, Start]:
    """The starting factors of every adapter, to be taken before training."""
    return {name: Start(*(factor.detach().clone() for factor in adapter.factors)) if spectral else Start(None, None)
            for name, adapter in adapters_of(_original(net))}


def _original(net: nn.Module) -> nn.Module:
    """The network as its authors load it, whose layers a folder names: of transformers the encoder alone."""
    return net.encoder if isinstance(net, TransformersNet) else net


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
    """Write a folder that PeftModel.from_pretrained(the original network, folder) loads with equal outputs (fp32).

    The head is not part of it. base: name of the original network, kept as a remark; base_hash: that of its weights.
    """
    from safetensors.torch import save

    net = _original(net)
    factors = {name: low_rank(adapter, starts[name]) for name, adapter in adapters_of(net) if adapter.foldable}
    if not factors:
        raise UserError("no adapter stands beside a layer, so there is nothing PEFT could load")
    tensors: dict[str, Tensor] = {}
    for name, (down, up) in factors.items():
        adapter = net.get_submodule(name)
        assert isinstance(adapter, Adapter)
        if isinstance(adapter.base, nn.Conv2d):
            down, up = down.view(-1, *adapter.base.weight.shape[1:]), up[:, :, None, None]
        for kind, value in (("lora_A", down), ("lora_B", up)):
            tensors[f"{PREFIX}{name}.{kind}.weight"] = value.float().contiguous()
    ranks = {name: len(down) for name, (down, _) in factors.items()}
    most = max(ranks.values())
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CONFIG, {
        "peft_type": "LORA", "task_type": None, "base_model_name_or_path": base, "inference_mode": True, "bias": "none",
        "target_modules": sorted(factors), "r": most, "lora_alpha": most, "lora_dropout": 0.0, "use_rslora": False,
        "rank_pattern": {name: rank for name, rank in ranks.items() if rank != most},
        "alpha_pattern": {name: rank for name, rank in ranks.items() if rank != most}})
    write_atomic(folder / TENSORS, save(tensors, metadata={"format": "pt", BASE_HASH: base_hash}))


@torch.no_grad()
def merge_peft(net: nn.Module, folder: Path, *base_hashes: str) -> int:
    """Make a PEFT LoRA folder's changes to the weights of its base, in place (float64, cast once); returns how many layers.

    The weights become those of peft's own merge_and_unload, or nothing changes and UserError says why: the folder is damaged, of
    another kind, for another base, or holds a setting or tensor that is not merged here. base_hashes: of the weights at hand, in the
    forms that a folder may name.
    """
    config, tensors, trained_on = read_peft(folder)
    if trained_on is not None and trained_on not in base_hashes:
        raise UserError(f"{folder} was trained on weights {trained_on[:16]} of {config.base}, this teacher has "
                        f"{base_hashes[0][:16]}; name the teacher, the --teacher-size and the --teacher-weights it was adapted from")
    root = _root(net, tensors)
    layers = targeted(config, root)
    changed: list[tuple[nn.Module, str, Tensor]] = []
    used: set[str] = set()
    merged = 0
    for name, (rank, alpha) in layers.items():
        parts = {part: tensors.get(f"{PREFIX}{name}.lora_{part}") for part in ("A.weight", "B.weight", "B.bias")}
        if all(value is None for value in parts.values()):
            if config.start not in NOTHING_YET:
                raise UserError(f"{folder} targets layer {name} but holds no tensors of it, and init_lora_weights {config.start} makes "
                                "them random; copy the folder again")
            continue
        used |= {f"{PREFIX}{name}.lora_{part}" for part, value in parts.items() if value is not None}
        changed += _changes(folder, config, name, root.get_submodule(name), parts, rank, config.scale(rank, alpha))
        merged += 1
    changed += _replaced(folder, config, root, {name: value for name, value in tensors.items() if name not in used}, layers)
    if not merged:
        raise UserError(f"{folder / TENSORS} holds no low-rank factors of layers that its target_modules name")
    for module, name, value in changed:
        tensor = getattr(module, name)
        if tensor.shape == value.shape:
            tensor.copy_(value)
        else:  # a classifier of another number of classes
            setattr(module, name, nn.Parameter(value.to(tensor.dtype), requires_grad=tensor.requires_grad))
    return merged


def read_peft(folder: Path) -> tuple[LoraConfig, dict[str, Tensor], str | None]:
    """The settings and tensors of a PEFT folder, and the hash of the base weights where rd-adapt noted it."""
    from safetensors import SafetensorError, safe_open

    config = check_peft(folder)
    try:
        with safe_open(folder / TENSORS, framework="pt") as file:
            trained_on = (file.metadata() or {}).get(BASE_HASH)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{folder / TENSORS} cannot be read ({str(error).splitlines()[0]}); copy it again") from None
    for name, value in tensors.items():
        if not value.is_floating_point() and not name.endswith("num_batches_tracked"):
            raise UserError(f"{folder / TENSORS}: {shown(name)} is of {value.dtype}, expected floating-point numbers")
        if not torch.isfinite(value.float()).all():
            raise UserError(f"{folder / TENSORS}: {shown(name)} holds NaN or Inf; train the adapter again")
    return config, tensors, trained_on


def check_peft(folder: Path) -> LoraConfig:
    """The settings of a PEFT folder, whose tensors are there but not read."""
    if not (folder / CONFIG).is_file() or not (folder / TENSORS).is_file():
        raise UserError(f"{folder} is no PEFT folder; expected {CONFIG} and {TENSORS}")
    return read_lora(folder)


def _root(net: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    """The module whose layers the folder names: the encoder inside, or for a folder of our earlier versions the network around it."""
    inside = getattr(net, "encoder", None)
    if not isinstance(inside, nn.Module) or not isinstance(net, TransformersNet):
        return net

    def known(root: nn.Module) -> int:
        names = {name for name, _ in root.named_modules()}
        return sum(name.removeprefix(PREFIX).rsplit(".lora_", 1)[0] in names for name in tensors)

    return inside if known(inside) > known(net) else net


def _changes(folder: Path, config: LoraConfig, name: str, module: nn.Module, parts: dict[str, Tensor | None], rank: int,
             scale: float) -> list[tuple[nn.Module, str, Tensor]]:
    """The new weight, and with lora_bias the new bias, of one layer."""
    if not isinstance(module, nn.Linear | nn.Conv2d) or (isinstance(module, nn.Conv2d) and module.groups > 1):
        kind = f"{type(module).__name__} of {module.groups} groups" if isinstance(module, nn.Conv2d) else type(module).__name__
        raise UserError(f"{folder}: target_modules name layer {name}, {kind}; only plain Linear and Conv2d layers are merged")
    weight: Any = module.weight
    down, up, bias = parts["A.weight"], parts["B.weight"], parts["B.bias"]
    square = weight.shape[2:]  # of a convolution's kernel
    expected = {"A": (rank, *weight.shape[1:]), "B": (weight.shape[0], rank, *(1 for _ in square))}
    for part, value in (("A", down), ("B", up)):
        if value is None or tuple(value.shape) != expected[part]:
            problem = "is missing" if value is None else f"has shape {list(value.shape)}"
            raise UserError(f"{folder} does not fit this teacher at layer {name} (lora_{part} {problem}, expected {list(expected[part])} "
                            f"for rank {rank}); it belongs to {shown(config.base)}")
    assert down is not None
    assert up is not None
    change = scale * up.double().flatten(1) @ down.double().flatten(1)
    changes: list[tuple[nn.Module, str, Tensor]] = [(module, "weight", (weight.double().flatten(1) + change).view_as(weight))]
    if config.lora_bias != (bias is not None) or (bias is not None and (module.bias is None or bias.shape != module.bias.shape)):
        raise UserError(f"{folder}: lora_bias is {config.lora_bias}, but at layer {name} lora_B has {'no' if bias is None else 'a'} bias "
                        f"and the layer has {'none' if module.bias is None else 'one'}; expected one of each")
    if bias is not None:
        changes.append((module, "bias", module.bias.double() + scale * bias.double()))  # type: ignore[operator,union-attr]
    return changes


def _replaced(folder: Path, config: LoraConfig, root: nn.Module, rest: dict[str, Tensor],
              layers: Iterable[str]) -> list[tuple[nn.Module, str, Tensor]]:
    """Tensors that take the place of the base's own: trained biases (bias), whole modules (modules_to_save); any other is refused."""
    saved = [name for name, _ in root.named_modules() if name and any(name.endswith(ending) for ending in config.saved)]
    state = root.state_dict()
    head = _classifier(root)
    replacements = []
    for full, value in rest.items():
        name = full.removeprefix(PREFIX)
        adapted = name.rsplit(".lora_", 1)[0] if ".lora_" in name else None
        if adapted is not None and full.startswith(PREFIX):
            there = adapted in dict(root.named_modules())
            raise UserError(f"{folder} does not fit this teacher at layer {shown(adapted)[1:-1]} ("
                            + (f"peft would ignore {shown(name)}: {CONFIG} does not target it" if there else "no such layer")
                            + f"); it belongs to {shown(config.base)}")
        owner, _, own = name.rpartition(".")
        layer = owner.removesuffix(".base_layer")
        place = f"{layer}.{own}" if layer else own
        whole = any(owner == module or owner.startswith(f"{module}.") for module in saved)
        trained = (config.bias == "all" and "bias" in name) or (config.bias == "lora_only" and own == "bias" and layer in layers)
        inside = owner.endswith(".base_layer") == (layer in layers)
        if not full.startswith(PREFIX) or place not in state or not (whole or (trained and inside)):
            raise UserError(f"{folder / TENSORS} holds {shown(full)}, which no setting of {CONFIG} accounts for in this teacher; it "
                            f"belongs to {shown(config.base)}, or to a kind of adapter that is not merged here")
        module = root.get_submodule(layer)
        other = module is head and isinstance(module, nn.Linear) and value.shape[1:] == state[place].shape[1:]
        if value.shape != state[place].shape and not (whole and other):
            raise UserError(f"{folder} does not fit this teacher at {place} (shape {list(value.shape)}, expected "
                            f"{list(state[place].shape)}); it belongs to {shown(config.base)}")
        replacements.append((module, own, value.double() if value.is_floating_point() else value))
    missing = [name for name in state if any(name.startswith(f"{module}.") for module in saved) and f"{PREFIX}{name}" not in rest]
    if missing:
        raise UserError(f"{folder / TENSORS} lacks {missing[0]} of modules_to_save {', '.join(config.saved)}; copy the folder again")
    return replacements


def _classifier(root: nn.Module) -> nn.Module | None:
    return root.get_classifier() if hasattr(root, "get_classifier") else None  # type: ignore[operator,no-any-return]
