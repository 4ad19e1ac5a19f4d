"""Every form of --data ends as the ImageSet it should be, and every mistake in one as a sentence that names it."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from distill.data.loading import load_images, split_table
from distill.data.scan import BadImages
from distill.data.table_text import read_rows
from runtimes.errors import MISSING, USAGE, UserError

REAL = Path(os.environ.get("RD_SHARED", Path(__file__).parent.parent.parent / "shared")) / "data"


def real(name: str) -> str:
    if not (REAL / name).exists():
        pytest.skip(f"the real data {name} is not here; RD_SHARED names the folder that holds data/{name}")
    return str(REAL / name)


def picture(path: Path, seed: int, mode: str = "L", size: tuple[int, int] = (12, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    if mode == "16":
        image = Image.fromarray(rng.integers(0, 65536, size[::-1]).astype(np.uint16))
    else:
        image = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3)).astype(np.uint8)).convert(mode)
    image.save(path)
    return path


def class_folders(root: Path, counts: dict[str, int], seed: int = 0) -> Path:
    for place, (name, count) in enumerate(counts.items()):
        for index in range(count):
            picture(root / name / f"{index}.png", seed + 1000 * place + index)
    return root


def table(root: Path, lines: list[str], images: int = 0, where: str = "images", name: str = "set.csv") -> str:
    for index in range(images):
        picture(root / where / f"{index}.png", index)
    (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(root / name)


def labelled(count: int) -> list[str]:
    return ["image,label", *(f"{index}.png,{'ab'[index % 2]}" for index in range(count))]


# ---- folders


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
    (tmp_path / "a" / "scan.dcm").write_text("hello")
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
        "a/scan.dcm": "unknown suffix",
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


# ---- tables


def test_a_table_names_images_beside_it_or_below_images(tmp_path: Path) -> None:
    for where in ("images", "."):
        root = tmp_path / where.replace(".", "flat")
        images = load_images(table(root, labelled(20), 20, where) if root.mkdir() is None else "")
        assert len(images) == 20
        assert images.classes == ("a", "b")
        assert images.keys[3] == "3.png"


def test_bom_quoted_commas_and_dos_line_ends_are_read(tmp_path: Path) -> None:
    lines = ["\ufeffPath,Label", *(f'"x, {index}.png","{"ab"[index % 2]}, kind"' for index in range(20))]
    for index in range(20):
        picture(tmp_path / f"x, {index}.png", index)
    (tmp_path / "set.csv").write_bytes("\r\n".join(lines).encode())
    images = load_images(str(tmp_path / "set.csv"))
    assert images.classes == ("a, kind", "b, kind")
    assert len(images) == 20


def test_numbers_as_labels_are_ordered_as_numbers_and_one_way_of_writing_them_is_kept(tmp_path: Path) -> None:
    lines = ["image,grade", *(f"{index}.png,{[2, '10.0', 1][index % 3]}" for index in range(30))]
    images = load_images(table(tmp_path, lines, 30), label="grade", task="ordinal")
    assert images.classes == ("1", "2", "10")
    assert images.task == "ordinal"
    assert images.facts["task_from"] == "--task"
    assert not any("sorted by name" in note for note in images.facts["notes"])


def test_named_ordinal_classes_say_their_order(tmp_path: Path) -> None:
    lines = ["image,label", *(f"{index}.png,{['mild', 'none', 'severe'][index % 3]}" for index in range(30))]
    notes = load_images(table(tmp_path, lines, 30), task="ordinal").facts["notes"]
    assert any("mild < none < severe" in note for note in notes)


def test_findings_are_the_01_columns_that_are_not_metadata(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        [
            f"{index}.png",
            f"p{index // 2}",
            index % 2,
            index % 2,
            index % 2,
            7,
            *rng.integers(0, 2, 2),
            "1.0" if index % 5 else "",
        ]
        for index in range(40)
    ]
    head = "image,patient,age,sex,source_site,score,Mass,Edema,Nodule"
    images = load_images(table(tmp_path, [head, *(",".join(map(str, row)) for row in rows)], 40))
    assert images.classes == ("Mass", "Edema", "Nodule")
    assert images.task == "multilabel"
    assert images.labels.dtype == np.float32
    assert np.isnan(images.labels[0, 2])
    assert images.labels[1, 2] == 1
    assert images.facts["split_from"].startswith("made 70/10/20 by patient")
    assert any("score" in note for note in images.facts["notes"])
    assert images.groups is not None
    assert images.groups[5] == "p2"
    sides: dict[str, set[str]] = {}
    for patient, part in zip(images.groups, images.split, strict=True):
        sides.setdefault(patient, set()).add(part)
    assert all(len(parts) == 1 for parts in sides.values())
    assert load_images(str(tmp_path / "set.csv"), label="Mass").classes == ("0", "1")


def test_a_slip_in_a_findings_column_is_a_bad_image_not_a_lost_column(tmp_path: Path) -> None:
    lines = [
        "image,Mass,Edema",
        *(f"{index}.png,{'O' if index == 4 else index % 2},{index % 2}" for index in range(30)),
    ]
    path = table(tmp_path, lines, 30)
    with pytest.raises(BadImages, match=r"4\.png: wrongly labelled \(line 6: Mass is 'O'"):
        load_images(path)
    images = load_images(path, skip_bad_images=True)
    assert images.classes == ("Mass", "Edema")
    assert len(images) == 29
    assert images.facts["skipped"] == {"wrongly labelled": 1}


def test_a_word_among_numbers_is_a_bad_image(tmp_path: Path) -> None:
    lines = ["image,label", *(f"{index}.png,{'x' if index == 4 else index % 2}" for index in range(30))]
    with pytest.raises(BadImages, match="line 6: 'x' is not a number"):
        load_images(table(tmp_path, lines, 30))


def test_a_patient_in_two_splits_is_named(tmp_path: Path) -> None:
    lines = [
        "image,label,patient,split",
        *(f"{index}.png,{index % 2},P{index},{['train', 'val', 'test'][index // 10]}" for index in range(30)),
    ]
    assert load_images(table(tmp_path, lines, 30)).facts["split_from"] == "given"
    lines[-1] = lines[-1].replace("P29", "P0")
    with pytest.raises(UserError, match="patient P0 in test and train"):
        load_images(table(tmp_path, lines))


def test_an_exact_copy_planted_in_the_test_split_is_found(tmp_path: Path) -> None:
    lines = [
        "image,label,split",
        *(f"{index}.png,{index % 2},{['train', 'val', 'test'][index // 10]}" for index in range(30)),
    ]
    path = table(tmp_path, lines, 30)
    (tmp_path / "images" / "28.png").write_bytes((tmp_path / "images" / "2.png").read_bytes())
    with pytest.raises(BadImages, match=r"2\.png: leak .*28\.png, which is in test, this in train"):
        load_images(path)
    assert load_images(path, skip_bad_images=True).facts["counts"] == {"train": 9, "val": 10, "test": 10}


def test_rows_without_label_train_and_are_refused_elsewhere(tmp_path: Path) -> None:
    lines = [
        "image,label,split",
        *(f"{index}.png,{index % 2},{['train', 'VAL', 'test'][index // 10]}" for index in range(30)),
    ]
    lines[1], lines[2] = "0.png,,train", "1.png,,"
    images = load_images(table(tmp_path, lines, 30))
    assert images.labels[:2].tolist() == [-1, -1]
    assert images.split[1] == "train"
    assert images.facts["unlabelled"] == 2
    lines[30] = "29.png,,test"
    with pytest.raises(UserError, match="line 31: no label, but split test"):
        load_images(table(tmp_path, lines))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["picture,label", "0.png,a"], "line 1: no column image or path; it has picture, label"),
        (["image,label,split", "0.png,a,train", "1.png,b,later"], "line 3: split 'later'"),
        (["image,label", "0.png,a", "", "0.png,b"], "line 4: 0.png is already in line 2"),
        (["image,label", "0.png,a", "1.png"], "line 3: 1 cells, the header has 2"),
        (["image,label", '0.png,"a', "1.png,b"], "line 2: "),
        (["image,label", ",a", "1.png,b"], "line 2: the image cell is empty"),
        (["image,label,label", "0.png,a,b"], "column 'label' occurs twice"),
        (["image,label"], "a header but no row"),
        ([""], "no content"),
        (["image,Label ", "0.png,Benign", "1.png,benign"], "line 3: label 'benign' differs from 'Benign' only by case"),
        (["image,score", "0.png,7", "1.png,8"], "no column label and not two 0/1 columns"),
        (["image,Mass", "0.png,1", "1.png,0"], "--label Mass trains on it"),
    ],
)
def test_mistakes_in_a_table_are_told_with_their_line(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_images(table(tmp_path, lines, 2))
    assert message in str(caught.value)
    assert "set.csv" in str(caught.value)


def test_text_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    (tmp_path / "set.csv").write_bytes("image,label\nä.png,a\n".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        load_images(str(tmp_path / "set.csv"))


def test_an_unknown_label_column_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean grade") as caught:
        load_images(table(tmp_path, ["image,grade", "0.png,1"], 1), label="grad")
    assert caught.value.exit_code == USAGE


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.text(max_size=200), st.text(alphabet='image,lbe01\n\r";\t \ufeff.png', max_size=200)))
def test_any_text_as_a_table_is_read_or_refused_with_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "any.csv").write_bytes(text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(UserError):
        load_images(str(tmp_path / "any.csv"))


WORDS = st.text(alphabet=st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=8), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_what_was_written_as_csv_is_read_back(tmp_path: Path, rows: list[tuple[str, str]], end: str, bom: bool) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=end)
    writer.writerows([("image", "label"), *rows])
    (tmp_path / "any.csv").write_bytes(text.getvalue().encode("utf-8-sig" if bom else "utf-8"))
    header, read = read_rows(tmp_path / "any.csv")
    assert header == ["image", "label"]
    assert [tuple(cells) for _, cells in read] == rows
    assert [line for line, _ in read] == list(range(2, len(rows) + 2))


def test_a_folder_with_one_table_uses_it_and_with_two_asks(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 12, "b": 12})
    rows = [f"{name}/{index}.png,{'x' if name == 'a' else 'y'}" for name in "ab" for index in range(12)]
    table(tmp_path, ["image,label", *rows], name="labels.csv")
    images = load_images(str(tmp_path))
    assert images.classes == ("x", "y")
    assert any("labels.csv inside the folder" in note for note in images.facts["notes"])
    table(tmp_path, ["image,label", *rows], name="other.csv")
    with pytest.raises(UserError, match="holds 2 CSV files"):
        load_images(str(tmp_path))


# ---- MedMNIST


def npz(
    path: Path, counts: tuple[int, int, int] = (20, 6, 8), labels: Any = None, shape: tuple[int, ...] = (14, 14)
) -> str:
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for part, count in zip(("train", "val", "test"), counts, strict=True):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, *shape)).astype(np.uint8)
        arrays[f"{part}_labels"] = (
            (np.arange(count) % 2 if labels is None else labels(rng, count)).astype(np.uint8).reshape(count, -1)
        )
    np.savez_compressed(path, **arrays)
    return str(path)


def test_an_npz_is_one_array_with_its_own_split(tmp_path: Path) -> None:
    images = load_images(npz(tmp_path / "own.npz"))
    assert isinstance(images.images, np.ndarray)
    assert images.images.shape == (34, 14, 14, 1)
    assert images.task == "binary"
    assert images.facts["counts"] == {"train": 20, "val": 6, "test": 8}
    assert images.keys[20] == "val/0"
    assert images.raw(0).shape == (14, 14, 1)


def test_the_task_of_an_npz_is_read_off(tmp_path: Path) -> None:
    many = load_images(
        npz(tmp_path / "own.npz", labels=lambda rng, count: rng.integers(0, 2, (count, 4)), shape=(14, 14, 3))
    )
    assert many.task == "multilabel"
    assert many.labels.shape == (34, 4)
    assert many.facts["channels"] == 3
    five = npz(tmp_path / "retinamnist_64.npz", (20, 10, 10), lambda rng, count: np.arange(count) % 5)
    assert load_images(five).task == "ordinal"
    assert load_images(five, task="multiclass").task == "multiclass"


def test_broken_npz_files_are_sentences(tmp_path: Path) -> None:
    whole = Path(npz(tmp_path / "whole.npz")).read_bytes()
    for name, data in {
        "empty": b"",
        "text": b"hello",
        "cut": whole[: len(whole) // 2],
        "flipped": whole[:200] + bytes([whole[200] ^ 255]) + whole[201:],
    }.items():
        (tmp_path / f"{name}.npz").write_bytes(data)
        with pytest.raises(UserError, match=f"{name}.npz"):
            load_images(str(tmp_path / f"{name}.npz"))
    np.savez(
        tmp_path / "object.npz",
        train_images=np.zeros((2, 4, 4), np.uint8),
        train_labels=np.asarray([{}, []], dtype=object),
    )
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.savez(tmp_path / "volume.npz", train_images=np.zeros((2, 9, 9, 4), np.uint8), train_labels=np.zeros((2, 1)))
    for name in ("object", "other", "volume"):
        with pytest.raises(UserError, match=f"{name}.npz"):
            load_images(str(tmp_path / f"{name}.npz"))


def test_copies_in_an_own_npz_are_refused_and_in_a_published_one_told(tmp_path: Path) -> None:
    arrays = dict(np.load(npz(tmp_path / "own.npz")))
    arrays["test_images"][1] = arrays["train_images"][1]
    for name in ("own", "breastmnist"):
        np.savez(tmp_path / f"{name}.npz", **arrays)
    with pytest.raises(BadImages, match="train/1: leak"):
        load_images(str(tmp_path / "own.npz"))
    images = load_images(str(tmp_path / "breastmnist.npz"))
    assert len(images) == 34
    assert any("1 leak" in note for note in images.facts["notes"])
    skipped = load_images(str(tmp_path / "own.npz"), skip_bad_images=True)
    assert len(skipped) == 33
    assert skipped.images[1].tobytes() == arrays["train_images"][2].tobytes()


def test_a_medmnist_name_is_taken_from_the_packages_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = pytest.importorskip("medmnist.info")
    monkeypatch.setattr(info, "DEFAULT_ROOT", str(tmp_path))
    npz(tmp_path / "breastmnist_64.npz")
    images = load_images("breastmnist_64")
    assert images.classes == ("malignant", "normal, benign")
    assert images.facts["form"] == "medmnist"


def test_a_failed_download_says_where_to_put_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    medmnist = pytest.importorskip("medmnist")

    def offline(**settings: object) -> None:
        raise RuntimeError("no network\nmany lines")

    monkeypatch.setattr(medmnist.info, "DEFAULT_ROOT", str(tmp_path))
    monkeypatch.setattr(medmnist, "BreastMNIST", offline)
    with pytest.raises(UserError) as caught:
        load_images("breastmnist")
    assert str(tmp_path / "breastmnist.npz") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_close_is_guessed_and_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("medmnist")
    with pytest.raises(UserError, match="Did you mean breastmnist"):
        load_images("brestmnist")
    with pytest.raises(UserError, match="does not exist"):
        load_images("no/such/folder")
    with pytest.raises(UserError, match="volumes"):
        load_images("organmnist3d_128")
    monkeypatch.setitem(sys.modules, "medmnist", None)
    with pytest.raises(UserError, match="pip install medmnist") as caught:
        load_images("breastmnist")
    assert caught.value.exit_code == MISSING


# ---- the phantom, unlabelled images, settings


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


# ---- real data


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
