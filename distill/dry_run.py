"""rd-distill --dry-run: what a run would read, build and cost, told before it begins; nothing is trained and nothing written.

Owns: the counts by class, the size of the bank, the two short measurements behind the estimate. Does not own: the run (commands.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.commands import check_images, check_names, network_arguments, student_image_spec
from distill.data.image_set import ImageSet
from distill.data.intake import choose_device, describe, read_images
from distill.data.pixels import pixel_bytes
from distill.methods.build import grid_of, method_losses
from distill.methods.step import Batch, Branches, Weights
from distill.networks.layout import channels_last
from distill.networks.models import Model, ModelSpec, count_macs, count_parameters
from distill.networks.students import build_student
from distill.progress import say
from distill.selection.judging import judging_sets
from distill.selection.length import FEWEST, LONG, is_open
from distill.selection.weak import is_doubted
from distill.settings.data import DataOptions
from distill.settings.distill import DistillSettings
from distill.settings.hidden import check_names_file
from distill.settings.method import MethodOptions, SelectionOptions
from distill.settings.student import StudentOptions
from distill.settings.teacher import TeacherOptions
from distill.settings.training import TrainingOptions
from distill.teacher.bank import open_bank
from distill.teacher.banking import CPU_BATCH
from distill.teacher.forward import choose_forward
from distill.teacher.teacher import fed
from distill.teacher.teachers import load_teacher
from distill.teacher.teaching import stated_input
from distill.training.batches import training_steps
from distill.training.pretrain import first_steps

STEPS = 5  # timed, after two that warm up
SLOW_S = 2.0  # a call as long as that is timed once: a volume through a large teacher takes a quarter of a minute
FEATURE_BYTES = 2  # a bank keeps fp16


def dry_run(settings: DistillSettings) -> int:
    """Say what the run would do; returns the exit code. UserError where the run itself would be refused before it trains."""
    arch = check_names(settings)
    device = choose_device(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    images = read_images(settings.part(DataOptions), settings.out, unlabelled=settings.unlabelled)
    check_images(settings, images)
    if images.names:
        check_names_file(settings.out)
    say("data", describe(images))
    for note in images.facts.get("notes", []):
        say("", note)
    for split in ("train", "val", "test"):
        say("", f"{split}: " + ", ".join(f"{name} {count:,}" for name, count in class_counts(images, split).items()))
    known_s = 0.0
    if settings.adapt != "none":
        say("teacher", f"{settings.teacher}, adapted first (--adapt {settings.adapt}); its time is not estimated")
    elif settings.banked:
        known_s += _tell_bank(settings, images, device)
    else:
        say("teacher", f"none: --method {settings.method} trains on labels alone")
    if arch is None:
        say("student", f"chosen within the budget; up to {settings.auto_students} trials of {settings.proxy_steps} steps are not estimated")
    else:
        known_s += _tell_student(settings, arch, images, device)
    say("estimate", f"about {spoken(known_s)} here for what is estimated above, beside reading images and the report; the machine was "
                    "measured for moments only")
    say("done", f"nothing was trained and nothing written; without --dry-run the result goes to {settings.out}/")
    return 0


def class_counts(images: ImageSet, split: str) -> dict[str, int]:
    """How many images of a split have each class or finding, and how many no label at all."""
    rows = images.rows(split)
    labels = images.labels[rows]
    if images.task == "multilabel":
        counts = {name: int((labels[:, place] == 1).sum()) for place, name in enumerate(images.classes)}
    else:
        counts = {name: int((labels == place).sum()) for place, name in enumerate(images.classes)}
    hidden = int((~images.labelled[rows]).sum())
    return counts | ({"unlabelled": hidden} if hidden else {})


def _tell_bank(settings: DistillSettings, images: ImageSet, device: str) -> float:
    """Say which teacher, and what its bank takes; seconds to build it, 0 where it is there."""
    if settings.teacher.startswith("bank:"):
        bank = open_bank(Path(settings.teacher.removeprefix("bank:")))
        say("bank", f"{bank.folder}: teacher {bank.key['teacher']}, {bank.rows:,} rows; there already")
        return 0.0
    teacher = load_teacher(settings.teacher, weights=settings.teacher_weights, adapter=settings.teacher_adapter,
                           stated=stated_input(settings.part(TeacherOptions)), task=settings.task_name)
    teacher.introduce()
    spec = fed(teacher.image_spec, images)
    grid = grid_of(settings.part(MethodOptions), settings.bank_grid)
    forward, runtime = choose_forward(teacher, settings.bank_runtime, device=device, grid=grid, threads=settings.threads)
    solid = teacher.image_spec.slices  # of a teacher of whole volumes a row is a volume, and one takes seconds
    pixels = torch.zeros(1, solid, 3, spec.height, spec.width) if solid else torch.zeros(CPU_BATCH, 3, spec.height, spec.width)
    features: Mapping[str, Any] = forward(pixels)
    row_s = timed(lambda: forward(pixels)) / len(pixels)
    slices = images.volume.slices if images.volume is not None and not solid else 1
    rows = bank_rows(images, settings.banked_views) * slices
    row_bytes = sum(int(np.prod(part.shape[1:])) for part in features.values()) * FEATURE_BYTES
    say("bank", f"{rows:,} rows, {size(rows * row_bytes)} on disk, about {spoken(rows * row_s)} through {runtime} "
                f"({1000 * row_s:.1f} ms a row)" + ("; --second-teacher is not estimated" if settings.second_teacher else ""))
    if not settings.live:
        return rows * row_s
    looks = settings.batch * training_steps(len(images.rows("train")), settings.batch, settings.epochs, fewest_steps(settings))
    say("", f"and {looks:,} looks during the training (--bank-views live), about {spoken(looks * row_s)}")
    return (rows + looks) * row_s


def bank_rows(images: ImageSet, views: int) -> int:
    """Rows of a bank: each image once, training images once more for every view."""
    return len(images) + int((images.split == "train").sum()) * views


def _tell_student(settings: DistillSettings, arch: str, images: ImageSet, device: str) -> float:
    """Say which student and how long its training; seconds of it, by the student's own part of a step."""
    spec = student_image_spec(settings.part(StudentOptions), images, arch=arch)
    model = build_student(ModelSpec(arch, spec.height, spec.width, images.task, images.classes, network_arguments(arch, spec),
                                    slices=spec.slices, pooling=settings.slice_pooling), settings.student_weights, settings.seed)
    steps = training_steps(len(images.rows("train")), settings.batch, settings.epochs, fewest_steps(settings))
    say("student", f"{arch}, {count_parameters(model) / 1e6:.2f} M parameters, "
                   f"{count_macs(model, spec.height, spec.width) / 1e6:.1f} M MACs at {spec.width} px, on {device}; "
                   f"pixels {size(pixel_bytes(images, spec))} on disk while it trains"
                   + ("; it is then pruned to the budget" if settings.limited else ""))
    step_s = timed(_training_step(model, images, settings.batch, device))
    say("method", f"{settings.method}, {steps:,} steps of {settings.batch} images, about {spoken(steps * step_s)} "
                  f"({1000 * step_s:.0f} ms a step of the student alone)")
    before = first_steps(settings.part(MethodOptions), steps) if settings.pretrain == "on" else 0
    if before:
        say("pretrain", f"{before:,} steps before these, on the teacher's features of every training image, about "
                        f"{spoken(before * step_s)}")
    if is_doubted(settings.part(MethodOptions), settings.part(SelectionOptions), images, steps):
        say("teacher", f"{settings.auto_steps:,} steps before these, of a student alone that its probe is compared with, about "
                       f"{spoken(settings.auto_steps * step_s)}")
        before += settings.auto_steps
    if is_open(settings.method, settings.part(TrainingOptions), images):
        sets = judging_sets(images, settings.split_seed, settings.auto_folds)
        more = len(sets) * settings.auto_steps + max(0, LONG - steps)
        say("length", f"up to {more:,} steps more, where trials of {settings.auto_steps:,} steps find the teacher's probe better than the "
                      f"student alone, about {spoken(more * step_s)}")
        before += more
    return (before + steps) * step_s


