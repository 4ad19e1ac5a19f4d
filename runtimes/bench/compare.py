"""Two reports set side by side: what got slower, faster, or neither, beyond noise; exit code 4 where that is asked for.

Owns: `compare`, `judged`, the refusal of two machines in one comparison. Does not own: the bootstrap (figures.py), reports
(report.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.backends.machine import same_machine
from runtimes.bench.report import FORMAT, threads_text
from runtimes.errors import BUDGET, DONE, USAGE, UserError
from runtimes.files.folder import read_json
from runtimes.files.schema import check, list_of, mapping_of, maybe, number, object_of, shown, text, truth, whole
from runtimes.measure.figures import ratio_interval

# What makes two rows the same cell; the artifact's name may change with its folder, so one artifact a side is matched whatever its name.
KEY = ("artifact", "target", "precision", "batch", "threads", "path", "spin", "pinned")

MS = number(1e-6, 1e10)
ROW = object_of(
    {"artifact": text(), "target": text(64), "precision": text(64), "batch": whole(1, 10**6), "threads": whole(1, 4096), "path": text(64),
     "spin": maybe(truth), "pinned": truth, "p50_ms": MS, "block_p50_ms": list_of(MS, 1), "valid": truth}, others=True)
REPORT = object_of({"rows": list_of(ROW), "machine": object_of({"libraries": mapping_of(text())}, others=True)}, others=True)
SAMPLES = object_of({"rows": mapping_of(object_of({"blocks_ns": list_of(list_of(number(1, 1e16), 1), 1)}, others=True))}, others=True)
AGAIN = "measure again with rd-bench"


def compare(old: Path, new: Path, *, noise: float, gate: bool, other_machine: bool, tell: Callable[[str], None] = print) -> int:
    """Compare two report.json (or the folders that hold them); UserError for two machines in one comparison, unless `other_machine`."""
    before, after = read_report(old), read_report(new)
    different = same_machine(before["machine"], after["machine"])
    if different and not other_machine:
        raise UserError(f"these reports are of two machines ({'; '.join(different)}): a difference between them is not the software's. "
                        "Say --other-machine to set them side by side all the same", USAGE)
    if different:
        tell(f"TWO MACHINES: {'; '.join(different)}")
    for name in sorted({*before["machine"]["libraries"], *after["machine"]["libraries"]}):
        versions = [report["machine"]["libraries"].get(name, "none") for report in (before, after)]
        if versions[0] != versions[1]:
            tell(f"{name} {versions[0]} -> {versions[1]}")
    pairs = matched(before, after)
    if not pairs:
        raise UserError(f"{old} and {new} have no cell in common (artifact, batch, threads, path); measure the same with both", USAGE)
    slower = 0
    for first, second in pairs:
        change = judged(blocks_of(before, first), blocks_of(after, second), noise)
        slower += change["verdict"] == "slower"
        doubt = "" if first["valid"] and second["valid"] else "  [not valid: see the reports]"
        tell(f"{change['verdict']:<8} {second['artifact']}, {second['path']}, batch {second['batch']}, {threads_text(second)}: p50 "
             f"{first['p50_ms']:.3g} -> {second['p50_ms']:.3g} ms, x {change['ratio']:.3f} ({change['low']:.3f} to {change['high']:.3f})"
             f"{doubt}")
    tell(f"{slower} of {len(pairs)} cells slower beyond noise (95 % interval of the ratio of p50 above {1 + noise:g})")
    return BUDGET if gate and slower else DONE


def judged(old: list[Any], new: list[Any], noise: float) -> dict[str, Any]:
    """The ratio of p50, new over old, with its interval, and one word: slower, faster or same."""
    ratio, low, high = ratio_interval(old, new)
    word = "slower" if low > 1 + noise else "faster" if high < 1 / (1 + noise) else "same"
    return {"ratio": ratio, "low": low, "high": high, "verdict": word}


def matched(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Rows of the same cell; where each report has one artifact alone, that one stands for the other whatever its folder is called."""
    alone = all(len({row["artifact"] for row in report["rows"]}) == 1 for report in (before, after))
    keys = KEY[1:] if alone else KEY
    earlier = {tuple(row[key] for key in keys): row for row in before["rows"]}
    return [(earlier[key], row) for row in after["rows"] if (key := tuple(row[key] for key in keys)) in earlier]


def blocks_of(report: Mapping[str, Any], row: Mapping[str, Any]) -> list[Any]:
    """A row's raw blocks where they lie beside its report, else the median of each block."""
    samples = report["samples"].get(report["rows"].index(row))
    return samples["blocks_ns"] if samples else [[median] for median in row["block_p50_ms"]]


def read_report(path: Path) -> dict[str, Any]:
    """A report.json, and the samples beside it by the number of their row; UserError for anything else, and where the two differ."""
    if path.is_dir():
        path = path / "report.json"
    report = read_json(path)
    if report.get("format") != FORMAT or "machine" not in report or not isinstance(report.get("rows"), list):
        raise UserError(f"{path} is no report of rd-bench in format {FORMAT}; expected its report.json")
    check(report, REPORT, str(path), AGAIN)
    raw = path.with_name("samples.json")
    rows = []
    if raw.is_file():
        samples = read_json(raw)
        check(samples, SAMPLES, str(raw), AGAIN)
        rows = list(samples["rows"].values())
    if len(rows) != len(report["rows"]):
        return {**report, "samples": {}}
    for place, (row, series) in enumerate(zip(report["rows"], rows, strict=True)):
        medians = [float(np.median(block)) / 1e6 for block in series["blocks_ns"]]
        if len(medians) != len(row["block_p50_ms"]) or not np.allclose(medians, row["block_p50_ms"], rtol=1e-3):
            raise UserError(f"{path}: rows[{place}].block_p50_ms is {shown(row['block_p50_ms'])}, the samples beside it say "
                            f"{shown(medians)}; {AGAIN}")
    return {**report, "samples": dict(enumerate(rows))}
