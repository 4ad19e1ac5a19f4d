"""The settings of rd-distill: one frozen dataclass that is command line, Python call and record.

Owns: DistillSettings, and which of its settings contradict each other. Does not own: the range of each (its groups), reading them
(runtimes/commands/flags.py), what a setting does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from distill.settings.adapt import AdaptSettings
from distill.settings.data import DataOptions
from distill.settings.group import flag
from distill.settings.method import MethodOptions, SelectionOptions
from distill.settings.method_table import METHODS
from distill.settings.student import BudgetOptions, StudentOptions
from distill.settings.teacher import TeacherOptions
from distill.settings.training import RunOptions, TrainingOptions
from runtimes.commands.settings import Expert
from runtimes.errors import USAGE, UserError
from runtimes.scores import TASKS

# What --adapt passes on of the teacher.
AS_ADAPTED = ("teacher_size", "teacher_weights", "teacher_mean", "teacher_std", "teacher_pool", "teacher_resize", "bank_views",
              "bank_runtime", "flip")


@dataclass(frozen=True)
class DistillSettings(RunOptions, TrainingOptions, SelectionOptions, MethodOptions, BudgetOptions, StudentOptions, TeacherOptions,
                      DataOptions):
    """Distil a frozen teacher into a small student: data + teacher -> a student folder."""

    out: Path = Path("student")
    """Folder to write."""
    min_steps: Annotated[int | None, Expert] = None
    """Fewest steps of a run: small data sets are turned through more often. When not given 1200, or 3000 where at least half of the
    training images carry no label and the teacher's probe beats the student alone on images held out."""
    weight_decay: Annotated[float, Expert] = 0.02
    """AdamW weight decay of the student."""
    unlabelled: Path | None = None
    """Folder of further training images without labels."""
    adapt: Literal["none", "lora", "moe", "molre", "spectral"] = "none"
    """Adapt the teacher first, as rd-adapt does, into <out>-teacher."""
    teacher_adapter: Annotated[Path | None, Expert] = None
    """PEFT folder (LoRA) to merge into the teacher, such as rd-adapt --peft writes; it must fit the teacher's weights."""
    second_teacher: Annotated[str | None, Expert] = None
    """A further teacher, named as --teacher is: its features are banked behind the first one's, at no cost for the student."""
    second_task_name: Annotated[str | None, Expert] = None
    """Which task of the folder that --second-teacher names; the newest when not given."""
    bank_seed: Annotated[int, Expert] = 0
    """Seed of the banked views."""
    bank_grid: Annotated[int, Expert] = 0
    """Also bank the teacher's stages, pooled to a grid of this side; 0 banks pooled features alone, or 8 x 8 for drd and at."""
    audit: Annotated[float, Expert] = 0.01
    """Share of the bank recomputed live in PyTorch (cosine at least 0.999); 0 skips it."""
    dry_run: bool = False
    """Say what data, classes, bank and time the run would take, from a short measurement; train and write nothing."""

    def check(self) -> None:
        """Refuse values out of range and the first pair of settings that cannot both hold."""
        super().check()
        self.seeds("bank_seed")
        self.not_negative("bank_grid")
        self.shares("audit")
        for wrong, reason in contradictions(self):
            if wrong:
                raise UserError(reason, USAGE)

    def adaptation(self, out: Path) -> AdaptSettings:
        """The adaptation behind --adapt: its data, teacher, device and seed, all else by default."""
        shared = {**vars(self.part(DataOptions)), **{name: getattr(self, name) for name in AS_ADAPTED}, "teacher": self.teacher,
                  **{name: value for name, value in vars(self.part(RunOptions)).items() if name not in ("out", "config")}}
        return AdaptSettings(method=self.adapt, out=out, slice_pooling=self.slice_pooling, **shared)  # type: ignore[arg-type]


