"""How long a whole distillation takes: with a bank, from the same bank again, and with the teacher run at every step.

Owns: the sub-command whole of command.py, batches with a live teacher. Does not own: flags and files (command.py).
The live teacher is PyTorch's, as a training loop would hold it, and runs once for each image of a step: the least it could do
(Reprogramming Distillation as the recipe has it needs two views). `python -m benchmarks.speed.command whole --images 32 --epochs 20`
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.speed.training import BATCH, STUDENTS, VIEWS, Setting, batches_of
from distill.data.image_set import ImageSet
from distill.data.loading import load_images
from distill.data.views import draw_views, view_pixels
from distill.methods.reprogram import Reprogram
from distill.methods.step import Batch, Branches
from distill.networks.models import ModelSpec, build_model, feature_width
from distill.networks.students import build_student
from distill.teacher.bank import bank_key
from distill.teacher.banking import build_bank
from distill.teacher.forward import onnx_forward, torch_forward
from distill.teacher.teachers import load_teacher
from distill.training.batches import Batches
from runtimes.images.spec import ImageSpec


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
                here.train("rd", max(steps // pieces, 3), source, branches)
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
