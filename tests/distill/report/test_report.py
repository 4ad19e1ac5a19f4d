"""distill.report.page: one self-contained, repeatable, escaped page for every task, also with half its input absent."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from distill.evaluation.calibrate import apply_temperatures, fit_temperatures, fit_thresholds
from distill.evaluation.evaluate import ece, evaluate
from distill.report.page import write_report
from runtimes.scores import Task

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects tags, addresses, ids and visible text, and fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        addressing = ("src", "href", "xlink:href", "srcset", "action")
        self.addresses += [value or "" for name, value in attrs if name in addressing]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "title"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def material(task: Task, names: tuple[str, ...] = ("lung", "heart & vessels", "bone")) -> dict[str, Any]:
    """Arguments of write_report for a made-up run of a task."""
    names = names[:2] if task == "binary" else names
    generator = np.random.default_rng(0)
    n, n_classes = 60, len(names)
    logits, teacher = generator.normal(size=(2, n, n_classes)) * 2
    if task == "multilabel":
        labels = (generator.random((n, n_classes)) < 0.4).astype(np.float32)
        labels[:5, 0] = np.nan
        logits += 2 * np.nan_to_num(labels)
    else:
        labels = generator.integers(0, n_classes, size=n)
        logits += 2 * np.eye(n_classes)[labels]
        labels[:5] = -1
    temperatures = fit_temperatures(logits, labels, task)
    one = (1.0,) * len(temperatures)
    after, before, branch = (
        apply_temperatures(z, t, task) for z, t in ((logits, temperatures), (logits, one), (teacher, one))
    )
    thresholds = fit_thresholds(after, labels, task)
    split = {
        "labels": labels, "probabilities": after, "probabilities_uncalibrated": before, "teacher_probabilities": branch,
        "groups": None, "keys": [f"image {i}" for i in range(n)],
    }  # fmt: skip
    judged = {
        key: evaluate(labels, p, task=task, classes=names, thresholds=thresholds or None, n_bootstrap=20)
        for key, p in (("student", after), ("teacher", branch), ("probe", branch))
    }
    metrics = {
        "format": 1, "task": task, "classes": list(names), "params": 4_200_000, "macs": 40_000_000,
        "thresholds": list(thresholds), "splits": {name: {"n": n, **judged, "cka": 0.8} for name in ("test", "val")},
    }  # fmt: skip
    history = [
        {"epoch": e, "lr": 0.1 / e, "train_loss": 1 / e, "train_loss_cka": 0.5 / e, "val_auroc_student": 0.9}
        for e in range(1, 6)
    ]
    picture = generator.integers(0, 256, size=(300, 200, 1)).astype(np.uint8)
    worst = [{"image": picture, "key": "image 7", "label": names[0], "prediction": names[1], "probability": 0.97}]
    return {
        "title": "a student of a teacher", "facts": {"command": "rd-distill --seed 0", "data_set": "made up"},
        "metrics": metrics, "history": history, "test": split, "val": dict(split), "worst": worst, "warnings": [],
    }  # fmt: skip


def written(folder: Path, arguments: dict[str, Any]) -> tuple[str, Page]:
    write_report(folder / "report.html", **arguments)
    text = (folder / "report.html").read_text(encoding="utf-8")
    return text, Page(text)


@pytest.mark.parametrize("task", get_args(Task))
def test_every_task_has_a_page_that_names_all_classes_and_loads_nothing(task: Task, tmp_path: Path) -> None:
    arguments = material(task)
    text, page = written(tmp_path, arguments)
    for name in arguments["metrics"]["classes"]:
        assert name in page.text
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in page.addresses)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert not re.search(r"@import|url\((?!#)|https?:", text)
    assert "Research tool, not a medical device" in page.text
    assert ("Confusion on test" in page.text) == (task != "multilabel")
    assert ("Threshold" in page.text) == (task == "multilabel")
    student = arguments["metrics"]["splits"]["test"]["student"]
    assert f"{student['auroc']['value']:.3f}" in page.text
    assert f"{student['ece']['value']:.3f}" in page.text


@pytest.mark.parametrize("task", get_args(Task))
def test_what_is_absent_is_left_out(task: Task, tmp_path: Path) -> None:
    arguments = material(task)
    arguments["history"] = arguments["history"][:1]
    arguments["worst"], arguments["facts"] = [], {}
    for split in arguments["metrics"]["splits"].values():
        del split["teacher"], split["probe"], split["cka"]
    arguments["test"] |= {"teacher_probabilities": None, "probabilities_uncalibrated": None}
    arguments["val"] = {}
    _, page = written(tmp_path, arguments)
    assert "1 epoch." in page.text
    for absent in ("Teacher branch", "Probe", "Worst cases", "How to repeat", "CKA", "Warning", "Synthetic"):
        assert absent not in page.text
    arguments["history"] = []
    arguments["metrics"]["splits"] = {"test": {"n": 60, "student": {"n": 60, "undefined": ["lung"]}}}
    _, page = written(tmp_path, arguments)
    assert "No training history" in page.text
    assert "undefined" in page.text


def test_a_test_split_without_labels_still_gives_a_page(tmp_path: Path) -> None:
    arguments = material("multiclass")
    arguments["test"]["labels"] = np.full(60, -1)
    arguments["metrics"]["splits"]["test"] = {"n": 60, "student": {"n": 0, "undefined": ["lung"]}}
    _, page = written(tmp_path, arguments)
    assert "Calibration" in page.text


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    pages = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        pages.append(written(tmp_path / name, material("multilabel"))[0])
    assert pages[0] == pages[1]


def test_names_from_outside_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>"
    arguments = material("multiclass", (evil, "$\\frac{1$", 'a"b'))
    arguments["worst"][0]["key"] = evil
    arguments["title"] = evil
    arguments["warnings"] = [evil]
    arguments["facts"] |= {evil: evil, "command": evil}
    arguments["history"][0][f"train_loss_{evil}"] = 1.0
    text, page = written(tmp_path, arguments)
    assert "<script" not in text
    assert "script" not in page.tags
    assert evil in page.text
    assert "$\\frac{1$" in page.text
    assert 'a"b' in page.text


def test_every_inner_reference_is_met_and_no_id_is_used_twice(tmp_path: Path) -> None:
    text, page = written(tmp_path, material("multilabel"))
    assert len(page.ids) == len(set(page.ids))
    assert set(re.findall(r"(?:href=\"|url\()#([^\")]+)", text)) == set(page.ids)


def test_colours_are_the_pages_own_so_that_dark_mode_reaches_the_pictures(tmp_path: Path) -> None:
    text, page = written(tmp_path, material("ordinal"))
    pictures = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert pictures
    assert page.tags.count("svg") == len(pictures)
    for picture in pictures:
        assert not re.search(r"(?:fill|stroke): ?#", picture)
        assert set(re.findall(r"var\(--(\w+)\)", picture)) <= set(re.findall(r"--(\w+):", text))


def test_synthetic_data_are_announced_at_the_top(tmp_path: Path) -> None:
    arguments = material("binary")
    arguments["facts"]["synthetic"] = "yes"
    _, page = written(tmp_path, arguments)
    assert "Synthetic phantom" in page.text[:200]
    arguments["facts"]["synthetic"] = "no"
    assert "Synthetic" not in written(tmp_path, arguments)[1].text


def test_the_calibration_error_before_and_after_is_printed(tmp_path: Path) -> None:
    arguments = material("binary")
    _, page = written(tmp_path, arguments)
    kept = arguments["test"]["labels"] >= 0
    for key in ("probabilities", "probabilities_uncalibrated"):
        scores = arguments["test"][key][kept]
        error = ece(scores.max(axis=1), scores.argmax(axis=1) == arguments["test"]["labels"][kept])
        assert f"{error:.3f}" in page.text


def test_nothing_is_compared_where_no_temperature_was_kept(tmp_path: Path) -> None:
    arguments = material("binary")
    assert "Temperatures were fitted" in written(tmp_path, arguments)[1].text
    for split in ("test", "val"):
        arguments[split] = {**arguments[split], "probabilities_uncalibrated": arguments[split]["probabilities"]}
    page = written(tmp_path, arguments)[1].text
    assert "Temperatures were fitted" not in page
    assert "Before" not in page
    assert "ECE, test" in page


def test_summary_rows_may_be_text_with_empty_cells_as_csv_gives_them(tmp_path: Path) -> None:
    arguments = material("binary")
    rows = [{"epoch": "1", "train_loss": "0.5", "val_auroc_student": ""}, {"epoch": "2", "train_loss": "0.4"}]
    arguments["history"] = rows
    _, page = written(tmp_path, arguments)
    assert "2 epochs." in page.text
    assert "Loss" in page.text
    assert "AUROC on validation" not in page.text


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (8, 8, 3), (900, 300, 3)])
def test_grey_and_colour_pictures_are_small_inline_pngs(shape: tuple[int, ...], tmp_path: Path) -> None:
    arguments = material("binary")
    arguments["worst"][0]["image"] = np.zeros(shape, dtype=np.uint8)
    text, _ = written(tmp_path, arguments)
    assert text.count("data:image/png;base64,") == 1


def test_a_picture_that_is_not_eight_bit_is_refused(tmp_path: Path) -> None:
    arguments = material("binary")
    arguments["worst"][0]["image"] = np.zeros((8, 8, 1), dtype=np.float32)
    with pytest.raises(ValueError, match="expected uint8"):
        written(tmp_path, arguments)
    assert not list(tmp_path.iterdir())


def test_a_page_holds_no_escape_and_no_mark_of_direction_and_says_what_is_calibrated(tmp_path: Path) -> None:
    given = material("multiclass", ("a\x1b[2J", "\u202egnp", "b\u200bc"))
    given["worst"][0]["key"] = "x\x1b]0;owned\x07.png"
    given["warnings"] = ["\u2066late"]
    given["facts"] |= {"calibration": "not calibrated (too few images)"}
    write_report(tmp_path / "report.html", **given)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]", text)
    assert "a\\x1b[2J" in Page(text).text
    assert "Probabilities are not calibrated (too few images)." in Page(text).text
    assert "Content-Security-Policy" in text
