"""What becomes of the tasks that a teacher's folder was adapted to before.

Owns: ContinualOptions, names that a task may have, the short form --task NAME. Does not own: keeping them (adaptation/continual.py).
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

from distill.settings.group import Group
from runtimes.artifact.claims import class_name
from runtimes.commands.settings import Expert
from runtimes.errors import USAGE, UserError
from runtimes.scores import TASKS

KeepOld = Literal["experts", "distil", "none"]


@dataclass(frozen=True)
class ContinualOptions(Group):
    """Earlier tasks: what becomes of those that the teacher's folder was adapted to before."""

    keep_old: KeepOld = "experts"
    """experts: this task gets adapters and a head of its own on the original teacher, earlier ones stay bit for bit; distil: one network
    goes on, held to its earlier features; none: it goes on, and forgets."""
    keep_images: int = 0
    """With --keep-old distil, that many training images of each task stay in the folder, without names: they are patients' images."""
    keep_weight: Annotated[float, Expert] = 0.3
    """Weight of the distance to earlier features, for --keep-old distil."""
    old_data: Annotated[tuple[str, ...], Expert] = ()
    """Where images of earlier tasks are now, if they have moved: their heads are tried on them after --keep-old distil or none."""
    accept_forgetting: bool = False
    """Write the folder even where an earlier task lost more than 5 % of its AUROC above chance, or could not be tried."""

    def check(self) -> None:
        """Refuse values out of range and settings that cannot both hold."""
        super().check()
        self.not_negative("keep_images")
        self.above_zero("keep_weight")
        if self.keep_images and self.keep_old != "distil":
            raise UserError(f"--keep-images {self.keep_images} is for --keep-old distil; --keep-old {self.keep_old} needs no images of "
                            "earlier tasks: leave it out", USAGE)


def check_task_name(name: str | None) -> None:
    """UserError (exit 2) for a name that no task can have: a kind of labels, something near one, control characters."""
    if name is None:
        return
    if name in TASKS:
        raise UserError(f"--task {name}: a kind of labels cannot be the name of a task, too; choose another name", USAGE)
    if near := difflib.get_close_matches(_letters(name), TASKS, 1, 0.85):
        raise UserError(f"--task {name}: did you mean {near[0]}, a kind of labels? The name of a task must not be so near to one; choose "
                        "another name", USAGE)
    if len(name) > 100 or (problem := class_name(name, "--task")):
        raise UserError("--task names a task with more than 100 letters" if len(name) > 100 else problem, USAGE)


def _letters(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalpha())


def with_task_names(words: Sequence[str]) -> list[str]:
    """A command line in which --task NAME, of a task, stands as --task-name NAME, and --task KIND, of labels, as it was.

    UserError (exit 2) where two different tasks are named.
    """
    spelled = list(words)
    for place, (word, following) in enumerate(pairwise(words)):
        if word == "--task" and following not in TASKS:
            spelled[place] = "--task-name"
    spelled = [f"--task-name={word.removeprefix('--task=')}" if word.startswith("--task=") and word.removeprefix("--task=") not in TASKS
               else word for word in spelled]
    names = dict.fromkeys([following for word, following in pairwise(spelled) if word == "--task-name" and not following.startswith("--")] +
                          [word.removeprefix("--task-name=") for word in spelled if word.startswith("--task-name=")])
    if len(names) > 1:
        raise UserError(f"--task and --task-name name {len(names)} tasks ({', '.join(map(repr, names))}); name one", USAGE)
    return spelled
