"""What an artifact and its graph say about themselves: facts, metadata_props, the manifest's record, whether it is finished.

Owns: Student (a student's folder as an artifact repeats it), names of those facts, and that only public names are among them.
Does not own: which names are public (distill/teacher/public_names.py), which settings are kept (config.py), writing them (commands.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from distill.networks.checkpoint import Calibration, Checkpoint
from distill.networks.models import count_parameters
from distill.networks.tasks import documents, identity
from distill.teacher.public_names import public_teacher
from export.options import Build
from runtimes.agreement import TOLERANCES
from runtimes.artifact.targets import TARGETS
from runtimes.files.folder import MANIFEST, changed_files, read_json
from runtimes.files.schema import check, mapping_of, number, object_of, whole

MODEL = "model.onnx"
FIGURE = object_of({}, {key: number(-1e9, 1e9) for key in ("value", "low", "high")}, others=True)
BRANCH = object_of({}, {key: FIGURE for key in ("auroc", "accuracy", "balanced_accuracy", "f1", "kappa", "ece")}, others=True)
METRICS = object_of({}, {"splits": mapping_of(object_of({"n": whole(0, 10**9)}, {"student": BRANCH, "teacher": BRANCH}, others=True))},
                    others=True)
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Student:
    """A student's folder as an artifact repeats it: the model and its calibration, the hash of its manifest, licences, figures, config.

    Of an earlier task of a teacher's folder, what its own folder said; the hash is that of the manifest and the task's name.
    """

    checkpoint: Checkpoint
    manifest_sha256: str
    licences: Mapping[str, str]
    metrics: Mapping[str, Any]
    config: Mapping[str, Any]

    def calibrated(self, calibration: Calibration) -> Student:
        """The same student with the calibration of another precision."""
        return replace(self, checkpoint=replace(self.checkpoint, calibration=calibration))


def read_student(folder: Path, checkpoint: Checkpoint, task: str | None = None) -> Student:
    """What an artifact repeats of a student's folder, beside the checkpoint that was read from it; UserError for figures that cannot be."""
    config, metrics = documents(folder, task)
    check(metrics, METRICS, str(folder), "distil the student again")
    return Student(checkpoint, identity(folder, task), dict(config.get("rd", {}).get("licences", {})), metrics, config)


def facts_of(student: Student, build: Build) -> dict[str, Any]:
    """What artifact and graph say about themselves."""
    checkpoint = student.checkpoint
    manifest, spec = checkpoint.manifest, checkpoint.spec
    return {
        "task": spec.task, "classes": list(spec.classes), "image": checkpoint.image_spec.as_dict(),
        "input": build.input, "graph_size": list(graph_size(checkpoint, build)),
        "temperatures": list(checkpoint.calibration.temperatures), "thresholds": list(checkpoint.calibration.thresholds),
        **({"not_calibrated": checkpoint.calibration.not_calibrated} if checkpoint.calibration.not_calibrated else {}),
        "student": spec.arch, "parameters": count_parameters(checkpoint.model),
        "weights_sha256": manifest.get("files", {}).get("model.safetensors", ""),
        "teacher": manifest.get("teacher_public") or public_teacher(str(manifest.get("teacher") or "no teacher")),
        "licences": dict(student.licences),
        "synthetic": bool(manifest.get("synthetic", False)),
    }


def metadata(student: Student, build: Build) -> dict[str, str]:
    """The metadata_props of the graph: everything a program needs that has nothing but this one file."""
    facts = facts_of(student, build)
    calibration = {key: facts.pop(key) for key in ("temperatures", "thresholds", "not_calibrated") if key in facts}
    content = {**facts, "calibration": calibration, "format": 1, "precision": build.precision}
    texts = {f"rd.{key}": value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
             for key, value in content.items()}
    # `names` is what viewers and other toolkits look for: index to class.
    return {**texts, "names": str(dict(enumerate(facts["classes"])))}


def manifest_facts(student: Student, build: Build, *, command: str = "", settings: Mapping[str, Any] | None = None,
                   parity_images: str | None = None) -> dict[str, Any]:
    """The artifact's record: how it was made, from what, and what it is.

    command, settings: as they may ship; parity_images: the digest of all images at hand.
    """
    packages = ["torch", "timm", "onnx", "onnxscript", "onnxruntime", "numpy"]
    packages += [name for name in TARGETS[build.target].libraries if name not in packages]
    return {
        "command": command, "scores": scores_of(student.metrics),
        "settings": dict(settings or {}), "versions": {name: version(name) for name in packages},
        "parents": {"student": student.manifest_sha256, **parents_of(student.checkpoint.manifest), "parity_images": parity_images},
        "artifact": {**facts_of(student, build), "target": build.target, "precision": build.precision,
                     "model": TARGETS[build.target].model, "opset": build.opset, "tolerance": TOLERANCES[build.precision]},
    }


def parents_of(student: Mapping[str, Any]) -> dict[str, str | None]:
    """What a student's manifest says it came from: hashes, and nothing else that may stand there."""
    parents = student.get("parents", {})
    return {key: parents[key] if SHA256.fullmatch(str(parents.get(key))) else None for key in ("teacher", "images")}


def scores_of(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """AUROC of the student and of its teacher on the test split (validation where there is none), for whoever weighs it against latency."""
    splits = metrics.get("splits", {})
    for split in ("test", "val"):
        aurocs = {branch: scores["auroc"] for branch, scores in splits.get(split, {}).items()
                  if isinstance(scores, dict) and "auroc" in scores}
        if "student" in aurocs:
            return {"split": split, "n": splits[split]["n"], **aurocs}
    return {}


def finished(out: Path, student: str, settings: Mapping[str, Any]) -> bool:
    """Whether a folder is the whole artifact of this very student, by its hash, and these settings, as they are kept."""
    if not (out / MANIFEST).is_file() or not student:
        return False
    manifest = read_json(out / MANIFEST)
    parents = manifest.get("parents")
    return (manifest.get("kind") == "artifact" and manifest.get("settings") == settings
            and isinstance(parents, dict) and parents.get("student") == student
            and isinstance(manifest.get("files"), dict) and not changed_files(out, manifest))


def proven_on(out: Path) -> str | None:
    """The digest of the images that an artifact's parity was shown on."""
    digest: str | None = read_json(out / MANIFEST).get("parents", {}).get("parity_images")
    return digest


def graph_size(checkpoint: Checkpoint, build: Build) -> tuple[int, int]:
    """Height and width of the images the graph takes."""
    return build.size or (checkpoint.image_spec.height, checkpoint.image_spec.width)
