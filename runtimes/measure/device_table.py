"""Latencies of one device as a small table that travels: what `rd-bench --save-table` writes and a budget reads elsewhere.

Owns: the table's format, `predicted_ms` (pure: what a network would take on that device). Does not own: measuring, budgets.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.artifact.artifact import Artifact
from runtimes.artifact.targets import TARGETS
from runtimes.errors import USAGE, UserError
from runtimes.files.folder import read_json, write_json
from runtimes.files.schema import check, list_of, maybe, number, object_of, one_of, text, truth, whole

FORMAT = 1
KIND = "latency table"
SAME = 0.02  # by how much parameters and MACs of the same network may differ
FEWEST = 3  # networks behind a line through them
MARGIN = 1.1  # a run measured again later differs by some percent
MS = number(1e-5, 1e7)
ROW = object_of(
    {"student": text(), "height": whole(1, 65536), "width": whole(1, 65536), "params": maybe(whole(1, 10**13)), "macs": whole(1, 10**16),
     "target": one_of(*TARGETS), "precision": one_of("fp32", "fp16", "bf16", "int8"), "threads": whole(1, 4096),
     "p90_ms": MS}, {"p50_ms": MS, "slices": whole(0, 512), "valid": truth}, others=True)
TABLE = object_of({"rows": list_of(ROW, 1, 10**6), "machine": object_of({"cpu": text()}, others=True)}, others=True)


def check_table(path: Path, *, batches: Sequence[int], paths: Sequence[str]) -> None:
    """UserError where a table could not be written at the end, before anything is measured."""
    if not path.parent.is_dir() or path.is_dir():
        raise UserError(f"--save-table {path}: expected a file in a folder that is there", USAGE)
    if os.path.lexists(path):  # only a table of ours is replaced
        try:
            read_table(path)
        except UserError:
            raise UserError(f"--save-table {path} is there and no latency table; name a new file", USAGE) from None
    if 1 not in batches or "array" not in paths:
        raise UserError("--save-table takes single images from memory: --batch 1 and --paths array must be among what is measured", USAGE)


def save_table(path: Path, report: Mapping[str, Any], artifacts: Mapping[str, Artifact]) -> int:
    """Write the single images of a report, array to decision, as a device's table; returns how many rows it has."""
    rows = []
    for row in report["rows"]:
        if row["batch"] == 1 and row["path"] == "array" and row["spin"] is not False and row.get("macs") and "p90_ms" in row:
            artifact = artifacts[row["artifact"]]
            spec = artifact.image_spec
            rows.append({"student": row["student"], "height": spec.height, "width": spec.width, "slices": spec.slices,
                         "params": artifact.manifest["artifact"].get("parameters"), "macs": row["macs"], "target": row["target"],
                         "precision": row["precision"], "threads": row["threads"], "p50_ms": row["p50_ms"], "p90_ms": row["p90_ms"],
                         "valid": row["valid"]})
    if not rows:
        raise UserError("nothing for the table: no row of single images from memory has both its p90 and its multiply-adds")
    write_json(path, {"kind": KIND, "format": FORMAT, "machine": report["machine"], "rows": rows})
    return len(rows)


def read_table(path: Path) -> dict[str, Any]:
    """A device's table; UserError for any other file, for figures that cannot be, and where no row is valid."""
    table = read_json(path)
    if table.get("kind") != KIND or table.get("format") != FORMAT or not isinstance(table.get("rows"), list):
        raise UserError(f"{path} is no latency table; expected a file written by rd-bench --save-table", USAGE)
    check(table, TABLE, str(path), "measure again with rd-bench --save-table")
    for place, row in enumerate(table["rows"]):
        if row["p90_ms"] < row.get("p50_ms", 0):
            raise UserError(f"{path}: rows[{place}].p90_ms is {row['p90_ms']:g}, below its p50_ms of {row['p50_ms']:g}; measure again with "
                            "rd-bench --save-table")
    if not any(row.get("valid", True) for row in table["rows"]):
        raise UserError(f"{path}: none of its {len(table['rows'])} rows is valid (the device was busy, or throttled); measure again with "
                        "rd-bench --save-table")
    return table


def predicted_ms(table: Mapping[str, Any], *, student: str, params: int, macs: int, size: tuple[int, int], target: str,
                 threads: int) -> tuple[float, str]:
    """p90 in milliseconds, with a margin, of a network in fp32 on the table's device, and how that is known.

    The same student at the same size and parameters is looked up; any other lies on a line through at least three networks of the
    table, latency over MACs, lifted by the worst error that each of them would have had without itself. Rows that were not valid when
    measured do not count. UserError where neither is there.
    """
    asked = [row for row in table["rows"] if row["target"] == target and row["threads"] == threads and row["precision"] == "fp32"]
    rows = [row for row in asked if row.get("valid", True)]
    for row in rows:  # parameters may differ by a classifier of more classes
        if (row["student"], (row["height"], row["width"])) == (student, size) and row["params"] is not None and (
                abs(row["params"] / params - 1) <= SAME and abs(row["macs"] / macs - 1) <= SAME):
            return row["p90_ms"] * MARGIN, "measured there"
    points = sorted({(row["macs"], row["p90_ms"]) for row in rows})
    if len(points) < FEWEST:
        weak = f" ({len(asked) - len(rows)} rows were not valid)" if len(rows) < len(asked) else ""
        raise UserError(f"the latency table has {len(points)} networks in fp32 for {target} with {threads} thread(s){weak}, and not "
                        f"{student} at {size[0]}x{size[1]}; it takes that very one, or {FEWEST} others. Measure more artifacts on the "
                        "device with rd-bench --save-table", USAGE)
    off = max(abs(_on_line([*points[:place], *points[place + 1:]], point[0]) / point[1] - 1) for place, point in enumerate(points))
    how = f"by MACs from {len(points)} networks measured there, {100 * off:.0f} % off at worst"
    return _on_line(points, macs) * (1 + off) * MARGIN, how


def _on_line(points: Sequence[tuple[float, float]], macs: float) -> float:
    """Where a straight line through (MACs, ms) is at some MACs: least squares of relative errors, no negative slope or start."""
    x, y = (np.asarray(values, dtype=np.float64) for values in zip(*points, strict=True))
    weight = 1 / y
    (start, slope), *_ = np.linalg.lstsq(np.stack([weight, x * weight], 1), np.ones_like(y), rcond=None)
    if slope < 0:
        start, slope = weight.sum() / (weight**2).sum(), 0.0
    elif start < 0:
        start, slope = 0.0, (x * weight).sum() / ((x * weight) ** 2).sum()
    return float(start + slope * macs)
