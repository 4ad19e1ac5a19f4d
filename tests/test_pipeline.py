"""The whole road on tiny data: images and a teacher in, a student folder out that keeps the contract, by every method and task."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from places import ROOT
from safetensors.torch import load_file
from tiny import CLASSES, tiny_images

from distill.commands import distill
from distill.data.views import normalise, unit_levels
from distill.networks.checkpoint import load_checkpoint
from distill.networks.models import weights_hash
from distill.settings.distill import DistillSettings
from runtimes.files.folder import changed_files, read_json, read_manifest

METHODS = ("rd", "kd", "fitnet", "vanilla")
CONTRACT = {"manifest.json", "config.json", "preprocessor_config.json", "model.safetensors", "metrics.json", "predictions.csv",
            "summary.csv", "report.html", "README.md"}
SMALL: dict[str, Any] = {"epochs": 2, "min_steps": 0, "batch": 8, "bootstrap": 20, "device": "cpu", "bank_views": 1,
                         "bank_runtime": "torch", "teacher_weights": "random"}


def run(folder: Path, **changes: Any) -> Path:
    """Run rd-distill as its command does, in a folder of its own; the student folder."""
    before = Path.cwd()
    folder.mkdir(exist_ok=True, parents=True)
    os.chdir(folder)
    try:
        settings = DistillSettings(**(SMALL | {"student": "mobilenetv3_small_050", "size": 32} | changes))
        assert distill(settings, "rd-distill --data test") == 0
        return folder / settings.out
    finally:
        os.chdir(before)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def phantom_student(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The student of a method on the phantom, made on first use; one bank serves them all."""
    root = tmp_path_factory.mktemp("phantom")

    @cache
    def make(method: str) -> Path:
        return run(root, data="phantom", phantom_images=(48, 16, 24), phantom_size=48, teacher="mobilenetv3_small_050", teacher_size=48,
                   method=method, out=Path(method))

    return make


@pytest.mark.parametrize("method", METHODS)
def test_the_student_folder_keeps_the_contract(phantom_student: Callable[[str], Path], method: str) -> None:
    folder = phantom_student(method)
    assert {path.name for path in folder.iterdir()} >= CONTRACT
    manifest = read_manifest(folder, "student")
    assert changed_files(folder, manifest) == []
    assert set(manifest) >= {"kind", "format", "command", "settings", "versions", "parents", "files"}
    assert manifest["settings"]["method"] == method
    assert manifest["synthetic"] is True
    metrics = read_json(folder / "metrics.json")
    assert {"format", "task", "classes", "params", "macs", "splits"} <= set(metrics)
    assert (metrics["format"], metrics["task"], len(metrics["classes"])) == (1, "multilabel", 6)
    assert {split: entry["n"] for split, entry in metrics["splits"].items()} == {"val": 16, "test": 24}
    for entry in metrics["splits"].values():
        for name in ("auroc", "accuracy", "balanced_accuracy", "f1", "brier", "ece"):
            assert {"value", "low", "high"} <= set(entry["student"][name])
    checkpoint = load_checkpoint(folder)
    assert metrics["params"] == sum(one.numel() for one in checkpoint.model.parameters())
    assert manifest["weights_hash"] == weights_hash(checkpoint.model.net)


@pytest.mark.parametrize(("method", "branches"), [("rd", {"student", "teacher", "probe"}), ("kd", {"student", "probe"}),
                                                  ("fitnet", {"student", "probe"}), ("vanilla", {"student"})])
def test_student_teacher_branch_and_probe_stand_side_by_side(
        phantom_student: Callable[[str], Path], method: str, branches: set[str]) -> None:
    metrics = read_json(phantom_student(method) / "metrics.json")
    card = (phantom_student(method) / "README.md").read_text(encoding="utf-8")
    for entry in metrics["splits"].values():
        assert {"student", "teacher", "probe"} & set(entry) == branches
        assert ("cka" in entry) is (method == "rd")
        assert all("auroc" in entry[branch] for branch in branches)
    assert all(f"| {branch} |" in card for branch in branches)


@pytest.mark.parametrize("method", METHODS)
def test_predictions_are_those_of_the_saved_weights_on_the_test_split(phantom_student: Callable[[str], Path], method: str) -> None:
    from distill.data.intake import images_for
    from distill.evaluation.calibrate import apply_temperatures

    folder = phantom_student(method)
    checkpoint = load_checkpoint(folder)
    images = images_for(checkpoint.manifest)
    rows, classes = images.rows("test"), checkpoint.spec.classes
    found = table(folder / "predictions.csv")
    assert list(found[0]) == ["image", "split", *(f"label_{name}" for name in classes), *(f"prob_{name}" for name in classes)]
    assert [row["image"] for row in found] == [images.keys[row] for row in rows]
    assert {row["split"] for row in found} == {"test"}
    spec = checkpoint.image_spec
    pixels = normalise(unit_levels(np.stack([spec.stored(images.raw(int(row))) for row in rows])), spec.mean, spec.std)
    with torch.no_grad():
        logits = checkpoint.model(pixels).numpy()
    expected = apply_temperatures(logits, checkpoint.calibration.temperatures, "multilabel")
    np.testing.assert_allclose([[float(row[f"prob_{name}"]) for name in classes] for row in found], expected, atol=2e-5)
    np.testing.assert_array_equal([[float(row[f"label_{name}"]) for name in classes] for row in found], images.labels[rows])


