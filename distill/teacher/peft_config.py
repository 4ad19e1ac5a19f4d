"""adapter_config.json of a PEFT folder, read to the last key: what is merged as peft merges it, what is neutral, what is refused.

Owns: LoraConfig, read_lora, which layers it targets, the rank and scale of each. Does not own: tensors and the merge (peft_folder.py).
Every rule is that of peft 0.21; benchmarks/robustness/peft_grid.py compares the two.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from distill.networks.json_values import is_count, is_number, shown
from runtimes.errors import UserError
from runtimes.files.folder import read_json
from runtimes.files.strict_json import strict_json

CONFIG = "adapter_config.json"
# Keys that are implemented below, of one type each.
USED = {"r", "lora_alpha", "use_rslora", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "rank_pattern",
        "alpha_pattern", "bias", "lora_bias", "modules_to_save", "init_lora_weights", "peft_type", "fan_in_fan_out"}
# Keys that change no merged weight: where the adapter comes from, how it was trained, and settings of starts and kinds that are refused.
NEUTRAL = {"auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode", "peft_version", "lora_dropout",
           "runtime_config", "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size"}
# Starts that leave the base weights as they are. Of all others (pissa, olora, corda, loftq, lora_ga) the base was changed.
STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
NOTHING_YET = (True, None, "gaussian", "eva")  # of them those whose B is zero: a layer without tensors then changes nothing
LINEAR = "all-linear"
MANY = 20  # targets: from here on peft replaces them by shorter endings
SECONDS = 10  # for all patterns of a folder against all layers
# A pattern of somebody else may take for ever to match; in a process of its own that can be ended.
MATCH = """
import json, re, sys
patterns, names = json.load(sys.stdin)
json.dump([[bool((re.fullmatch if whole else re.match)(pattern, name)) for name in names] for pattern, whole in patterns], sys.stdout)
"""


@dataclass(frozen=True)
class LoraConfig:
    """What of adapter_config.json a merge depends on."""

    path: Path
    r: int
    alpha: float
    rslora: bool = False
    targets: str | tuple[str, ...] = ()
    excluded: str | tuple[str, ...] = ()
    indices: tuple[int, ...] = ()
    index_patterns: tuple[str, ...] = ()
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    bias: str = "none"
    lora_bias: bool = False
    saved: tuple[str, ...] = ()
    start: Any = True
    base: str = "another network"

    def scale(self, rank: int, alpha: float) -> float:
        """What B A is multiplied by."""
        return alpha / (rank ** 0.5 if self.rslora else rank)


def read_lora(folder: Path) -> LoraConfig:
    """The LoRA settings of a PEFT folder; UserError names the first key that cannot be merged exactly, or that is unknown."""
    path = folder / CONFIG
    content = read_json(path)
    if content.get("peft_type") != "LORA":
        raise UserError(f"{path}: peft_type {shown(content.get('peft_type'))}, expected LORA; only LoRA folders are merged")
    for name, value in content.items():
        if name not in USED | NEUTRAL and not (value in (None, False, "") or value in ([], {})):
            raise UserError(f"{path}: {shown(name)} {shown(value, 60)} changes what peft merges and is not read here; merge the folder "
                            "with peft's merge_and_unload and name the weights with --teacher-weights")

    def value_of(name: str, usual: Any, fits: bool, expected: str) -> Any:
        if not fits:
            raise UserError(f"{path}: {name} {shown(content.get(name, usual), 60)}, expected {expected}")
        return content.get(name, usual)

    def names_of(name: str) -> str | tuple[str, ...]:
        names = content.get(name)
        if names is None or isinstance(names, str):
            return names or ()
        return tuple(value_of(name, None, _are_names(names), "a pattern or a list of names"))

    def pattern_of(name: str, whole: bool) -> dict[str, Any]:
        pattern = content.get(name)
        right = pattern is None or (isinstance(pattern, dict) and all(
            is_count(value, 1, 2**20) if whole else is_number(value) for value in pattern.values()))
        return dict(value_of(name, None, right, f"an object of {'whole ' if whole else ''}numbers by names of layers") or {})

    start = content.get("init_lora_weights", True)
    if not any(start is known or (start == known and isinstance(start, str)) for known in STARTS):
        raise UserError(f"{path}: init_lora_weights {shown(start)} changed the base weights before training, or is unknown, so that this "
                        "folder alone does not say what they became; save it converted (peft's path_initial_model_for_weight_conversion) "
                        "or merge it with peft's merge_and_unload and name the weights with --teacher-weights")
    for name in ("use_rslora", "lora_bias", "fan_in_fan_out"):  # the last is for layers that are refused: peft ignores it for ours
        value_of(name, False, isinstance(content.get(name), bool | None), "true or false")
    indices, layers = content.get("layers_to_transform"), content.get("layers_pattern")
    value_of("layers_to_transform", None, indices is None or is_count(indices, 0, 2**20)
             or (isinstance(indices, list) and all(is_count(index, 0, 2**20) for index in indices)), "a layer's number or a list of them")
    value_of("layers_pattern", None, layers is None or isinstance(layers, str) or _are_names(layers), "a pattern or a list of them")
    targets = names_of("target_modules")
    if not targets:
        raise UserError(f"{path}: target_modules {shown(content.get('target_modules'))}, expected names of layers; which layers were "
                        "adapted is not guessed")
    if indices not in (None, []) and isinstance(targets, tuple) and len(targets) >= MANY:
        raise UserError(f"{path}: layers_to_transform with {len(targets)} target_modules, which peft shortens before it looks at them; "
                        f"expected fewer than {MANY}, or no layers_to_transform")
    if (isinstance(targets, str) and (indices is not None or layers is not None)) or (layers and indices is None):
        raise UserError(f"{path}: layers_to_transform {shown(indices)} and layers_pattern {shown(layers)} belong together, and to a list "
                        "of target_modules; peft refuses this")
    if content.get("lora_bias") and content.get("bias", "none") != "none":
        raise UserError(f"{path}: bias {shown(content['bias'])} together with lora_bias is not merged here; merge the folder with peft's "
                        "merge_and_unload and name the weights with --teacher-weights")
    return LoraConfig(
        path, value_of("r", 8, is_count(content.get("r", 8), 1, 2**20), "a whole number above 0"),
        float(value_of("lora_alpha", 8, is_number(content.get("lora_alpha", 8)), "a finite number")),
        bool(content.get("use_rslora")), targets, names_of("exclude_modules"),
        tuple(indices) if isinstance(indices, list) else () if indices is None else (indices,),
        (layers,) if isinstance(layers, str) and layers else tuple(layers or ()),
        pattern_of("rank_pattern", True), pattern_of("alpha_pattern", False),
        value_of("bias", "none", content.get("bias", "none") in ("none", "all", "lora_only"), "none, all or lora_only"),
        bool(content.get("lora_bias")), _listed(names_of("modules_to_save"), path), start,
        str(content.get("base_model_name_or_path") or "another network")[:200])


def targeted(config: LoraConfig, root: nn.Module) -> dict[str, tuple[int, float]]:
    """Every layer of a network that the settings target, with the rank and alpha that peft gives it."""
    names = [name for name, _ in root.named_modules() if name]
    linear = isinstance(config.targets, str) and config.targets.lower() == LINEAR
    targets = tuple(_linear_layers(root)) if linear else config.targets
    matches = _matches([
        *((pattern, True) for pattern in (targets, config.excluded) if isinstance(pattern, str)),
        *((_inside(saved), False) for saved in config.saved), *((_ending(key), False) for key in (*config.ranks, *config.alphas)),
        *((_numbered(pattern), False) for pattern in config.index_patterns)], names, config.path)

    def is_named(name: str, listed: str | tuple[str, ...]) -> bool:
        if isinstance(listed, str):
            return matches[listed, name]
        return name in listed or any(name.endswith(f".{ending}") for ending in listed)

    def is_target(name: str) -> bool:
        if is_named(name, config.excluded) or any(matches[_inside(saved), name] for saved in config.saved) or not is_named(name, targets):
            return False
        return not config.indices or isinstance(targets, str) or name in targets or _index(name, config) in config.indices

    def value_at(name: str, pattern: Mapping[str, Any], usual: Any) -> Any:
        return pattern.get(next((key for key in pattern if matches[_ending(key), name]), name), usual)

    return {name: (value_at(name, config.ranks, config.r), value_at(name, config.alphas, config.alpha))
            for name in names if is_target(name)}


def _inside(saved: str) -> str:
    return rf"(^|.*\.){saved}($|\..*)"


def _ending(key: str) -> str:
    return rf"(.*\.)?({key})$"


def _numbered(pattern: str) -> str:
    return rf"(?:^|.*?\.){pattern}\.(?P<idx>\d+)\."


def _index(name: str, config: LoraConfig) -> int | None:
    """The first number of a block in a layer's name, as peft reads it."""
    patterns = [_numbered(pattern) for pattern in config.index_patterns] or [r".*?\.[^.]*\.(?P<idx>\d+)\."]
    match = next((match for pattern in patterns if (match := re.match(pattern, name)) is not None), None)
    return None if match is None else int(match["idx"])


