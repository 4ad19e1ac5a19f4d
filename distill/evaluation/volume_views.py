"""Where a network looked in volumes: attention against the slices that hold a finding, and strips of slices for the report.

Owns: `landing`, `strips`, `heaviest`. Does not own: attention itself (slices.py), the page (report.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.data.image_set import ImageSet
from runtimes.images.spec import ImageSpec

STRIPS = 4


def holding(images: ImageSet, row: int) -> NDArray[np.bool_] | None:
    """Which of the slices a network sees of a volume hold a finding, where that is known (of the phantom); else None."""
    slice_labels = getattr(images.images, "slice_labels", None)
    if slice_labels is None or images.volume is None:
        return None
    with_finding = slice_labels(row).max(axis=1) > 0
    return np.asarray(with_finding[images.volume.places(len(with_finding))])


def landing(images: ImageSet, rows: NDArray[np.int64], attention: NDArray[np.float32]) -> dict[str, float] | None:
    """How much attention (n, S) lies on slices that hold a finding, over the volumes that have some; None where that is unknown.

    on_findings: mean weight of those slices; if_uniform: what it would be if all slices weighed alike; heaviest_right: share of
    volumes whose heaviest slice holds a finding.
    """
    shares, uniform, right = [], [], []
    for row, weights in zip(rows.tolist(), attention, strict=True):
        with_finding = holding(images, row)
        if with_finding is None:
            return None
        if with_finding.any():
            own = weights[:len(with_finding)]
            shares.append(float(own[with_finding].sum()))
            uniform.append(float(with_finding.mean()))
            right.append(bool(with_finding[own.argmax()]))
    if not shares:
        return None
    return {"n": len(shares), "on_findings": float(np.mean(shares)), "if_uniform": float(np.mean(uniform)),
            "heaviest_right": float(np.mean(right))}


def heaviest(images: ImageSet, spec: ImageSpec, row: int, attention: NDArray[np.float32] | None) -> NDArray[np.uint8]:
    """The picture of an image, (h, w, C); of a volume its slice of most attention (or its middle one)."""
    raw = images.raw(row)
    stored = spec.stored(raw)
    if stored.ndim == 3:
        return stored
    count = spec.slices_of(raw)
    return stored[count // 2 if attention is None else int(attention[:count].argmax())]


def strips(images: ImageSet, spec: ImageSpec, rows: NDArray[np.int64], attention: NDArray[np.float32] | None) -> list[dict[str, Any]]:
    """A few volumes, evenly spread over those with a finding (or over all): pictures of their slices, weights, what holds a finding."""
    if attention is None or spec.volume is None:
        return []
    labels = images.labels[rows]
    positive = np.flatnonzero((labels == 1).any(axis=1)) if labels.ndim == 2 else np.flatnonzero(labels > 0)
    chosen = positive if len(positive) else np.arange(len(rows))
    volumes = []
    for place in chosen[np.unique(np.linspace(0, len(chosen) - 1, min(STRIPS, len(chosen))).astype(int))].tolist():
        row = int(rows[place])
        raw = images.raw(row)
        count, with_finding = spec.slices_of(raw), holding(images, row)
        stored = spec.stored(raw)
        if images.task == "multilabel":
            label = ", ".join(name for name, value in zip(images.classes, images.labels[row], strict=True) if value == 1) or "none"
        else:
            label = images.classes[int(images.labels[row])] if images.labels[row] >= 0 else "not labelled"
        volumes.append({"key": images.keys[row], "label": label, "known": with_finding is not None, "slices": [
            {"image": stored[slot], "number": int(spec.volume.places(len(raw))[slot]) + 1, "weight": float(attention[place, slot]),
             "height": float(attention[place, slot] / attention[place, :count].max()),
             "holds": bool(with_finding is not None and with_finding[slot])}
            for slot in range(count)]})
    return volumes