def test_the_summary_has_a_row_an_epoch_with_every_part_of_the_loss(phantom_student: Callable[[str], Path]) -> None:
    rows = table(phantom_student("rd") / "summary.csv")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert set(rows[0]) >= {"lr", "train_loss", "train_loss_task", "train_loss_teacher_task", "train_loss_kd", "train_loss_cka", "val_loss",
                            "val_auroc_student", "val_auroc_teacher", "val_cka"}
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())


def test_the_saved_student_holds_nothing_of_teacher_or_module(phantom_student: Callable[[str], Path]) -> None:
    saved = load_file(phantom_student("rd") / "model.safetensors")
    names = timm.create_model("mobilenetv3_small_050", pretrained=False, num_classes=6).state_dict()
    assert set(saved) == set(names)
    assert all(saved[name].shape == value.shape for name, value in names.items())


@pytest.mark.parametrize("method", METHODS)
def test_timm_loads_the_folder_to_the_same_logits(phantom_student: Callable[[str], Path], method: str) -> None:
    folder = phantom_student(method)
    net = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    pixels = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(net(pixels), load_checkpoint(folder).model(pixels))


def test_the_report_is_one_file_that_says_synthetic(phantom_student: Callable[[str], Path]) -> None:
    text = (phantom_student("rd") / "report.html").read_text(encoding="utf-8")
    assert "synthetic" in text.lower()
    for outside in ("<script src", 'rel="stylesheet"', "http://", "https://cdn"):
        assert outside not in text
    assert "data:image/png;base64" in text or "<svg" in text
    assert "synthetic" in (phantom_student("rd") / "README.md").read_text(encoding="utf-8")


def test_all_methods_shared_one_bank_which_vanilla_never_needed(phantom_student: Callable[[str], Path]) -> None:
    for method in METHODS:
        phantom_student(method)
    banks = [path for path in (phantom_student("rd").parent / "banks").iterdir() if path.is_dir()]
    assert len(banks) == 1
    assert read_manifest(banks[0], "bank")["rows"] == 48 * 2 + 16 + 24
    assert read_manifest(phantom_student("vanilla"), "student")["parents"]["teacher"] is None


def test_no_path_of_this_machine_is_in_what_may_be_passed_on(phantom_student: Callable[[str], Path]) -> None:
    folder = phantom_student("rd")
    for name in ("config.json", "metrics.json", "predictions.csv", "preprocessor_config.json", "README.md", "report.html", "summary.csv"):
        assert str(folder.parent) not in (folder / name).read_text(encoding="utf-8"), name


def write_images(root: Path, task: str, counts: tuple[int, int, int] = (24, 12, 12), splits: bool = True) -> Path:
    """A CSV of tiny PNG images of a task, with patients."""
    images = tiny_images(task, counts)
    root.mkdir(parents=True)
    rows = []
    for row, (key, image) in enumerate(zip(images.keys, images.images, strict=True)):
        Image.fromarray(image[..., 0]).save(root / key)
        label = ({name: int(value) for name, value in zip(images.classes, images.labels[row], strict=True)} if task == "multilabel"
                 else {"label": images.classes[images.labels[row]]})
        rows.append({"image": key, **({"split": images.split[row]} if splits else {}), "patient": f"p{row}", **label})
    path = root / "labels.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("task", sorted(CLASSES))
def test_every_task_travels_the_road_from_a_csv(tmp_path: Path, task: str) -> None:
    data = write_images(tmp_path / "images", task)
    folder = run(tmp_path, data=str(data), task=task, student="test_efficientnet", teacher="test_resnet", teacher_size=32)
    metrics = read_json(folder / "metrics.json")
    assert (metrics["task"], tuple(metrics["classes"])) == (task, CLASSES[task])
    assert ("kappa" in metrics["splits"]["test"]["student"]) is (task == "ordinal")
    assert (len(metrics["thresholds"]) == 3) is (task == "multilabel")
    checkpoint = load_checkpoint(folder)
    assert checkpoint.model.head.out_features == len(CLASSES[task]) - (task == "ordinal")
    found = table(folder / "predictions.csv")
    assert len(found) == 12
    answers = np.asarray([[float(row[f"prob_{name}"]) for name in CLASSES[task]] for row in found])
    assert ((answers >= 0) & (answers <= 1)).all()
    if task != "multilabel":
        np.testing.assert_allclose(answers.sum(1), 1, atol=1e-5)
        assert {row["label"] for row in found} <= set(CLASSES[task])


