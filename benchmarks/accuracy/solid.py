"""Real volumes seen at once and slice by slice: a 3D student alone and from a chest CT teacher, that teacher adapted, slices pooled.

Owns: which runs make the study, the tables. Does not own: running them and keeping their rows (study.py). The label of the hippocampus
set, large_volume, is derived from its masks: a synthetic task on real brain MRI. Needs the three packages of astra's weights and MONAI.

    python -m benchmarks.accuracy.solid --seeds 3 --workers 1
    python -m benchmarks.accuracy.solid --table
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.accuracy.paired import paired, scores, told
from benchmarks.accuracy.study import Run, conduct, figures, points
from benchmarks.commands import command, rd_distill
from benchmarks.record import SHARED

SETTING = "hippocampus"
DATA = ("--data", str(SHARED / "msd_hippocampus" / "labels.csv"), "--label", "large_volume", "--axis", "coronal", "--bootstrap", "200")
ASTRA = ("--teacher", "astra", "--teacher-size", "48", "--bank-views", "2", "--audit", "0.002")
LITE = ("--teacher", "efficientnet-lite0", "--teacher-size", "96", "--bank-views", "2", "--audit", "0.002")
LENGTH = ("--batch", "8", "--epochs", "10", "--min-steps", "400")
SOLID = ("--student", "monai:resnet10-8", "--size", "48", "--slices", "32", *LENGTH)
SLICES = ("--student", "mobilenetv3_small_050", "--size", "64", "--slices", "16", *LENGTH)
ADAPTED = ("--slices", "32")
# Name: the kind of run, its flags, and the bank that its views need.
RUNS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "3D student, vanilla": ("student", (*SOLID, "--method", "vanilla"), ""),
    "3D student, KD from astra": ("student", (*SOLID, *ASTRA, "--method", "kd"), "astra"),
    "3D student, RD from astra": ("student", (*SOLID, *ASTRA, "--method", "rd"), "astra"),
    "3D student, RD from Lite0 by slices": ("student", (*SOLID, *LITE, "--method", "rd"), "lite32"),
    "slices with attention, vanilla": ("student", (*SLICES, "--method", "vanilla"), ""),
    "slices with attention, RD from Lite0 by slices": ("student", (*SLICES, *LITE, "--method", "rd"), "lite16"),
    "astra, linear on pooled features": ("teacher", (*ADAPTED, *ASTRA[:-2], "--method", "linear"), "astra"),
    "astra, MoLRE on pooled features": ("teacher", (*ADAPTED, *ASTRA[:-2], "--method", "molre"), "astra"),
}
TIMED = ("3D student, vanilla", "slices with attention, vanilla")


def runs(seeds: int, work: Path) -> Iterator[Run]:
    """Seed by seed, the same split."""
    for seed in range(seeds):
        for method, (_, flags, bank) in RUNS.items():
            shared = ("--bank", str(work / f"solid-bank-{bank}")) if bank else ()
            yield Run(SETTING, method, seed, (*DATA, *flags, *shared))


def perform(run: Run, work: Path) -> dict[str, Any]:
    """Train a student or adapt the teacher, read the figures, throw the folder away; of the first seed also latencies."""
    folder = work / run.slug
    own = [*run.flags, "--seed", str(run.seed), "--threads", "1", "--overwrite", "--out", str(folder)]
    seconds = command("distill.adaptation.cli", own, work) if RUNS[run.method][0] == "teacher" else rd_distill(own, work)
    row = {**run.row(work), **figures(folder), "processor_s": round(seconds)}
    if run.method in TIMED and run.seed == 0:
        artifact = work / f"{run.slug}-artifact"
        command("export.cli", ["--target", "onnx", "--student-dir", str(folder), "--out", str(artifact), "--overwrite"], work)
        if all((work / f"{Run(SETTING, method, 0, ()).slug}-artifact").is_dir() for method in TIMED):
            row["latency"] = latencies([work / f"{Run(SETTING, method, 0, ()).slug}-artifact" for method in TIMED], work)
    shutil.rmtree(folder)
    return row


def latencies(artifacts: list[Path], work: Path) -> list[dict[str, Any]]:
    """Rows of rd-bench over both artifacts, interleaved, one thread."""
    report = work / "solid-bench"
    command("runtimes.bench.cli", [*map(str, artifacts), "--mixed", "--threads", "1", "--out", str(report), "--overwrite"], work)
    rows = json.loads((report / "report.json").read_text())["rows"]
    return [{name: row.get(name) for name in ("artifact", "p50_ms", "p90_ms", "batch", "threads", "path")} for row in rows]


def table(rows: list[dict[str, Any]], split: str) -> str:
    """Markdown: mean AUROC (sd over seeds), difference to the 3D student alone with its interval, cost."""
    values = scores(rows, SETTING, split)
    lines = ["| run | seeds | parameters | MACs | AUROC | minus 3D vanilla | probe of the teacher | processor s a run |",
             "|---|---|---|---|---|---|---|---|"]
    for method, seeds in values.items():
        own = [row for row in rows if row["method"] == method]
        probe = points([row["splits"][split]["probe"]["auroc"] for row in own if "probe" in row["splits"][split]])
        gain = "" if method == TIMED[0] else told(paired(seeds, values.get(TIMED[0], {})))
        lines.append(f"| {method} | {len(seeds)} | {own[0]['params'] / 1e6:.2f} M | {own[0]['macs'] / 1e6:,.0f} M | "
                     f"{points([value / 100 for value in seeds.values()])} | {gain} | {probe} | "
                     f"{min(row['processor_s'] for row in own)} to {max(row['processor_s'] for row in own)} |")
    for row in (row for row in rows if row.get("latency")):
        times = {entry["artifact"]: entry["p50_ms"] for entry in row["latency"] if entry["batch"] == 1 and entry["path"] == "array"}
        lines += ["", "One volume, one thread, ONNX Runtime, both in one run of rd-bench: " + ", ".join(
            f"{Path(name).name.removesuffix('-seed-0-artifact')} {p50:.1f} ms" for name, p50 in times.items())]
    return "\n".join(lines)


if __name__ == "__main__":
    conduct(__doc__ or "", "solid", runs, perform, table)
