"""The report of a distillation: one self-contained HTML page.

Owns: which numbers and pictures the page shows, and in which words. Does not own: metrics (evaluate.py), drawing
(plots.py), the page's looks (templates/report.html). Nothing is loaded from outside, and no clock is read: the same
input gives the same bytes.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.evaluation.calibrate import nll
from distill.evaluation.evaluate import COMMON, confidences, decisions, ece
from distill.evaluation.metrics import auroc_columns, bin_of
from distill.report.choices_view import experts_view, methods_view, students_view
from distill.report.plots import reliability, roc, training
from runtimes.scores import Task
from runtimes.text import shown

Array = NDArray[Any]

_MODELS = (
    ("probe", "Probe", "a linear classifier on the frozen teacher's features"),
    ("teacher", "Teacher branch", "the teacher's features reprogrammed, then the shared classifier"),
    ("student", "Student", "the network that ships"),
)
_METRICS = (
    ("auroc", "AUROC"), ("auroc_common", f"AUROC of findings in {COMMON} images or more"),
    ("accuracy", "Accuracy"), ("balanced_accuracy", "Balanced accuracy"),
    ("f1", "F1, mean over classes"), ("kappa", "Kappa, quadratic"), ("brier", "Brier score"),
    ("ece", "Calibration error (ECE)"),
)  # fmt: skip
_PICTURE_PIXELS = 224
_MOST_VALUES = 12  # of a column that are shown


def write_report(
    path: Path,
    *,
    title: str,
    facts: dict[str, str],
    metrics: dict[str, Any],
    history: list[dict[str, Any]],
    test: dict[str, Any],
    val: dict[str, Any],
    worst: list[dict[str, Any]],
    warnings: list[str],
    volumes: Sequence[dict[str, Any]] = (),
    beside: Mapping[str, Any] | None = None,
) -> None:
    """Write the page; metrics is the whole metrics.json, history the rows of summary.csv.

    test and val: labels, probabilities (N, C), probabilities_uncalibrated and teacher_probabilities ((N, C) or None),
    groups, keys. volumes: slices of a few volumes and what they weighed (volume_views.strips). beside: facts columns, guess and
    near_copies of the images, as far as they are there.
    worst: image uint8 (H, W, 1 or 3), key, label, prediction, probability each. facts["command"] repeats
    the run, facts["synthetic"] == "yes" puts up the banner. ValueError for labels or pictures that do not fit.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent / "templates")
    page = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
                       finalize=shown)
    page.filters["figure"] = lambda value: "–" if value is None else f"{value:.3f}"
    task: Task = metrics["task"]
    text = page.get_template("report.html").render(
        title=title,
        synthetic=facts.get("synthetic") == "yes",
        command=facts.get("command", ""),
        facts=[(key.replace("_", " "), value) for key, value in facts.items() if key not in ("command", "synthetic")],
        warnings=warnings,
        task=task,
        params=_short(metrics.get("params")),
        macs=_short(metrics.get("macs")),
        splits=metrics["splits"],
        models=_comparison(metrics["splits"]),
        rows=_metric_rows(metrics["splits"]),
        per_patient=test.get("groups") is not None,
        training=training(history),
        epochs=len(history),
        classes=_per_class(metrics, test),
        has_teacher=test.get("teacher_probabilities") is not None,
        calibration=[
            {"name": name, **_calibration(split, task, name)}
            for name, split in (("validation", val), ("test", test))
            if _labelled(split, task)
        ],
        calibrated=facts.get("calibration", "not known to be calibrated"),
        confusion=None if task == "multilabel" else _confusion(metrics, test),
        students=students_view(metrics),
        methods=methods_view(metrics),
        experts=experts_view(metrics),
        columns=_columns(beside or {}),
        guess=(beside or {}).get("guess") or None,
        near=(beside or {}).get("near_copies") or {},
        worst=[{**case, "picture": _picture(case["image"])} for case in worst],
        volumes=[{**volume, "slices": [{**slot, "picture": _picture(slot["image"])} for slot in volume["slices"]]} for volume in volumes],
    )
    path.write_text(text, encoding="utf-8")


