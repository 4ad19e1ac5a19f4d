"""rd-bench on tiny artifacts: what a report holds, what its gates catch, and wrong input in words and exit codes."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Case

from runtimes.artifact.artifact import read_artifact
from runtimes.backends.machine import core_set, full_facts, same_machine
from runtimes.bench.checks import names_of, thread_counts
from runtimes.bench.command import bench
from runtimes.bench.config import BenchSettings
from runtimes.bench.report import as_csv, notices_of
from runtimes.bench.rows import Cell, int8_verdicts, offline, row_of
from runtimes.errors import USAGE, UserError
from runtimes.files.folder import read_json
from runtimes.measure.figures import FEWEST_SAMPLES

Exported = Callable[[Case], Path]
SHORT: dict[str, Any] = {"samples": 12, "seconds": 0.02, "warmups": 3, "rounds": 2, "roofline": False, "profile": False}


@pytest.fixture(scope="module")
def measured(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A report of two artifacts, and the lines printed for it."""
    out, lines = tmp_path_factory.mktemp("bench") / "report", list[str]()
    artifacts = (exported(Case()), exported(Case(precision="int8")))
    settings = BenchSettings(artifacts, out=out, batch=(1, 3), threads=(1,), streams=(2,), deadline_ms=1000.0, **SHORT)
    assert bench(settings, f"rd-bench {artifacts[0]}", lines.append) == 0
    return out, lines


def test_a_report_has_every_cell_with_raw_samples_beside_it(measured: tuple[Path, list[str]]) -> None:
    report, raw = read_json(measured[0] / "report.json"), read_json(measured[0] / "samples.json")
    rows = report["rows"]
    assert report["format"] == 1
    assert sorted((row["precision"], row["path"], row["batch"], row["threads"]) for row in rows) == sorted(
        (precision, path, batch, 1) for precision in ("fp32", "int8") for path in ("array", "file") for batch in (1, 3))
    assert len(raw["rows"]) == len(rows)
    for row, kept in zip(rows, raw["rows"].values(), strict=True):
        values = np.concatenate([np.asarray(block) for block in kept["blocks_ns"]])
        assert row["samples"] == len(values) >= 12
        assert len(kept["warmup_ns"]) == row["warmups"] >= 50 - 1  # steady needs two windows
        assert row["p50_ms"] == pytest.approx(np.median(values) / 1e6)
        assert row["min_ms"] <= row["p50_ms"] <= row["max_ms"]
        assert row["deadline"]["missed"] == 0


def test_a_row_records_what_a_figure_hangs_on(measured: tuple[Path, list[str]], exported: Exported) -> None:
    report = read_json(measured[0] / "report.json")
    for row in report["rows"]:
        assert row["provider"] == "CPUExecutionProvider"
        assert (row["runtime"], row["pinned"], row["cores"]) == ("onnxruntime", False, core_set())
        assert row["model_sha256"] in {read_artifact(exported(Case(precision=one))).model_sha256 for one in ("fp32", "int8")}
        assert row["boundary"].startswith("file" if row["path"] == "file" else "array")
        for key in ("first_ms", "load_ms", "peak_rss_mib", "model_bytes", "images_per_s"):
            assert row[key] > 0
        assert abs(row["in_flight"] - 1) < 0.05
    for path in ("array", "file"):  # a row of the whole path beside every row of the model alone
        assert {(row["artifact"], row["batch"], row["threads"]) for row in report["rows"] if row["path"] == path} == {
            (row["artifact"], row["batch"], row["threads"]) for row in report["rows"]}
    machine = report["machine"]
    assert machine["cores"] == os.cpu_count()
    assert machine["libraries"]["onnxruntime"]
    for key in ("governor", "clock_mhz", "flags", "core_set", "memory_gib", "gpu", "power_mode"):
        assert key in machine


def test_no_percentile_without_its_samples_and_no_path_of_this_machine(measured: tuple[Path, list[str]]) -> None:
    text = (measured[0] / "report.json").read_text()
    for row in json.loads(text)["rows"]:
        assert {key for key in row if key in ("p90_ms", "p95_ms", "p99_ms", "p99.9_ms")} == {
            f"p{percent:g}_ms" for percent, fewest in FEWEST_SAMPLES.items() if row["samples"] >= fewest > 1}
        assert (row.get("single_stream", {}).get("p90_at_most_ms") is None) == (row["samples"] < 64 or row["batch"] > 1)
    assert str(measured[0].parent) not in text
    assert "/tmp/" not in text


