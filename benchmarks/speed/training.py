"""How fast the workshop is, as ratios: a training step, building a bank.

Owns: the sub-commands step and bank of command.py. Does not own: flags and files (command.py), a whole run (whole.py).
Everything timed is the code that rd-distill runs: `fit` with its batches, `build_bank` with its forwards; only the data is
drawn in memory. `python -m benchmarks.speed.command step`
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.record import interleave, ratio, timed
from distill.data.image_set import ImageSet
from distill.data.loading import load_images
from distill.data.pixels import build_pixels
from distill.data.views import ViewSpec
from distill.evaluation.losses import task_loss
from distill.methods.build import method_losses
from distill.methods.reprogram import Reprogram
from distill.methods.step import Branches, Weights
from distill.networks.models import ModelSpec, feature_width
from distill.networks.students import build_student
from distill.teacher.bank import FeatureBank, bank_key
from distill.teacher.banking import build_bank
from distill.teacher.forward import onnx_forward, torch_forward
from distill.teacher.teacher import Teacher
from distill.teacher.teachers import load_teacher
from distill.training.batches import Batches
from distill.training.fit import fit
from runtimes.images.spec import ImageSpec

STUDENTS = (("mobilenetv3_small_050", 96), ("mobilenetv3_small_100", 128))
VIEWS = ViewSpec()
BATCH = 32


@dataclass(frozen=True)
class Setting:
    """One student on drawn images: all that `fit` needs, the optimiser's start included."""

    images: ImageSet
    spec: ImageSpec
    arch: str
    batches: Batches
    folder: Path

    def branches(self, method: str) -> Branches:
        """Fresh branches of a method."""
        model = build_student(ModelSpec(self.arch, self.spec.height, self.spec.width, self.images.task, self.images.classes), None, 0)
        if method == "vanilla":
            return Branches(model)
        width = self.batches.bank.width if self.batches.bank else 1280
        return Branches(model, phi=Reprogram(torch.zeros(width), torch.ones(width), feature_width(model)))

    def train(self, method: str, steps: int, batches: Any = None, branches: Branches | None = None) -> list[float]:
        """Run `fit` for one epoch of some steps; seconds from one step's end to the next, the first two left out."""
        ends: list[float] = []
        own = self.batches if method == "rd" else replace(self.batches, bank=None, bank_rows=None)
        fit(branches or self.branches(method), batches or own, partial(method_losses, "rd" if method == "rd" else "vanilla"), Weights(),
            epochs=1, min_steps=steps, lr=1e-4, weight_decay=0.02, phi_lr=0.1, phi_weight_decay=0.05, warmup=0.1, decay="none", ema=0.0,
            precision="fp32", device="cpu", class_weights=None, seed=0, folder=self.folder, resume=False,
            evaluate=lambda _: {"score": 0.0}, select="last", progress=lambda *_: ends.append(time.perf_counter()))
        return [float(value) for value in np.diff(ends)[1:]]


@contextmanager
def setting(arch: str, side: int, channels: int, count: int = BATCH) -> Iterator[Setting]:
    """Drawn images, their pixel store and a bank of random features as wide as EfficientNet-Lite's (1280)."""
    images = load_images("phantom", phantom_images=(count, 32, 32), phantom_size=max(side, 96))
    spec = ImageSpec(side, side, channels)  # type: ignore[arg-type]
    counts = np.where(images.split == "train", 8, 0).astype(np.int64)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wide = ImageSpec(32, 32, 3)
        bank = build_bank(folder / "bank", bank_key("random", "", wide, VIEWS, 0), images, counts, wide,
                          lambda pixels: {"pooled": torch.randn(len(pixels), 1280)}, views=VIEWS, seed=0)
        yield Setting(images, spec, arch, batches_of(images, spec, folder, bank), folder)


def batches_of(images: ImageSet, spec: ImageSpec, folder: Path, bank: FeatureBank) -> Batches:
    """The batches rd-distill would make of these images."""
    rows = images.rows("train")
    return Batches(build_pixels(folder, images, spec), torch.from_numpy(images.labels), rows, rows, spec, VIEWS, 0, BATCH, 16,
                   "fresh", bank, bank.indices(images.hashes), images.hashes)


