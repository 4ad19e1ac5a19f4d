"""Tiny image sets, teachers, banks and branches for the tests of the workshop: the smallest of everything that still is everything."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.data.image_set import ImageSet
from distill.data.pixels import PixelStore, build_pixels
from distill.data.views import ViewSpec
from distill.methods.deep import Deep
from distill.methods.reprogram import Contrast, Hint, Reprogram
from distill.methods.step import Batch, Branches
from distill.networks.models import Model, ModelSpec, build_model, feature_width
from distill.networks.stages import cut_stages
from distill.teacher.bank import FeatureBank, bank_key
from distill.teacher.banking import Forward, build_bank
from distill.teacher.forward import torch_forward
from distill.teacher.probe import Probe, fit_probe
from distill.teacher.teacher import Teacher
from distill.teacher.teachers import load_teacher
from distill.training.batches import Batches
from runtimes.images.spec import ImageSpec

CLASSES = {"binary": ("no", "yes"), "multiclass": ("a", "b", "c"), "multilabel": ("x", "y", "z"), "ordinal": ("0", "1", "2", "3")}
ARCH = "test_efficientnet"  # timm's own: 0.1 M parameters, batch norm, squeeze-excite, depthwise convolutions
VIEWS = ViewSpec()


def tiny_images(task: str = "multiclass", counts: tuple[int, int, int] = (16, 8, 8), size: int = 32, seed: int = 0,
                unlabelled: int = 0, channels: int = 1) -> ImageSet:
    """An ImageSet in memory whose classes can be told apart; the last `unlabelled` training images carry no label."""
    random = np.random.default_rng(seed)
    total, classes = sum(counts), CLASSES[task]
    if task == "multilabel":
        labels: np.ndarray = (np.arange(total)[:, None] >> np.arange(len(classes)) & 1).astype(np.float32)
        bright = labels
    else:
        labels = (np.arange(total) % len(classes)).astype(np.int64)
        bright = np.eye(len(classes))[labels]
    images = []
    for row in bright:
        image = random.normal(90, 15, (size, size, channels))
        for place, value in enumerate(row):
            image[4 * place:4 * place + 8, size // 4:] += 70 * value
        images.append(image.clip(0, 255).astype(np.uint8))
    if unlabelled:
        labels[counts[0] - unlabelled:counts[0]] = np.nan if task == "multilabel" else -1
    return ImageSet(images, tuple(f"image{row}.png" for row in range(total)), labels, classes, task,  # type: ignore[arg-type]
                    np.repeat(["train", "val", "test"], counts), None,
                    tuple(hashlib.sha256(image.tobytes()).hexdigest() for image in images), False,
                    {"data": "memory", "channels": channels, "dtype": "uint8", "window": [0, 255], "median_size": [size, size]})


@cache
def tiny_teacher(arch: str = ARCH, size: int = 32) -> Teacher:
    """A frozen teacher with random weights, shared: nobody may change it."""
    return load_teacher(arch, size=size, weights="random")


def tiny_spec(size: int = 32, channels: int = 1) -> ImageSpec:
    """How the tiny images reach teacher and student."""
    return ImageSpec(size, size, channels)  # type: ignore[arg-type]


def tiny_bank(folder: Path, images: ImageSet, *, counts: Any = None, seed: int = 0, forward: Forward | None = None,
              grid: int = 0, progress: Callable[[int, int], None] | None = None, spec: ImageSpec | None = None,
              teacher: Teacher | None = None) -> FeatureBank:
    """A bank of two views of every training image, by the tiny teacher."""
    teacher = teacher or tiny_teacher()
    spec = spec or tiny_spec()
    if counts is None:
        counts = np.where(images.split == "train", 2, 0)
    return build_bank(folder, tiny_key(seed=seed, grid=grid, spec=spec, teacher=teacher), images, np.asarray(counts, dtype=np.int64), spec,
                      forward or torch_forward(teacher, grid=grid), views=VIEWS, seed=seed, batch=8, progress=progress)


def tiny_key(*, seed: int = 0, grid: int = 0, spec: ImageSpec | None = None, teacher: Teacher | None = None,
             views: ViewSpec = VIEWS) -> dict[str, Any]:
    """The key of the tiny bank."""
    teacher = teacher or tiny_teacher()
    return bank_key(teacher.name, teacher.hash, spec or tiny_spec(), views, seed, grid)


def tiny_model(task: str = "multiclass", arch: str = ARCH, size: int = 32, seed: int = 0) -> Model:
    """A small student with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model(ModelSpec(arch, size, size, task, CLASSES[task]))  # type: ignore[arg-type]
        model.head.reset_parameters()
    return model


STAGE_CHANNELS = (8, 12)  # of the banked maps that drd is tried on


def tiny_branches(method: str, task: str = "multiclass", width: int = 256, dropout: float = 0.5, seed: int = 0) -> Branches:
    """A small student with what its method trains beside it; width is that of the teacher's features."""
    model = tiny_model(task, seed=seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        mean, sd = torch.zeros(width), torch.ones(width)
        phi = Reprogram(mean, sd, feature_width(model), dropout=dropout) if method in ("rd", "drd") else None
        beside: dict[str, torch.nn.Module] = {"hint": Hint(mean, sd, feature_width(model))} if method == "fitnet" else (
            {"contrast": Contrast(mean, sd, feature_width(model), 100)} if method == "crd" else {})
        stages = cut_stages(model, len(STAGE_CHANNELS)) if method == "drd" else None
        if stages is not None:
            beside["deep"] = Deep(STAGE_CHANNELS, stages.shapes)
    return Branches(model, phi, beside=beside, stages=stages)


def tiny_step(task: str = "multiclass", count: int = 8) -> Batch:
    """One batch of noise with all that any method asks for; the teacher is 256 wide."""
    torch.manual_seed(5)
    classes = len(CLASSES[task])
    labels = torch.rand(count, classes).round() if task == "multilabel" else torch.arange(count) % classes
    return Batch(torch.randn(count, 3, 32, 32), labels, torch.randn(count, 256), torch.randn(count, 256), torch.randn(count, classes),
                 maps=tuple(torch.randn(count, channels, 4, 4) for channels in STAGE_CHANNELS))


def tiny_batches(folder: Path, images: ImageSet, *, bank: FeatureBank | None = None, probe: bool = False, seed: int = 0,
                 batch: int = 8, labelled_batch: int = 4, views: str = "fresh") -> Batches:
    """Batches of the training images, with the bank's features when there is one."""
    pixels: PixelStore = build_pixels(folder, images, tiny_spec())
    rows = images.rows("train")
    known = rows[images.labelled[rows]]
    places = None if bank is None else bank.indices(images.hashes)
    fitted = tiny_probe(images, bank) if probe and bank is not None else None
    return Batches(pixels, torch.from_numpy(images.labels), rows, known, tiny_spec(), VIEWS, seed, batch, labelled_batch,
                   views, bank, places, images.hashes, 0, fitted)  # type: ignore[arg-type]


def tiny_probe(images: ImageSet, bank: FeatureBank) -> Probe:
    """A linear probe of the bank's clean features."""
    places = bank.indices(images.hashes)
    train, val = (images.rows(split) for split in ("train", "val"))
    train = train[images.labelled[train]]
    features, labels = torch.from_numpy(bank.features(places)), torch.from_numpy(images.labels)
    return fit_probe(features[train], labels[train], features[val], labels[val], images.task,
                     len(images.classes) - (images.task == "ordinal"))
