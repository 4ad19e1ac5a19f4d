"""Folders that earlier versions wrote still are what they were: the same answers, the same images, usable wherever a folder is."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from places import FIXTURES

from distill.adaptation.adapt import adapt
from distill.commands import distill
from distill.data.intake import images_for
from distill.networks.checkpoint import load_checkpoint
from distill.settings.adapt import AdaptSettings
from distill.settings.distill import DistillSettings
from distill.teacher.bank import open_bank
from distill.teacher.teachers import load_teacher
from export.commands import export
from export.config import ExportSettings
from runtimes.commands.flags import parse
from runtimes.errors import USAGE, UserError
from runtimes.files.folder import changed_files, read_json, read_manifest

EARLIER = FIXTURES / "ffa3fd1"
STUDENT, TEACHER, BANK = EARLIER / "student", EARLIER / "teacher", EARLIER / "bank"
# Typed, not built: flags are what a user keeps, and how settings are grouped behind them may change.
DATA = ("--data", "phantom", "--phantom-images", "24", "8", "8", "--phantom-size", "32")


def stored(name: str) -> np.ndarray:
    """An array that ffa3fd1 left beside its folders."""
    return np.load(EARLIER / f"{name}.npy", allow_pickle=False)


def pixels() -> torch.Tensor:
    """What the stored answers were given to."""
    return torch.from_numpy(stored("pixels").astype(np.float32))


def manifest_of(folder: Path) -> dict[str, Any]:
    """A folder's manifest."""
    return read_manifest(folder, "student", "teacher")


@pytest.mark.parametrize(("folder", "kind"), [(STUDENT, "student"), (TEACHER, "teacher"), (BANK, "bank")])
def test_every_byte_is_still_the_one_its_manifest_names(folder: Path, kind: str) -> None:
    manifest = read_manifest(folder, kind)
    assert manifest["files"]
    assert changed_files(folder, manifest) == []


def test_a_pruned_student_answers_as_it_did() -> None:
    student = load_checkpoint(STUDENT)
    assert student.spec.cuts, "the fixture is a pruned student"
    with torch.no_grad():
        assert np.abs(student.model(pixels()).numpy() - stored("student-logits")).max() <= 1e-5


def test_the_same_images_in_the_same_splits_are_found_again() -> None:
    images = images_for(manifest_of(STUDENT))
    with (STUDENT / "split.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(key, split) for key, split in zip(images.keys, images.split, strict=True)] == [(row["key"], row["split"]) for row in rows]
    labels = [[float(row[f"label_{name}"]) for name in images.classes] for row in rows]
    assert images.labels.tolist() == labels
    assert images.digest == manifest_of(STUDENT)["parents"]["images"], "the same pixels, by their hashes"


def test_settings_that_a_folder_does_not_hold_change_nothing() -> None:
    manifest = manifest_of(STUDENT)
    assert not {"keep_together", "uncertain", "volume_fill"} & set(manifest["settings"]), "the fixture is older than these"
    for name in ("slices", "axis", "method", "stages", "audit"):
        del manifest["settings"][name]
    assert images_for(manifest).digest == manifest["parents"]["images"]


def test_settings_that_this_version_does_not_know_change_nothing() -> None:
    for folder in (STUDENT, TEACHER):
        manifest = manifest_of(folder)
        manifest["settings"] |= {"renamed_since": "anything", "gone": [1, None]}
        assert images_for(manifest).digest == manifest["parents"]["images"]


def test_a_student_is_exported_and_passes_parity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(STUDENT, tmp_path / "student")
    monkeypatch.chdir(tmp_path)
    settings = parse(ExportSettings, ["--target", "onnx", "--samples", "5", "--out", "artifact"], "rd-export")
    assert export(settings, "rd-export") == 0
    parity = read_json(Path("artifact/parity.json"))
    assert (parity["passed"], parity["flips"], parity["images"]) == (True, 0, 8)


def test_an_adapted_teacher_gives_the_features_it_gave() -> None:
    pytest.importorskip("transformers")
    features = load_teacher(str(TEACHER)).features(pixels()).detach().numpy()
    assert features.shape == stored("teacher-features").shape
    assert np.abs(features - stored("teacher-features")).max() <= 1e-5


def test_a_bank_teaches_a_new_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bank = open_bank(BANK)
    images = images_for(manifest_of(STUDENT))
    assert (bank.rows, bank.width) == (64, 256)
    assert bank.views(bank.indices(images.hashes)).tolist() == [1] * 24 + [0] * 16
    arguments = ["--teacher", f"bank:{BANK}", "--student", "test_efficientnet", *DATA, "--size", "32", "--bank-views", "1", "--epochs", "1",
                 "--min-steps", "2", "--bootstrap", "10", "--device", "cpu", "--threads", "1"]
    assert distill(parse(DistillSettings, arguments, "rd-distill"), "rd-distill") == 0
    assert read_manifest(Path("student"), "student")["parents"]["teacher"] == read_manifest(STUDENT, "student")["parents"]["teacher"]


def test_a_pruned_student_is_no_teacher_to_adapt_and_that_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = parse(AdaptSettings, [*DATA, "--teacher", str(STUDENT)], "rd-adapt")
    with pytest.raises(UserError, match="was pruned") as caught:
        adapt(settings, "rd-adapt")
    assert caught.value.exit_code == USAGE
    assert list(tmp_path.iterdir()) == []
