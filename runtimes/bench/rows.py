"""What the samples of one cell of a benchmark say: figures, validity, words for a reader. Pure.

Owns: Cell, `row_of`, the gates (a quiet machine, one request in flight, steadiness), int8 against float, MLPerf's two scenarios.
Does not own: statistics (figures.py), taking samples (worker.py), files (report.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from runtimes.artifact.artifact import Artifact
from runtimes.files.schema import check, maybe, number, object_of, one_of, whole
from runtimes.measure.figures import block_spread, early_stopping, misses, percentiles_ms

QUIET = 0.06  # the most of the processors that others may use during a run
LITTLE = 0.05  # how far throughput x mean latency may be from the requests in flight
UNSTEADY = 0.10  # how far the medians of blocks may lie apart
SLOWER = 1.10  # how much longer the same small work may take at the end of a run than at its beginning
FELT = 1.05  # and how much longer the calls themselves, for it to matter
WORTH = 1.2  # int8 has to be so much faster than the best float to be worth it
MLPERF_S = 600  # MLPerf's shortest run
SHARE = number(0, 1)
FIGURE = object_of({"value": SHARE}, {"low": SHARE, "high": SHARE}, others=True)
SCORES = object_of({}, {"split": one_of("test", "val"), "n": whole(0, 10**9), "student": FIGURE, "teacher": FIGURE}, others=True)
PROOF = object_of({}, {"auroc_difference": maybe(number(-1, 1))}, others=True)
AGAIN = "export the artifact again"


@dataclass
class Cell:
    """One artifact, thread count, path and batch: its samples, block by block."""

    artifact: str
    path: str
    batch: int
    threads: int
    warm: dict[str, Any] = field(default_factory=dict)
    blocks: list[dict[str, Any]] = field(default_factory=list)

    @property
    def samples(self) -> list[int]:
        """Nanoseconds of all calls, in order."""
        return [sample for block in self.blocks for sample in block["samples_ns"]]


def row_of(cell: Cell, opened: Mapping[str, Any], artifact: Artifact, *, spin: bool | None, pinned: bool,
           deadline_ms: float | None = None) -> dict[str, Any]:
    """A row of report.json; `notices` say in words what is wrong with it, `valid` is whether it may be quoted."""
    samples = cell.samples
    shown = percentiles_ms(samples)
    elapsed = sum(block["elapsed_ns"] for block in cell.blocks)
    in_flight = len(samples) / elapsed * shown["mean_ms"] * 1e6
    facts = opened["facts"]
    row: dict[str, Any] = {
        "artifact": cell.artifact, "target": artifact.target, "precision": artifact.precision, "batch": cell.batch,
        "threads": facts.get("threads", cell.threads), "path": cell.path, "spin": spin, "pinned": pinned, "cores": opened["cores"],
        "boundary": "file on disk to decision" if cell.path == "file" else "array to probabilities and decision, input check included",
        "samples": len(samples), "warmups": len(cell.warm.get("warmup_ns", ())), "rounds": len(cell.blocks), "seconds": elapsed / 1e9,
        **{key: shown[key] for key in ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "p99.9_ms") if key in shown},
        **{key: shown[key] for key in ("min_ms", "p10_ms", "mean_ms", "sd_ms", "max_ms")},
        "images_per_s": cell.batch * len(samples) / elapsed * 1e9, "in_flight": in_flight,
        "block_p50_ms": [float(np.median(block["samples_ns"])) / 1e6 for block in cell.blocks],
        "spread": block_spread([block["samples_ns"] for block in cell.blocks]),
        "first_ms": opened["first_ns"] / 1e6, "load_ms": opened["load_ns"] / 1e6, "model_bytes": opened["model_bytes"],
        "model_sha256": artifact.model_sha256, "student": artifact.manifest["artifact"].get("student", ""),
        "runtime": facts.get("runtime"), "version": facts.get("version"), "provider": facts.get("provider"),
        "layers": facts.get("layers") or {}, "score": score_of(artifact), **used_by_others(cell.blocks, len(opened["cores"])),
    }
    if deadline_ms is not None:
        row["deadline"] = misses(samples, deadline_ms)
    if cell.batch == 1:
        bound = early_stopping(samples, 90)
        row["single_stream"] = {"p90_at_most_ms": None if bound is None else bound / 1e6, "queries": len(samples),
                                "as_long_as_mlperf_asks": elapsed / 1e9 >= MLPERF_S}
    row["valid"], row["notices"] = verdict(row, cell)
    return row


def used_by_others(blocks: Sequence[Mapping[str, Any]], own_cores: int) -> dict[str, Any]:
    """The share of all processors that others used during the blocks, and throttle events; None where the system does not say."""
    usages = [block["used"] for block in blocks if block.get("used")]
    capacity = sum(usage["capacity"] for usage in usages)
    if not capacity:
        return {"others_share": None, "throttled": None}
    theirs = sum(max(0.0, usage["busy"] - usage["own"]) for usage in usages)
    return {"others_share": theirs / capacity, "throttled": sum(usage["throttled"] for usage in usages), "own_cores": own_cores}


def verdict(row: Mapping[str, Any], cell: Cell) -> tuple[bool, list[str]]:
    """Whether a row may be quoted, and what a reader has to know: (valid, sentences)."""
    wrong, weak = [], []
    if row["others_share"] is None:
        weak.append("this system does not say who else used its processors")
    elif row["others_share"] > QUIET:
        wrong.append(f"the machine was busy: others used {100 * row['others_share']:.0f} % of its processors (allowed {100 * QUIET:.0f} %)")
    if row["throttled"]:
        wrong.append(f"the processor was throttled {row['throttled']} times")
    if abs(row["in_flight"] - 1) > LITTLE:
        wrong.append(f"throughput x mean latency is {row['in_flight']:.2f}, not 1: the samples do not fill the time they were taken in")
    drift, own = (_drift(values) for values in ([block["pulse_ms"] for block in cell.blocks], row["block_p50_ms"]))
    if drift > SLOWER and own > FELT:
        wrong.append(f"the machine itself was {drift:.2f} times slower at the end than at the beginning, and these calls {own:.2f} times "
                     "(throttling, or a neighbour)")
    if row["spread"] > UNSTEADY:
        weak.append(f"unsteady: medians of rounds lie {100 * row['spread']:.0f} % apart")
    if not cell.warm.get("steady", True):
        weak.append(f"not steady after {row['warmups']} warm-up calls")
    if row["rounds"] < 5:
        weak.append(f"{row['rounds']} rounds; comparisons need 5")
    return not wrong, [*wrong, *weak]


def _drift(values: Sequence[float]) -> float:
    """The last third of some values over the first."""
    third = max(1, len(values) // 3)
    return float(np.median(values[-third:]) / np.median(values[:third])) if len(values) > 1 else 1.0


def score_of(artifact: Artifact) -> dict[str, Any] | None:
    """AUROC of the student behind an artifact on its test split, and what the artifact itself changed on validation; None if unknown."""
    scores: Any = artifact.manifest.get("scores") or {}
    check(scores, lambda value, _: SCORES(value, "scores"), str(artifact.folder / "manifest.json"), AGAIN)
    proof = artifact.read_json("parity.json") if "parity.json" in artifact.manifest["files"] else {}
    check(proof, PROOF, str(artifact.folder / "parity.json"), AGAIN)
    if "student" not in scores:
        return None
    return {"auroc": scores["student"], "split": scores.get("split"), "images": scores.get("n"), "teacher_auroc": scores.get("teacher"),
            "change_by_export": proof.get("auroc_difference")}


def offline(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """MLPerf's offline sense: of every artifact and thread count the batch, or streams, that answer most images a second."""
    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["path"] == "array":
            key = f"{row['artifact']}, {row['threads']} thread{'' if row['threads'] == 1 else 's'}"
            if key not in best or row["images_per_s"] > best[key]["images_per_s"]:
                best[key] = {"images_per_s": row["images_per_s"], "batch": row["batch"], "streams": row.get("streams", 1)}
    return best


def int8_verdicts(rows: Sequence[Mapping[str, Any]], students: Mapping[str, str]) -> list[dict[str, Any]]:
    """Whether int8 is worth it here: 1.2 times faster than the best float of the same student, target and threads, batch 1.

    students: the hash of the student behind each artifact.
    """
    verdicts = []
    single = [row for row in rows if row["batch"] == 1 and row["path"] == "array" and row.get("spin") is not False]
    for row in single:
        if row["precision"] != "int8":
            continue
        floats = [other for other in single if other["precision"] != "int8" and other["target"] == row["target"]
                  and other["threads"] == row["threads"] and students.get(other["artifact"]) == students[row["artifact"]]]
        if floats:
            best = min(floats, key=lambda other: other["p50_ms"])
            factor = best["p50_ms"] / row["p50_ms"]
            verdicts.append({"artifact": row["artifact"], "threads": row["threads"], "against": best["artifact"], "faster": factor,
                             "keep": bool(factor >= WORTH), "reason": f"{factor:.2f} times as fast as {best['artifact']} with "
                             f"{row['threads']} thread{'' if row['threads'] == 1 else 's'}; worth it from {WORTH} on"})
    return verdicts
