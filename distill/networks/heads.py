"""Heads of the tasks a teacher was adapted to, as earlier versions kept them: one linear classifier a task, all on one network.

Owns: TaskHead, reading heads.safetensors and its index heads.json. Does not own: tasks as they are kept now (tasks.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from runtimes.artifact.claims import class_names
from runtimes.errors import UserError
from runtimes.files.folder import read_json
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
