"""runtimes.files.spreadsheet: no cell is a formula to a spreadsheet, every cell comes back, and ordinary tables look as they always did."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.files.spreadsheet import as_csv, bare, guarded, read_table, write_table

EVIL = ('=HYPERLINK("http:evil")', "+1+1", "@SUM(1)", "-2+3", "\t=1", "\r=1", "-", "--1", "=", "\uff1d1+1", "-1.5e", "+", "-inf")
MEAN = st.text(st.sampled_from("'=+-@\t\r\n;,|\"a1.e \uff1d\x1b\x00"), max_size=8)


@given(st.one_of(MEAN, st.text(st.characters(exclude_categories=["Cs"]))))
def test_every_text_comes_back(text: str) -> None:
    assert bare(guarded(text)) == text


@given(MEAN)
def test_no_cell_and_no_part_of_one_between_separators_begins_as_a_formula(text: str) -> None:
    cell = guarded(text)
    try:
        float(cell)
    except ValueError:
        for separator in ";,|\t\r\n":
            assert not any(part[:1] in tuple("=+-@\uff1d") for part in cell.split(separator) if part), cell


@pytest.mark.parametrize("cell", EVIL)
def test_what_a_spreadsheet_would_run_gets_an_apostrophe(cell: str) -> None:
    assert guarded(cell)[:1] == "'"


@pytest.mark.parametrize("cell", ["-1.5", "+3", "-1e-05", ".5", "12", "", "a=b", "'s-Gravenhage", "3; -1", "2020-01-02", "p-7.png", "é"])
def test_numbers_and_ordinary_cells_stay_as_they_are(cell: str) -> None:
    assert guarded(cell) == cell


def test_a_table_is_written_as_before_and_read_as_it_was_given(tmp_path: Path) -> None:
    rows = [{"image": name, "label": "=x", "prob_=x": "0.500000", "loss": -1.5} for name in (*EVIL, "'", "'=1", "''", "plain.png", "a;=1")]
    write_table(tmp_path / "t.csv", rows)
    assert read_table(tmp_path / "t.csv") == [{key: str(value) for key, value in row.items()} for row in rows]
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell[:1] in "=+-@\t\r\uff1d" and cell not in ("-1.5", "")]
    plain = [{"a": 1, "b": "x,y"}, {"a": -0.25, "c": 'q"'}, {"b": None}]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["a", "b", "c"], restval="")
    writer.writeheader()
    writer.writerows(plain)  # type: ignore[arg-type]
    write_table(tmp_path / "plain.csv", plain)
    assert (tmp_path / "plain.csv").read_bytes().decode() == text.getvalue() == as_csv(["a", "b", "c"], plain)
