"""What an artifact and its graph say about themselves: facts, metadata_props, the manifest's record, whether it is finished.

Owns: names of those facts, and that none of them is a path of this machine. Does not own: writing them (commands.py).
"""

from __future__ import annotations

import json
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

from distill.checkpoint import Checkpoint
from distill.models import count_parameters
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


def facts_of(checkpoint: Checkpoint, settings: ExportSettings) -> dict[str, Any]:
    """What artifact and graph say about themselves; names only, never a path of this machine."""
    manifest, spec = checkpoint.manifest, checkpoint.spec
    licences = read_json(settings.student_dir / "config.json").get("rd", {}).get("licences", {})
    return {
        "task": spec.task, "classes": list(spec.classes), "image": checkpoint.image_spec.as_dict(),
        "input": settings.input, "graph_size": list(graph_size(checkpoint, settings)),
        "temperatures": list(checkpoint.calibration.temperatures), "thresholds": list(checkpoint.calibration.thresholds),
        **({"not_calibrated": checkpoint.calibration.not_calibrated} if checkpoint.calibration.not_calibrated else {}),
        "student": spec.arch, "parameters": count_parameters(checkpoint.model),
        "weights_sha256": manifest.get("files", {}).get("model.safetensors", ""),
        "teacher": bare_name(manifest.get("teacher") or "no teacher"), "licences": dict(licences),
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


def manifest_facts(checkpoint: Checkpoint, settings: ExportSettings, command: str) -> dict[str, Any]:
    """The artifact's record: how it was made, from what, and what it is."""
    packages = ["torch", "timm", "onnx", "onnxscript", "onnxruntime", "numpy"]
    packages += ["openvino"] * (settings.runtime == "openvino")
    return {
        "command": shlex.join(_bare_flag(part) for part in shlex.split(command)),  # it ships: no path of this machine
        "scores": scores_of(settings.student_dir),
        "settings": kept_settings(settings), "versions": {name: version(name) for name in packages},
        "parents": {"student": sha256_file(settings.student_dir / MANIFEST), **checkpoint.manifest.get("parents", {})},
        "artifact": {**facts_of(checkpoint, settings), "target": settings.runtime, "precision": settings.precision,
                     "model": MODELS[settings.runtime], "opset": settings.opset, "tolerance": TOLERANCES[settings.precision]},
    }


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
    """The settings that make an artifact, as its manifest keeps them: names only, never a path of this machine."""
    return {key: Path(value).name if value and key in ("student_dir", "out", "data") else value
            for key, value in record(settings).items() if key not in ("config", "sign", "overwrite", "resume")}


def finished(out: Path, settings: ExportSettings) -> bool:
    """Whether a folder is the whole artifact of this very student and these settings."""
    if not (out / MANIFEST).is_file() or not (settings.student_dir / MANIFEST).is_file():
        return False
    manifest = read_json(out / MANIFEST)
    parents = manifest.get("parents")
    return (manifest.get("kind") == "artifact" and manifest.get("settings") == kept_settings(settings)
            and isinstance(parents, dict) and parents.get("student") == sha256_file(settings.student_dir / MANIFEST)
            and isinstance(manifest.get("files"), dict) and not changed_files(out, manifest))


def graph_size(checkpoint: Checkpoint, settings: ExportSettings) -> tuple[int, int]:
    """Height and width of the images the graph takes."""
    return settings.graph_size() or (checkpoint.image_spec.height, checkpoint.image_spec.width)


def _bare_flag(part: str) -> str:
    flag, equal, value = part.partition("=") if part.startswith("--") else ("", "", part)
    return flag + equal + bare_name(value)


def bare_name(value: Any) -> str:
    """The last part of what may be a path: a folder's name may stay, where it lay on this machine may not."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return Path(text).name if text.startswith(("/", "~", ".")) or "\\" in text else text