def test_the_tables_say_what_the_json_says(measured: tuple[Path, list[str]]) -> None:
    rows = read_json(measured[0] / "report.json")["rows"]
    found = list(csv.DictReader((measured[0] / "report.csv").read_text().splitlines()))
    assert [float(one["p50_ms"]) for one in found] == [row["p50_ms"] for row in rows]
    assert [one["p99.9_ms"] for one in found] == [str(row.get("p99.9_ms", "")) for row in rows]
    text = (measured[0] / "report.md").read_text()
    assert text.count("| array |") == text.count("| file |") == 4
    assert "2 streams" in text
    assert "int8 is" in text
    assert measured[1][-1].startswith(str(measured[0]))


def test_artifacts_take_turns(exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runtimes.bench.crew import Member

    asked: list[str] = []
    real = Member.ask

    def ask(self: Member, do: str, **request: Any) -> dict[str, Any]:
        asked.extend([self.name] if do == "block" else [])
        return real(self, do, **request)

    monkeypatch.setattr(Member, "ask", ask)
    artifacts = (exported(Case()), exported(Case(precision="int8")))
    bench(BenchSettings(artifacts, out=tmp_path / "out", batch=(1,), threads=(1,), paths=("array",), **{**SHORT, "rounds": 3}),
          tell=lambda _: None)
    assert asked == names_of(artifacts) * 3


def blocks(count: int = 5, *, each: int = 1_000_000, gap: int = 0, others: float = 0.0, pulse: float = 0.0, felt: float = 0.0,
           throttled: int = 0) -> Cell:
    """A cell of made-up blocks of 100 calls."""
    cell = Cell("a", "array", 1, 1, {"warmup_ns": [1] * 50, "steady": True})
    for turn in range(count):
        took = int(each * (1 + felt * turn))
        elapsed = 100 * (took + gap)
        cell.blocks.append({"samples_ns": [took] * 100, "elapsed_ns": elapsed, "pulse_ms": 1 + pulse * turn,
                            "used": {"capacity": 2.0, "busy": 0.5 + others * 2, "own": 0.5, "throttled": throttled}})
    return cell


OPENED = {"facts": {"threads": 1, "provider": "p", "runtime": "r", "version": "1"}, "cores": [0], "first_ns": 1, "load_ns": 1,
          "model_bytes": 1}


@pytest.mark.parametrize(("cell", "valid", "word"), [
    (blocks(), True, ""), (blocks(others=0.05), True, ""), (blocks(others=0.07), False, "busy: others used 7 %"),
    (blocks(throttled=2), False, "throttled"), (blocks(gap=80_000), False, "throughput x mean latency"), (blocks(gap=30_000), True, ""),
    (blocks(pulse=0.1, felt=0.02), False, "slower at the end"),
    (blocks(pulse=0.1), True, ""), (blocks(felt=0.02), True, ""), (blocks(count=4), True, "comparisons need 5"),
])
def test_the_gates_catch_what_they_are_for(exported: Exported, cell: Cell, valid: bool, word: str) -> None:
    row = row_of(cell, OPENED, read_artifact(exported(Case())), spin=None, pinned=False)
    assert row["valid"] is valid
    assert (word in " ".join(row["notices"])) if word else row["notices"] == []


def test_an_unsteady_run_is_said_to_be(exported: Exported) -> None:
    cell = blocks()
    for turn, block in enumerate(cell.blocks):
        block["samples_ns"] = [1_000_000 * (1 + turn % 2)] * 100
        block["elapsed_ns"] = sum(block["samples_ns"])
    row = row_of(cell, OPENED, read_artifact(exported(Case())), spin=None, pinned=False)
    assert any("unsteady" in notice for notice in row["notices"])


def plain_row(artifact: str, precision: str, p50: float, **more: Any) -> dict[str, Any]:
    return {"artifact": artifact, "precision": precision, "p50_ms": p50, "target": "onnx", "threads": 1, "batch": 1, "path": "array",
            "spin": None, "images_per_s": 1000 / p50, "notices": [], **more}


def test_int8_is_kept_only_where_it_is_clearly_faster_than_the_best_float() -> None:
    rows = [plain_row("a", "fp32", 3.0), plain_row("b", "fp16", 2.0), plain_row("c", "int8", 1.8), plain_row("other", "fp32", 9.0)]
    students = {"a": "s", "b": "s", "c": "s", "other": "t"}
    (told,) = int8_verdicts(rows, students)
    assert (told["against"], told["keep"]) == ("b", False)
    assert int8_verdicts([*rows[:2], plain_row("c", "int8", 1.6)], students)[0]["keep"]
    assert int8_verdicts([rows[3], rows[2]], students) == []


def test_offline_takes_the_best_way_of_each_artifact() -> None:
    rows = [plain_row("a", "fp32", 2.0), plain_row("a", "fp32", 4.0, batch=8, images_per_s=2000.0),
            plain_row("a", "fp32", 1.0, path="file", images_per_s=9000.0)]
    assert offline(rows) == {"a, 1 thread": {"images_per_s": 2000.0, "batch": 8, "streams": 1}}


def test_sentences_that_differ_in_figures_alone_are_told_once() -> None:
    rows = [plain_row("a", "fp32", 1.0, notices=[f"busy: {share} %"]) for share in (7, 8, 9)]
    assert len(notices_of(rows)) == 1


def test_csv_of_nothing_is_a_header() -> None:
    assert as_csv([]).startswith("artifact,")


def test_names_tell_folders_apart() -> None:
    assert names_of([Path("x/one"), Path("y/two")]) == ["one", "two"]
    assert names_of([Path("x/one"), Path("y/one")]) == ["x/one", "y/one"]
    with pytest.raises(UserError, match="twice"):
        names_of([Path("x/one"), Path("x/../x/one"), Path("x/one")])


def test_thread_counts_are_those_of_this_process() -> None:
    assert thread_counts((), ()) == sorted({1, len(core_set())})
    assert thread_counts((), (core_set()[0],)) == [1]
    for wrong in (0, -1, len(core_set()) + 1):
        with pytest.raises(UserError, match="expected 1 to"):
            thread_counts((wrong,), ())
    with pytest.raises(UserError, match="--cores"):
        thread_counts((1,), (max(core_set()) + 1,))


def test_facts_name_the_machine_and_another_is_told_apart() -> None:
    facts = full_facts()
    assert same_machine(facts, dict(facts)) == []
    assert same_machine(facts, {**facts, "cpu": "another"})
    json.dumps(facts)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "runtimes.bench.cli", *arguments], capture_output=True, text=True, check=False)


