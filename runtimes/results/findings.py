"""What a file was answered class by class, and by what: the content that a trace and a DICOM report share.

Owns: Finding, `findings_of`, Origin, `origin_of`, the hash of an image spec. Does not own: how decisions are taken (scores.py), files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtimes.artifact.artifact import Artifact
from runtimes.images.spec import ImageSpec
from runtimes.scores import Scores, Task


@dataclass(frozen=True)
class Finding:
    """One class as it was answered; threshold None: of all classes the one of the highest probability is decided."""

    name: str
    probability: float
    decided: bool
    threshold: float | None


@dataclass(frozen=True)
class Origin:
    """What answered: hashes of model and image spec, the runtime that really ran, the calibration."""

    model_sha256: str
    image_spec_sha256: str
    network: str
    target: str
    precision: str
    runtime: str
    version: str
    provider: str
    threads: int
    task: Task
    temperatures: tuple[float, ...]

    @property
    def rule(self) -> str:
        """How probabilities become decisions, in words."""
        return "probability at or above its threshold" if self.task == "multilabel" else "highest probability"


def findings_of(scores: Scores, thresholds: Sequence[float]) -> tuple[Finding, ...]:
    """The findings of the first of N images, a class each; probabilities as float32 holds them."""
    row = scores.probabilities[0].tolist()
    if scores.task == "multilabel":
        limits: list[float | None] = [float(limit) for limit in thresholds] or [0.5] * len(row)  # as `decide`
        decided = scores.decisions[0].tolist()
    else:
        limits, decided = [None] * len(row), [place == scores.decisions[0] for place in range(len(row))]
    return tuple(Finding(name, probability, bool(hit), limit)
                 for name, probability, hit, limit in zip(scores.classes, row, decided, limits, strict=True))


def origin_of(artifact: Artifact, facts: Mapping[str, Any]) -> Origin:
    """What answered, of an artifact and the facts of the session that ran it."""
    return Origin(artifact.model_sha256, spec_sha256(artifact.image_spec), str(artifact.manifest["artifact"].get("student", "")),
                  artifact.target, artifact.precision, str(facts["runtime"]), str(facts["version"]), str(facts["provider"]),
                  int(facts["threads"]), artifact.task, artifact.temperatures)


def spec_sha256(spec: ImageSpec) -> str:
    """SHA-256 of an image spec's JSON: keys sorted, no spaces, UTF-8."""
    return hashlib.sha256(json.dumps(spec.as_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()
