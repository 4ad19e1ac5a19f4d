"""What branches answered on whole splits, calibrated and scored: the content of metrics.json.

Owns: Predictions, calibration on validation, the metrics of every split. Does not own: running the branches (answers.py), files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distill.data.image_set import ImageSet
from distill.evaluation.calibrate import apply_temperatures, choose_temperatures, few_images, fit_thresholds
from distill.evaluation.evaluate import COMMON, evaluate
from distill.evaluation.losses import task_loss
from distill.evaluation.volume_views import landing
from distill.networks.checkpoint import EVERY_CLASS, Calibration


@dataclass(frozen=True)
class Predictions:
    """Logits of one split (n, C) of the student, the teacher branch and the probe, and the CKA of the two branches.

    attention: of volumes what each slice weighed in the student's answer, (n, S).
    """

    rows: NDArray[np.int64]
    student: NDArray[np.float32]
    teacher: NDArray[np.float32] | None
    probe: NDArray[np.float32] | None
    cka: float | None
    attention: NDArray[np.float32] | None = None


def judge(images: ImageSet, predictions: Predictions) -> dict[str, float]:
    """Validation figures of one epoch: loss and AUROC of the student, AUROC of the teacher branch, the CKA, the score."""
    labels = images.labels[predictions.rows]
    loss = float(task_loss(torch.from_numpy(predictions.student), torch.from_numpy(labels), images.task, focal_gamma=0.0))
    row = {"val_loss": loss}
    ones = tuple(1.0 for _ in (images.classes if images.task == "multilabel" else [0]))
    for name, logits in (("student", predictions.student), ("teacher", predictions.teacher)):
        if logits is not None:
            scores = evaluate(labels, apply_temperatures(logits, ones, images.task), task=images.task, classes=images.classes,
                              n_bootstrap=0)
            if "auroc" in scores:
                row[f"val_auroc_{name}"] = scores["auroc"]["value"]
    if predictions.cka is not None:
        row["val_cka"] = predictions.cka
    row["score"] = row.get("val_auroc_student", -loss)
    return row


def calibrate(images: ImageSet, logits: NDArray[np.float32], rows: NDArray[np.int64]) -> Calibration:
    """Temperatures and, for multi-label, thresholds of one branch, fitted on validation; 1 where a temperature is not shown to help."""
    labels, groups = images.labels[rows], None if images.groups is None else images.groups[rows]
    temperatures, reasons = choose_temperatures(logits, labels, images.task, groups=groups)
    thresholds = fit_thresholds(apply_temperatures(logits, temperatures, images.task), labels, images.task)
    names = images.classes if images.task == "multilabel" else (EVERY_CLASS,)
    return Calibration(temperatures, thresholds, {name: reason for name, reason in zip(names, reasons, strict=True) if reason},
                       few_images(labels, images.task, images.classes))


def score(images: ImageSet, by_split: dict[str, Predictions], calibrations: dict[str, Calibration], *, bootstrap: int,
          seed: int) -> dict[str, Any]:
    """The `splits` of metrics.json: every branch on every split, calibrated, with intervals (by patient where known)."""
    splits: dict[str, Any] = {}
    for split, predictions in by_split.items():
        labels = images.labels[predictions.rows]
        groups = None if images.groups is None else images.groups[predictions.rows]
        entry: dict[str, Any] = {"n": len(predictions.rows)}
        for branch, calibration in calibrations.items():
            logits = getattr(predictions, branch)

            def scores(temperatures: tuple[float, ...], count: int, logits: Any = logits,
                       thresholds: tuple[float, ...] = calibration.thresholds) -> dict[str, Any]:
                return evaluate(labels, apply_temperatures(logits, temperatures, images.task), task=images.task,  # noqa: B023
                                classes=images.classes, groups=groups, thresholds=thresholds or None,  # noqa: B023
                                n_bootstrap=count, seed=seed)

            entry[branch] = scores(calibration.temperatures, bootstrap)
            if "ece" in entry[branch]:
                plain = scores(tuple(1.0 for _ in calibration.temperatures), 0)
                entry[branch]["ece_uncalibrated"] = {"value": plain["ece"]["value"]}
        if predictions.cka is not None:
            entry["cka"] = predictions.cka
        landed = None if predictions.attention is None else landing(images, predictions.rows, predictions.attention)
        if landed is not None:
            entry["attention"] = landed
        splits[split] = entry
    return splits


def probabilities(images: ImageSet, logits: NDArray[np.float32] | None, calibration: Calibration | None) -> Any:
    """Calibrated probabilities of a branch, or None where there is no such branch."""
    if logits is None or calibration is None:
        return None
    return apply_temperatures(logits, calibration.temperatures, images.task)


def judge_gain(splits: dict[str, Any]) -> list[str]:
    """Warn when the teacher has nothing to teach: its probe is not above the student on validation."""
    probe, student = (splits["val"].get(branch, {}).get("auroc", {}).get("value") for branch in ("probe", "student"))
    if probe is not None and student is not None and probe <= student:
        return [f"the teacher's probe (validation AUROC {probe:.3f}) is not above the student ({student:.3f}): "
                "this teacher may have nothing to teach here; compare with --method vanilla, or try another teacher"]
    return []


def among_common(scores: dict[str, Any]) -> str:
    """The AUROC of the findings that are not rare, in words; empty where none is, or none is not."""
    common = scores.get("auroc_common")
    return f"; {common['value']:.3f} of the {common['findings']} findings in {COMMON} images or more" if common else ""


def summary(splits: dict[str, Any], calibration: Calibration) -> list[str]:
    """Probe, teacher branch and student side by side, a line a split, then whether the student's probabilities are calibrated."""
    lines = []
    for split in ("val", "test"):
        words = []
        for name, branch in (("student", "student"), ("teacher branch", "teacher"), ("probe", "probe")):
            auroc = splits[split].get(branch, {}).get("auroc")
            if auroc:
                words.append(f"{name} AUROC {auroc['value']:.3f} ({auroc['low']:.3f} to {auroc['high']:.3f}"
                             f"{among_common(splits[split][branch])})")
        ece = splits[split]["student"].get("ece")
        if ece:
            before = splits[split]["student"]["ece_uncalibrated"]["value"]
            shown = len(calibration.not_calibrated) < len(calibration.temperatures)
            words.append(f"ECE {ece['value']:.3f} ({f'{before:.3f} before calibration' if shown else 'not calibrated'})")
        lines.append(f"{split} " + ", ".join(words))
        landed = splits[split].get("attention")
        if landed:
            lines.append(f"{split} attention {landed['on_findings']:.2f} on slices that hold a finding ({landed['if_uniform']:.2f} if all "
                         f"weighed alike), the heaviest slice holds one in {landed['heaviest_right']:.2f} of {landed['n']} volumes")
    lines.append(f"note probabilities {calibration.describe()}")
    if calibration.few_images:
        few = "; ".join(f"{name}: {count}" for name, count in calibration.few_images.items())
        lines.append(f"note thresholds on few images: {few}")
    return lines
