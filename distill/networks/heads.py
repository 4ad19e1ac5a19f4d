"""Heads of the tasks a teacher was adapted to before: one linear classifier a task, kept beside the weights.

Owns: TaskHead, heads.safetensors and its index in heads.json. Does not own: the newest head, which is the model's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill.networks.models import Model, class_scores
from runtimes.artifact.claims import class_names
from runtimes.errors import UserError
from runtimes.files.folder import read_json, write_atomic, write_json
from runtimes.files.schema import check, list_of, object_of, one_of, text
from runtimes.scores import TASKS, Task

WEIGHTS, INDEX = "heads.safetensors", "heads.json"
HEADS = object_of({"heads": list_of(object_of({"name": text(least=1), "task": one_of(*TASKS), "classes": class_names}))}, others=True)


@dataclass(frozen=True)
class TaskHead:
    """A linear classifier (C, D) with its bias, and what it decides."""

    name: str
    task: Task
    classes: tuple[str, ...]
    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Logits (B, classes) of pooled features (B, D)."""
        return class_scores(torch.nn.functional.linear(features, self.weight, self.bias), self.task)


def head_of(model: Model, name: str, heads: list[TaskHead]) -> TaskHead:
    """A model's own head under a name of its own among those taken."""
    used = {head.name for head in heads}
    count = next(number for number in range(1, len(used) + 2) if (name if number == 1 else f"{name}-{number}") not in used)
    head = model.head
    return TaskHead(name if count == 1 else f"{name}-{count}", model.spec.task, model.spec.classes,
                    head.weight.detach().cpu().clone(), head.bias.detach().cpu().clone())


def save_heads(folder: Path, heads: list[TaskHead]) -> None:
    """Write the heads of all tasks so far, oldest first."""
    from safetensors.torch import save

    tensors = {f"{head.name}.{part}": getattr(head, part).contiguous() for head in heads for part in ("weight", "bias")}
    write_atomic(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    write_json(folder / INDEX, {"heads": [{"name": head.name, "task": head.task, "classes": list(head.classes)} for head in heads]})


def load_heads(folder: Path) -> list[TaskHead]:
    """Read the heads of a teacher folder, oldest first; none where it has none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not (folder / INDEX).is_file():
        return []
    index: dict[str, Any] = read_json(folder / INDEX)
    check(index, HEADS, str(folder / INDEX), "make the folder again")
    try:
        tensors = load_file(folder / WEIGHTS)
        return [TaskHead(entry["name"], entry["task"], tuple(entry["classes"]), tensors[f"{entry['name']}.weight"],
                         tensors[f"{entry['name']}.bias"])
                for entry in index["heads"]]
    except (KeyError, OSError, SafetensorError) as error:
        raise UserError(f"the heads in {folder} cannot be read ({type(error).__name__}: {error}); make the folder again") from None