def test_a_folder_of_class_folders_with_unlabelled_images_beside_it(tmp_path: Path) -> None:
    images = tiny_images("binary", (30, 15, 15))
    for row, image in enumerate(images.images):
        folder = tmp_path / "data" / images.classes[images.labels[row]]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(folder / images.keys[row])
    (tmp_path / "more").mkdir()
    for row, image in enumerate(tiny_images("binary", (10, 0, 0), seed=7).images):
        Image.fromarray(image[..., 0]).save(tmp_path / "more" / f"{row}.png")
    folder = run(tmp_path, data="data", unlabelled=Path("more"), student="test_efficientnet", teacher="test_resnet", teacher_size=32,
                 labelled_batch=4)
    split = table(folder / "split.csv")
    hidden = [row for row in split if row["key"].startswith("unlabelled/")]
    assert len(hidden) == 10
    assert {row["split"] for row in hidden} == {"train"}
    assert {row["label"] for row in hidden} == {""}
    assert {row["label"] for row in split} - {""} == {"no", "yes"}
    assert "unlabelled/" not in (folder / "predictions.csv").read_text()


def test_a_class_missing_from_validation_is_said_and_is_neither_zero_nor_nan(tmp_path: Path) -> None:
    data = write_images(tmp_path / "images", "multiclass")
    rows = [row for row in table(data) if not (row["split"] == "val" and row["label"] == "c")]
    with data.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    folder = run(tmp_path, data=str(data), student="test_efficientnet", method="vanilla")
    metrics = read_json(folder / "metrics.json")
    val = metrics["splits"]["val"]["student"]
    assert val["undefined"] == ["c"]
    assert set(val["auroc_per_class"]) == {"a", "b"}
    assert val["auroc"]["value"] == pytest.approx(np.mean([one["value"] for one in val["auroc_per_class"].values()]))
    assert metrics["splits"]["test"]["student"]["undefined"] == []
    assert "NaN" not in (folder / "metrics.json").read_text()


def test_a_validation_split_of_one_class_still_ends_and_says_what_is_undefined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_images(tmp_path / "images", "binary")
    rows = [row for row in table(data) if not (row["split"] == "val" and row["label"] == "yes")]
    with data.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    folder = run(tmp_path, data=str(data), student="test_efficientnet", teacher="test_resnet", teacher_size=32, select="best")
    val = read_json(folder / "metrics.json")["splits"]["val"]["student"]
    assert val["undefined"] == ["yes"]
    assert "auroc" not in val
    said = capsys.readouterr().out
    assert "AUROC undefined" in said
    assert " nan" not in said.lower()


def test_the_same_seed_gives_the_same_folder_and_another_seed_another_student(tmp_path: Path) -> None:
    data = write_images(tmp_path / "images", "binary", splits=False)
    same = {"data": str(data), "student": "test_efficientnet", "teacher": "test_resnet", "teacher_size": 32}
    folders = [run(tmp_path, **same, out=Path(name), seed=seed) for name, seed in (("one", 0), ("two", 0), ("three", 1))]
    names = ("model.safetensors", "metrics.json", "predictions.csv", "split.csv")
    one, two, three = ({name: (folder / name).read_bytes() for name in names} for folder in folders)
    assert one == two
    assert one["model.safetensors"] != three["model.safetensors"]
    assert one["split.csv"] == three["split.csv"]  # the split has a seed of its own


def test_the_command_line_does_it_all_through_onnx_runtime(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("phantom_images: [24, 10, 12]\nphantom_size: 32\nepochs: 5\nmin_steps: 0\nbatch: 8\nbank_views: 1\n")
    line = [sys.executable, "-W", "error", "-m", "distill.cli", "--config", "run.yaml", "--epochs", "1", "--student", "test_efficientnet",
            "--teacher", "test_resnet", "--teacher-size", "32", "--teacher-weights", "random", "--size", "32", "--bank-runtime", "onnx",
            "--bootstrap", "5", "--device", "cpu", "--views", "tied", "--precision", "bf16", "--ema", "0.9"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    words = [said[:9].strip() for said in done.stdout.splitlines()]
    assert [word for word in words if word in ("data", "teacher", "bank", "audit", "probe", "student", "val", "test", "done")] == [
        "data", "teacher", "bank", "audit", "probe", "student", "val", "test", "done"]
    assert "through ONNX Runtime" in done.stdout
    assert "next: rd-export --target onnx" in done.stdout
    manifest = read_manifest(tmp_path / "student", "student")
    assert (manifest["settings"]["epochs"], manifest["settings"]["batch"]) == (1, 8)
    assert manifest["command"].startswith("rd-distill --config run.yaml --epochs 1")
    again = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert again.returncode == 2
    assert again.stderr.startswith("error: --out student is not empty")
    assert again.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["banks", "run.yaml", "student"]


def test_metrics_are_json_any_reader_takes(phantom_student: Callable[[str], Path]) -> None:
    def refuse(value: str) -> None:
        raise AssertionError(f"{value} is no JSON")

    for name in ("metrics.json", "manifest.json", "config.json", "preprocessor_config.json"):
        json.loads((phantom_student("rd") / name).read_text(encoding="utf-8"), parse_constant=refuse)
