"""Whether parity catches a spoilt graph: every fault into the exported graph of a trained phantom student, through rd-export itself.

Owns: the table of faults by target and precision, P-12 (noise on weights fails parity and costs no time). Does not own: the faults
(faults.py), the student (deployment/decisions.py), the verdict (export/parity/check.py).

    python -m benchmarks.robustness.sabotage
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import statistics
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.deployment.decisions import trained
from benchmarks.record import RESULTS, RUNS, facts, store
from benchmarks.robustness.faults import FAULTS, Edit, edited, noisy_weights
from export import commands
from export.config import ExportSettings
from export.precision.pace import pace as in_turn
from export.targets import lowering
from runtimes.backends.ort import OrtSession
from runtimes.errors import DONE, PARITY, finish
from runtimes.files.folder import read_json

INPUT_SIZE = "224x224"  # a resize in the graph, so that its antialiasing can be spoilt
CELLS = (("onnx", "fp32"), ("onnx", "fp16"), ("openvino", "fp32"))
TOO_SMALL = {("bias of one class + 0.001", "fp16")}  # a hundredth of what fp16 itself may move: passing is right
PAIRS, CALLS = 15, 300  # where a session's memory comes to lie is worth a few per cent: several pairs


@contextlib.contextmanager
def spoilt(edit: Edit | None) -> Iterator[None]:
    """Within the block every graph that rd-export has made is edited before it is written, proven and timed."""
    honest = lowering.lowered

    def lowered(*arguments: Any) -> Any:
        made = honest(*arguments)
        return made if edit is None else replace(made, data=edited(made.data, edit))

    commands.lowered = lowered  # type: ignore[attr-defined, assignment]  # the name that rd-export calls
    try:
        yield
    finally:
        commands.lowered = honest  # type: ignore[attr-defined]


def one(name: str, edit: Edit | None, student: Path, out: Path, target: Any, precision: Any) -> dict[str, Any]:
    """Exit code and what was said of one fault in one target and precision."""
    settings = ExportSettings(target=(target,), precision=precision, student_dir=student, out=out, overwrite=True, samples=5,
                              input_size=INPUT_SIZE, keep_upcast=True)
    said = io.StringIO()
    with spoilt(edit), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = finish(lambda: commands.export(settings))
    found = re.search(r"(\d+) images, (\d+) flips .*?logits within ([^,]+),", said.getvalue())
    expected = DONE if edit is None or (name, precision) in TOO_SMALL else PARITY
    return {"fault": name, "target": target, "precision": precision, "exit_code": code, "expected": expected,
            "images": int(found[1]) if found else None, "flips": int(found[2]) if found else None,
            "logits_within": found[3] if found else None, "said": said.getvalue().strip().splitlines()[-1] if code else ""}


def pace(artifact: Path) -> dict[str, Any]:
    """Time of the graph with noisy weights over the healthy one, call by call in turn, for several pairs of fresh sessions."""
    from onnx import TensorProto, numpy_helper

    data = (artifact / "model.onnx").read_bytes()
    image = numpy_helper.to_array(TensorProto.FromString((artifact / "test_data_set_0" / "input_0.pb").read_bytes()))[:1].copy()
    noisy, ratios = edited(data, noisy_weights), []
    for _ in range(PAIRS):
        one, other = OrtSession(noisy, threads=1), OrtSession(data, threads=1)
        ratios.append(in_turn(one, other, image, calls=CALLS))
        one.close()
        other.close()
    return {"noisy_over_healthy": statistics.median(ratios), "by_pair": ratios, "calls_a_pair": CALLS}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a row a fault, a column a target and precision."""
    lines = ["| fault | " + " | ".join(f"{target} {precision}" for target, precision in CELLS) + " |", "|---" * (len(CELLS) + 1) + "|"]
    for name in dict.fromkeys(row["fault"] for row in rows):
        cells = [next(row for row in rows if (row["fault"], row["target"], row["precision"]) == (name, *cell)) for cell in CELLS]
        lines.append(f"| {name} | " + " | ".join(f"exit {row['exit_code']}: {row['flips']} flips, logits by {row['logits_within']}"
                                                 for row in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Train the student unless it is there, spoil and export it, print the table, store results/sabotage.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=RUNS / "decisions")
    parser.add_argument("--pace", action="store_true", help="measure the time alone, keep the stored table")
    parser.add_argument("--table", action="store_true", help="print the stored table, run nothing")
    given = parser.parse_args()
    path = RESULTS / "sabotage.json"
    if given.table:
        kept = read_json(path)
    elif given.pace:
        kept = {**read_json(path), "pace": pace(given.work.resolve() / "sabotage-onnx-fp32")}
        store(path, kept)
    else:
        work = given.work.resolve()
        work.mkdir(parents=True, exist_ok=True)
        os.chdir(work)
        student, rows = trained("phantom", work), []
        for target, precision in CELLS:
            for name, edit in {"none: healthy": None, **FAULTS}.items():
                rows.append(one(name, edit, student, work / f"sabotage-{target}-{precision}", target, precision))
                print(f"{target} {precision}, {name}: exit {rows[-1]['exit_code']}, expected {rows[-1]['expected']}", flush=True)
        kept = {"rows": rows, "pace": pace(work / "sabotage-onnx-fp32"), **facts()}
        store(path, kept)
    print(table(kept["rows"]))
    found = kept["pace"]
    print(f"\n10 % noise on weights: {found['noisy_over_healthy']:.3f} of the healthy graph's time (median of {len(found['by_pair'])} "
          f"pairs of sessions, {min(found['by_pair']):.3f} to {max(found['by_pair']):.3f}, call by call in turn)")
    wrong = [row for row in kept["rows"] if row["exit_code"] != row["expected"]]
    for row in wrong:
        print(f"NOT AS EXPECTED: {row['fault']}, {row['target']} {row['precision']}: exit {row['exit_code']}")
    sys.exit(bool(wrong) or not 0.95 <= found["noisy_over_healthy"] <= 1.05)


if __name__ == "__main__":
    main()