def fewest_steps(settings: DistillSettings) -> int:
    """Fewest steps of the run, before any is added by what trials find."""
    return FEWEST if settings.min_steps is None else settings.min_steps


def _training_step(model: Model, images: ImageSet, batch: int, device: str) -> Callable[[], object]:
    """One step of training on noise, to be timed."""
    shape = (batch, model.spec.slices) if model.spec.slices else (batch,)
    pixels = torch.rand(*shape, 3, model.spec.height, model.spec.width, device=device)
    labels = torch.zeros(batch, len(images.classes)) if images.task == "multilabel" else torch.zeros(batch, dtype=torch.long)
    mask = torch.ones(shape, device=device) if model.spec.bag else None
    branches = Branches(model).to(device).train()
    channels_last(branches)
    optimiser = torch.optim.AdamW(branches.parameters(), lr=1e-6)

    def step() -> None:
        losses = method_losses("vanilla", branches, Batch(pixels, labels.to(device), mask=mask), Weights())
        optimiser.zero_grad(set_to_none=True)
        losses["task"].backward()
        optimiser.step()

    return step


def timed(call: Callable[[], object]) -> float:
    """Seconds of a call, the median of a few, once it is warm; of one that takes seconds, those of the first."""
    start = time.perf_counter()
    call()
    if (first := time.perf_counter() - start) > SLOW_S:
        return first
    call()
    seconds = []
    for _ in range(STEPS):
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def spoken(seconds: float) -> str:
    """A length of time as one says it: 40 s, 12 min, 3.5 h."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(count: int) -> str:
    """A number of bytes as one says it: 3.1 MB, 1.2 GB."""
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"