def _columns(beside: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is known beside the pictures, a row a value: images of each split and their share, the most frequent values first."""
    tables = []
    for name, counts in (beside.get("columns") or {}).items():
        totals = {part: sum(values.values()) for part, values in counts.items()}
        values = list(counts["train"])
        values = values if name == "age" else sorted(values, key=lambda value: -sum(own[value] for own in counts.values()))
        identity = set(counts["train"]) == {"different"}
        rows = [{"value": value, "cells": [(own[value], None if identity else own[value] / max(totals[part], 1))
                                           for part, own in counts.items()]} for value in values[:_MOST_VALUES]]
        tables.append({"name": name.replace("_", " "), "rows": rows, "left": max(0, len(values) - _MOST_VALUES)})
    return tables


def _comparison(splits: dict[str, Any]) -> list[dict[str, Any]]:
    """Probe, teacher branch and student with their AUROC on val and test, and where the intervals lie on one scale."""
    models = [
        (key, name, what, {split: splits.get(split, {}).get(key, {}).get("auroc") for split in ("val", "test")})
        for key, name, what in _MODELS
        if any(key in splits.get(split, {}) for split in ("val", "test"))
    ]
    intervals = [interval for *_, by_split in models for interval in by_split.values() if interval]
    low = min((i["low"] for i in intervals), default=0.0)
    span = max(max((i["high"] for i in intervals), default=1.0) - low, 1e-6)

    def placed(interval: dict[str, float] | None) -> dict[str, float] | None:
        if interval is None:
            return None
        percent = {f"at_{end}": round(100 * (interval[end] - low) / span, 2) for end in ("low", "value", "high")}
        return {**interval, **percent}

    return [
        {"key": key, "name": name, "what": what, "val": placed(by_split["val"]), "test": placed(by_split["test"])}
        for key, name, what, by_split in models
    ]


def _metric_rows(splits: dict[str, Any]) -> list[dict[str, Any]]:
    students = {split: splits.get(split, {}).get("student", {}) for split in ("val", "test")}
    return [
        {"name": name, "val": students["val"].get(key), "test": students["test"].get(key)}
        for key, name in _METRICS
        if any(key in student for student in students.values())
    ]


def _per_class(metrics: dict[str, Any], test: dict[str, Any]) -> list[dict[str, Any]]:
    """For each class of the test split: prevalence, AUROC, sensitivity, specificity, threshold and its ROC curve."""
    from sklearn.metrics import roc_curve

    task, thresholds = metrics["task"], metrics.get("thresholds") or ()
    labels, scores = np.asarray(test["labels"]), np.asarray(test["probabilities"], dtype=np.float64)
    teacher = test.get("teacher_probabilities")
    chosen = decisions(scores, task, thresholds)
    by_model = {key: metrics["splits"].get("test", {}).get(key, {}).get("auroc_per_class", {}) for key, *_ in _MODELS}
    drawn = auroc_columns(task, len(metrics["classes"]))
    rows = []
    for c, name in enumerate(metrics["classes"]):
        column = labels[:, c] if task == "multilabel" else np.where(labels >= 0, labels == c, np.nan)
        known = ~np.isnan(column.astype(np.float64))
        truth, decided = column[known] == 1, (chosen[:, c] == 1 if task == "multilabel" else chosen == c)[known]
        sensitivity, specificity = _share(decided[truth]), _share(~decided[~truth])
        curve = None
        if sensitivity is not None and specificity is not None and c in drawn:
            lines = [roc_curve(truth, np.asarray(p)[known, c])[:2] for p in (scores, teacher) if p is not None]
            at = (1 - specificity, sensitivity) if task in ("binary", "multilabel") else None
            size = 1.9 if len(drawn) > 1 else 3.0
            curve = roc(lines[0], lines[1] if len(lines) > 1 else None, at, size, f"roc curve of class {c + 1}")
        rows.append({
            "name": name, "n": int(known.sum()), "positives": int(truth.sum()), "prevalence": _share(truth),
            "auroc": by_model["student"].get(name), "teacher_auroc": by_model["teacher"].get(name),
            "threshold": float(thresholds[c]) if len(thresholds) else None,
            "sensitivity": sensitivity, "specificity": specificity, "roc": curve,
        })  # fmt: skip
    return rows


def _calibration(split: dict[str, Any], task: Task, name: str) -> dict[str, Any]:
    """Calibration error, likelihood and reliability before and after temperature scaling of one split."""
    bins: dict[str, Array | None] = {"before": None}
    result: dict[str, Any] = {"before": None}
    share = np.zeros(15)
    for when, key in (("before", "probabilities_uncalibrated"), ("after", "probabilities")):
        if split.get(key) is None or (when == "before" and np.array_equal(split[key], split["probabilities"])):
            continue  # where every temperature stayed 1 there is nothing to compare
        confidence, outcome = confidences(split["labels"], split[key], task)
        result[when] = {"ece": ece(confidence, outcome), "nll": nll(split[key], split["labels"], task)}
        index = bin_of(confidence)
        count = np.bincount(index, minlength=15)
        sums = np.stack([np.bincount(index, weights=v, minlength=15) for v in (confidence, outcome)], axis=1)
        bins[when], share = sums[count > 0] / count[count > 0, None], count / len(confidence)
    after = bins["after"]
    assert after is not None
    return {**result, "plot": reliability(bins["before"], after, share, f"reliability on {name}")}


def _confusion(metrics: dict[str, Any], test: dict[str, Any]) -> list[dict[str, Any]]:
    labels = np.asarray(test["labels"])
    chosen = decisions(test["probabilities"], metrics["task"])
    rows = []
    for c, name in enumerate(metrics["classes"]):
        counts = np.bincount(chosen[labels == c], minlength=len(metrics["classes"]))
        cells = [(int(count), float(count / max(counts.sum(), 1))) for count in counts]
        rows.append({"name": name, "n": int(counts.sum()), "cells": cells})
    return rows


def _labelled(split: dict[str, Any], task: Task) -> bool:
    labels = np.asarray(split.get("labels", ()), dtype=np.float64)
    return bool((labels >= 0).any())  # nan and -1 are both "not labelled"


def _picture(image: Array) -> str:
    """An uint8 image (H, W), (H, W, 1) or (H, W, 3) as a PNG data address, at most 224 pixels a side."""
    from PIL import Image

    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
        raise ValueError(f"picture of {image.dtype} {image.shape}: expected uint8 (H, W, 1) or (H, W, 3)")
    picture = Image.fromarray(np.ascontiguousarray(image[..., 0] if image.shape[2:] == (1,) else image))
    picture.thumbnail((_PICTURE_PIXELS, _PICTURE_PIXELS))
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _share(flags: Array) -> float | None:
    return float(flags.mean()) if len(flags) else None


def _short(count: float | None) -> str:
    if count is None:
        return "–"
    scale, unit = next(((s, u) for s, u in ((1e9, " G"), (1e6, " M"), (1e3, " k")) if count >= s), (1.0, ""))
    return f"{count / scale:.3g}{unit}"
