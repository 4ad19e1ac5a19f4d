"""Folders of images: splits, classes, patients, masks and links told apart, or refused by name."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from distill.data.folders import folder_split, list_folder, read_tree
from distill.data.sources import Listing
from runtimes.errors import UserError


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()  # listing opens no image


def listed(root: Path, *places: str, images: int = 4) -> Listing:
    for place in places:
        for index in range(images):
            picture(root / place / f"{index}.png")
    return list_folder(root, None)


def notes(listing: Listing) -> str:
    return " ".join(listing.facts["notes"])


@pytest.mark.parametrize("name", ["train", "Training", "TRAIN", "train_set", "trainset", "train-data", "Train images"])
def test_a_split_is_known_by_its_usual_names(name: str) -> None:
    assert folder_split(name) == "train"


@pytest.mark.parametrize("name", ["", "benign", "train1", "stress test", "invalid", "trainee", "set", "data", "train_val", "test2", "eval"])
def test_other_names_are_no_splits(name: str) -> None:
    assert folder_split(name) == ""


@given(st.text())
def test_any_name_is_a_split_or_none(name: str) -> None:
    assert folder_split(name) in ("", "train", "val", "test")


@pytest.mark.parametrize("shape", ["{split}/{name}", "{name}/{split}", "images/{split}/{name}", "{split}/images/{name}",
                                   "Brain MRI/{split}/{name}"])
def test_splits_above_and_below_classes_are_splits(tmp_path: Path, shape: str) -> None:
    found = listed(tmp_path, *(shape.format(split=split, name=name) for split in ("Training", "Testing") for name in "ab"))
    assert found.classes == ("a", "b")
    assert [part for part in found.split.tolist() if part not in ("train", "test")] == []
    assert all(("Training" in key) == (part == "train") for key, part in zip(found.keys, found.split.tolist(), strict=True))


@pytest.mark.parametrize(("places", "told"), [
    (("train1/a", "train2/a", "test/a"), "train1"),
    (("train/a", "test/a", "Testing/a"), "several folders for the split test"),
    (("a/train", "a/test", "b"), "lies in no split"),
    (("train/a", "external/a"), "external"),
])
def test_half_a_split_is_refused_by_name(tmp_path: Path, places: tuple[str, ...], told: str) -> None:
    with pytest.raises(UserError, match=told):
        listed(tmp_path, *places)


def test_classes_named_like_a_split_stay_classes(tmp_path: Path) -> None:
    assert listed(tmp_path, "test", "control").classes == ("control", "test")


def test_patients_below_classes_are_groups_and_views_are_not(tmp_path: Path) -> None:
    found = listed(tmp_path / "patients", *(f"{'ab'[index % 2]}/p{index:02d}" for index in range(8)))
    assert set(found.groups["patient folder"]) == {f"p{index:02d}" for index in range(8)}
    assert "taken as patients" in notes(found)
    found = listed(tmp_path / "views", *(f"{name}/{side}" for name in "ab" for side in ("left", "right")))
    assert found.groups == {}
    assert "left, right" in notes(found)
    found = listed(tmp_path / "few", *(f"{name}/patient{index}" for name in "ab" for index in range(2)))
    assert found.groups == {}
    assert "fewer than three" in notes(found)


def test_a_patients_magnifications_belong_to_one_patient(tmp_path: Path) -> None:
    found = listed(tmp_path, *(f"{name}/SOB/type {name}/SOB_14-{index}/{zoom}"
                               for name in "ab" for index in range(4) for zoom in ("40X", "100X")))
    assert len(set(found.groups["patient folder"])) == 8


@pytest.mark.parametrize(("tops", "classes"), [
    ([f"patient{index:02d}" for index in range(5)], ("x", "y")),
    ([f"A{index:03d}" for index in range(12)], ("x", "y")),
    (["001", "002", "003"], ("benign", "malignant")),
    (list("abcdefghijkl"), ("no tumor", "tumor")),
])
def test_patients_above_classes_are_groups(tmp_path: Path, tops: list[str], classes: tuple[str, ...]) -> None:
    found = listed(tmp_path, *(f"{top}/{name}" for top in tops for name in classes))
    assert found.classes == classes
    assert set(found.groups["patient folder"]) == set(tops)


@pytest.mark.parametrize("tops", [("lung", "colon"), ("anna", "berta", "carl"), ("T1", "FLAIR", "other")])
def test_diagnoses_below_folders_that_may_be_anything_are_refused(tmp_path: Path, tops: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="which of them are the classes"):
        listed(tmp_path, *(f"{top}/{name}" for top in tops for name in ("benign", "malignant")))


def test_images_beside_folders_are_named_whether_there_are_splits_or_not(tmp_path: Path) -> None:
    for shape in ("{name}", "train/{name}"):
        root = tmp_path / f"set{len(shape)}"
        picture(root / "beside.png")
        found = listed(root, *(shape.format(name=name) for name in "ab"))
        assert [(Path(one.path).name, one.reason) for one in found.problems] == [("beside.png", "no label")]


def test_patients_without_classes_are_refused_and_classes_of_many_views_are_not(tmp_path: Path) -> None:
    for inner in ("", "/study1"):
        with pytest.raises(UserError, match="named like patients"):
            listed(tmp_path / f"patients{len(inner)}", *(f"patient{index}{inner}" for index in range(4)))
    assert len(listed(tmp_path / "organs", *(f"organ {letter}/{side}" for letter in "abcdefghijkl" for side in ("l", "r"))).classes) == 12


def test_patients_numbered_anew_in_each_split_are_noted_and_told_apart(tmp_path: Path) -> None:
    found = listed(tmp_path, *(f"{split}/{name}/p{index}" for split in ("train", "val", "test") for name in "ab" for index in range(4)))
    assert set(found.groups["patient folder"]) == {f"{split}/p{index}" for split in ("train", "val", "test") for index in range(4)}
    assert "named alike in several splits" in notes(found)


@pytest.mark.parametrize(("first", "second"), [("Normal", "NORMAL"), ("No Finding", "no_finding"), ("a", "a "), ("caf\u00e9", "cafe\u0301"),
                                               ("a", "a\u200b"), ("No-Finding", "NoFinding")])
def test_one_class_spelt_two_ways_is_refused(tmp_path: Path, first: str, second: str) -> None:
    with pytest.raises(UserError, match="spell one class one way"):
        listed(tmp_path, f"train/{first}", "train/b", f"test/{second}", "test/b")


@pytest.mark.parametrize("names", [("HER2", "HER2+", "HER2-"), ("grade 1-2", "grade 12"), ("no", "yes"), ("a", "b")])
def test_classes_that_differ_are_not_taken_for_one(tmp_path: Path, names: tuple[str, ...]) -> None:
    assert listed(tmp_path, *names).classes == tuple(sorted(names))


def test_empty_class_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    with pytest.raises(UserError, match="'c' holds no image"):
        listed(tmp_path, "a", "b")


def test_masks_are_left_out_where_they_belong_to_images(tmp_path: Path) -> None:
    for name in ("x.png", "x_mask.png", "x_mask_1.png", "x-seg.tif", "mask.png", "y_mask.png", "masks/x.png"):
        picture(tmp_path / "a" / name)
    picture(tmp_path / "b" / "x.png")
    found = list_folder(tmp_path, None)
    assert found.keys == ("a/mask.png", "a/x.png", "a/y_mask.png", "b/x.png")
    assert "4 masks" in notes(found)
    assert listed(tmp_path / "classes", "mask", "no_mask").classes == ("mask", "no_mask")
    assert listed(tmp_path / "two", "images/a", "images/b", "masks/a", "masks/b").classes == ("a", "b")


def test_what_systems_leave_is_no_image_and_sidecars_are_named(tmp_path: Path) -> None:
    for name in ("a/@eaDir/0.png/t.jpg", "$RECYCLE.BIN/x.png", "System Volume Information/x.png", "a/._0.png", "lost+found/x.png",
                 "a/Thumbs.db", "a/0.json", "a/scan.mha"):
        picture(tmp_path / name)
    found = listed(tmp_path, "a", "b")
    assert (found.classes, len(found.keys)) == (("a", "b"), 8)
    assert "a/0.json" in notes(found)
    assert [Path(one.path).name for one in found.problems] == ["scan.mha"]


def test_links_are_followed_and_loops_refused(tmp_path: Path) -> None:
    picture(tmp_path / "data" / "a" / "0.png")
    picture(tmp_path / "else" / "deep" / "0.png")
    os.symlink(tmp_path / "else", tmp_path / "data" / "b")
    assert [key for key in list_folder(tmp_path / "data", None).keys if key.startswith("b/")] == ["b/deep/0.png"]
    os.symlink(tmp_path / "data", tmp_path / "else" / "back")
    with pytest.raises(UserError, match="has no end"):
        list_folder(tmp_path / "data", None)


def test_folders_that_links_multiply_end_in_a_sentence(tmp_path: Path) -> None:
    for level in range(8):
        (tmp_path / f"{level}").mkdir()
    for level in range(7):
        for name in "xyz":
            os.symlink(tmp_path / f"{level + 1}", tmp_path / f"{level}" / name)
    with pytest.raises(UserError, match="more than 100 times"):
        read_tree(tmp_path / "0")


def test_files_come_before_folders_in_sorted_order(tmp_path: Path) -> None:
    for name in ("b.png", "a/z.png", "a/b/c.png", "c.png", "0/x.PNG"):
        picture(tmp_path / name)
    found = [one.path.relative_to(tmp_path).as_posix() for one in read_tree(tmp_path).images]
    assert found == ["b.png", "c.png", "0/x.PNG", "a/z.png", "a/b/c.png"]


def test_the_made_split_keeps_patients_of_folders_together(tmp_path: Path) -> None:
    from distill.data.loading import load_images

    for index in range(12):
        for place in range(4):
            path = tmp_path / "ab"[index % 2] / f"patient{index:02d}" / f"{place}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng(10 * index + place).integers(0, 256, (12, 12)).astype(np.uint8)).save(path)
    images = load_images(str(tmp_path))
    assert images.groups is not None
    assert all(len(set(images.split[images.groups == patient])) == 1 for patient in set(images.groups))
    assert images.facts["split_from"].startswith("made 70/10/20 by patient")
    before = load_images(str(tmp_path), keep_together="group", earlier=True)
    assert before.groups is None
    assert before.facts["split_from"].startswith("made 70/10/20 by image")
