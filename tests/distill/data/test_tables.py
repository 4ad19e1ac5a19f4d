"""Tables of images: what their columns are for, what their cells mean, the files they name, and every dialect that CSV is written in."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distill.data.intake import images_for
from distill.data.loading import load_images
from distill.data.sources import Listing
from distill.data.table_text import tidy
from distill.data.tables import list_csv
from runtimes.errors import USAGE, UserError

COUNT = 48
Row = Callable[[int], Sequence[object]]


def write(folder: Path, header: str, row: Row, count: int = COUNT) -> Path:
    """A table of files that are there, but hold no picture: nothing is opened by listing them."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header.split(","))
    for index in range(count):
        (folder / name(index)).touch()
        writer.writerow(row(index))
    path = folder / "set.csv"
    path.write_text(text.getvalue(), encoding="utf-8")
    return path


def name(index: int) -> str:
    return f"{index:02d}.png"


def notes(listing: Listing) -> str:
    return "\n".join(listing.facts.get("notes", []))


def labelled(folder: Path, *labels: str) -> Path:
    return write(folder, "image,label", lambda index: (name(index), labels[index % len(labels)]))


def words(listing: Listing) -> list[str]:
    """The label of every row, "" for none."""
    return [listing.classes[label] if label >= 0 else "" for label in listing.labels.tolist()]


def same(one: Listing, other: Listing) -> bool:
    return (one.keys, one.classes, one.task, list(one.images), one.split.tolist(), one.groups, one.facts) == (
        other.keys, other.classes, other.task, list(other.images), other.split.tolist(), other.groups, other.facts) and np.array_equal(
        one.labels, other.labels, equal_nan=True)


# ---- what images share


@pytest.mark.parametrize("column", [
    "lesion_id", "case_id", "StudyInstanceUID", "SeriesInstanceUID", "exam_id", "accession_number", "slide_id", "video", "video_id",
    "eye_id", "pid", "mrn", "participant_id", "anon_id", "Patient ID", "PatientID", "Subject", "anonymized_patient_id", "Encounter No",
    "nodule_id"])