def step(samples: int, rounds: int) -> dict[str, Any]:
    """RD step with the bank against the vanilla step and against the bare student forward and backward, by student."""
    rows: dict[str, Any] = {}
    for arch, side in STUDENTS:
        for channels in (1, 3):
            with setting(arch, side, channels) as here:
                found = interleave({
                    "bare": lambda here=here: bare(here, samples),  # type: ignore[misc]
                    "vanilla": lambda here=here: here.train("vanilla", samples + 2),  # type: ignore[misc]
                    "rd": lambda here=here: here.train("rd", samples + 2)}, rounds)  # type: ignore[misc]
            rows[f"{arch} {side} px, {channels} channel(s)"] = {
                **found, "rd / vanilla (goal 1.05)": ratio(found["rd"], found["vanilla"]),
                "rd / bare (goal 1.2)": ratio(found["rd"], found["bare"])}
    return rows


def bare(here: Setting, samples: int) -> list[float]:
    """Forward and backward of the student alone on tensors in memory, channels last."""
    model = here.branches("vanilla").student.to(memory_format=torch.channels_last).train()
    batch = here.batches(0)

    def once() -> None:
        model.zero_grad(set_to_none=True)
        task_loss(model(batch.pixels), batch.labels, here.images.task).backward()

    return [timed(once)[0] for _ in range(samples + 2)][2:]


def bank(rows: int, rounds: int, teachers: tuple[str, ...]) -> dict[str, Any]:
    """`build_bank` over images in memory against the bare teacher on ready tensors, seconds a row, by teacher."""
    result: dict[str, Any] = {}
    for name in teachers:
        teacher = load_teacher(name)
        spec = replace(teacher.image_spec, channels=1)
        images = load_images("phantom", phantom_images=(max(rows // 9, 3), 1, 1), phantom_size=256)
        drawn = replace(images, images=[images.raw(index) for index in range(len(images))])  # decoding is not what is measured
        pixels = torch.randn(BATCH, 3, spec.height, spec.width)
        ways = {"torch": torch_forward(teacher), "onnx": onnx_forward(teacher, torch.get_num_threads())}
        found = interleave({
            "bare": lambda teacher=teacher, pixels=pixels: bare_teacher(teacher, pixels, rows),  # type: ignore[misc]
            "bare, channels last": lambda teacher=teacher, pixels=pixels: bare_teacher(  # type: ignore[misc]
                teacher, pixels.contiguous(memory_format=torch.channels_last), rows),
            **{way: lambda forward=forward, drawn=drawn, spec=spec: built(drawn, spec, forward)  # type: ignore[misc]
               for way, forward in ways.items()}}, rounds)
        result[name] = {**found, "throughput, torch / bare (goal 0.85)": ratio(found["bare"], found["torch"]),
                        "throughput, torch / bare in channels last": ratio(found["bare, channels last"], found["torch"]),
                        "throughput, onnx / bare (goal 2)": ratio(found["bare"], found["onnx"])}
    return result


def bare_teacher(teacher: Teacher, pixels: Tensor, rows: int) -> list[float]:
    """Seconds a row of the teacher in PyTorch eager on tensors in memory."""
    with torch.no_grad():
        teacher.net(pixels[:2])
        turns = max(1, rows // len(pixels))
        start = time.perf_counter()
        for _ in range(turns):
            teacher.net(pixels)
    return [(time.perf_counter() - start) / (turns * len(pixels))]


def built(images: ImageSet, spec: ImageSpec, forward: Any) -> list[float]:
    """Seconds a row of `build_bank`, from images in memory to a finished bank on disk."""
    counts = np.where(images.split == "train", 8, 0).astype(np.int64)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        made = build_bank(Path(folder) / "bank", bank_key("teacher", "", spec, VIEWS, 0), images, counts, spec, forward,
                          views=VIEWS, seed=0)
        return [(time.perf_counter() - start) / made.rows]
