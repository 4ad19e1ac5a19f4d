"""Folders, drawn images and real sets end as the ImageSet they should be, and every mistake in one as a sentence that names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import class_folders, npz, picture, real, table
from PIL import Image

from distill.data.loading import load_images, split_table
from distill.data.scan import BadImages
from runtimes.errors import USAGE, UserError


def test_class_folders_are_sorted_split_and_described(tmp_path: Path) -> None:
    images = load_images(str(class_folders(tmp_path, {"b": 20, "a": 10})))
    assert images.classes == ("a", "b")
    assert images.task == "binary"
    assert [len(images.rows(part)) for part in ("train", "val", "test")] == [21, 3, 6]
    assert images.facts["channels"] == 1
    assert images.facts["dtype"] == "uint8"
    assert images.facts["window"] == [0, 255]
    assert images.facts["median_size"] == [10, 12]
    assert images.facts["sizes"] == {"10x12": 30}
    assert images.facts["task_from"] == "2 classes"
    assert images.facts["split_from"].startswith("made 70/10/20 by image")
    assert len(set(images.hashes)) == 30
    assert images.groups is None
    assert not images.synthetic
    for key, label in zip(images.keys, images.labels, strict=True):
        assert key.startswith(images.classes[label] + "/")


def test_the_split_is_the_same_every_time_and_another_with_another_seed(tmp_path: Path) -> None:
    root = str(class_folders(tmp_path, {"b": 20, "a": 20}))
    assert split_table(load_images(root, seed=1)) == split_table(load_images(root, seed=1))
    assert split_table(load_images(root, seed=1)) != split_table(load_images(root, seed=2))


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_split_folders_are_kept(tmp_path: Path, val: str) -> None:
    for place, (part, count) in enumerate({"train": 6, val: 2, "test": 3}.items()):
        class_folders(tmp_path / part, {"x": count, "y": count, "z": count}, 10_000 * place)
    images = load_images(str(tmp_path))
    assert images.task == "multiclass"
    assert images.facts["split_from"] == "given"
    assert images.facts["counts"] == {"train": 18, "val": 6, "test": 9}
    assert images.facts["class_counts"]["val"] == {"x": 2, "y": 2, "z": 2}
    assert all(key.startswith("test/") for key, part in zip(images.keys, images.split, strict=True) if part == "test")


def test_nested_files_count_and_system_files_do_not(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 9, "b": 9})
    picture(tmp_path / "a" / "site1" / "deep" / "x.PNG", 77)
    for name in (".DS_Store", "Thumbs.db", "a/.DS_Store"):
        (tmp_path / name).write_bytes(b"junk")
    picture(tmp_path / "a" / ".ipynb_checkpoints" / "0.png", 0)
    images = load_images(str(tmp_path))
    assert len(images) == 19
    assert "a/site1/deep/x.PNG" in images.keys


def test_a_validation_class_that_is_never_trained_is_named(tmp_path: Path) -> None:
    for place, (part, names) in enumerate({"train": "ab", "val": "ab", "test": "abc"}.items()):
        class_folders(tmp_path / part, dict.fromkeys(names, 3), 10_000 * place)
    with pytest.raises(UserError, match="no training image of class c"):
        load_images(str(tmp_path))


def test_a_class_missing_from_val_is_noted(tmp_path: Path) -> None:
    for place, (part, names) in enumerate({"train": "abc", "val": "ab", "test": "abc"}.items()):
        class_folders(tmp_path / part, dict.fromkeys(names, 3), 10_000 * place)
    assert "val has no image of c" in load_images(str(tmp_path)).facts["notes"]


def test_one_class_only_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only one class"):
        load_images(str(class_folders(tmp_path, {"a": 9})))


def test_a_folder_without_images_or_with_a_stray_folder_beside_train_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no image in a class folder"):
        load_images(str(tmp_path))
    class_folders(tmp_path / "train", {"a": 3, "b": 3})
    (tmp_path / "extra").mkdir()
    with pytest.raises(UserError, match="and also extra"):
        load_images(str(tmp_path))


def test_all_bad_kinds_are_in_one_report_and_can_be_skipped(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 12, "b": 12})
    good = (tmp_path / "a" / "0.png").read_bytes()
    (tmp_path / "a" / "empty.png").write_bytes(b"")
    (tmp_path / "a" / "cut.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "a" / "scan.mha").write_text("hello")
    (tmp_path / "a" / "copy.png").write_bytes(good)
    (tmp_path / "a" / "contradiction.png").write_bytes((tmp_path / "b" / "0.png").read_bytes())
    Image.new("L", (8, 8)).save(tmp_path / "b" / "black.png")
    picture(tmp_path / "beside.png", 5)
    with pytest.raises(BadImages) as caught:
        load_images(str(tmp_path))
    found = {Path(one.path).relative_to(tmp_path).as_posix(): one.reason for one in caught.value.problems}
    assert found == {
        "a/empty.png": "empty",
        "a/cut.png": "damaged or truncated",
        "a/scan.mha": "unknown suffix",
        "a/contradiction.png": "contradicting labels",
        "b/0.png": "contradicting labels",
        "b/black.png": "constant",
        "beside.png": "no label",
    }
    assert caught.value.exit_code == 1
    assert all(name in str(caught.value) for name in found)
    assert "--skip-bad-images" in str(caught.value)
    images = load_images(str(tmp_path), skip_bad_images=True)
    assert len(images) == 23
    assert sum(images.facts["skipped"].values()) == 7
    assert images.facts["copies"] == 1
    assert {Path(path).relative_to(tmp_path).as_posix() for path in images.facts["skipped_paths"]} == set(found)


def near_pairs(root: Path) -> str:
    for name in "ab":
        for index in range(16):
            coarse = picture(root / name / f"{index}.png", 100 * ord(name) + index, size=(6, 6))
            whole = Image.open(coarse).resize((64, 64), Image.Resampling.BICUBIC)
            whole.save(coarse)
            whole.resize((50, 50)).save(coarse.with_suffix(".jpg"), quality=85)
    return str(root)


def torn(images: Any) -> int:
    sides: dict[str, set[str]] = {}
    for key, part in zip(images.keys, images.split.tolist(), strict=True):
        sides.setdefault(key[:-4], set()).add(part)
    return sum(len(parts) > 1 for parts in sides.values())


def test_near_copies_stay_on_one_side_of_a_made_split_and_are_told_where_they_may_not(tmp_path: Path) -> None:
    root = near_pairs(tmp_path)
    images = load_images(root)
    assert torn(images) == 0
    assert images.facts["near_copies"] == {"kept_together": 64, "too_alike": 0, "pairs_in_two_splits": 0}
    apart = load_images(root, keep_together="group")
    assert torn(apart) == apart.facts["near_copies"]["pairs_in_two_splits"] > 0
    assert any("in different splits" in note for note in apart.facts["notes"])
    assert apart.alike is None


@pytest.mark.parametrize("split", ["", "given"])
def test_near_copies_share_a_number_by_which_folds_are_made_also_where_the_split_is_given(tmp_path: Path, split: str) -> None:
    root = Path(near_pairs(tmp_path / "images"))
    if split:
        for number, path in enumerate(sorted(root.rglob("*.*"))):
            place = tmp_path / "given" / ("train", "val", "test")[number // 2 % 3] / path.parent.name / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            path.rename(place)
        root = tmp_path / "given"
    images = load_images(str(root))
    assert images.alike is not None
    pairs: dict[str, set[int]] = {}
    for key, number in zip(images.keys, images.alike.tolist(), strict=True):
        pairs.setdefault(key[:-4], set()).add(number)
    assert all(len(numbers) == 1 for numbers in pairs.values())
    assert len(set.union(*pairs.values())) == len(pairs) == 32


def test_pictures_that_all_look_alike_are_still_split(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    one = np.kron(rng.integers(0, 200, (8, 8)), np.ones((8, 8)))
    for index in range(24):
        (tmp_path / "ab"[index % 2]).mkdir(exist_ok=True)
        Image.fromarray((one + rng.integers(0, 3, one.shape)).astype(np.uint8)).save(tmp_path / "ab"[index % 2] / f"{index}.png")
    images = load_images(str(tmp_path))
    assert images.facts["near_copies"]["too_alike"] == 24
    assert min(images.facts["counts"].values()) > 0


def test_an_exact_copy_in_another_file_is_left_out_of_its_split_and_a_leak_in_another(tmp_path: Path) -> None:
    for place, (part, count) in enumerate({"train": 6, "val": 3, "test": 3}.items()):
        class_folders(tmp_path / part, {"a": count, "b": count}, 10_000 * place)
    Image.open(tmp_path / "train/a/0.png").convert("RGB").save(tmp_path / "train/a/again.bmp")
    images = load_images(str(tmp_path))
    assert images.facts["copies"] == 1
    assert "train/a/again.bmp" not in images.keys
    assert any("1 exact copy is left out" in note for note in images.facts["notes"])
    assert len(load_images(str(tmp_path), keep_together="group", earlier=True)) == 25  # as before: other bytes, another image
    Image.open(tmp_path / "train/a/0.png").save(tmp_path / "test/a/again.tif")
    with pytest.raises(BadImages, match=r"leak \(same picture as .*again\.tif"):
        load_images(str(tmp_path))


def test_none_keeps_not_even_patients_together(tmp_path: Path) -> None:
    lines = ["image,label,patient", *(f"{index}.png,{index % 2},P{index // 4}" for index in range(40))]
    path = table(tmp_path, lines, 40)
    assert load_images(path).facts["split_from"].startswith("made 70/10/20 by patient")
    images = load_images(path, keep_together="none")
    assert images.facts["split_from"].startswith("made 70/10/20 by image")
    assert any("--keep-together none" in note for note in images.facts["notes"])


def test_mixed_depths_are_refused_with_examples_even_when_bad_images_are_skipped(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 5, "b": 5})
    picture(tmp_path / "a" / "deep.png", 3, "16")
    with pytest.raises(UserError, match=r"mixed.*uint16, such as .*deep\.png"):
        load_images(str(tmp_path), skip_bad_images=True)


def test_sixteen_bit_images_get_the_window_of_the_training_images(tmp_path: Path) -> None:
    for place, part in enumerate(("train", "val", "test")):
        for name in "ab":
            for index in range(3):
                level = 40_000 if part == "test" else 1000
                rng = np.random.default_rng(100 * place + 10 * index + ord(name))
                path = tmp_path / part / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((level + rng.integers(0, 3000, (40, 40))).astype(np.uint16)).save(path)
    images = load_images(str(tmp_path))
    pixels = np.concatenate([images.raw(row).ravel() for row in images.rows("train")])
    assert images.facts["dtype"] == "uint16"
    assert np.abs(np.asarray(images.facts["window"]) - np.percentile(pixels, [0.5, 99.5])).max() <= 0.5


def test_one_colour_image_makes_the_set_rgb_and_that_is_noted(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 9, "b": 9})
    picture(tmp_path / "a" / "colour.png", 1, "RGB")
    picture(tmp_path / "a" / "clear.png", 7777, "LA")
    facts = load_images(str(tmp_path)).facts
    assert facts["channels"] == 3
    assert any("1 of 20 images are in colour" in note for note in facts["notes"])


def test_the_phantom_is_synthetic_split_in_blocks_and_not_drawn_before_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import distill.phantom.images

    def drawn(*_: object) -> None:
        raise AssertionError("an image was drawn")

    monkeypatch.setattr(distill.phantom.images, "draw", drawn)
    images = load_images("phantom", phantom_images=(50, 10, 20), phantom_size=64, seed=4)
    assert images.synthetic
    assert images.task == "multilabel"
    assert images.labels.shape == (80, 6)
    assert images.facts["counts"] == {"train": 50, "val": 10, "test": 20}
    assert len(set(images.hashes)) == 80
    assert images.facts["sizes"] == {"64x64": 80}
    assert load_images("phantom", phantom_images=(50, 10, 20), phantom_size=64, seed=5).hashes != images.hashes
    for settings_ in ({"phantom_images": (0, 1, 1)}, {"phantom_size": 8}, {"task": "binary"}, {"label": "x"}):
        with pytest.raises(UserError):
            load_images("phantom", **settings_)


@pytest.mark.parametrize("form", ["folder", "npz", "phantom"])
def test_unlabelled_images_join_training(tmp_path: Path, form: str) -> None:
    for index in range(4):
        picture(tmp_path / "more" / "deep" / f"{index}.png", 500 + index)
    data = {
        "folder": str(class_folders(tmp_path / "set", {"a": 10, "b": 10})),
        "npz": npz(tmp_path / "own.npz"),
        "phantom": "phantom",
    }
    images = load_images(data[form], unlabelled=tmp_path / "more", phantom_images=(5, 2, 3), phantom_size=32)
    assert images.facts["unlabelled"] == 4
    assert images.split[-4:].tolist() == ["train"] * 4
    assert not images.labelled[-4:].any()
    assert images.labelled[:-4].all()
    assert isinstance(images.images, list)
    assert images.keys[-1] == "unlabelled/deep/3.png"
    assert images.raw(len(images) - 1).shape[2] == 1
    (tmp_path / "more" / "bad.png").write_bytes(b"")
    with pytest.raises(BadImages, match=r"bad\.png: empty"):
        load_images(data[form], unlabelled=tmp_path / "more", phantom_images=(5, 2, 3), phantom_size=32)


def test_an_unlabelled_folder_that_is_missing_or_empty_is_refused(tmp_path: Path) -> None:
    root = str(class_folders(tmp_path / "set", {"a": 10, "b": 10}))
    (tmp_path / "none").mkdir()
    for folder in (tmp_path / "absent", tmp_path / "none"):
        with pytest.raises(UserError, match=folder.name):
            load_images(root, unlabelled=folder)


@pytest.mark.parametrize("task", ["binary", "multilabel", "segmentation"])
def test_a_task_that_does_not_fit_three_classes_is_a_usage_error(tmp_path: Path, task: str) -> None:
    with pytest.raises(UserError) as caught:
        load_images(str(class_folders(tmp_path, {"a": 5, "b": 5, "c": 5})), task=task)
    assert caught.value.exit_code == USAGE


def test_the_split_table_has_a_row_an_image_with_names_for_labels(tmp_path: Path) -> None:
    rows = split_table(load_images(str(class_folders(tmp_path, {"a": 5, "b": 5}))))
    assert len(rows) == 10
    assert rows[0]["key"] == "a/0.png"
    assert rows[0]["label"] == "a"
    rows = split_table(load_images("phantom", phantom_images=(3, 1, 1), phantom_size=32))
    assert [row["split"] for row in rows] == ["train"] * 3 + ["val", "test"]
    assert rows[0]["label_bleed"] in (0, 1)


def test_busi_has_one_image_twice_with_two_labels_and_is_else_as_published() -> None:
    with pytest.raises(BadImages) as caught:
        load_images(real("busi_256px"))
    assert {Path(one.path).name: one.reason for one in caught.value.problems} == {
        "benign (433).png": "contradicting labels",
        "malignant (145).png": "contradicting labels",
    }
    images = load_images(real("busi_256px"), skip_bad_images=True)
    assert images.classes == ("benign", "malignant", "normal")
    assert images.facts["counts"] == {"train": 548, "val": 78, "test": 152}
    assert images.groups is not None
    assert images.facts["channels"] == 3


def test_nih_is_multi_label_and_split_by_patient() -> None:
    images = load_images(real("nih_cxr14_1000_64px") + "/labels.csv")
    assert len(images) == 1000
    assert len(images.classes) == 14
    assert images.task == "multilabel"
    assert images.facts["counts"] == {"train": 530, "val": 224, "test": 246}
    assert images.facts["channels"] == 1
    assert "age" not in images.classes
    assert images.facts["skipped"] == {}
    assert images.groups is not None
    assert not set(images.groups[images.rows("train")]) & set(images.groups[images.rows("test")])


def test_breastmnist_is_as_published_and_its_leak_is_told() -> None:
    images = load_images(real("breastmnist.npz"))
    assert images.task == "binary"
    assert images.facts["counts"] == {"train": 546, "val": 78, "test": 156}
    assert any("test/76" in note for note in images.facts["notes"])
