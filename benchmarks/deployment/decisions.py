"""Decisions of every target and precision against PyTorch on test images no export has seen: a phantom, a BUSI and an NIH student.

Owns: the three students, the figures of an artifact on a test split, checks P-1 to P-5 and U-5 on them. Does not own: exporting
(export/), the gate on validation images (export/precision/gate.py). An engine is judged by the ONNX it is made from, in ONNX Runtime.

    python -m benchmarks.deployment.decisions
    python -m benchmarks.deployment.decisions --only phantom --table
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.commands import rd_distill
from benchmarks.record import RESULTS, RUNS, SHARED, facts, read_rows
from distill.data.intake import images_for
from distill.evaluation.evaluate import auroc_difference
from distill.networks.checkpoint import load_checkpoint
from export.commands import export
from export.config import ExportSettings
from export.parity.answers import accepted, reference_logits
from export.parity.check import flip_bound
from runtimes.artifact.artifact import read_artifact
from runtimes.backends.ort import OrtSession
from runtimes.errors import UserError
from runtimes.scores import calibrated, decide
from runtimes.session import open_runtime

STUDENTS: dict[str, tuple[str, ...]] = {
    "phantom": ("--data", "phantom", "--phantom-images", "900", "150", "1000", "--student", "mobilenetv3-small", "--size", "96",
                "--method", "vanilla"),
    "BUSI": ("--data", str(SHARED / "busi_256px"), "--skip-bad-images", "--student", "mobilenetv3-small", "--size", "96",
             "--method", "vanilla"),
    "NIH": ("--data", str(SHARED / "nih_cxr14_1000_64px" / "labels.csv"), "--skip-bad-images", "--student", "mobilenetv3-small",
            "--size", "64", "--method", "vanilla"),
}
TRAINING = ("--epochs", "20", "--min-steps", "800", "--bootstrap", "20", "--threads", "1")
# target, precision, whether int8 may leave its most sensitive layers in float
CELLS = (("onnx", "fp32", True), ("onnx", "fp16", True), ("onnx", "int8", False), ("onnx", "int8", True), ("openvino", "fp32", True),
         ("openvino", "bf16", True), ("openvino", "fp16", True), ("openvino", "int8", False), ("openvino", "int8", True),
         ("trt", "int8", False), ("trt", "int8", True))
RESAMPLES = 2000


def trained(name: str, work: Path) -> Path:
    """The folder of a student, trained unless it is there."""
    folder = work / name.lower()
    if not (folder / "manifest.json").is_file():
        rd_distill([*STUDENTS[name], *TRAINING, "--out", str(folder), "--overwrite"], work)
    return folder


def one(name: str, student: Path, target: Any, precision: Any, sensitivity: bool) -> dict[str, Any]:
    """Export one artifact with the default gate and compare it with PyTorch on the test split."""
    kind = f"{precision}{'' if sensitivity else ', no sensitivity pass'}"
    row: dict[str, Any] = {"student": name, "target": target, "precision": kind}
    out = student.parent / f"{student.name}-{target}-{precision}-{'with' if sensitivity else 'without'}"
    try:
        export(ExportSettings(target=(target,), precision=precision, student_dir=student, out=out, overwrite=True, sensitivity=sensitivity,
                              samples=50, keep_slower=True, keep_upcast=True))
    except UserError as error:
        return {**row, "exit_code": error.exit_code, "reason": str(error)}
    return {**row, "exit_code": 0, **compared(out, student)}


def compared(out: Path, student: Path) -> dict[str, Any]:
    """Figures of an artifact against its student in PyTorch on the student's test images."""
    artifact, checkpoint = read_artifact(out), load_checkpoint(student, "student")
    images = images_for(checkpoint.manifest)
    rows = images.rows("test")
    taken = list(accepted(images.images, artifact, rows.tolist()))
    places = [one.row for one in taken]
    labels = images.labels[places]
    runtime = OrtSession(out / "model.onnx", threads=1) if artifact.target == "trt" else open_runtime(artifact, threads=1)
    logits = np.concatenate([runtime.run(one.batch)[0] for one in taken])
    runtime.close()
    expected = reference_logits(checkpoint.model, [one.inputs for one in taken])
    own = checkpoint.calibration
    p, q = calibrated(logits, artifact.task, artifact.temperatures), calibrated(expected, artifact.task, own.temperatures)
    same_scale = calibrated(logits, artifact.task, own.temperatures)
    here, there = decide(p, artifact.task, artifact.thresholds), decide(q, artifact.task, own.thresholds)
    changed = here != there
    distance = np.abs(logits.astype(np.float64) - expected).max()
    right = [_accuracy(found, labels) for found in (here, there)]
    lowering = artifact.manifest.get("lowering", {})
    held = json.loads((out / "parity.json").read_text())
    return {"n": len(places), "flips": int(changed.reshape(len(places), -1).any(axis=1).sum()), "changed": int(changed.sum()),
            "decisions": int(changed.size), "flip_bound": flip_bound(int(changed.sum()), int(changed.size)),
            "max_logit_difference": float(distance), "relative": float(distance / np.abs(expected).max()),
            "cosine": float((logits * expected).sum() / np.linalg.norm(logits) / np.linalg.norm(expected)),
            "mean_probability_change": float(np.abs(same_scale.astype(np.float64) - q).mean()),
            "auroc_change": auroc_difference(labels, p, q, artifact.task, n_bootstrap=RESAMPLES), "accuracy_change": right[0] - right[1],
            "layers_in_float": len(lowering.get("layers_in_float") or ()), "quantised_by": lowering.get("quantised_by"),
            "executed_share": held["executed_share"], "calibration_is_the_artifacts": calibration_of(out, artifact)}


