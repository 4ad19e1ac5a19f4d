"""A CSV of images ends as the ImageSet it should be, and every mistake in one as a sentence that names its line."""

from __future__ import annotations

import contextlib
import csv
import io
from pathlib import Path

import numpy as np
import pytest
from drawn import class_folders, labelled, picture, table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distill.data.loading import load_images
from distill.data.scan import BadImages
from distill.data.table_text import read_rows
from runtimes.errors import USAGE, UserError


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