def test_wrong_input_ends_in_words(exported: Exported, tmp_path: Path) -> None:
    good, tensor, large = exported(Case()), exported(Case(input="tensor")), exported(Case("multilabel", 3, input_size="40x56"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("here")
    out = tmp_path / "out"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"artifacts": (tmp_path / "nowhere",)}, "does not exist"), ({"artifacts": (tmp_path / "empty",)}, "has no manifest.json"),
        ({"artifacts": (good.parent / "student",)}, "of kind 'student'"), ({"artifacts": (good, large)}, "decides multiclass"),
        ({"artifacts": (good, good)}, "twice"),
        ({"artifacts": (good, tensor)}, "different inputs"), ({"artifacts": (good,), "threads": (99,)}, "--threads 99"),
        ({"artifacts": (good,), "images": tmp_path / "empty"}, "holds no file"),
        ({"artifacts": (good,), "out": tmp_path / "full"}, "not empty"), ({"artifacts": (good,), "device": "tpu"}, "device 'tpu'"),
        ({"artifacts": (tensor,), "paths": ("file",)}, "golden inputs"),
        ({"artifacts": (good,), "save_table": tmp_path / "no" / "board.json"}, "in a folder that is there"),
        ({"artifacts": (good,), "save_table": tmp_path / "board.json", "batch": (8,)}, "--batch 1"),
    ]
    for given, word in cases:
        with pytest.raises(UserError, match=word):
            bench(BenchSettings(**{"out": out, "threads": (1,), **SHORT, **given}), tell=lambda _: None)
        assert not out.exists()


@pytest.mark.parametrize("wrong", [{"batch": (0,)}, {"batch": ()}, {"streams": (0,)}, {"samples": 0}, {"rounds": 0}, {"seconds": -1.0},
                                   {"deadline_ms": 0.0}, {"warmups": -1}, {"artifacts": ()}, {"soak_minutes": -1.0}])
def test_settings_that_make_no_sense_are_usage_errors(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        BenchSettings(**{"artifacts": (Path("a"),), **wrong})
    assert caught.value.exit_code == USAGE


def test_the_command_has_exit_codes_and_no_traceback(tmp_path: Path) -> None:
    for arguments, code in (([str(tmp_path / "nowhere")], 1), (["--batch", "0"], 2), (["--nonsense"], 2), (["--batch", "1"], 2)):
        run = command(*arguments)
        assert run.returncode == code
        assert "Traceback" not in run.stderr


def test_a_process_that_dies_is_an_error_that_names_it(exported: Exported) -> None:
    from runtimes.bench.crew import Crew

    with Crew() as crew:
        member = crew.open("mine", read_artifact(exported(Case())), threads=1)
        member.process.kill()
        with pytest.raises(UserError, match="mine: the process that measures it ended"):
            member.ask("memory")
