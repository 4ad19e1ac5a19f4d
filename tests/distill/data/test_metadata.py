"""What is known beside pixels: words of the standard, ages in bands, numbers for all other texts, aliases of identities; in results."""

from __future__ import annotations

from pathlib import Path

import dicoms
import numpy as np
import pytest
from dicoms import write_dicom
from drawn import picture, table
from hypothesis import given
from hypothesis import strategies as st

from distill.data.dicom_headers import look_at_header
from distill.data.loading import load_images
from distill.data.metadata import MAKERS, WORDS, by_first, counts_by_split, for_results, known_value, maker_of, result_columns

assert dicoms


def levels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4096, (16, 18)).astype(np.uint16)


@pytest.mark.parametrize(("text", "years"), [("047Y", "47"), ("006M", "0"), ("030M", "2"), ("400D", "1"), ("104W", "2"), ("63", "63"),
                                             ("63.5", "63"), ("Y", ""), ("old", ""), ("-5", ""), ("", ""), ("1234", "")])
def test_ages_are_years_however_they_are_written(text: str, years: str) -> None:
    assert known_value("age", text) == years


def test_ages_become_bands_and_the_oldest_are_one() -> None:
    assert for_results("age", ["0", "9", "47", "", "89", "90", "101"]) == ("0-9", "0-9", "40-49", "", "80-89", "90+", "90+")


@given(st.sampled_from(sorted(WORDS)), st.lists(st.text(max_size=20), max_size=12))
def test_a_result_holds_words_of_this_house_and_numbers_alone(column: str, texts: list[str]) -> None:
    shown = for_results(column, [known_value(column, text) for text in texts])
    own = set(WORDS[column].values()) | set(MAKERS.values()) | {column, ""}
    for value in shown:
        rest = value.rpartition(" ")
        assert value in own or (rest[0] in own and rest[2].isdigit()) or (column == "age" and set(value) <= set("0123456789-+"))


def test_equal_texts_get_equal_numbers_the_most_frequent_first() -> None:
    assert for_results("site", ["b", "a", "a", "", "c", "a", "b"]) == ("site 2", "site 1", "site 1", "", "site 3", "site 1", "site 2")
    assert for_results("scanner", ["GE MEDICAL|x", "Smith|y", "GE MEDICAL|x"]) == ("GE 1", "scanner 2", "GE 1")


@pytest.mark.parametrize(("text", "maker"), [("SIEMENS", "Siemens"), ("Siemens Healthineers", "Siemens"), ("GE MEDICAL SYSTEMS", "GE"),
                                             ("TOSHIBA_MEC", "Toshiba"), ("Gerhard", ""), ("Canonica Anna", ""), ("", "")])
def test_a_maker_is_known_by_a_whole_word(text: str, maker: str) -> None:
    assert maker_of(text) == maker


def test_a_header_leaves_words_and_keyed_hashes(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", levels(0), names=True, PatientSex="F", PatientAge="047Y", ViewPosition="MLO",
                       ImageLaterality="L", Manufacturer="SIEMENS", ManufacturerModelName="Zwiebelscanner", BodyPartExamined="BREAST",
                       FrameOfReferenceUID="1.2.3", StudyInstanceUID="1.2.4", SeriesInstanceUID="1.2.5")
    header = look_at_header(path, b"1" * 32)
    assert header is not None
    assert {name: value for name, value in header.known.items() if name not in ("site", "scanner")} == {
        "modality": "CT", "body_part": "BREAST", "view": "MLO", "laterality": "L", "sex": "F", "age": "47"}
    assert header.known["scanner"].startswith("Siemens|")
    assert len(header.identities) == 4
    assert "wiebel" not in repr(header)
    assert "Nebel" not in repr(header)
    again, other = look_at_header(path, b"1" * 32), look_at_header(path, b"2" * 32)
    assert again is not None
    assert other is not None
    assert again == header
    assert (again.known["site"], again.identities) != (other.known["site"], other.identities)


