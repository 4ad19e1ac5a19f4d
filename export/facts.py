"""What an artifact and its graph say about themselves: facts, metadata_props, the manifest's record, whether it is finished.

Owns: names of those facts, and that of what a user typed only numbers, choices and public names are among them: a folder's name may be
a patient's. Does not own: which names are public (distill/public_names.py), writing them (commands.py).
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from distill.checkpoint import Checkpoint
from distill.models import count_parameters
from distill.public_names import public_teacher
from export.config import ExportSettings
from runtimes.agreement import TOLERANCES
from runtimes.flags import record
from runtimes.folder import MANIFEST, changed_files, read_json, sha256_file
from runtimes.schema import check, mapping_of, number, object_of, whole

MODEL = "model.onnx"
FIGURE = object_of({}, {key: number(-1e9, 1e9) for key in ("value", "low", "high")}, others=True)
BRANCH = object_of({}, {key: FIGURE for key in ("auroc", "accuracy", "balanced_accuracy", "f1", "kappa", "ece")}, others=True)
METRICS = object_of({}, {"splits": mapping_of(object_of({"n": whole(0, 10**9)}, {"student": BRANCH, "teacher": BRANCH}, others=True))},
                    others=True)
MODELS = {"onnx": MODEL, "openvino": "openvino_model.xml", "trt": "model.engine"}
# What an artifact keeps of the settings it was made with: all but paths, which are kept as a word in brackets or not at all.
KEPT = ("target", "precision", "input", "input_size", "opset", "parity_images", "parity_pictures", "golden", "golden_images", "max_batch",
        "samples", "calibration", "calibration_images", "sensitivity", "max_flips", "max_auc_drop", "keep_slower", "keep_upcast", "gpu",
        "on_device", "device", "threads", "seed")
CHOICES = re.compile(r"onnx|openvino|trt|executorch|auto|fp32|fp16|bf16|int8|image|images|tensor|synthetic|minmax|entropy|percentile"
                     r"|cpu|cuda|gpu|npu|sm\d{2,3}|\d{1,5}[xX]\d{1,5}|[\d.]{1,12}\s?%?")
OUT = re.compile(r"artifact(-(onnx|openvino|trt|fp32|fp16|bf16|int8))*")
SHA256 = re.compile(r"[0-9a-f]{64}")


def facts_of(checkpoint: Checkpoint, settings: ExportSettings) -> dict[str, Any]:
    """What artifact and graph say about themselves."""
    manifest, spec = checkpoint.manifest, checkpoint.spec
    licences = read_json(settings.student_dir / "config.json").get("rd", {}).get("licences", {})
    return {
        "task": spec.task, "classes": list(spec.classes), "image": checkpoint.image_spec.as_dict(),
        "input": settings.input, "graph_size": list(graph_size(checkpoint, settings)),
        "temperatures": list(checkpoint.calibration.temperatures), "thresholds": list(checkpoint.calibration.thresholds),
        **({"not_calibrated": checkpoint.calibration.not_calibrated} if checkpoint.calibration.not_calibrated else {}),
        "student": spec.arch, "parameters": count_parameters(checkpoint.model),
        "weights_sha256": manifest.get("files", {}).get("model.safetensors", ""),
        "teacher": manifest.get("teacher_public") or public_teacher(str(manifest.get("teacher") or "no teacher")),
        "licences": dict(licences),
        "synthetic": bool(manifest.get("synthetic", False)),
    }


def metadata(checkpoint: Checkpoint, settings: ExportSettings) -> dict[str, str]:
    """The metadata_props of the graph: everything a program needs that has nothing but this one file."""
    facts = facts_of(checkpoint, settings)
    calibration = {key: facts.pop(key) for key in ("temperatures", "thresholds", "not_calibrated") if key in facts}
    content = {**facts, "calibration": calibration, "format": 1, "precision": settings.precision}
    texts = {f"rd.{key}": value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
             for key, value in content.items()}
    # `names` is what viewers and other toolkits look for: index to class.
    return {**texts, "names": str(dict(enumerate(facts["classes"])))}


def manifest_facts(checkpoint: Checkpoint, settings: ExportSettings, command: str, parity_images: str | None = None) -> dict[str, Any]:
    """The artifact's record: how it was made, from what, and what it is.

    command: what was typed, empty where nothing was; it ships as its settings tell it. parity_images: the digest of all images at hand.
    """
    packages = ["torch", "timm", "onnx", "onnxscript", "onnxruntime", "numpy"]
    packages += ["openvino"] * (settings.runtime == "openvino")
    return {
        "command": kept_command(settings) if command else "", "scores": scores_of(settings.student_dir),
        "settings": kept_settings(settings), "versions": {name: version(name) for name in packages},
        "parents": {"student": sha256_file(settings.student_dir / MANIFEST), **parents_of(checkpoint.manifest),
                    "parity_images": parity_images},
        "artifact": {**facts_of(checkpoint, settings), "target": settings.runtime, "precision": settings.precision,
                     "model": MODELS[settings.runtime], "opset": settings.opset, "tolerance": TOLERANCES[settings.precision]},
    }


def parents_of(student: Mapping[str, Any]) -> dict[str, str | None]:
    """What a student's manifest says it came from: hashes, and nothing else that may stand there."""
    held = student.get("parents", {})
    return {key: held[key] if SHA256.fullmatch(str(held.get(key))) else None for key in ("teacher", "images")}


