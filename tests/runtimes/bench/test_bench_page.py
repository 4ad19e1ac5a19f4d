"""The page in a real browser: no complaint in its console, pictures there, nothing loaded from outside; and every word escaped."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt

from runtimes.backends.machine import full_facts
from runtimes.bench.page import as_html
from runtimes.bench.report import as_csv, as_markdown
from runtimes.bench.svg import Scale, horizontal, vertical

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def row(artifact: str, p50: float, auroc: float | None, **more: Any) -> dict[str, Any]:
    score = None if auroc is None else {"auroc": {"value": auroc, "low": auroc - 0.02, "high": auroc + 0.02}, "split": "test",
                                        "teacher_auroc": {"value": 0.95}, "change_by_export": None}
    return {"artifact": artifact, "target": "onnx", "precision": "fp32", "batch": 1, "threads": 1, "path": "array", "spin": None,
            "samples": 300, "p50_ms": p50, "p90_ms": p50 * 1.1, "max_ms": p50 * 2, "images_per_s": 1000 / p50, "first_ms": 1.0,
            "load_ms": 20.0, "peak_rss_mib": 90.0, "model_bytes": 10**6, "valid": True, "notices": [], "score": score,
            "layers": {"fp32": 3}, "provider": "CPUExecutionProvider", "runtime": "onnxruntime", "version": "1", "model_sha256": "f" * 64,
            "student": "net", **more}


def report_of(rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    state = {"load_average": [0.1, 0.1, 0.1], "temperatures": {}, "time": "2026-01-01T00:00:00Z"}
    return {"format": 1, "command": "rd-bench a b", "settings": {"deadline_ms": 2.0}, "machine": full_facts(), "before": state,
            "after": state, "rows": rows, "streams": [], "offline": {}, "int8": [], "profiles": [
                {"artifact": "a", "threads": 1, "operators": [{"name": "conv", "kind": "Conv", "us": 3.0, "share": 0.5}],
                 "kinds": [{"kind": "Conv", "us": 3.0, "share": 0.7}, {"kind": "A<d", "us": 0.4, "share": 0.3}]}], **more}


def page(rows: list[dict[str, Any]], **more: Any) -> str:
    random = np.random.default_rng(0)
    samples = {str(place): {"blocks_ns": [(one["p50_ms"] * 1e6 * random.lognormal(0, 0.1, 100)).tolist() for _ in range(3)]}
               for place, one in enumerate(rows)}
    return as_html(report_of(rows, **more), samples)


ROWS = [row("a", 1.0, 0.90), row("b", 3.0, 0.93, precision="int8", valid=False, notices=["the machine was busy"]),
        row("teacher", 20.0, 0.95, teacher=True), row("a", 1.5, 0.90, path="file")]


def test_the_same_report_gives_the_same_page_with_every_part() -> None:
    text = page(ROWS)
    assert text == page(ROWS)
    for word in ("Latency against AUROC", "Array to decision", "File on disk to decision", "Slowest operators", "How to repeat it",
                 "rd-bench a b", "the machine was busy", "deadline 2 ms", "(teacher)", "by kind: Conv 70 %, A&lt;d 30 %"):
        assert word in text
    assert text.count("<svg viewBox") == 3


def test_nothing_comes_from_outside_and_nothing_runs() -> None:
    text = page(ROWS)
    assert "<script" not in text
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert "url(" not in text
    assert "@import" not in text


def test_a_name_cannot_break_the_page() -> None:
    text = page([row("<b>&\"'</b>", 1.0, 0.9), row("plain", 2.0, 0.9)], command="rd-bench '<script>'")
    assert "<b>&" not in text
    assert "<script>" not in text


def test_every_tag_is_closed() -> None:
    class Balance(HTMLParser):
        """A stack of open tags."""

        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag not in ("meta", "link"):
                self.open.append(tag)

        def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            pass

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    balance = Balance()
    balance.feed(page(ROWS))
    assert balance.open == []


def test_without_an_auroc_the_page_says_why_there_is_no_picture() -> None:
    assert "none of these artifacts carries an AUROC" in page([row("a", 1.0, None)])


def test_a_teacher_that_was_not_measured_is_a_line() -> None:
    assert "Dashed: the teacher 0.950, not measured here" in page([row("a", 1.0, 0.9)])


@pytest.mark.parametrize("scale", [horizontal([0.5, 0.52]), horizontal([0.5, 300.0]), vertical(0, 1), vertical(0.912, 0.931),
                                   Scale(0.001, 900, 0, 1, True)])
def test_ticks_are_few_inside_and_in_order(scale: Scale) -> None:
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 14
    assert ticks == sorted(ticks)
    assert all(scale.low <= tick <= scale.high * (1 + 1e-9) for tick in ticks)
    assert scale.at(scale.low) == scale.start
    assert scale.at(scale.high) == pytest.approx(scale.end)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine to show the page to")
def test_a_browser_shows_it_without_a_complaint(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(page(ROWS), encoding="utf-8")
    assert CHROMIUM is not None
    done = subprocess.run([CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
                           "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=420,900",
                           f"--screenshot={tmp_path / 'shot.png'}", "--dump-dom", (tmp_path / "report.html").as_uri()],
                          capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0
    assert "CONSOLE" not in done.stderr
    assert (tmp_path / "shot.png").stat().st_size > 10_000
    assert done.stdout.count("<polyline") >= 4


EVIL = ["=1+1|a", "`x`<img src=x onerror=alert(1)>", "\x1b[2J\u202egnp", "# h\n\n```\n## h"]


def test_no_name_of_an_artifact_writes_the_report_in_any_of_its_forms() -> None:
    rows = [row(name, 1.0 + place, None, valid=False, notices=[f"slow: {name}"]) for place, name in enumerate(EVIL)]
    report = report_of(rows, command=f"rd-bench {' '.join(EVIL)}",
                       offline={name: {"images_per_s": 1.0, "batch": 1, "streams": 1} for name in EVIL},
                       int8=[{"artifact": name, "keep": False, "reason": name} for name in EVIL])
    text = as_markdown(report)
    drawn = MarkdownIt("commonmark").enable("table").render(text)
    assert drawn.count("<h") == 1
    assert drawn.count("<tr>") == 1 + len(EVIL)
    columns = drawn.count("<th>")
    assert [line.count("|") - line.count("\\|") for line in text.splitlines() if line.startswith("| ")] == [columns + 1] * (len(EVIL) + 2)
    assert "<img" not in drawn
    html = page(rows, command=report["command"], int8=report["int8"])
    assert "<img" not in html
    assert "Content-Security-Policy" in html
    for written in (text, html):
        assert not re.search("[\x1b\u202e]", written)
    cells = [cell for line in csv.reader(io.StringIO(as_csv(rows))) for cell in line]
    assert not [cell for cell in cells if cell[:1] in tuple("=+-@")]
