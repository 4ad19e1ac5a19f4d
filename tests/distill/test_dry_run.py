"""rd-distill --dry-run: it says what the run then does, and leaves the disk as it was."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from distill.commands import distill
from distill.data.intake import read_images
from distill.data.pixels import pixel_bytes
from distill.dry_run import bank_rows, class_counts, dry_run, size, spoken
from distill.networks.checkpoint import load_checkpoint
from distill.settings.data import DataOptions
from distill.settings.distill import DistillSettings
from distill.teacher.bank import open_bank
from distill.training.batches import training_steps
from runtimes.errors import UserError

TINY = {"student": "test_efficientnet", "teacher": "test_efficientnet", "teacher_weights": "random", "teacher_size": 32, "size": 32,
        "phantom_images": (24, 12, 12), "phantom_size": 32, "epochs": 2, "min_steps": 10, "batch": 8, "bank_views": 1, "bootstrap": 5,
        "bank_runtime": "torch", "threads": 1}


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("changes", [{}, {"method": "vanilla"}, {"adapt": "lora"}, {"data": "phantom-volumes", "slices": 4},
                                     {"student": "auto", "max_macs": "20M"}])
def test_nothing_is_written_and_every_line_is_there(changes: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    assert dry_run(DistillSettings(**(TINY | changes), dry_run=True)) == 0  # type: ignore[arg-type]
    assert list(Path().iterdir()) == []
    text = capsys.readouterr().out
    for word in ("data ", "train: ", "val: ", "test: ", "teacher ", "student ", "estimate ", "nothing was trained"):
        assert word in text


def test_the_run_has_the_bank_the_pixels_and_the_steps_that_were_told(capsys: pytest.CaptureFixture[str]) -> None:
    settings = DistillSettings(**TINY)  # type: ignore[arg-type]
    dry_run(settings)
    text = capsys.readouterr().out
    images = read_images(settings.part(DataOptions), settings.out)
    assert distill(settings, "rd-distill --test") == 0
    bank = open_bank(next(Path("banks").iterdir()))
    assert bank.rows == bank_rows(images, settings.bank_views)
    assert f"{bank.rows} rows, {size(bank.rows * bank.width * 2)} on disk" in text
    spec = load_checkpoint(Path("student")).image_spec
    assert f"pixels {size(pixel_bytes(images, spec))}" in text
    assert pixel_bytes(images, spec) == len(images) * 32 * 32
    assert "10 steps of 8 images" in text
    assert training_steps(24, 8, 2, 10) == 10
    assert training_steps(24, 8, 2, 0) == 6


def test_counts_are_those_of_the_labels() -> None:
    images = read_images(DataOptions(phantom_images=(24, 12, 12), phantom_size=32), Path("student"))
    labels = images.labels[images.rows("train")]
    assert list(class_counts(images, "train").values()) == np.nansum(labels, axis=0).astype(int).tolist()


def test_what_the_run_would_refuse_is_refused_here() -> None:
    for changes, word in (({"teacher": "tset_resnet"}, "no network"), ({"method": "dkd"}, "several"), ({"device": "tpu"}, "unknown")):
        with pytest.raises(UserError, match=word):
            dry_run(DistillSettings(**(TINY | changes)))  # type: ignore[arg-type]


def test_times_and_sizes_are_said_in_the_unit_that_fits() -> None:
    assert [spoken(seconds) for seconds in (3.4, 200, 7200)] == ["3 s", "3 min", "2.0 h"]
    assert [size(count) for count in (12_400_000, 3_000_000_000)] == ["12.4 MB", "3.0 GB"]
    assert re.fullmatch(r"\d+ s", spoken(0))
