"""What both sides say of raw images: the artifact through its session, the PyTorch model on the very pixels the graph sees.

Owns: `ask` (both sides' answers, a few images in memory at a time), what PyTorch must see, which images a device accepts.
Does not own: what the answers prove (parity.py), choosing the images (commands.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import lcm
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from distill.networks.models import Model
from runtimes.artifact.artifact import Artifact
from runtimes.errors import UserError
from runtimes.images.spec import Item
from runtimes.session import Session, as_batch

Array = NDArray[Any]
Image = Item
Inputs = tuple[NDArray[np.float32], ...]  # what a model takes of one image, without the batch
CHUNK = 32  # images in memory at a time, and in one PyTorch forward


@dataclass(frozen=True)
class Answers:
    """What both sides said of the N images that pass the input check; rows are their rows among the images given.

    expected: PyTorch's logits (N, C) on the graph's pixels; trained: on training's 8-bit levels. outputs: the artifact's logits and
    probabilities, (N, C) each, by batch size. refused: why images were refused, one reason each. stand_ins: images resized to the graph.
    """

    rows: list[int]
    expected: NDArray[np.float32]
    trained: NDArray[np.float32]
    outputs: dict[int, tuple[NDArray[np.float32], NDArray[np.float32]]]
    refused: list[UserError]
    stand_ins: int


@dataclass(frozen=True)
class Accepted:
    """An image that passes the input check: a batch of one as the graph takes it, what PyTorch must see, the raw array behind both."""

    row: int
    batch: tuple[Array, ...]
    inputs: Inputs
    raw: Array
    stands_in: bool


def ask(model: Model, session: Session, artifact: Artifact, images: Sequence[Image], *, max_batch: int,
        rows: Sequence[int] | None = None, progress: Callable[[int, int], None] | None = None) -> Answers:
    """Put raw images (files or arrays; those of `rows`) to both sides, to the artifact in batches of 1, 2 and max_batch.

    Raises UserError when not one image can be used.
    """
    spec, refused = artifact.image_spec, list[UserError]()
    sizes = sorted({1, 2, max_batch})
    whole = lcm(2, max_batch)  # so that only the last chunk ends in a batch that is not full
    step = whole * max(1, CHUNK // max(1, spec.slices) // whole)
    used, stand_ins = list[int](), 0
    expected, trained, outputs = list[Array](), list[Array](), {size: list[tuple[Array, Array]]() for size in sizes}
    waiting: list[Accepted] = []

    def answer() -> None:
        for size in sizes:
            for start in range(0, len(waiting), size):
                part = [image.batch for image in waiting[start:start + size]]
                feed = tuple(np.concatenate(arrays) for arrays in zip(*part, strict=True))
                scores = session.run(feed if len(feed) > 1 else feed[0])
                outputs[size].append((scores.logits, scores.probabilities))
        inputs = [image.inputs for image in waiting]
        expected.append(reference_logits(model, inputs))
        rounded = [(spec.normalised(spec.stored(image.raw)), *image.inputs[1:]) for image in waiting]
        same = all(np.array_equal(first[0], second[0]) for first, second in zip(inputs, rounded, strict=True))
        trained.append(expected[-1] if same else reference_logits(model, rounded))
        waiting.clear()

    for image in accepted(images, artifact, rows, refused, progress):
        used.append(image.row)
        stand_ins += image.stands_in
        waiting.append(image)
        if len(waiting) == step:
            answer()
    if waiting:
        answer()
    if not used:
        raise refused[0] if refused else UserError("no validation images: parity cannot be shown; name the images with --data")
    together = {min(size, len(used)): (np.concatenate([logits for logits, _ in parts]), np.concatenate([probs for _, probs in parts]))
                for size, parts in outputs.items()}
    return Answers(used, np.concatenate(expected), np.concatenate(trained), together, refused, stand_ins)


def accepted(images: Sequence[Image], artifact: Artifact, rows: Sequence[int] | None = None,
             refused: list[UserError] | None = None,
             progress: Callable[[int, int], None] | None = None) -> Iterator[Accepted]:
    """Of images (those of `rows`) those that pass the device's input check, read one at a time; why others do not goes to `refused`."""
    chosen = range(len(images)) if rows is None else rows
    for place, row in enumerate(chosen):
        item, raw, stands_in = device_image(images[row], artifact)
        try:
            batch = as_batch(item, artifact)
        except UserError as error:  # a constant image, say: the device refuses it too
            if refused is not None:
                refused.append(error)
            continue
        yield Accepted(row, batch if isinstance(batch, tuple) else (batch,), graph_inputs(raw, artifact), raw, stands_in)
        if progress is not None:
            progress(place + 1, len(chosen))