def _accuracy(decisions: Any, labels: Any) -> float:
    known = labels >= 0
    return float((decisions[known] == labels[known]).mean())


def calibration_of(out: Path, artifact: Any) -> bool:
    """U-5: the temperatures and thresholds that the shipped file itself carries are those the manifest names beside its hash."""
    if artifact.target == "openvino":
        import openvino

        told = json.loads(openvino.Core().read_model(str(artifact.model_path)).get_rt_info(["rd", "calibration"]).astype(str))
    else:
        import onnx

        props = {one.key: one.value for one in onnx.load(out / "model.onnx").metadata_props}
        told = json.loads(props["rd.calibration"])
    return bool(np.allclose(told["temperatures"], artifact.temperatures) and np.allclose(told["thresholds"], artifact.thresholds))


def check(row: dict[str, Any]) -> str:
    """The check of DEPLOYMENT_NOTES 3 that a row answers, and how."""
    if row["exit_code"]:
        return f"refused (exit {row['exit_code']})"
    kind = row["precision"][:4]
    if kind == "fp32":
        good = row["max_logit_difference"] <= 1e-4 and row["relative"] <= 2e-5 and not row["changed"]
        return f"{'P-1' if row['target'] == 'onnx' else 'P-2'} {'pass' if good else 'FAIL'}"
    enough = "" if row["n"] >= 1000 else f" (on {row['n']})"
    if kind in ("fp16", "bf16"):
        good = row["relative"] <= 5e-2 and row["cosine"] >= 0.999 and row["changed"] <= 0.005 * row["decisions"]
        return f"P-3 {'pass' if good else 'FAIL'}{enough}"
    good = row["changed"] <= 0.02 * row["decisions"] and row["mean_probability_change"] <= 0.02
    return f"P-4 {'pass' if good else 'FAIL'}{enough}, P-5 {p5(row)}"


def p5(row: dict[str, Any]) -> str:
    """The paired bootstrap's answer: pass, FAIL, or undecided where the test split is too small to tell."""
    change = row["auroc_change"]
    if not change or change["value"] < -0.005 or row["accuracy_change"] < -0.01:
        return "FAIL"
    return "pass" if change["low"] >= -0.01 else "undecided"


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line an artifact, checks beside its figures; then reasons of refusals and U-5's count."""
    lines = ["| student (test images) | target | precision | decisions changed | logits, relative | probabilities | AUROC minus PyTorch | "
             "layers in float | checks |", f"|{'---|' * 9}"]
    for row in rows:
        if row["exit_code"]:
            lines.append(f"| {row['student']} | {row['target']} | {row['precision']} | | | | | | {check(row)} |")
            continue
        change = row["auroc_change"]
        auroc = f"{change['value']:+.4f} ({change['low']:+.4f} to {change['high']:+.4f})" if change else "undefined"
        lines.append(f"| {row['student']} ({row['n']}) | {row['target']} | {row['precision']} | {row['changed']} of {row['decisions']} | "
                     f"{row['relative']:.1e} | {row['mean_probability_change']:.4f} | {auroc} | "
                     f"{row['layers_in_float'] or ''} | {check(row)} |")
    good = [row for row in rows if not row["exit_code"]]
    lines += ["", *(f"- {row['student']}, {row['target']}, {row['precision']}: {row['reason'].split('; the nearest')[0]}" for row in rows
                   if row["exit_code"]),
              f"- U-5: {sum(row['calibration_is_the_artifacts'] for row in good)} of {len(good)} files carry their manifest's calibration."]
    return "\n".join(lines)


def main() -> None:
    """Export and compare what has no row yet, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(STUDENTS), choices=list(STUDENTS))
    parser.add_argument("--work", type=Path, default=RUNS / "decisions")
    parser.add_argument("--rows", type=Path, default=RESULTS / "decisions.jsonl")
    parser.add_argument("--table", action="store_true", help="print the table of finished rows and run nothing")
    given = parser.parse_args()
    if not given.table:
        work = given.work.resolve()
        work.mkdir(parents=True, exist_ok=True)
        done = {(row["student"], row["target"], row["precision"]) for row in read_rows(given.rows)}
        machine = facts()
        for name in given.only:
            for target, precision, sensitivity in CELLS:
                if (name, target, f"{precision}{'' if sensitivity else ', no sensitivity pass'}") in done:
                    continue
                row = one(name, trained(name, work), target, precision, sensitivity)
                with given.rows.open("a") as file:
                    file.write(json.dumps(row | {"cpu": machine["cpu"], "code_sha256": machine["code_sha256"]}) + "\n")
                    os.fsync(file.fileno())
    print(table(read_rows(given.rows)))


if __name__ == "__main__":
    main()
