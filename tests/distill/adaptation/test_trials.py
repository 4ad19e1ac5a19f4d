"""What earlier tasks are tried on: labels that can be judged, images that are kept so that they can, places that hold others' images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapted import METHODS, later, refused, run
from drawn import picture
from hypothesis import given
from hypothesis import strategies as st

from distill.adaptation import adapt as story
from distill.adaptation.trials import can_be_judged, kept_rows
from distill.data.image_set import ImageSet
from distill.networks.tasks import read_tasks
from runtimes.errors import USAGE, UserError

pytestmark = pytest.mark.usefixtures("in_empty_folder")
OWN: dict[str, Any] = {**METHODS["moe"], "phantom_images": None, "task": "binary"}


def images_of(labels: Any, task: str, classes: int) -> ImageSet:
    return ImageSet((), tuple(map(str, range(len(labels)))), np.asarray(labels), tuple(map(str, range(classes))), task,  # type: ignore[arg-type]
                    np.full(len(labels), "train"))


@st.composite
def sets(draw: st.DrawFn) -> ImageSet:
    """Training images of some task, some without a label."""
    task = draw(st.sampled_from(["binary", "multiclass", "ordinal", "multilabel"]))
    classes, count = 2 if task == "binary" else draw(st.integers(2, 5)), draw(st.integers(0, 30))
    if task != "multilabel":
        return images_of(np.asarray(draw(st.lists(st.integers(-1, classes - 1), min_size=count, max_size=count)), np.int64), task, classes)
    row = st.lists(st.sampled_from([0.0, 0.0, 1.0, np.nan]), min_size=classes, max_size=classes)
    table = draw(st.lists(row, min_size=count, max_size=count))
    return images_of(np.asarray(table, np.float32).reshape(count, classes), task, classes)


def both_outcomes(images: ImageSet, labels: Any) -> bool:
    """Whether some class or finding is there in one image and not in another, by the definition of AUROC."""
    if images.task == "multilabel":
        return any({0.0, 1.0} <= set(column.tolist()) for column in labels.T)
    return len(set(labels[labels >= 0].tolist())) > 1


@given(sets(), st.integers(1, 12))
def test_kept_images_can_be_judged_wherever_two_of_the_training_images_can(images: ImageSet, count: int) -> None:
    rows = kept_rows(images, count)
    assert len(rows) == min(count, int(images.labelled.sum()))
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert images.labelled[rows].all()
    for labels in (images.labels, images.labels[rows]):
        assert can_be_judged(labels, images.task, images.classes) == both_outcomes(images, labels)
    if count > 1:
        assert both_outcomes(images, images.labels[rows]) == both_outcomes(images, images.labels)


def test_images_spread_evenly_stay_the_choice_where_they_can_be_judged() -> None:
    labels = np.arange(100) % 2
    assert kept_rows(images_of(labels, "binary", 2), 4).tolist() == [0, 33, 66, 99]
    rare = np.zeros(100, np.int64)
    rare[50] = 1
    assert 50 in kept_rows(images_of(rare, "binary", 2), 4)


def folders(root: Path, val: str = "no yes", seed: int = 0) -> str:
    """Folders by split and class, 8 pictures each; of validation only some classes."""
    for split in ("train", "val", "test"):
        for place, label in enumerate(("no", "yes") if split != "val" else val.split()):
            for number in range(8):
                picture(root / split / label / f"{number}.png", seed * 1000 + len(split) * 100 + place * 10 + number, size=(32, 32))
    return str(root)


def test_a_task_whose_validation_images_are_of_one_class_is_told_before_training_and_what_is_printed_is_true(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = folders(tmp_path / "data", "no")
    run(**OWN, data=data, out=Path("one"), task_name="breast")
    told = refused(USAGE, later, folder="one", split=1, keep_old="none", out=Path("two"), **METHODS["moe"])
    assert "breast (8 validation images of one class)" in told
    assert "--old-data" not in told, "other images of it cannot help"
    assert not Path("two.partial").exists()
    capsys.readouterr()
    assert later("one", 1, keep_old="none", out=Path("two"), accept_forgetting=True, **METHODS["moe"]) == 0
    said = capsys.readouterr().out
    assert "breast: not tried (8 validation images of one class); it answers by the new network" in said
    task = read_tasks(Path("two")).task("breast")
    assert (task.record["moved"]["was"], task.record["moved"]["now"]) == (None, None)


def test_one_kept_image_is_warned_of_at_once_and_stands_in_for_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = Path(folders(tmp_path / "data"))
    for count in (1, 2):
        run(**OWN, data=str(data), out=Path(f"one-{count}"), task_name="breast", keep_old="distil", keep_images=count)
        said = capsys.readouterr().out
        assert ("--keep-images 1 keeps 1 image" in said) == (count == 1)
        assert (f"{'1 image of patients stays' if count == 1 else '2 images of patients stay'} in this folder") in said
    data.rename(tmp_path / "moved")
    told = refused(USAGE, later, folder="one-1", split=1, keep_old="none", out=Path("two"), **METHODS["moe"])
    assert "breast (1 image kept of it; images of breast cannot be read where they were" in told
    assert later("one-2", 1, keep_old="none", out=Path("two"), lr=0.0001, accept_forgetting=True, **METHODS["moe"]) == 0
    assert read_tasks(Path("two")).task("breast").record["moved"]["on"] == "2 images kept of it"
    assert read_tasks(Path("two")).task("breast").record["moved"]["was"] is not None


def test_old_data_that_is_nowhere_or_anothers_is_named_with_what_was_found_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Path(folders(tmp_path / "data"))
    run(**OWN, data=str(data), out=Path("one"), task_name="breast")
    data.rename(tmp_path / "moved")
    other = folders(tmp_path / "chest", seed=1)
    next(Path(other).glob("train/no/*.png")).unlink()
    (tmp_path / "notes").mkdir()
    own = {**METHODS["moe"], "folder": "one", "split": 1, "keep_old": "none", "out": Path("two")}
    for accept in (False, True):
        told = refused(USAGE, later, **own, old_data=(str(tmp_path / "moved"), other), accept_forgetting=accept)
        assert f"--old-data {other}: 47 images there, and not the 48 images of breast" in told
        told = refused(USAGE, later, **own, old_data=(str(tmp_path / "notes"),), accept_forgetting=accept)
        assert f"--old-data {tmp_path / 'notes'}: images of breast cannot be read there" in told
    monkeypatch.setattr(story, "read_images", lambda *_: pytest.fail("images were read"))
    assert "--old-data nowhere does not exist" in refused(USAGE, later, **own, old_data=("nowhere",))
    with pytest.raises(UserError, match="--old-data  does not exist"):
        later(**own, old_data=("",))
