"""Every kind of student through every target and precision: built or refused and why, parity, size, speed against fp32 ONNX Runtime.

Owns: the students of the matrix, a row per artifact, the table. Does not own: exporting (export/), training (rd-distill). Students are
trained shortly on the phantom: what is tried is whether an artifact decides as its student does, not how well that is.

    python -m benchmarks.deployment.targets
    python -m benchmarks.deployment.targets --only resnet18 vit-tiny --target openvino
    python -m benchmarks.deployment.targets --table
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.commands import rd_distill
from benchmarks.record import RESULTS, RUNS, SHARED, facts, read_rows
from export.commands import export
from export.config import ExportSettings
from export.precision.pace import pace
from runtimes.artifact.artifact import Artifact, read_artifact
from runtimes.artifact.targets import Runtime
from runtimes.backends.ort import OrtSession
from runtimes.errors import UserError
from runtimes.session import open_runtime

STUDENTS: dict[str, tuple[str, ...]] = {
    "mobilenetv3-large": ("mobilenetv3",), "mobilenetv3-small": ("mobilenetv3-small",), "mobilenetv4-small": ("mobilenetv4-small",),
    "efficientnet-lite0": ("efficientnet-lite0",), "resnet18": ("resnet18",), "shufflenetv2": ("shufflenetv2",), "repvit": ("repvit",),
    "convnext-atto": ("convnext-atto",), "edgenext": ("edgenext_xx_small",), "fastvit": ("fastvit_t8",), "vit-tiny": ("vit-tiny",),
    "efficientnet-lite0, half its MACs": ("efficientnet-lite0", "--max-macs", "35M"),
}
TARGETS = ("onnx", "openvino", "trt")
PRECISIONS = ("fp32", "fp16", "int8")
TRAINING = ("--data", str(SHARED / "pneumoniamnist_rebuilt.npz"), "--size", "96", "--method", "vanilla", "--epochs", "2", "--min-steps",
            "300", "--lr", "1e-3", "--bootstrap", "20", "--threads", "1")
KEPT = ("images", "flips", "flip_bound", "max_logit_difference", "max_probability_difference", "auroc_difference", "precision_share",
        "executed_share")


def folder_of(name: str, work: Path) -> Path:
    """Where a student of the matrix lies."""
    return work / "".join(letter if letter.isalnum() else "-" for letter in name)


def trained(name: str, work: Path) -> Path:
    """The folder of a student of the matrix, trained unless it is there."""
    folder = folder_of(name, work)
    if not (folder / "manifest.json").is_file():
        rd_distill([*TRAINING, "--student", *STUDENTS[name], "--out", str(folder), "--overwrite"], work)
    return folder


def one(name: str, student: Path, target: Any, precision: Any) -> dict[str, Any]:
    """Export one artifact as a user would, but for the two refusals that ask for another machine, and measure it."""
    out, start = student.parent / f"{student.name}-{target}-{precision}", time.monotonic()
    row: dict[str, Any] = {"student": name, "target": target, "precision": precision}
    try:
        export(ExportSettings(target=(target,), precision=precision, student_dir=student, out=out, overwrite=True, parity_images=200,
                              calibration_images=100, samples=100, keep_slower=True, keep_upcast=True))
    except UserError as error:
        return {**row, "built": False, "exit_code": error.exit_code, "reason": str(error)}
    seconds = time.monotonic() - start
    proof = json.loads((out / "parity.json").read_text())
    manifest = json.loads((out / "manifest.json").read_text())
    artifact = read_artifact(out)
    row |= {"built": True, "export_seconds": round(seconds, 1), "bytes": artifact.model_path.stat().st_size + weights_bytes(artifact),
            **times(artifact, student), **{key: proof[key] for key in KEPT}}
    lowering = manifest.get("lowering", {})
    row |= {"quantised_by": lowering.get("quantised_by"), "layers_in_float": len(lowering.get("layers_in_float") or ())}
    return row | (engines(out) if target == "trt" else {})


def engines(out: Path) -> dict[str, Any]:
    """Seconds of building an artifact's engine again, ahead of time for the RTX GPUs of the edge: for batches 1 to 8, and for 1 alone."""
    from export.targets.to_tensorrt import RTX_EDGE, build_engine

    data = (out / "model.onnx").read_bytes()
    open_, static = (build_engine(data, max_batch=most, gpus=RTX_EDGE) for most in (8, 1))
    return {"engine_seconds": round(open_.seconds, 1), "static_engine_seconds": round(static.seconds, 1), "gpus": list(open_.facts["gpus"])}


def weights_bytes(artifact: Artifact) -> int:
    """Bytes of the file of weights beside an OpenVINO model."""
    beside = artifact.model_path.with_suffix(".bin")
    return beside.stat().st_size if beside.is_file() else 0


def times(artifact: Artifact, student: Path) -> dict[str, float | None]:
    """An artifact's time; for an engine, without its GPU, that of the ONNX beside it, which ONNX Runtime runs as well."""
    if artifact.target == "trt":
        return {"over_fp32_ort": None, "its_onnx_over_fp32_ort": over_fp32_ort(artifact, student)}
    return {"over_fp32_ort": over_fp32_ort(artifact, student)}