def test_texts_in_the_place_of_words_are_numbered_and_a_broken_value_refuses_no_image(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", levels(0), ViewPosition="Zwiebel", BodyPartExamined="Zwiebel", PatientAge="Zwi",
                       PatientSex="Zwie")
    header = look_at_header(path, b"1" * 32)
    assert header is not None
    assert "age" not in header.known
    assert all(len(header.known[name]) == 64 for name in ("view", "body_part", "sex"))
    assert for_results("view", [header.known["view"]]) == ("view 1",)


def test_headers_of_a_set_become_columns_and_counts_by_split(tmp_path: Path) -> None:
    for place, name in enumerate("ab"):
        for row in range(24):
            write_dicom(tmp_path / name / f"{row}.dcm", levels(100 * place + row), PatientID=f"ZW{name}{row // 2}",
                        PatientSex="MF"[row % 2], StudyInstanceUID=f"1.2.{place + 1}.{row + 1}",
                        SeriesInstanceUID=f"1.2.{place + 1}.{row // 4 + 1}",
                        PatientAge=f"{40 + row:03}Y", InstitutionName="Spital Nebelhorn" if row < 20 else "Klinik Nebel")
    images = load_images(str(tmp_path), hide_names="auto")
    assert list(images.columns) == ["patient", "series", "modality", "sex", "age", "site"]
    assert set(images.columns["site"]) == {"site 1", "site 2"}
    assert images.columns["patient"][0] == images.columns["patient"][1] == images.keys[0]
    assert set(images.columns["patient"]) <= set(images.keys)
    assert "ebel" not in str(images.columns)
    counts = images.facts["columns"]
    assert counts["patient"]["train"]["different"] * 2 == len(images.rows("train"))
    assert sum(sum(part.values()) for part in counts["sex"].values()) == 48
    assert sum(part.get("site 1", 0) for part in counts["site"].values()) == 40


def test_columns_of_a_table_are_those_of_headers(tmp_path: Path) -> None:
    lines = ["image,label,sex,age,view,hospital,scanner,patient,weather", *(
        f"{row}.png,{'ab'[row % 2]},{('male', 'Female')[row % 2]},{30 + row},{('pa', 'AP')[row % 2]},Ward {row % 3},GE Lightspeed,"
        f"p{row // 2},{row}" for row in range(40))]
    images = load_images(table(tmp_path, lines, 40))
    assert list(images.columns) == ["patient", "view", "sex", "age", "site", "scanner"]
    assert set(images.columns["sex"]) == {"M", "F"}
    assert set(images.columns["view"]) == {"PA", "AP"}
    assert set(images.columns["site"]) == {"site 1", "site 2", "site 3"}
    assert set(images.columns["scanner"]) == {"GE 1"}
    noted = "\n".join(images.facts["notes"])
    assert "columns counted by split, and kept beside predictions: sex, age, view, hospital, scanner" in noted
    assert "columns not used: weather" in noted


def test_pictures_without_a_table_have_no_columns(tmp_path: Path) -> None:
    for row in range(40):
        picture(tmp_path / "ab"[row % 2] / f"{row}.png", row)
    images = load_images(str(tmp_path))
    assert images.columns == {}
    assert "columns" not in images.facts


def test_identities_are_the_key_of_their_first_image_and_count_where_images_share_them() -> None:
    keys = ("k0", "k1", "k2", "k3")
    assert by_first(["x", "", "x", "y"], keys) == ("k0", "", "k0", "k3")
    known = {"study": ["s", "s", "t", "t"], "series": ["1", "2", "3", "4"], "frame": ["f", "f", "g", "g"]}
    assert list(result_columns({**known, "patient": ["p", "p", "p", "q"]}, keys)) == ["patient", "study"]
    assert counts_by_split({"patient": ("k0", "k0", "k0", "k3")}, ["train", "train", "test", "test"]) == {
        "patient": {"train": {"different": 1}, "val": {"different": 0}, "test": {"different": 2}}}