def contradictions(settings: DistillSettings) -> list[tuple[bool, str]]:
    """Each contradiction there can be: whether it is there, and what to say of it."""
    budget = settings.limited
    method, adapt = settings.method, settings.adapt
    row = METHODS.get(method)
    banked, branch = settings.banked, row is not None and row.branch
    how = next((f"{flag(name)} {getattr(settings, name)}" for name, usual in
                (("importance", "auto"), ("prune_scope", "layer"), ("prune_rounds", None)) if getattr(settings, name) != usual), None)
    needless = [flag(name) for name in ("bank", "teacher_size", "teacher_weights", "teacher_adapter")
                if getattr(settings, name)]
    return [
        (how is not None and not budget,
         f"{how} says how a student is pruned to a budget: give --max-params, --max-macs or --max-latency-ms, or leave it out"),
        (how is not None and settings.student == "auto",
         f"--student auto takes whole networks that fit; leave {how} out, or name a student to prune"),
        (settings.latency_table is not None and settings.max_latency_ms is None,
         "--latency-table tells what networks take on another device; it needs --max-latency-ms"),
        (settings.student == "auto" and not budget,
         "--student auto needs a budget to choose within: --max-params, --max-macs or --max-latency-ms"),
        (settings.student == "auto" and settings.student_weights is not None,
         "--student auto compares networks with random weights; leave --student-weights out, or name a student"),
        (settings.views == "tied" and not banked, f"--views tied needs a bank; --method {method} has none"),
        (settings.live and settings.views == "tied",
         "--bank-views live lets the teacher see every view of the student's; leave --views tied out"),
        (settings.live and not banked, f"--bank-views live needs a teacher; --method {method} has none"),
        (settings.live and settings.teacher.startswith("bank:"),
         f"--bank-views live needs a teacher that looks at every step; --teacher {settings.teacher} holds features alone"),
        (settings.live and settings.second_teacher is not None,
         f"--bank-views live takes one teacher; leave --second-teacher {settings.second_teacher} out"),
        (settings.pretrain == "off" and settings.pretrain_steps is not None,
         f"--pretrain-steps {settings.pretrain_steps} is about a first stage; add --pretrain on, or leave it out"),
        (settings.live and (settings.bank_grid > 0 or (row is not None and row.stages)),
         "--bank-views live takes pooled features; maps of stages come from a bank"),
        (adapt != "none" and not banked, f"--adapt {adapt} adapts a teacher; --method {method} has none"),
        (settings.teacher_adapter is not None and adapt != "none",
         f"--adapt {adapt} starts from a plain teacher; leave --teacher-adapter out"),
        (settings.teacher.startswith("bank:") and banked and bool(needless),
         f"--teacher {settings.teacher} holds features already; leave {' and '.join(needless)} out"),
        (settings.second_teacher is not None and not banked,
         f"--second-teacher {settings.second_teacher} needs a bank; --method {method} has none"),
        (settings.second_teacher is not None and adapt != "none",
         f"--adapt {adapt} adapts one teacher; run rd-adapt first and give its folder as --teacher or --second-teacher"),
        (settings.second_task_name is not None and settings.second_teacher is None,
         f"--second-task-name {settings.second_task_name} is about --second-teacher; name one, or leave it out"),
        (settings.task_name is not None and not banked,
         f"--task {settings.task_name} is about a teacher; --method {method} has none (kinds of labels are {', '.join(TASKS)})"),
        (settings.task_name is not None and adapt != "none",
         f"--adapt {adapt} adapts the teacher to the data at hand, which is a task of its own; leave --task {settings.task_name} out"),
        (method == "auto" and (settings.prune_rounds or 1) > 1,
         "--method auto chooses after pruning; with --prune-rounds above 1 name a method"),
        (row is not None and row.same_places and settings.views != "tied",
         f"--method {method} compares places in the image, which both must see alike: add --views tied"),
        (settings.classifier == "own" and method != "rd",
         f"--classifier own is about the teacher branch of rd; --method {method} has none"),
        (settings.cka_against == "teacher" and not branch,
         f"--cka-against teacher is about the CKA of rd and drd; --method {method} has none"),
        (settings.kd_from != "auto" and not branch,
         f"--kd-from {settings.kd_from} is about the logits that rd and drd distil; leave it out with --method {method}"),
        (settings.mixup > 0 and row is not None and row.module.endswith("dkd"),
         f"--mixup {settings.mixup:g} gives an image parts of two labels, and --method {method} splits the label's class from the others; "
         "use kd or dist"),
        (settings.overwrite and settings.resume, "--overwrite and --resume contradict each other; give one"),
    ]
