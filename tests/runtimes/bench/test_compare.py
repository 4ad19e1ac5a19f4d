"""Two reports side by side, a device's table, the soak's verdict: what is told, what is refused, with which exit code."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from json_leaves import VALUES, places, replaced

from runtimes.bench.compare import compare, judged
from runtimes.bench.soak import verdict
from runtimes.errors import BUDGET, DONE, USAGE, UserError
from runtimes.files.folder import read_json
from runtimes.measure.device_table import MARGIN, predicted_ms, read_table

MACHINE = {"cpu": "one", "cores": 2, "architecture": "x", "flags": [], "memory_gib": 1, "gpu": [], "power_mode": None, "jetson": None,
           "libraries": {"onnxruntime": "1.0"}}


def report(folder: Path, scale: float, seed: int, *, machine: dict[str, Any] = MACHINE, artifact: str = "a", samples: bool = True) -> Path:
    """A report of one cell around one millisecond, in ten noisy blocks."""
    random = np.random.default_rng(seed)
    blocks = [(1e6 * scale * random.lognormal(0, 0.05, 60) * random.normal(1, 0.005)).tolist() for _ in range(10)]
    row = {"artifact": artifact, "target": "onnx", "precision": "fp32", "batch": 1, "threads": 1, "path": "array", "spin": None,
           "pinned": False, "p50_ms": float(np.median(blocks)) / 1e6, "valid": True,
           "block_p50_ms": [float(np.median(block)) / 1e6 for block in blocks]}
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps({"format": 1, "machine": machine, "rows": [row]}))
    if samples:
        (folder / "samples.json").write_text(json.dumps({"format": 1, "rows": {"cell": {"blocks_ns": blocks}}}))
    return folder / "report.json"


def told(*arguments: Path, **more: Any) -> tuple[int, str]:
    lines: list[str] = []
    code = compare(*arguments, **{"noise": 0.03, "gate": True, "other_machine": False, **more}, tell=lines.append)
    return code, "\n".join(lines)


def test_what_is_slower_beyond_noise_is_said_and_gated(tmp_path: Path) -> None:
    old, same, slow = (report(tmp_path / name, scale, seed) for seed, (name, scale) in enumerate(
        (("old", 1.0), ("same", 1.01), ("slow", 1.15))))
    assert told(old, same)[0] == DONE
    code, text = told(old, slow)
    assert code == BUDGET
    assert text.startswith("slower")
    assert "1 of 1 cells slower" in text
    assert told(old, slow, gate=False)[0] == DONE
    assert told(slow.parent, old.parent)[1].startswith("faster")  # folders do as well


def test_medians_of_blocks_stand_in_for_raw_samples_that_are_not_there(tmp_path: Path) -> None:
    old, slow = report(tmp_path / "old", 1, 0, samples=False), report(tmp_path / "slow", 1.2, 1, samples=False)
    assert told(old, slow)[0] == BUDGET


def test_runs_of_the_same_thing_are_hardly_ever_called_slower() -> None:
    random = np.random.default_rng(0)

    def run() -> list[Any]:
        level = random.normal(1, 0.01)
        return [random.lognormal(0, 0.05, 60) * level * random.normal(1, 0.01) for _ in range(5)]

    words = [judged(run(), run(), 0.03)["verdict"] for _ in range(60)]
    assert words.count("same") >= 58


def test_two_machines_are_never_compared_without_being_asked(tmp_path: Path) -> None:
    old, new = report(tmp_path / "old", 1, 0), report(tmp_path / "new", 1, 0, machine={**MACHINE, "power_mode": "15W"})
    with pytest.raises(UserError, match=r"two machines \(power_mode None and '15W'\)") as caught:
        told(old, new)
    assert caught.value.exit_code == USAGE
    assert told(old, new, other_machine=True)[1].startswith("TWO MACHINES")


def test_another_library_version_is_told_and_the_folder_s_name_does_not_matter(tmp_path: Path) -> None:
    old = report(tmp_path / "old", 1, 0)
    new = report(tmp_path / "new", 1, 0, artifact="renamed", machine={**MACHINE, "libraries": {"onnxruntime": "1.1"}})
    assert "onnxruntime 1.0 -> 1.1" in told(old, new)[1]


@pytest.mark.parametrize(("content", "word"), [(None, "is missing"), ("{", "not readable JSON"), ('{"format": 9}', "no report of rd-bench"),
                                               ('{"format": 1, "machine": {"libraries": {}}, "rows": []}', "no cell in common")])
def test_what_is_no_report_is_refused(tmp_path: Path, content: str | None, word: str) -> None:
    good = report(tmp_path / "good", 1, 0, machine={"libraries": {}})
    bad = tmp_path / "bad.json"
    if content is not None:
        bad.write_text(content)
    with pytest.raises(UserError, match=word):
        told(good, bad)


def row(student: str, macs: int, p90: float, **more: Any) -> dict[str, Any]:
    return {"student": student, "height": 96, "width": 96, "params": 1000, "macs": macs, "target": "onnx", "precision": "fp32",
            "threads": 1, "p90_ms": p90, **more}


ASKED: dict[str, Any] = {"student": "new", "params": 1000, "size": (96, 96), "target": "onnx", "threads": 1}


def test_a_network_of_the_table_is_looked_up_and_another_lies_on_the_line() -> None:
    table = {"rows": [row("a", 10, 2.0), row("b", 20, 3.0), row("c", 40, 5.0), row("d", 30, 1.0, precision="int8")]}
    assert predicted_ms(table, **{**ASKED, "student": "b"}, macs=20) == (3.0 * MARGIN, "measured there")
    ms, how = predicted_ms(table, **ASKED, macs=30)
    assert ms == pytest.approx(4.0 * MARGIN)
    assert "3 networks measured there, 0 % off" in how
    assert predicted_ms(table, **{**ASKED, "student": "b", "params": 500}, macs=10)[1] != "measured there"  # a pruned one is another


def test_the_line_is_lifted_by_its_worst_error_and_never_falls() -> None:
    rough = {"rows": [row("a", 10, 2.0), row("b", 20, 4.5), row("c", 30, 5.0), row("d", 40, 8.5)]}
    ms, how = predicted_ms(rough, **ASKED, macs=20)
    assert ms > 4.5
    assert " 0 % off" not in how
    falling = {"rows": [row("a", 10, 9.0), row("b", 20, 5.0), row("c", 40, 2.0)]}
    assert predicted_ms(falling, **ASKED, macs=10)[0] == predicted_ms(falling, **ASKED, macs=1000)[0]


def test_a_table_that_cannot_tell_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 1 networks in fp32 for onnx with 2"):
        predicted_ms({"rows": [row("a", 10, 1.0, threads=2)]}, **{**ASKED, "threads": 2}, macs=5)
    (tmp_path / "table.json").write_text('{"kind": "report"}')
    with pytest.raises(UserError, match="is no latency table"):
        read_table(tmp_path / "table.json")


def board(folder: Path, *rows: dict[str, Any]) -> Path:
    """A latency table as a file."""
    path = folder / "board.json"
    path.write_text(json.dumps({"kind": "latency table", "format": 1, "machine": {"cpu": "a board"}, "rows": list(rows)}))
    return path


@pytest.mark.parametrize("change", [{"p90_ms": -5.0}, {"p90_ms": 0}, {"p90_ms": "1"}, {"p90_ms": True}, {"p90_ms": None}, {"macs": 0},
                                    {"params": "1000"}, {"threads": 1.5}, {"valid": "no"}, {"precision": "fp8"}, {"p50_ms": 3.0}])
def test_a_row_that_cannot_be_is_named_by_its_key(tmp_path: Path, change: dict[str, Any]) -> None:
    assert read_table(board(tmp_path, row("a", 10, 2.0, p50_ms=1.0, valid=True), row("b", 20, 3.0)))["rows"][1]["p90_ms"] == 3.0
    key = "p90_ms" if "p50_ms" in change else next(iter(change))
    with pytest.raises(UserError, match=rf"board\.json: rows\[1\]\.{key} "):
        read_table(board(tmp_path, row("a", 10, 2.0), {**row("b", 20, 2.0), **change}))


def test_rows_that_were_not_valid_do_not_count(tmp_path: Path) -> None:
    rows = [row("a", 10, 0.001, valid=False), row("a", 10, 2.0, valid=True), row("b", 20, 3.0)]
    assert predicted_ms(read_table(board(tmp_path, *rows)), **{**ASKED, "student": "a"}, macs=10)[0] == 2.0 * MARGIN
    with pytest.raises(UserError, match=r"has 2 networks .* \(1 rows were not valid\)"):
        predicted_ms({"rows": rows}, **ASKED, macs=30)
    with pytest.raises(UserError, match="none of its 1 rows is valid"):
        read_table(board(tmp_path, rows[0]))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_in_a_table_is_a_latency_or_a_user_error(tmp_path: Path, data: st.DataObject) -> None:
    table = read_json(board(tmp_path, *(row(name, macs, 1.0 + macs / 10, p50_ms=0.5) for name, macs in (("a", 10), ("b", 20), ("c", 40)))))
    path = data.draw(st.sampled_from(list(places(table))))
    (tmp_path / "board.json").write_text(json.dumps(replaced(table, path, data.draw(VALUES))))
    with suppress(UserError):
        ms, _ = predicted_ms(read_table(tmp_path / "board.json"), **ASKED, macs=30)
        assert 0 < ms < float("inf")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_in_a_report_is_compared_or_a_user_error(tmp_path: Path, data: st.DataObject) -> None:
    good = tmp_path / "good" / "report.json"
    if not good.is_file():
        report(tmp_path / "good", 1, 0)
    name = data.draw(st.sampled_from(["report.json", "samples.json"]))
    whole = read_json(good.with_name(name))
    path = data.draw(st.sampled_from(list(places(whole))))
    (tmp_path / "bad").mkdir(exist_ok=True)
    for other in ("report.json", "samples.json"):
        (tmp_path / "bad" / other).write_bytes(good.with_name(other).read_bytes())
    (tmp_path / "bad" / name).write_text(json.dumps(replaced(whole, path, data.draw(VALUES))))
    with suppress(UserError):
        told(good, tmp_path / "bad", other_machine=True)


def minute(p99: float, **more: Any) -> dict[str, Any]:
    return {"samples": 5000, "p50_ms": 1.0, "p99_ms": p99, "max_ms": 9.0, "others_share": 0.0, "throttled": 0, **more}


def test_a_soak_is_steady_when_its_tail_stays_within_ten_percent() -> None:
    assert verdict([minute(1.0), minute(1.5), minute(1.09)])["steady"]
    assert not verdict([minute(1.0), minute(1.2)])["steady"]
    assert not verdict([minute(1.0), minute(1.0, throttled=3)])["steady"]
    assert "proves nothing" in verdict([minute(1.0), minute(1.0, others_share=0.5)])["told"]
    few = verdict([minute(1.0, samples=100, p90_ms=1.0), minute(9.0, samples=100, p90_ms=1.0)])
    assert (few["percentile"], few["steady"]) == ("p90", True)
    assert verdict([minute(1.0)])["drift"] is None
