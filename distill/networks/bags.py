"""Checkpoints that hold more than tensors, read with no code of theirs run: every foreign object becomes a bag of what it holds.

Owns: Bag, read_bags, the tensors of a network that was saved whole (`torch.save(network)`). Does not own: which part of a checkpoint is
the network (weight_files.py). What the standard library can do to a machine is never even a bag: such a file is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Plain values of the standard library that training programs keep beside weights: options, paths, dates.
PLAIN = ("argparse.Namespace", "types.SimpleNamespace", "_codecs.encode", "pathlib.", "collections.", "datetime.", "copyreg._reconstructor",
         "builtins.object", "functools.partial")


class Bag:
    """An object that a file names by its class: its state and nothing that it could do."""

    def __init__(self, *_: Any) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, dict) else {}


def read_bags(path: Path) -> Any:
    """What a file of torch.save holds, foreign objects as bags; raises what torch raises for a file that it refuses."""
    with torch.serialization.safe_globals([(Bag, name) for name in _foreign(path)]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _foreign(path: Path) -> list[str]:
    """Names of the classes and functions that a file asks for and that may be bags."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # another kind of file, which torch.load says better
        return []
    return [name for name in names if name.split(".")[0] not in sys.stdlib_module_names or name.startswith(PLAIN)]


def tensors_of_module(bag: Bag, depth: int = 0) -> dict[str, Tensor]:
    """The state dict of a network that was saved whole, by the names of its modules; empty where a bag is none."""
    state: dict[str, Tensor] = {}
    if depth > 64:
        return state
    fleeting = bag.state.get("_non_persistent_buffers_set") or ()
    for kind in ("_parameters", "_buffers"):
        values = bag.state.get(kind)
        if isinstance(values, Mapping):
            state |= {str(name): value.detach() for name, value in values.items() if isinstance(value, Tensor) and name not in fleeting}
    modules = bag.state.get("_modules")
    if isinstance(modules, Mapping):
        for name, module in modules.items():
            if isinstance(module, Bag):
                state |= {f"{name}.{inner}": value for inner, value in tensors_of_module(module, depth + 1).items()}
    return state
