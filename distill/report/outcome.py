"""The student or teacher folder: weights, metrics, predictions, split, summary, report and model card, written atomically.

Owns: RunResult and the files around the checkpoint. Does not own: the checkpoint's own files, how figures were made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from distill.data.image_set import ImageSet
from distill.data.intake import data_name
from distill.data.loading import split_table
from distill.evaluation.predict import Predictions, probabilities
from distill.evaluation.volume_views import heaviest, strips
from distill.networks.checkpoint import Calibration, save_checkpoint
from distill.networks.models import Model, count_parameters, weights_hash
from distill.progress import say
from distill.report.card import input_line, model_card
from distill.report.page import write_report
from distill.settings.hidden import kept_command, kept_settings, write_names
from runtimes.files.folder import write_json, write_manifest
from runtimes.files.outputs import new_folder
from runtimes.files.spreadsheet import write_table
from runtimes.images.spec import ImageSpec

WORST = 8
MADE = {"student": "distilled on", "teacher": "adapted to"}


@dataclass(frozen=True)
class RunResult:
    """All that a finished run knows."""

    model: Model
    image_spec: ImageSpec
    images: ImageSet
    predictions: dict[str, Predictions]
    calibrations: dict[str, Calibration]
    splits: dict[str, Any]
    history: list[dict[str, Any]]
    warnings: list[str]
    macs: int
    teacher: dict[str, Any]
    settings: dict[str, Any]
    command: str


def write_result(out: Path, outcome: RunResult, *, overwrite: bool, kind: Literal["student", "teacher"] = "student",
                 more: dict[str, Any] | None = None, also: Callable[[Path], None] | None = None) -> None:
    """Write the folder of a student, or of an adapted teacher; it appears whole or not at all, its manifest last.

    more: further facts for metrics.json and the manifest; also: writes further files before the manifest.
    """
    images, calibration, metrics = outcome.images, outcome.calibrations["student"], metrics_of(outcome, more)
    if images.names:
        listed = write_names(out, outcome.settings, sorted(zip(images.keys, images.names, strict=True)))
        say("names", f"{listed} says which file each image is (--hide-names); it is no part of the result: keep it here")
        outcome = replace(outcome, settings=kept_settings(outcome.settings), command=kept_command(outcome.settings, outcome.command),
                          teacher={**outcome.teacher, "teacher": outcome.teacher.get("teacher_public", outcome.teacher.get("teacher"))})
    with new_folder(out, overwrite=overwrite) as folder:
        licences = {"teacher": outcome.teacher.get("licence", "none: no teacher"), "tool": "Apache-2.0"}
        save_checkpoint(folder, outcome.model, outcome.image_spec, calibration, licences)
        write_json(folder / "metrics.json", metrics)
        write_predictions(folder / "predictions.csv", outcome)
        write_table(folder / "split.csv", split_table(images))
        write_table(folder / "summary.csv", outcome.history)
        write_report(folder / "report.html", title=f"{outcome.model.spec.arch} {MADE[kind]} {data_name(images)}",
                     facts=facts(outcome), metrics=metrics, history=outcome.history, test=branch_view(outcome, "test"),
                     val=branch_view(outcome, "val"), worst=worst_cases(outcome),
                     warnings=[*images.facts.get("warnings", []), *outcome.warnings], beside=images.facts,
                     volumes=strips(images, outcome.image_spec, outcome.predictions["test"].rows, outcome.predictions["test"].attention))
        (folder / "README.md").write_text(card(outcome, metrics), encoding="utf-8")
        if also:
            also(folder)
        write_manifest(folder, kind, {
            "command": outcome.command, "settings": outcome.settings, "versions": versions(),
            "weights_hash": weights_hash(outcome.model.net), "licence": licences["teacher"],
            "parents": {"teacher": outcome.teacher.get("teacher_hash"), "images": images_digest(images)},
            "teacher": outcome.teacher.get("teacher"), "teacher_input": outcome.teacher.get("teacher_input"),
            "teacher_public": outcome.teacher.get("teacher_public"),
            "data": data_facts(images), "synthetic": images.synthetic, **(more or {}),
        })


def metrics_of(outcome: RunResult, more: dict[str, Any] | None = None) -> dict[str, Any]:
    """The content of metrics.json; more: further facts."""
    images = outcome.images
    metrics = {"format": 1, "task": images.task, "classes": list(images.classes), "params": count_parameters(outcome.model),
               "macs": outcome.macs, "thresholds": list(outcome.calibrations["student"].thresholds), "splits": outcome.splits}
    return metrics | ({"synthetic": True} if images.synthetic else {}) | (more or {})


def images_digest(images: ImageSet) -> str:
    """SHA-256 over the hashes and splits of all images: which data a student was made from, without naming any."""
    return images.digest


def data_facts(images: ImageSet) -> dict[str, Any]:
    """The facts of the data that name no image, and where names are hidden no file."""
    held = {key: value for key, value in images.facts.items() if key not in ("skipped_paths", "notes")}
    return held if not images.names else {key: value for key, value in held.items() if key != "csv"} | {"data": data_name(images)}


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    by_package = {}
    for package in ("rd-distill", "torch", "timm", "numpy", "scikit-learn", "onnxruntime"):
        try:
            by_package[package] = version(package)
        except PackageNotFoundError:
            by_package[package] = "not installed as a package"
    return by_package


def write_predictions(path: Path, outcome: RunResult) -> None:
    """Write image, label and calibrated probabilities of the test split, and behind them what else is known of each image."""
    images, predictions = outcome.images, outcome.predictions["test"]
    answers = probabilities(images, predictions.student, outcome.calibrations["student"])
    write_table(path, [{"image": images.keys[row], "split": "test", **label_cells(images, int(row)),
                        **{f"prob_{name}": f"{value:.6f}" for name, value in zip(images.classes, answer, strict=True)},
                        **{name: values[row] for name, values in images.columns.items()}}
                       for row, answer in zip(predictions.rows, answers, strict=True)])


def label_cells(images: ImageSet, row: int) -> dict[str, str]:
    """The label columns of one image: `label`, or one `label_<class>` each for multi-label; missing ones are empty."""
    if images.task == "multilabel":
        return {f"label_{name}": "" if np.isnan(value) else str(int(value))
                for name, value in zip(images.classes, images.labels[row], strict=True)}
    return {"label": images.classes[int(images.labels[row])] if images.labels[row] >= 0 else ""}


def branch_view(outcome: RunResult, split: str) -> dict[str, Any]:
    """What the report draws of a split: labels and the probabilities of both branches."""
    images, predictions = outcome.images, outcome.predictions[split]
    plain = Calibration(tuple(1.0 for _ in outcome.calibrations["student"].temperatures))
    return {"labels": images.labels[predictions.rows],
            "probabilities": probabilities(images, predictions.student, outcome.calibrations["student"]),
            "probabilities_uncalibrated": probabilities(images, predictions.student, plain),
            "teacher_probabilities": probabilities(images, predictions.teacher, outcome.calibrations.get("teacher")),
            "groups": None if images.groups is None else images.groups[predictions.rows],
            "keys": [images.keys[row] for row in predictions.rows]}


def worst_cases(outcome: RunResult) -> list[dict[str, Any]]:
    """The test images whose true label got the least probability, with pictures."""
    images, predictions = outcome.images, outcome.predictions["test"]
    answers = probabilities(images, predictions.student, outcome.calibrations["student"])
    labels = images.labels[predictions.rows]
    if images.task == "multilabel":
        known = np.isfinite(labels)
        likelihoods = np.where(known, np.where(labels > 0.5, answers, 1 - answers), 2.0)
        column = likelihoods.argmin(axis=1)
    else:
        column = labels.clip(min=0)
        likelihoods = np.where(labels[:, None] >= 0, answers, 2.0)
    truth = likelihoods[np.arange(len(likelihoods)), column]
    cases = []
    for place in np.argsort(truth, kind="stable")[:WORST]:
        row, index = int(predictions.rows[place]), int(column[place])
        name = images.classes[index]
        if images.task == "multilabel":
            label = name if labels[place, index] > 0.5 else f"no {name}"
            prediction = f"no {name}" if labels[place, index] > 0.5 else name
        else:
            label, prediction = name, images.classes[int(answers[place].argmax())]
        weights = None if predictions.attention is None else predictions.attention[place]
        cases.append({"image": heaviest(images, outcome.image_spec, row, weights), "key": images.keys[row], "label": label,
                      "prediction": prediction, "probability": float(truth[place])})
    return cases


def card(outcome: RunResult, metrics: dict[str, Any]) -> str:
    """The folder's README."""
    return model_card(outcome.model.spec, outcome.image_spec, metrics, synthetic=outcome.images.synthetic, teacher=outcome.teacher,
                      settings=outcome.settings, command=outcome.command, calibration=outcome.calibrations["student"])


def facts(outcome: RunResult) -> dict[str, str]:
    """The report's table of facts."""
    spec, images, calibration = outcome.image_spec, outcome.images, outcome.calibrations["student"]
    rows = {"command": outcome.command, "synthetic": "yes" if images.synthetic else "no",
            "data": data_name(images),
            "split": str(images.facts.get("split_from", "given")),
            "images": " / ".join(f"{len(images.rows(split)):,} {split}" for split in ("train", "val", "test")),
            "teacher": str(outcome.teacher.get("teacher", "none")), "student": outcome.model.spec.arch,
            "method": str(outcome.settings["method"]), "input": input_line(spec),
            "temperature": ", ".join(f"{value:.2f}" for value in calibration.temperatures), "calibration": calibration.describe()}
    if calibration.few_images:
        rows["thresholds on few images"] = "; ".join(f"{name}: {count}" for name, count in calibration.few_images.items())
    skipped = images.facts.get("skipped")
    if skipped:
        rows["skipped images"] = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
    return rows | {f"version of {name}": number for name, number in versions().items()}
