"""How fast the workshop is, as ratios: a training step, building a bank, a whole distillation with and without a bank.

Owns: the sub-commands step, bank and whole of speed.py. Does not own: flags and files (speed.py). Everything timed is the
code that rd-distill runs: `fit` with its batches, `build_bank` with its forwards; only the data is drawn in memory.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import interleave, ratio, timed
from torch import Tensor

from distill.bank import FeatureBank, bank_key, build_bank, view_pixels
from distill.batches import Batches
from distill.data import load_images
from distill.fit import fit
from distill.forward import onnx_forward, torch_forward
from distill.losses import task_loss
from distill.models import ModelSpec, build_model, feature_width
from distill.objective import Batch, Branches, Weights
from distill.pixels import build_pixels
from distill.reprogram import Reprogram
from distill.students import build_student
from distill.teachers import Teacher, load_teacher
from distill.views import ViewSpec, draw_views
from runtimes.images import ImageSet, ImageSpec

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
        fit(branches or self.branches(method), batches or own, "rd" if method == "rd" else "vanilla", Weights(), epochs=1,
            min_steps=steps, lr=1e-4, weight_decay=0.02, phi_lr=0.1, phi_weight_decay=0.05, warmup=0.1, decay="none", ema=0.0,
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
    model = here.branches("vanilla").student.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
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


@dataclass(frozen=True)
class Live:
    """Batches whose features come from the teacher, run on a fresh view of the step's images: one forward an image."""

    batches: Batches
    images: ImageSet
    spec: ImageSpec
    forward: Any

    def steps_per_epoch(self, epochs: int, min_steps: int) -> int:
        """As the batches with a bank."""
        return self.batches.steps_per_epoch(epochs, min_steps)

    def __call__(self, number: int) -> Batch:
        """The batch of a step, the teacher's features made on the spot."""
        batch, indices = self.batches(number), self.batches.pick(number)[0]
        levels = [self.spec.stored(self.images.raw(int(index))) for index in indices]
        matrices = draw_views(VIEWS, len(indices), np.random.default_rng([5, number]))
        features = self.forward(view_pixels(levels, matrices, np.zeros(len(indices), dtype=bool), self.spec))["pooled"]
        return replace(batch, clean=features, viewed=features)


def whole(count: int, epochs: int, full: tuple[int, int, int]) -> dict[str, Any]:
    """A whole first distillation, a further student, and the same training with a live teacher, each run to its end.

    count training images (and a seventh and two sevenths to validate and test, as 548 / 78 / 154), `epochs` turns through them.
    `full` (training images, others, epochs) is computed from the measured costs of a row and a step.
    """
    arch, side = STUDENTS[1]
    start = time.perf_counter()
    teacher = load_teacher("efficientnet-lite2")
    spec = replace(teacher.image_spec, channels=1)
    loaded = time.perf_counter() - start
    drawn = load_images("phantom", phantom_images=(count, max(count // 7, 1), max(2 * count // 7, 1)), phantom_size=256)
    images = replace(drawn, images=[drawn.raw(index) for index in range(len(drawn))])
    counts = np.where(images.split == "train", 8, 0).astype(np.int64)
    model = ModelSpec(arch, side, side, images.task, images.classes)
    width = feature_width(build_model(model))
    steps = -(-count // BATCH) * epochs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = time.perf_counter()
        forward = onnx_forward(teacher, torch.get_num_threads())
        export = time.perf_counter() - start
        start = time.perf_counter()
        made = build_bank(folder / "bank", bank_key("lite2", "", spec, VIEWS, 0), images, counts, spec, forward, views=VIEWS, seed=0)
        banking = time.perf_counter() - start
        start = time.perf_counter()
        student = ImageSpec(side, side, 1)
        batches = batches_of(images, student, folder, made)
        here = Setting(images, student, arch, batches, folder)
        storing = time.perf_counter() - start
        live = Live(batches, images, spec, torch_forward(teacher))
        seconds = {"with bank": 0.0, "live": 0.0}
        pieces = 4  # taking turns, so that a noisy minute hits both
        for _ in range(pieces):
            for way, source in (("with bank", batches), ("live", live)):
                branches = Branches(build_student(model, None, 0), phi=Reprogram(torch.zeros(1280), torch.ones(1280), width))
                start = time.perf_counter()
                here.train("rd", max(steps // pieces, 3), replace(batches, batch=BATCH) if way == "with bank" else source, branches)
                seconds[way] += time.perf_counter() - start
    trained = pieces * max(steps // pieces, 3, -(-count // BATCH))
    row, one, slow = banking / made.rows, seconds["with bank"] / trained, seconds["live"] / trained
    images_full, others, epochs_full = full
    steps_full, rows_full = -(-images_full // BATCH) * epochs_full, images_full * 9 + others
    bank_full = export + row * rows_full
    return {
        "measured": {"training images": count, "steps": trained, "bank rows": made.rows, "teacher load s": loaded, "export s": export,
                     "bank s": banking, "pixel store s": storing, "training with bank s": seconds["with bank"],
                     "training live s": seconds["live"],
                     "first: live / (export + bank + training)": (storing + seconds["live"]) / (
                         storing + export + banking + seconds["with bank"]),
                     "further: live / training": (storing + seconds["live"]) / (storing + seconds["with bank"])},
        "a row of the bank ms": row * 1e3, "a step with bank ms": one * 1e3, "a step with live teacher ms": slow * 1e3,
        f"computed for {images_full} + {others} images, {epochs_full} epochs": {
            "steps": steps_full, "bank rows": rows_full, "bank s": bank_full, "training with bank s": steps_full * one,
            "training live s": steps_full * slow,
            "first: live / (bank + training) (goal 4)": steps_full * slow / (bank_full + steps_full * one),
            "further: live / training (goal 7)": slow / one}}