def test_a_column_that_names_what_images_share_keeps_them_together(tmp_path: Path, column: str) -> None:
    listing = list_csv(write(tmp_path, f"image,{column},label", lambda i: (name(i), f"x{i // 4}", "ab"[i // 4 % 2])), None, None)
    assert listing.groups == {column: [f"x{index // 4}" for index in range(COUNT)]}
    assert column in ("Patient ID", "PatientID", "Subject") or f"share {column} stay" in notes(listing)


@pytest.mark.parametrize(("column", "value", "told"), [
    ("lesion_id", lambda i: "one", "columns not used: lesion_id"),
    ("lesion_id", lambda i: i, "columns not used: lesion_id"),
    ("study_id", lambda i: i % 3, "look like a site"),
    ("study", lambda i: i % 8, "look like a site"),
    ("eye", lambda i: "LR"[i % 2], "look like a site"),
    ("video_id", lambda i: i // 16, "too few for a split"),
    ("site", lambda i: i % 3, "columns counted by split, and kept beside predictions: site"),
])
def test_a_column_that_cannot_keep_images_together_is_named(tmp_path: Path, column: str, value: Callable[[int], object], told: str) -> None:
    listing = list_csv(write(tmp_path, f"image,{column},label", lambda i: (name(i), value(i), "ab"[i // 16 % 2])), None, None)
    assert listing.groups == {}
    assert told in notes(listing)
    assert sum(column in note for note in listing.facts["notes"]) == 1


def test_a_patient_wins_over_what_is_less_and_a_number_within_patients_is_no_group(tmp_path: Path) -> None:
    row: Row = lambda i: (name(i), f"p{i // 8}" if i < 40 else "", f"l{i // 4}", i % 4, "ab"[i // 4 % 2])  # noqa: E731
    listing = list_csv(write(tmp_path, "image,patient,lesion_id,exam_id,label", row), None, None)
    assert list(listing.groups) == ["patient", "lesion_id"]
    assert "exam_id repeats and is not used to keep images together: its values are shared by several patients" in notes(listing)


def test_a_lesion_in_two_given_splits_is_refused_and_a_vague_study_is_noted(tmp_path: Path) -> None:
    for column in ("lesion_id", "pid", "study"):
        table = write(tmp_path, f"image,{column},label,split", lambda i: (name(i), i // 4, "ab"[i % 2], ("train", "val", "test")[i % 3]))
        if column == "lesion_id":
            with pytest.raises(UserError, match=r"values of lesion_id are in more than one split.* take the column out of the table"):
                list_csv(table, None, None)
        elif column == "pid":  # refused where all columns of patients are
            assert list(list_csv(table, None, None).groups) == ["pid"]
        else:
            listing = list_csv(table, None, None)
            assert listing.groups == {}
            assert "study is in several of the given splits" in notes(listing)


# ---- given splits


@pytest.mark.parametrize("column", ["set", "dataset_split", "Partition", "subset", "usage", "Split", "group", "whatever"])
def test_a_column_of_words_for_splits_is_the_split(tmp_path: Path, column: str) -> None:
    given_words = ("Training", "VALID", "hold-out", "trn", "dev", "Testing")
    listing = list_csv(write(tmp_path, f"image,label,{column}", lambda i: (name(i), "ab"[i % 2], given_words[i % 6])), None, None)
    assert listing.split.tolist() == [("train", "val", "test")[index % 3] for index in range(COUNT)]
    assert listing.groups == {}


@pytest.mark.parametrize(("column", "values"), [
    ("fold", "01234"), ("partition", "012"), ("is_train", "01"), ("dataset_split", ("train", "test", "external"))])
def test_what_only_looks_like_a_split_is_named_and_neither_used_nor_learnt(tmp_path: Path, column: str, values: Sequence[str]) -> None:
    row: Row = lambda i: (name(i), i % 2, i // 2 % 2, values[i % len(values)])  # noqa: E731
    listing = list_csv(write(tmp_path, f"image,cyst,mass,{column}", row), None, None)
    assert not listing.split.any()
    assert listing.classes == ("cyst", "mass")
    assert f"column {column} (" in notes(listing)
    assert sum(column in note for note in listing.facts["notes"]) == 1


def test_two_columns_of_splits_that_differ_are_refused(tmp_path: Path) -> None:
    table = write(tmp_path, "image,label,set,phase", lambda i: (name(i), "ab"[i % 2], ("train", "test")[i % 2], ("test", "train")[i % 2]))
    with pytest.raises(UserError, match="columns set and phase both hold splits, and differ"):
        list_csv(table, None, None)


# ---- labels


@pytest.mark.parametrize(("labels", "classes"), [
    (("Mass|Edema", "Edema", "No Finding"), ("Edema", "Mass")),
    (("Mass;Edema", "Mass", "Edema"), ("Edema", "Mass")),
    (("A, B", "A", "B", "Normal"), ("A", "B")),
    (("A,B", "B,C", "C,A"), ("A", "B", "C")),
    (("['A', 'B']", "['B']", "[]"), ("A", "B")),
])
def test_several_findings_in_a_cell_are_as_many_columns(tmp_path: Path, labels: tuple[str, ...], classes: tuple[str, ...]) -> None:
    listing = list_csv(labelled(tmp_path, *labels), None, None)
    assert (listing.task, listing.classes) == ("multilabel", classes)
    np.testing.assert_array_equal(listing.labels[:len(labels)], [[float(one in cell) for one in classes] for cell in labels])
    with pytest.raises(UserError, match="leave --task out") as caught:
        list_csv(tmp_path / "set.csv", "multiclass", None)
    assert caught.value.exit_code == USAGE


def test_a_comma_in_the_name_of_a_class_parts_nothing(tmp_path: Path) -> None:
    listing = list_csv(labelled(tmp_path, "Carcinoma, ductal", "Carcinoma, lobular", "Normal, benign"), None, None)
    assert listing.classes == ("Carcinoma, ductal", "Carcinoma, lobular", "Normal, benign")


@pytest.mark.parametrize(("uncertain", "third", "label"), [("unknown", np.nan, ""), ("positive", 1.0, "1"), ("negative", 0.0, "0")])
def test_minus_one_beside_0_and_1_is_what_is_asked_for(tmp_path: Path, uncertain: str, third: float, label: str) -> None:
    table = write(tmp_path, "image,Edema,Mass", lambda i: (name(i), ("1.0", "0.0", "-1.0", "")[i % 4], i % 2))
    several = list_csv(table, None, None, uncertain)
    np.testing.assert_array_equal(several.labels[:4, 0], [1, 0, third, np.nan])
    single = list_csv(table, None, "Edema", uncertain)
    assert (single.classes, words(single)[:4]) == (("0", "1"), ["1", "0", label, ""])
    assert "-1 are taken as" in notes(single)
    assert "-1 are taken as" in notes(several)


def test_images_of_uncertain_label_are_left_out_of_given_validation_and_test(tmp_path: Path) -> None:
    row: Row = lambda i: (name(i), (1, 0, -1)[i % 3], ("train", "val", "test")[i // 3 % 3])  # noqa: E731
    listing = list_csv(write(tmp_path, "image,Edema,split", row), None, "Edema")
    assert len(listing.keys) == len(listing.images) == len(listing.labels) == len(listing.split)
    assert set(listing.split[listing.labels < 0]) == {"train"}
    assert sorted(set(map(name, range(COUNT))) - set(listing.keys)) == [
        name(index) for index in range(COUNT) if index % 3 == 2 and index // 3 % 3]


def test_minus_one_is_a_class_where_there_is_no_0_and_findings_of_it_ask(tmp_path: Path) -> None:
    assert list_csv(labelled(tmp_path, "1", "-1"), None, None).classes == ("-1", "1")
    with pytest.raises(UserError, match="--uncertain negative"):
        list_csv(write(tmp_path, "image,a,b", lambda i: (name(i), 1 - i % 2 * 2, 1 - i // 2 % 2 * 2)), None, None)


@pytest.mark.parametrize("word", ["NA", "n/a", "N/A", "NULL", "?", "-", "#N/A", "missing", "<NA>", "NaN", "."])
def test_words_of_missing_cells_are_no_class(tmp_path: Path, word: str) -> None:
    listing = list_csv(labelled(tmp_path, "a", "b", word), None, None)
    assert words(listing)[:3] == ["a", "b", ""]
    assert word == "NaN" or word in notes(listing)
    columns = list_csv(write(tmp_path, "image,cyst,mass", lambda i: (name(i), i % 2, word if i % 3 else i // 3 % 2)), None, None)
    assert np.isnan(columns.labels[1, 1])


def test_none_unknown_and_a_minus_beside_a_plus_are_classes(tmp_path: Path) -> None:
    assert list_csv(labelled(tmp_path, "mild", "none", "Unknown"), None, None).classes == ("Unknown", "mild", "none")
    assert list_csv(labelled(tmp_path, "+", "-"), None, None).classes == ("+", "-")


@pytest.mark.parametrize("twin", ["Benign", "benign.", "\uff42enign", "b\u0435nign", "be\u200dnign"])
def test_classes_that_differ_only_to_a_machine_are_refused_with_their_line(tmp_path: Path, twin: str) -> None:
    with pytest.raises(UserError, match=r"line 4: label .* only by (case|blanks).*, as line 2 has it"):
        list_csv(labelled(tmp_path, "benign", "other", twin), None, None)


@pytest.mark.parametrize("twin", ["be\u200bnign", "be\u00adnign", "\ufeffbenign", "benign\u00a0"])
def test_what_cannot_be_seen_in_a_label_is_not_read(tmp_path: Path, twin: str) -> None:
    assert list_csv(labelled(tmp_path, "benign", "other", twin), None, None).classes == ("benign", "other")


@given(st.text(max_size=12))
def test_tidying_twice_is_tidying_once_and_leaves_plain_words_alone(text: str) -> None:
    assert tidy(tidy(text)) == tidy(text)
    if text.isascii() and "  " not in text:
        assert tidy(text) == text.strip()


def test_words_beside_0_and_1_are_findings(tmp_path: Path) -> None:
    row: Row = lambda i: (name(i), i % 2, i % 4 > 1, "YN"[i % 2], ("neg", "pos")[i % 2], "MF"[i % 2], ("1,0", "0,0")[i % 2])  # noqa: E731
    listing = list_csv(write(tmp_path, "image,a,b,c,d,sex,e", row), None, None)
    assert listing.classes == ("a", "b", "c", "d", "e")
    np.testing.assert_array_equal(listing.labels[:4], [[0, 0, 1, 0, 1], [1, 0, 0, 1, 0], [0, 1, 1, 0, 1], [1, 1, 0, 1, 0]])
    assert "words are read as 0 and 1 in b, c, d" in notes(listing)
    assert "columns counted by split, and kept beside predictions: sex" in notes(listing)


def test_one_hot_columns_are_one_label_where_that_is_asked_for(tmp_path: Path) -> None:
    row: Row = lambda i: (name(i), *(float(place == i % 3) for place in range(4)))  # noqa: E731
    table = write(tmp_path, "image,NV,MEL,BCC,UNK", row)
    listing = list_csv(table, "multiclass", None)
    assert listing.classes == ("BCC", "MEL", "NV")
    assert words(listing)[:3] == ["NV", "MEL", "BCC"]
    several = list_csv(table, None, None)
    assert several.task == "multilabel"
    assert "exactly one of" in notes(several)
    with pytest.raises(UserError, match=r"2 of them 1 in line 3"):
        list_csv(write(tmp_path, "image,a,b", lambda i: (name(i), 1, i % 2)), "binary", None)


def test_a_grade_with_a_letter_makes_words_of_numbers_in_their_order(tmp_path: Path) -> None:
    listing = list_csv(labelled(tmp_path, "2", "10", "4B", "4A", "3.0"), None, None)
    assert listing.classes == ("2", "3", "4A", "4B", "10")
    assert listing.problems == []


@pytest.mark.parametrize(("row", "told"), [
    (lambda i: f"{20 + i * 1.37:.2f}", "measured number"),
    (lambda i: f"{i * 1.1:e}", "measured number"),
    (lambda i: f"{20 + i * 1.37:.2f}".replace(".", ","), "measured number"),
    (lambda i: 3 * i + 7, "measured number"),
    (lambda i: f"{i:02d}", "rather than classes"),
    (lambda i: name(i), "rather than classes"),
    (lambda i: f"id{i}", "rather than classes"),
    (lambda i: "a", "every label"),
    (lambda i: "", "no label"),
    (lambda i: ("1", "1,2", "2")[i % 3], "two labels or a number"),
    (lambda i: "x" * 4000 if i % 2 else "a", "4,000 letters"),
    (lambda i: ("0", "1", "yes", "no")[i % 4], "in several ways"),
])
def test_what_is_no_class_is_refused(tmp_path: Path, row: Callable[[int], object], told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        list_csv(write(tmp_path, "image,label", lambda i: (name(i), row(i))), None, None)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("row", [
    lambda i: i % 20, lambda i: (0.5, 1, 1.5, 2)[i % 4], lambda i: (i % 6) * 100, lambda i: f"grade {i % 20}",
    lambda i: ("0,0", "1,0")[i % 2], lambda i: "NT"[i % 2], lambda i: ("yes", "no")[i % 2]])
def test_ordinary_classes_beside_these_are_read(tmp_path: Path, row: Callable[[int], object]) -> None:
    listing = list_csv(write(tmp_path, "image,label", lambda i: (name(i), row(i))), None, None)
    assert len(listing.classes) == len({row(index) for index in range(COUNT)})


def test_students_of_earlier_versions_find_their_table_as_they_read_it(tmp_path: Path) -> None:
    row: Row = lambda i: (name(i), i // 4, ("1", "0", "-1", "")[i % 4], ("train", "test")[i % 2])  # noqa: E731
    listing = list_csv(write(tmp_path, "image,lesion_id,Edema,set", row), None, "Edema", None)
    assert (listing.classes, words(listing)[:4], listing.groups) == (("-1", "0", "1"), ["1", "0", "-1", ""], {})
    assert not listing.split.any()
    assert list_csv(labelled(tmp_path, "A|B", "NA", "benign"), None, None, None).classes == ("A|B", "NA", "benign")


# ---- files


@pytest.mark.parametrize("written", [
    "C:\\scans\\{}", "\\\\server\\scans\\{}", "/home/someone/scans/{}", "./{}", "D:/a/b/{}"])
def test_names_of_another_machine_are_found_beside_the_table(tmp_path: Path, written: str) -> None:
    listing = list_csv(write(tmp_path, "image,label", lambda i: (written.format(name(i)), "ab"[i % 2])), None, None)
    assert [Path(str(path)).resolve() for path in listing.images] == [(tmp_path / name(index)).resolve() for index in range(COUNT)]
    assert ("completed" in notes(listing)) == (written != "./{}")


def test_names_without_a_suffix_are_found_where_one_file_fits(tmp_path: Path) -> None:
    table = write(tmp_path, "image_id,label", lambda i: (name(i)[:-4], "ab"[i % 2]))
    listing = list_csv(table, None, None)
    assert listing.images[3] == tmp_path / "03.png"
    assert listing.keys[3] == "03"
    assert "images are named by column image_id" in notes(listing)
    (tmp_path / "03.txt").touch()
    (tmp_path / "part_2").mkdir()
    (tmp_path / "04.png").rename(tmp_path / "part_2" / "04.png")
    assert list_csv(table, None, None).images[4] == tmp_path / "part_2" / "04.png"
    (tmp_path / "03.jpg").touch()
    with pytest.raises(UserError, match=r"line 5: '03' could be .*03\.jpg or .*03\.png"):
        list_csv(table, None, None)


def test_a_name_with_folders_is_not_looked_for_elsewhere(tmp_path: Path) -> None:
    listing = list_csv(write(tmp_path, "image,label", lambda i: (f"old/{name(i)}", "ab"[i % 2])), None, None)
    assert listing.images[0] == tmp_path / "old" / "00.png"


@pytest.mark.parametrize(("cell", "told"), [
    ("https://x.org/a.png", "is an address"), ("x" * 4000, "too long"), ("/".join(["x" * 200] * 20), "too long"), ("/dev/zero", "a device"),
    ("C:\\other\\00.png", "is already|is taken for|line 2")])
def test_cells_that_name_no_file_are_told_with_their_line(tmp_path: Path, cell: str, told: str) -> None:
    table = write(tmp_path, "image,label", lambda i: (cell if i == 5 else f"D:\\{name(i)}", "ab"[i % 2]))
    with pytest.raises(UserError, match=rf"line 7: .*({told})"):
        list_csv(table, None, None)


@pytest.mark.parametrize("column", ["filename", "file", "image_id", "Image Index", "Path", "img", "image_path", "ImageName"])
def test_columns_that_clearly_name_images_do(tmp_path: Path, column: str) -> None:
    assert list_csv(write(tmp_path, f"{column},label", lambda i: (name(i), "ab"[i % 2])), None, None).keys[0] == "00.png"


def test_of_two_columns_the_one_whose_files_are_there_names_the_images(tmp_path: Path) -> None:
    listing = list_csv(write(tmp_path, "image_id,filename,label", lambda i: (f"id{i}", name(i), "ab"[i % 2])), None, None)
    assert listing.keys[0] == "00.png"
    assert "columns not used: image_id" in notes(listing)


# ---- dialects


@pytest.mark.parametrize(("content", "told"), [
    (b"00.png,a\n01.png,b\n", "write a header above it"),
    (b"image,label\n00.png,\"a\n01.png,b\n", "line 2: a quote is opened and not closed"),
    (b"# notes\nimage,label\n00.png,a,b\n", "line 3: 3 cells, the header has 2"),
    (b"image,label\n00.png,a\n# end\n", "comments are read only above"),
    ("image,label\n00.png,\u00e9\n".encode("latin-1"), "line 2, is not UTF-8 text.*iconv"),
    ("image,label\n00.png,a\n".encode("utf-16-le"), "UTF-16 without a byte order mark"),
    (b"image,label\n00.png,a\0b\n", "line 2: holds a NUL"),
    (b"PK\x03\x04" + bytes(40), "Excel workbook"),
    (b"\x1f\x8b\x08" + bytes(40), "gzip"),
    (b"image,Label,label\n00.png,a,b\n01.png,b,a\n", "one name but for case"),
    (b"exhibit,label\n00.png,a\n01.png,b\n", "exhibit holds file names: rename it to image"),
])
def test_what_is_wrong_with_the_form_of_a_table_is_told(tmp_path: Path, content: bytes, told: str) -> None:
    for index in range(2):
        (tmp_path / name(index)).touch()
    (tmp_path / "set.csv").write_bytes(content)
    with pytest.raises(UserError, match=told):
        list_csv(tmp_path / "set.csv", None, None)


CELLS = st.text(alphabet=st.characters(exclude_categories=("C", "Z"), exclude_characters="\u00ad"), min_size=1, max_size=6).map(
    lambda text: f"x{tidy(text)}x")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(CELLS, min_size=4, max_size=12), st.sampled_from(",;\t|"), st.sampled_from(["\n", "\r\n", "\r"]),
       st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]), st.booleans(), st.booleans(), st.booleans())
def test_a_table_reads_the_same_in_every_dialect(
    tmp_path: Path, labels: list[str], delimiter: str, end: str, encoding: str, quoted: bool, separator: bool, comment: bool,
) -> None:
    def read(delimiter: str, end: str, encoding: str, quoting: Any, above: str) -> Listing | str:
        text = io.StringIO(newline="")
        writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting)
        writer.writerows([("image", "label", "hue"), *((f"{row}.png", label, row % 2) for row, label in enumerate(labels))])
        (tmp_path / "set.csv").write_bytes((above + text.getvalue()).encode(encoding))
        try:
            return list_csv(tmp_path / "set.csv", None, None)
        except UserError as error:  # classes that are twins, say: so in every dialect, though lines differ
            return str(error).partition(": ")[2][:20]

    above = (f"sep={delimiter}{end}" if separator else "") + (f"# made by hand{end}" if comment else "")
    usual = read(",", "\n", "utf-8", csv.QUOTE_ALL, "")
    other = read(delimiter, end, encoding, csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL, above)
    assert isinstance(usual, str) == isinstance(other, str)
    assert isinstance(usual, str) or isinstance(other, str) or same(usual, other)


ODD = st.sampled_from(["", "0", "1", "-1", "1.0", "1,0", "0.5", "a", "b", "A", "a|b", "a;b", "[a]", "NA", "None", "True", "no", "+", "-",
                       "4A", "train", "test", "Val", "0.png", "1", "C:\\0.png", "http://x/0.png", "nan", "inf", "1e9", "\u200b",
                       "p1", "x" * 300])
HEADS = st.sampled_from(["image", "path", "label", "Label", "split", "set", "patient", "lesion_id", "study", "a", "b", "", "#", "fold",
                         "a.b"])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(HEADS, min_size=1, max_size=6), st.data(), st.sampled_from(["unknown", "positive", None]),
       st.sampled_from([None, "binary", "multiclass", "multilabel", "ordinal"]), st.sampled_from([None, "label", "a", "image"]))
def test_any_table_of_cells_is_listed_or_refused_with_a_sentence(
    tmp_path: Path, header: list[str], data: st.DataObject, uncertain: str | None, task: str | None, label: str | None,
) -> None:
    rows = data.draw(st.lists(st.lists(ODD, min_size=len(header), max_size=len(header)), min_size=1, max_size=8))
    for row, cells in enumerate(rows):
        cells[0] = f"{row}.png" if header[0] in ("image", "path") and row % 7 else cells[0]
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *rows])
    (tmp_path / "any.csv").write_text(text.getvalue(), encoding="utf-8")
    try:
        listing = list_csv(tmp_path / "any.csv", task, label, uncertain)
    except UserError as error:
        sentence = str(error)
    else:
        sentence = ""
    if sentence:
        assert 10 < len(sentence) < 4000
        return
    count = len(listing.keys)
    assert count == len(listing.images) == len(listing.labels) == len(listing.split)
    assert all(len(values) == count for values in listing.groups.values())
    assert all(-1 <= problem.row < count for problem in listing.problems)
    assert len(listing.classes) == (listing.labels.shape[1] if listing.labels.ndim == 2 else len(set(listing.classes)))


def test_images_that_share_a_lesion_stay_together_and_an_old_student_finds_its_own_split(tmp_path: Path) -> None:
    from PIL import Image

    table = write(tmp_path, "image,lesion_id,label", lambda i: (name(i), f"x{i // 4}", "ab"[i // 4 % 2]))
    for index in range(COUNT):
        Image.fromarray(np.random.default_rng(index).integers(0, 255, (16, 16)).astype(np.uint8)).save(tmp_path / name(index))
    images = load_images(str(table))
    held = {"data": str(table), "out": str(tmp_path / "student")}  # as in the manifest of a version without --uncertain
    before = images_for({"settings": held})
    assert before.groups is None
    assert before.facts["split_from"].startswith("made 70/10/20 by image")
    assert images_for({"settings": {**held, "uncertain": "unknown", "keep_together": "near"}}).split.tolist() == images.split.tolist()
    parts: dict[str, set[str]] = defaultdict(set)
    for key, part in zip(images.keys, images.split.tolist(), strict=True):
        parts[f"x{int(key[:2]) // 4}"].add(part)
    assert all(len(held) == 1 for held in parts.values())
