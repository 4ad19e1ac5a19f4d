"""Proof that a finished artifact takes the decisions of the PyTorch model, from raw images to the answer.

Owns: `parity` (the content of parity.json), the PyTorch reference, the bound on the flip rate. Pure: it reads images and asks a
session, it writes nothing. Does not own: what agreement means (runtimes/agreement.py), choosing the images (commands.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from distill.checkpoint import Calibration
from distill.models import Model
from export.gate import Limits, judge_logits
from runtimes.agreement import Agreement, compare
from runtimes.artifact import Artifact
from runtimes.errors import UserError
from runtimes.images import read_image
from runtimes.scores import calibrated
from runtimes.session import Session, as_batch

Inputs = tuple[NDArray[np.float32], ...]  # what a model takes of one image, without the batch
CONFIDENCE = 0.95
CHUNK = 32  # images of one PyTorch forward
RULE = ("every logit within tolerance x max(1, |logit|) of PyTorch at every batch size, every probability within tolerance of its "
        "own logits, and no decision flipped but where PyTorch itself stands within 2 x tolerance of the border")
LOWER_RULE = ("flips, drop of AUROC and mean change of probabilities within their limits at every batch size, every probability within "
              "its own logits' calibration, and in fp16 and bf16 every logit within tolerance x max(1, |logit|) of PyTorch")
TAIL = {"fp32": 1e-4, "fp16": 1e-3, "int8": 1e-3, "bf16": 2e-2}  # softmax and temperature beside the logits: bf16 may compute them too


def parity(model: Model, session: Session, artifact: Artifact, images: Sequence[Path | NDArray[Any]], labels: NDArray[Any], *,
           max_batch: int, precision_share: dict[str, float], calibration: Calibration | None = None, limits: Limits | None = None,
           progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Compare an artifact with the model it was made from on raw images (files or arrays); the content of parity.json.

    Raises UserError when not one image can be used. `passed` follows RULE, or with `limits` LOWER_RULE. calibration: the model's own,
    where the artifact's was fitted anew.
    """
    spec, task = artifact.image_spec, artifact.task
    used, items, inputs, trained, refused, stand_ins = [], [], [], [], [], 0
    single: list[tuple[NDArray[Any], NDArray[Any]]] = []
    for index, image in enumerate(images):
        item, raw, stands_in = device_image(image, artifact)
        try:
            batch_of_one = as_batch(item, artifact)
        except UserError as error:  # a constant image, say: the device refuses it too
            refused.append(error)
            continue
        scores = session.run(batch_of_one)
        single.append((scores.logits, scores.probabilities))
        used.append(index)
        items.append(item)
        stand_ins += stands_in
        inputs.append(graph_inputs(raw, artifact))
        trained.append((spec.normalised(spec.stored(raw)), *inputs[-1][1:]))
        if progress is not None:
            progress(index + 1, len(images))
    if not used:
        raise refused[0] if refused else UserError("no validation images: parity cannot be shown; name the images with --data")

    logits = reference_logits(model, inputs)
    own = calibration or Calibration(artifact.temperatures, artifact.thresholds)
    expected = calibrated(logits, task, own.temperatures)

    def agreement(found_logits: NDArray[Any], found: NDArray[Any]) -> Agreement:
        return compare(found_logits, found, logits, expected, task=task, temperatures=own.temperatures, thresholds=own.thresholds,
                       tolerance=artifact.tolerance)

    batches = sorted({1, min(2, len(used)), min(max_batch, len(used))})
    found_logits, found = (np.concatenate(parts) for parts in zip(*single, strict=True))
    answered = [(found_logits, found)]
    for batch in batches[1:]:
        answers = [session.run(items[start:start + batch]) for start in range(0, len(items), batch)]
        answered.append((np.concatenate([one.logits for one in answers]), np.concatenate([one.probabilities for one in answers])))
    results = [agreement(*one) for one in answered]
    verdicts = [judge_logits(one, expected, labels[used], task, own, limits) for one, _ in answered] if limits else []
    tail = float(np.abs(found - calibrated(found_logits, task, artifact.temperatures)).max())
    rounding = _rounding(model, inputs, trained, logits, expected, artifact)
    flips = max(one.flips for one in verdicts or results)
    close = artifact.precision == "int8" or all(one.difference <= artifact.tolerance for one in results)
    passed = (close and all(one.passed for one in verdicts)) if limits else all(one.within(artifact.tolerance) for one in results)
    distance = np.abs(found_logits.astype(np.float64) - logits).max(axis=1)
    worst = np.argsort(-distance, kind="stable")[:5]
    change = _auroc_change(labels[used], found, expected, artifact)
    return {
        "format": 1, "target": artifact.target, "precision": artifact.precision, "images": len(used),
        "flips": flips, "flip_bound": flip_bound(flips, len(used)),
        "max_logit_difference": _finite(float(distance.max())),
        "max_probability_difference": _finite(max(one.probability_difference for one in results)),
        "auroc_difference": None if change is None else abs(change["value"]), "auroc_change": change,
        "passed": bool(passed and tail <= TAIL[artifact.precision]),
        "precision_share": precision_share,
        "max_relative_logit_difference": _finite(max(one.difference for one in results)),
        "excused_flips": max(one.excused for one in results), "calibration_difference": _finite(tail),
        "tolerance": artifact.tolerance, "rule": LOWER_RULE if limits else RULE,
        "changed_decisions": max((one.changed for one in verdicts), default=flips),
        "decisions": max((one.decisions for one in verdicts), default=len(used)),
        "reasons": sorted({reason for one in verdicts for reason in one.reasons}),
        "mean_probability_change": _finite(float(np.abs(found.astype(np.float64) - expected).mean())),
        "batches": batches, "confidence": CONFIDENCE,
        "refused_images": len(refused), "images_resized_to_graph": stand_ins, "rounding": rounding,
        "worst": [{"image": used[row], "pixels_sha256": _digest(inputs[row][0]), "logit_difference": _finite(float(distance[row]))}
                  for row in worst],  # no names: a file name may name a patient, and this file ships
    }


