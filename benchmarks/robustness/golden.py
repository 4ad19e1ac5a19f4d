"""Whether drawn golden vectors prove as much as validation images: a changed graph under a manifest that agrees, found by which?

Owns: the changes of weights and temperatures, the table. Does not own: faults by structure (faults.py), damaged bytes, which hashes find
(tamper.py, mutants.py), the vectors (export/parity/golden.py). Every change is made to the same model and judged by rd-verify's own
`verify`.

    python -m benchmarks.robustness.golden --student demo/student
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, numpy_helper

from benchmarks.record import RESULTS, command_line, facts, store
from benchmarks.robustness import small_artifact
from benchmarks.robustness.cases.folders import agreed
from benchmarks.robustness.faults import FAULTS, Edit, edited
from runtimes.errors import DONE, UserError
from runtimes.files.folder import read_json
from runtimes.verify import verify

KINDS = ("synthetic", "images")


def weights(model: ModelProto) -> list[Any]:
    """The constants that layers multiply by or add."""
    read = {name for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul") for name in node.input[1:]}
    return [one for one in model.graph.initializer if one.name in read and one.name not in ("rows", "columns")]


def changed(random: np.random.Generator, change: Callable[[np.ndarray, np.random.Generator], None]) -> Edit:
    """An edit of one tensor drawn at random."""
    def edit(model: ModelProto) -> None:
        found = weights(model)
        tensor = found[int(random.integers(len(found)))]
        values = numpy_helper.to_array(tensor).copy()
        change(values, random)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    return edit


def one_value(values: np.ndarray, random: np.random.Generator) -> None:
    """One weight, by as much as its tensor spreads."""
    place = tuple(int(random.integers(side)) for side in values.shape)
    step = max(float(values.astype(np.float64).std()), 1.0 if values.dtype.kind in "iu" else 1e-3)
    values[place] = (np.clip(int(values[place]) + round(step), *(lambda kind: (kind.min, kind.max))(np.iinfo(values.dtype)))
                     if values.dtype.kind in "iu" else values[place] + step)


def one_channel(values: np.ndarray, random: np.random.Generator) -> None:
    """All weights of one output channel off."""
    values[int(random.integers(len(values)))] = 0


def one_tensor(values: np.ndarray, random: np.random.Generator) -> None:
    """All weights of a layer 1 % larger, or of an integer layer a tenth of them a step."""
    if values.dtype.kind in "iu":
        values[random.random(values.shape) < 0.1] ^= 1
    else:
        values *= np.asarray(1.01, values.dtype)


CHANGES = {"one weight": one_value, "one channel off": one_channel, "one layer by 1 %": one_tensor}


def caught(artifact: Path, data: bytes) -> bool:
    """Whether the self-test refuses the artifact with another model under a manifest that agrees."""
    agreed(artifact, "model.onnx", data)
    try:
        return verify(artifact, threads=1)[0] != DONE
    except UserError:
        return True


def measured(student: Path, precision: str, flags: list[str], count: int, work: Path) -> list[dict[str, Any]]:
    """Rows of a student in a precision: for every change how often it was made and found by either kind of golden vectors."""
    made = {}
    for kind in KINDS:
        made[kind] = work / f"{student.name}-{precision}-{kind}"
        done = small_artifact.typed("export.cli", "--student-dir", str(student.resolve()), "--out", str(made[kind]),
                                    "--precision", precision, "--golden", kind, "--samples", "5", "--keep-slower", "--keep-upcast",
                                    "--max-flips", "20%", *flags)
        if done.returncode:
            sys.exit(f"{student} {precision}: exit {done.returncode}\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
    if any(verify(folder, threads=1)[0] != DONE for folder in made.values()):
        sys.exit(f"{student} {precision}: the whole artifact is refused")
    data, random = (made["images"] / "model.onnx").read_bytes(), np.random.default_rng(0)
    edits = [(name, edit) for name, edit in FAULTS.items() if precision != "int8"]  # those look for the layers of a float graph
    edits += [(name, changed(random, change)) for name, change in CHANGES.items() for _ in range(count)]
    found: dict[str, list[int]] = {}
    for name, edit in edits:
        try:
            spoilt = edited(data, edit)
        except AssertionError:  # a graph without this constant, such as one without a resize
            continue
        if spoilt == data:
            continue
        row = found.setdefault(name, [0, 0, 0])
        row[0] += 1
        for place, kind in enumerate(KINDS, 1):
            row[place] += caught(made[kind], spoilt)
    about = {"student": student.name, "precision": precision, "classes": len(read_json(student / "metrics.json")["classes"])}
    return [{**about, "change": name, "made": row[0], **dict(zip(KINDS, row[1:], strict=True))} for name, row in found.items()]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a row a change, summed over students."""
    lines = ["| precision | change | made | found by drawn patterns | found by validation images |", "|---|---|---|---|---|"]
    for precision, name in dict.fromkeys((row["precision"], row["change"]) for row in rows):
        same = [row for row in rows if (row["precision"], row["change"]) == (precision, name)]
        lines.append(f"| {precision} | {name} | " + " | ".join(str(sum(row[key] for row in same)) for key in ("made", *KINDS)) + " |")
    return "\n".join([*lines, "| all | | " + " | ".join(str(sum(row[key] for row in rows)) for key in ("made", *KINDS)) + " |"])


def main() -> None:
    """Export students twice, change each graph, print and store who found what; exit 1 where images found more."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", type=Path, nargs="*", default=[], help="students; a small one of the phantom when not given")
    parser.add_argument("--precision", nargs="*", default=["fp32", "fp16", "int8"])
    parser.add_argument("--input-size", help="bake a resize in, so that its antialiasing can be spoilt")
    parser.add_argument("--count", type=int, default=40, help="changes of each kind in each graph")
    parser.add_argument("--out", type=Path, default=RESULTS / "golden.json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work, rows = Path(name), list[dict[str, Any]]()
        for student in given.student or [small_artifact.student(work)]:
            for precision in given.precision:
                flags = ["--input-size", given.input_size] if given.input_size else []
                rows += measured(student, precision, flags, given.count, work)
                print(table(rows), flush=True)
    store(given.out, {"format": 1, "command": command_line(), "facts": facts(), "rows": rows})
    drawn, real = (sum(row[kind] for row in rows) for kind in KINDS)
    sys.exit(drawn < real)


if __name__ == "__main__":
    main()
