"""Weights as people save them, brought to a timm network: unwrapped, their prefix taken off, positions resampled, nothing guessed.

Owns: read_state (the tensors of a file), tensors_of (which part of a checkpoint is the network), fitted (its tensors under the network's
names). Does not own: objects beside the tensors (bags.py), which network it is (teacher/teachers.py).
"""

from __future__ import annotations

import re
import sys
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill.networks.bags import Bag, read_bags, tensors_of_module
from runtimes.errors import UserError

# Where training programs keep the network, the better first: averaged weights before those of the last step (timm, MAE, DINO, Lightning).
PARTS = ("state_dict_ema", "model_ema", "ema", "teacher", "model_state_dict", "model", "state_dict", "network", "net", "module", "encoder")
# What only training needs: decoders and masks of masked autoencoders, projection heads of self-supervision, counters.
TRAINING = re.compile(r"(^|\.)(decoder_?\w*|mask_token|masking|projector|predictor|dino_head|ibot_head|queue\w*|num_batches_tracked|"
                      r"logit_scale|text|token_embedding|positional_embedding|ln_final|attn_mask|text_projection|logit_bias|n_averaged)(\.|$)")


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from a file, never running code from it."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch remarks about a file it then refuses
            state = read_bags(path)
    except Exception as error:  # unpickling refuses in many types; each means the same here
        # torch's own words for it advise to load the file without this protection
        reason = "it holds more than tensors" if type(error).__name__ == "UnpicklingError" else first_line(error)
        raise UserError(f"{path} cannot be read as plain weights ({reason}); save it with safetensors") from None
    return tensors_of(state, str(path))


def first_line(error: Exception) -> str:
    """The first line of a foreign error's message, or its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def tensors_of(content: Any, source: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint's network by name, whatever the program that wrote it keeps beside them."""
    part = content
    for _ in range(4):
        if isinstance(part, Bag):
            part = tensors_of_module(part)
        if not isinstance(part, Mapping):
            break
        if part and all(isinstance(value, Tensor) for value in part.values()):
            return {str(name): value for name, value in part.items()}
        inner = next((part[name] for name in PARTS if isinstance(part.get(name), Mapping | Bag) and part[name]), None)
        if inner is None:
            break
        part = inner
    raise UserError(f"{source} holds no state dict of tensors; save `model.state_dict()` with safetensors")


def without_prefix(state: Mapping[str, Tensor], names: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors below the prefix under which most of a network's names are found, the prefix taken off."""
    prefix = prefix_of(state, names)
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def prefix_of(state: Mapping[str, Any], names: Mapping[str, Any]) -> str:
    """The prefix under which most of a network's names are found in a checkpoint, "" for none."""
    counts = Counter({"": sum(name in names for name in state)})
    last = {name.split(".")[-1] for name in names}
    for key in state:
        if key.split(".")[-1] in last:
            parts = key.split(".")
            for place in range(1, min(len(parts), 6)):
                if ".".join(parts[place:]) in names:
                    counts[".".join(parts[:place]) + "."] += 1
    return max(counts, key=lambda name: (counts[name], -len(name)))


def of_colours(weight: Tensor, shape: torch.Size) -> Tensor:
    """A first layer for one channel as the same layer for three, which sees their mean; any other weight as it is."""
    grey = weight.ndim == 4 and len(shape) == 4 and weight.shape[1] == 1 and shape == (weight.shape[0], 3, *weight.shape[2:])
    return weight.expand(shape) / 3 if grey else weight


def asked_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a timm vision transformer must be made with to hold these tensors: layer scale, a norm behind the pool, registers."""
    arguments: dict[str, Any] = {}
    if any(name.endswith("blocks.0.ls1.gamma") for name in state):
        arguments["init_values"] = 1e-5
    if any(name.endswith("fc_norm.weight") for name in state) and not any(re.search(r"(^|\.)norm\.weight$", name) for name in state):
        arguments["global_pool"] = "avg"
    registers = next((value for name, value in state.items() if name.endswith(("reg_token", "register_tokens"))), None)
    if registers is not None and registers.ndim == 3:
        arguments["reg_tokens"] = int(registers.shape[1])
    return arguments


def fitted(state: Mapping[str, Tensor], net: nn.Module, head: set[str], source: str) -> tuple[dict[str, Tensor], int]:
    """A checkpoint's tensors as the network's state dict, and the channels that it was trained on, 1 or 3.

    head: names of the network's classifier, which is zeros where the checkpoint has none or one of another width, since features alone
    are used. Positions of another grid are resampled by timm's own rule for the network. UserError where a tensor is missing, left over or
    of another shape.
    """
    names = net.state_dict()
    own = without_prefix(state, names)
    convert = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    if convert is not None:
        try:
            own = dict(convert(dict(own), net))
        except Exception as error:  # its rules are for the checkpoints that it knows
            raise UserError(f"{source} cannot be brought to {type(net).__name__} ({type(error).__name__}: {error})") from None
    grey = {name: of_colours(own[name], value.shape) for name, value in names.items() if name in own and own[name].shape != value.shape}
    channels = 1 if any(value.shape != own[name].shape for name, value in grey.items()) else 3
    own |= grey
    missing = [name for name in names if name not in head and name not in own]
    shapes = [name for name, value in names.items() if name not in head and name in own and own[name].shape != value.shape]
    extra = [name for name in own if name not in names and not TRAINING.search(name) and not _of_a_head(name)]
    if missing or shapes or extra:
        wrong = [f"{len(missing)} tensors are missing ({', '.join(missing[:3])})" if missing else "",
                 f"{len(shapes)} have another shape ({', '.join(shapes[:3])})" if shapes else "",
                 f"{len(extra)} have no place ({', '.join(extra[:3])})" if extra else ""]
        raise UserError(f"{source} does not fit: {'; '.join(filter(None, wrong))}")
    return {name: torch.zeros_like(value) if name in head and (name not in own or own[name].shape != value.shape) else own[name].float()
            if value.is_floating_point() else own[name] for name, value in names.items()}, channels


def _of_a_head(name: str) -> bool:
    """Whether a tensor is of a classifier or a projection behind the features."""
    return re.match(r"(head|heads|fc|classifier|proj|head_dist|last_layer|linear|projection_head)\.", name) is not None