def device_image(image: Item, artifact: Artifact) -> tuple[Item, NDArray[Any], bool]:
    """What the device is given (a file stays a file), the raw array (H, W, C) behind it, and whether it stands in for another size.

    A graph with a baked resize takes one size: images of another are brought to it first, the same for both sides.
    """
    spec = artifact.image_spec
    raw = spec.channelled(spec.read(image))
    if artifact.baked and raw.shape[:2] != artifact.graph_size:
        raw = replace(spec, height=artifact.graph_size[0], width=artifact.graph_size[1]).resized(raw)
        return raw, raw, True
    return image if isinstance(image, Path) or spec.volume is not None else raw, raw, False  # volumes are scaled by the session itself


def evenly(rows: Sequence[int] | NDArray[np.int64], most: int) -> list[int]:
    """Up to `most` of these rows, evenly spaced, in order."""
    places = np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int))
    return [int(rows[place]) for place in places]


def graph_inputs(raw: NDArray[Any], artifact: Artifact) -> Inputs:
    """What PyTorch must see to be compared with the graph: (pixels,), or of a volume pixels and mask."""
    spec = artifact.image_spec
    if not spec.masked:
        return (graph_pixels(raw, artifact),)
    return graph_pixels(raw, artifact), (np.arange(spec.slices) < spec.slices_of(raw)).astype(np.float32)


def graph_pixels(raw: NDArray[Any], artifact: Artifact) -> NDArray[np.float32]:
    """Pixels as the graph sees them, (3, h, w) or of a volume (S, 3, h, w): its own arithmetic, without rounding to 8 bits.

    A resize inside the graph is compared with torch's own antialiased bilinear filter, its crop and its padding.
    """
    spec = artifact.image_spec
    if artifact.input_kind == "tensor":
        return spec.normalised(spec.stored(raw))
    if not artifact.baked:
        return spec.normalised(spec.levels(spec.resized(raw)))
    low, high = spec.window
    levels = torch.from_numpy(np.clip(raw.astype(np.float32), low, high) - np.float32(low) if spec.physical else spec.levels(raw))
    levels = levels.permute(2, 0, 1)[None]
    resized = F.interpolate(levels, spec.between(*raw.shape[:2]), mode="bilinear", antialias=True, align_corners=False)
    top, left = ((there - here) // 2 for there, here in zip(resized.shape[2:], (spec.height, spec.width), strict=True))
    below, right = spec.height + top - resized.shape[2], spec.width + left - resized.shape[3]
    placed = F.pad(resized, (-left, right, -top, below))  # a crop where negative; around a smaller image, black
    image = placed.permute(0, 2, 3, 1).numpy()
    return spec.normalised(spec.levels(image + np.float32(low)) if spec.physical else image)[0]


def reference_logits(model: Model, inputs: Sequence[Inputs]) -> NDArray[np.float32]:
    """Logits (N, C) of the PyTorch model in eval mode for N inputs: (3, h, w), or (S, 3, h, w) and a mask (S,)."""
    model.eval()
    device = next(model.parameters()).device
    answers = []
    with torch.inference_mode():
        chunk = max(1, CHUNK // max(1, model.spec.slices))
        for start in range(0, len(inputs), chunk):
            batch = [torch.from_numpy(np.stack(parts)).to(device) for parts in zip(*inputs[start:start + chunk], strict=True)]
            answers.append(model(*batch).float().cpu().numpy())
    return np.asarray(np.concatenate(answers), dtype=np.float32)