def over_fp32_ort(artifact: Artifact, student: Path) -> float:
    """Median time of a call over that of the student's fp32 graph in ONNX Runtime, turn by turn."""
    beside = artifact.model_path.with_name("model.onnx")
    runtime: Runtime = OrtSession(beside, threads=1) if artifact.target == "trt" else open_runtime(artifact, threads=1)
    whole = open_runtime(read_artifact(student.parent / f"{student.name}-onnx-fp32"), threads=1)
    spec = artifact.image_spec
    batch = (np.random.default_rng(0).integers(0, 256, (1, *artifact.graph_size, spec.channels), dtype=np.uint8),)
    try:
        return round(float(np.median([pace(runtime, whole, batch, 40) for _ in range(3)])), 3)
    finally:
        runtime.close()
        whole.close()


def timed_again(path: Path, work: Path) -> None:
    """Put new ratios of time into the rows whose artifacts still lie in the work folder."""
    rows = read_rows(path)
    for row in rows:
        student = folder_of(row["student"], work)
        out = work / f"{student.name}-{row['target']}-{row['precision']}"
        if row["built"] and (out / "manifest.json").is_file():
            row |= times(read_artifact(out), student)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def eight_bits(found: dict[tuple[str, str, str], dict[str, Any]]) -> list[str]:
    """What int8 for processors (7-bit weights, unsigned activations) is worth beside the pairs that TensorRT needs, in ONNX Runtime."""
    pairs = [(found.get((name, "trt", "int8"), {}).get("its_onnx_over_fp32_ort"),
              found.get((name, "onnx", "int8"), {}).get("over_fp32_ort")) for name in STUDENTS]
    ratios = [theirs / ours for theirs, ours in pairs if theirs and ours]
    if not ratios:
        return []
    return [f"- int8 as TensorRT takes it (8 bits, symmetric) needs {np.median(ratios):.2f} times as long in ONNX Runtime here as int8 for "
            f"processors (median of {len(ratios)} students, {min(ratios):.2f} to {max(ratios):.2f})."]


def cell(row: dict[str, Any] | None) -> str:
    """One artifact in few words: flips, megabytes, time over fp32 ONNX Runtime."""
    if row is None:
        return ""
    if not row["built"]:
        return f"refused (exit {row['exit_code']})"
    speed = f", {row['over_fp32_ort']:.2f}" if row["over_fp32_ort"] is not None else ""
    return f"{row['flips']} flips, {row['bytes'] / 1e6:.1f} MB{speed}"


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line per student and target, a column per precision; refusals with their reasons below."""
    found = {(row["student"], row["target"], row["precision"]): row for row in rows}
    lines = [f"| student | target | {' | '.join(PRECISIONS)} | layers of int8 in float |", f"|{'---|' * (len(PRECISIONS) + 3)}"]
    for name in STUDENTS:
        for target in TARGETS:
            here = [found.get((name, target, precision)) for precision in PRECISIONS]
            if any(here):
                last = here[-1] or {}
                lines.append(f"| {name} | {target} | {' | '.join(cell(row) for row in here)} | {last.get('layers_in_float', '')} |")
    refused = [f"- {row['student']}, {row['target']}, {row['precision']}: exit {row['exit_code']}: {row['reason']}"
               for row in rows if not row["built"]]
    built = [row[key] for row in rows if row.get("engine_seconds") for key in ("engine_seconds", "static_engine_seconds")]
    said = [f"- P-10: {len(built)} engines built without a GPU, for batches 1 to 8 and for 1 alone, the slowest in "
            f"{max(built, default=0):.1f} s."]
    return "\n".join([*lines, "", *(refused or ["- No artifact was refused."]), *(said if built else []), *eight_bits(found)])


def main() -> None:
    """Export what has no row yet, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(STUDENTS), choices=list(STUDENTS), metavar="STUDENT")
    parser.add_argument("--target", nargs="*", default=TARGETS, choices=TARGETS)
    parser.add_argument("--work", type=Path, default=RUNS / "targets")
    parser.add_argument("--rows", type=Path, default=RESULTS / "targets.jsonl")
    parser.add_argument("--pace", action="store_true", help="time the artifacts of finished rows again, export none")
    parser.add_argument("--table", action="store_true", help="print the table of finished rows and run nothing")
    given = parser.parse_args()
    if given.pace:
        timed_again(given.rows, given.work.resolve())
    elif not given.table:
        work = given.work.resolve()
        work.mkdir(parents=True, exist_ok=True)
        done = {(row["student"], row["target"], row["precision"]) for row in read_rows(given.rows)}
        machine = facts()
        for name in given.only:
            for target in given.target:
                for precision in PRECISIONS:
                    if (name, target, precision) in done:
                        continue
                    row = one(name, trained(name, work), target, precision)
                    with given.rows.open("a") as file:
                        file.write(json.dumps(row | {"cpu": machine["cpu"], "code_sha256": machine["code_sha256"]}) + "\n")
                        os.fsync(file.fileno())
    print(table(read_rows(given.rows)))


if __name__ == "__main__":
    main()