def device_image(image: Path | NDArray[Any], artifact: Artifact) -> tuple[Path | NDArray[Any], NDArray[Any], bool]:
    """What the device is given (a file stays a file), the raw array (H, W, C) behind it, and whether it stands in for another size.

    A graph with a baked resize takes one size: images of another are brought to it first, the same for both sides.
    """
    spec = artifact.image_spec
    raw = spec.channelled(read_image(image, spec.volume))
    if artifact.baked and raw.shape[:2] != artifact.graph_size:
        raw = replace(spec, height=artifact.graph_size[0], width=artifact.graph_size[1]).resized(raw)
        return raw, raw, True
    return image if isinstance(image, Path) else raw, raw, False


def accepted(images: Sequence[Path | NDArray[Any]], artifact: Artifact) -> tuple[list[int], list[tuple[NDArray[Any], ...]], list[Inputs]]:
    """Of images those that pass the input check: their places, a batch of one as the graph takes it, what PyTorch must see."""
    places: list[int] = []
    batches: list[tuple[NDArray[Any], ...]] = []
    inputs: list[Inputs] = []
    for place, image in enumerate(images):
        item, raw, _ = device_image(image, artifact)
        try:
            batch = as_batch(item, artifact)
        except UserError:  # refused on the device too, and counted in parity.json
            continue
        places.append(place)
        batches.append(batch if isinstance(batch, tuple) else (batch,))
        inputs.append(graph_inputs(raw, artifact))
    return places, batches, inputs


def evenly(rows: Sequence[int] | NDArray[np.int64], most: int) -> list[int]:
    """Up to `most` of these rows, evenly spaced, in order."""
    places = np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int))
    return [int(rows[place]) for place in places]


def graph_inputs(raw: NDArray[Any], artifact: Artifact) -> Inputs:
    """What PyTorch must see to be compared with the graph: (pixels,), or of a volume pixels and mask."""
    spec = artifact.image_spec
    if spec.volume is None:
        return (graph_pixels(raw, artifact),)
    return graph_pixels(raw, artifact), (np.arange(spec.slices) < spec.slices_of(raw)).astype(np.float32)


def graph_pixels(raw: NDArray[Any], artifact: Artifact) -> NDArray[np.float32]:
    """Pixels as the graph sees them, (3, h, w) or of a volume (S, 3, h, w): its own arithmetic, without rounding to 8 bits.

    A resize inside the graph is compared with torch's own antialiased bilinear filter.
    """
    spec = artifact.image_spec
    if artifact.input_kind == "tensor":
        return spec.normalised(spec.stored(raw))
    if not artifact.baked:
        return spec.normalised(spec.levels(spec.resized(raw)))
    levels = torch.from_numpy(spec.levels(raw)).permute(2, 0, 1)[None]
    resized = F.interpolate(levels, (spec.height, spec.width), mode="bilinear", antialias=True, align_corners=False)
    return spec.normalised(resized.permute(0, 2, 3, 1).numpy())[0]


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


def flip_bound(flips: int, images: int, confidence: float = CONFIDENCE) -> float:
    """Upper limit of the flip rate after `flips` among `images`, exact binomial, one-sided (Clopper and Pearson 1934)."""
    from scipy.stats import beta

    return 1.0 if flips >= images else float(beta.ppf(confidence, flips + 1, images - flips))


def _rounding(model: Model, inputs: Sequence[Inputs], trained: Sequence[Inputs],
              logits: NDArray[np.float32], expected: NDArray[np.float32], artifact: Artifact) -> dict[str, Any]:
    """What training's 8-bit levels change against the graph's unrounded ones, both in PyTorch: a property, not a fault."""
    if all(np.array_equal(one[0], other[0]) for one, other in zip(inputs, trained, strict=True)):
        return {"flips": 0, "max_logit_difference": 0.0, "max_probability_difference": 0.0}
    as_trained = reference_logits(model, trained)
    found = compare(logits, expected, as_trained, calibrated(as_trained, artifact.task, artifact.temperatures), task=artifact.task,
                    temperatures=artifact.temperatures, thresholds=artifact.thresholds, tolerance=artifact.tolerance)
    return {"flips": found.flips, "max_logit_difference": float(np.abs(logits - as_trained).max()),
            "max_probability_difference": found.probability_difference}


def _auroc_change(labels: NDArray[Any], found: NDArray[Any], expected: NDArray[Any], artifact: Artifact) -> dict[str, float] | None:
    """AUROC of the artifact minus that of PyTorch on the labelled images, with a paired 95 % interval; None where it is not defined."""
    from distill.evaluate import auroc_difference

    if not np.isfinite(found).all():
        return None
    return auroc_difference(labels, found, expected, artifact.task, n_bootstrap=500) or None


def _digest(pixels: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()[:16]


def _finite(value: float) -> float | None:
    """JSON has no infinity; None says that a score was not finite, and then parity has failed."""
    return value if np.isfinite(value) else None


