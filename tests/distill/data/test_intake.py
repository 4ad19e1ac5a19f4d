"""What every command begins with: the device asked for, bad images listed, a student's images read again, one line on the data."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import class_folders, refused, run
from tiny import tiny_images

from distill.data.intake import choose_device, describe, images_for
from runtimes.errors import MISSING, USAGE, UserError
from runtimes.files.folder import read_manifest

pytestmark = pytest.mark.usefixtures("in_empty_folder")


def test_a_missing_device_is_exit_code_five_and_an_unknown_one_two() -> None:
    assert "--device cuda:99" in refused(MISSING, device="cuda:99")
    for name in ("tpu", "cuda:x", "cuda:-1", "cpu:0x", ""):
        assert f"--device {name} is unknown" in refused(USAGE, device=name)
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") in ("cpu", "cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_never_replaced_by_the_cpu() -> None:
    assert "use --device cpu" in refused(MISSING, device="cuda")


def test_bad_images_are_listed_beside_out_and_nothing_else_is_left(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data", tiny_images("binary", (20, 10, 10)))
    (data / "no" / "broken.png").write_bytes(b"\x89PNG")
    message = refused(1, method="vanilla", data="data")
    assert "broken.png" in message
    assert "student.bad-images.csv" in message
    assert "broken.png" in Path("student.bad-images.csv").read_text()
    assert not Path("student.partial").exists()
    assert run(method="vanilla", data="data", skip_bad_images=True) == 0
    assert "skipped images" in Path("student/report.html").read_text()


def test_the_images_of_a_student_are_read_again_with_the_same_split(tmp_path: Path) -> None:
    class_folders(tmp_path / "data", tiny_images("multiclass", (24, 12, 12)))
    assert run(method="vanilla", data="data", split_seed=3) == 0
    manifest = read_manifest(Path("student"), "student")
    images = images_for(manifest)
    first = (Path("student") / "split.csv").read_text().splitlines()[1:]
    assert [f"{key},{split}" for key, split in zip(images.keys, images.split, strict=True)] == [line.rsplit(",", 1)[0] for line in first]
    shutil.move("data", "moved")
    with pytest.raises(UserError):
        images_for(manifest)
    assert images_for(manifest, "moved").hashes == images.hashes


def test_the_line_on_the_data_counts_what_is_hidden_and_skipped() -> None:
    images = tiny_images("multilabel", unlabelled=3)
    said = describe(replace(images, facts={**images.facts, "skipped": {"duplicate": 2}, "task_from": "--task"}))
    assert said == "memory, multilabel (--task), 3 findings: 16 / 8 / 8 images, 3 of them unlabelled, 2 skipped"