def scores_of(student_dir: Path) -> dict[str, Any]:
    """AUROC of the student and of its teacher on the test split (validation where there is none), for whoever weighs it against latency."""
    splits = read_metrics(student_dir).get("splits", {})
    for split in ("test", "val"):
        told = {branch: found["auroc"] for branch, found in splits.get(split, {}).items() if isinstance(found, dict) and "auroc" in found}
        if "student" in told:
            return {"split": split, "n": splits[split]["n"], **told}
    return {}


def read_metrics(student_dir: Path) -> dict[str, Any]:
    """A student's metrics.json, as far as an artifact repeats it; empty where there is none."""
    path = student_dir / "metrics.json"
    metrics = read_json(path) if path.is_file() else {}
    check(metrics, METRICS, str(path), "distil the student again")
    return metrics


def kept_settings(settings: ExportSettings) -> dict[str, Any]:
    """The settings that make an artifact, as its manifest keeps them: numbers and choices; of paths only that they were given."""
    values = record(settings)
    own = f"artifact-{settings.runtime}-{settings.precision}"
    return {"student_dir": "<student>", "data": None if settings.data is None else "<data>",
            "out": name if OUT.fullmatch(name := settings.folder().name) else own, **{key: _kept(key, values[key]) for key in KEPT}}


def kept_command(settings: ExportSettings) -> str:
    """The command that makes such an artifact, from the settings that are kept: nothing of it was typed by a user."""
    usual = kept_settings(ExportSettings(target=settings.target, precision=settings.precision))
    flags = [f"--target={settings.runtime}", f"--precision={settings.precision}"]
    for key, value in kept_settings(settings).items():
        flag = key.replace("_", "-")
        if value == usual[key]:
            continue
        if isinstance(value, list):
            flags += [f"--{flag}", *value]
        else:
            flags.append(f"--{flag if value is not False else 'no-' + flag}" + ("" if isinstance(value, bool) else f"={value}"))
    return shlex.join(["rd-export", *flags])


def _kept(key: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_kept(key, one) for one in value]
    return value if not isinstance(value, str) or CHOICES.fullmatch(value) else f"<{key}>"


def finished(out: Path, settings: ExportSettings) -> bool:
    """Whether a folder is the whole artifact of this very student and these settings."""
    if not (out / MANIFEST).is_file() or not (settings.student_dir / MANIFEST).is_file():
        return False
    manifest = read_json(out / MANIFEST)
    parents = manifest.get("parents")
    return (manifest.get("kind") == "artifact" and manifest.get("settings") == kept_settings(settings)
            and isinstance(parents, dict) and parents.get("student") == sha256_file(settings.student_dir / MANIFEST)
            and isinstance(manifest.get("files"), dict) and not changed_files(out, manifest))


def proven_on(out: Path) -> str | None:
    """The digest of the images that an artifact's parity was shown on."""
    digest: str | None = read_json(out / MANIFEST).get("parents", {}).get("parity_images")
    return digest


def graph_size(checkpoint: Checkpoint, settings: ExportSettings) -> tuple[int, int]:
    """Height and width of the images the graph takes."""
    return settings.graph_size() or (checkpoint.image_spec.height, checkpoint.image_spec.width)