def _matches(patterns: Sequence[tuple[str, bool]], names: Sequence[str], path: Path) -> dict[tuple[str, str], bool]:
    """Whether each pattern matches each name, the whole of it where asked; patterns that never come to an end are refused."""
    if not patterns:
        return {}
    try:
        done = subprocess.run([sys.executable, "-I", "-S", "-c", MATCH], input=json.dumps([list(patterns), list(names)]),
                              capture_output=True, text=True, timeout=SECONDS, check=True)
    except subprocess.TimeoutExpired:
        raise UserError(f"{path}: its patterns take more than {SECONDS} s to match the names of layers; expected names or short "
                        "patterns") from None
    except subprocess.CalledProcessError as error:
        reason = next(iter(reversed(error.stderr.strip().splitlines())), "")
        raise UserError(f"{path}: a pattern of layers cannot be read ({shown(reason)})") from None
    rows = strict_json(done.stdout)
    return {(pattern, name): hit for (pattern, _), row in zip(patterns, rows, strict=True) for name, hit in zip(names, row, strict=True)}


def _linear_layers(root: nn.Module) -> list[str]:
    head = root.get_output_embeddings() if hasattr(root, "get_output_embeddings") else None  # type: ignore[operator]
    return [name for name, module in root.named_modules() if isinstance(module, nn.Linear) and module is not head]


def _are_names(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)


def _listed(names: str | tuple[str, ...], path: Path) -> tuple[str, ...]:
    if isinstance(names, str):
        raise UserError(f"{path}: modules_to_save {shown(names)}, expected a list of names")
    return names
