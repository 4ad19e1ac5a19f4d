"""What an export is asked for, in the groups that its parts take: the build, the quantisation, where it runs, the engine.

Owns: Build, Quantisation, Limits, Execution, EngineOptions: frozen, flat, each with what one job needs. Does not own: flags and their
checks (config.py, which makes these groups), what is done with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from runtimes.artifact.artifact import InputKind
from runtimes.artifact.targets import Precision, Target

CalibrationMethod = Literal["auto", "minmax", "entropy", "percentile"]


@dataclass(frozen=True)
class Build:
    """What is made: for which target, in which precision, with which input; size: that of the images where a resize is baked in."""

    target: Target = "onnx"
    precision: Precision = "fp32"
    input: InputKind = "image"
    size: tuple[int, int] | None = None
    opset: int = 18


@dataclass(frozen=True)
class Limits:
    """What a lower precision may cost: the share of decisions that flip (of several labels each is one), the drop of AUROC."""

    max_flips: float = 0.01
    max_auc_drop: float = 0.005


@dataclass(frozen=True)
class Quantisation:
    """How int8 is looked for: ranges by which method from how many training images, layers left in float, within which limits."""

    calibration: CalibrationMethod = "auto"
    images: int = 200
    sensitivity: bool = True
    limits: Limits = Limits()


@dataclass(frozen=True)
class Execution:
    """Where an artifact runs while it is proven and timed."""

    device: str = "cpu"
    threads: int = 1


@dataclass(frozen=True)
class EngineOptions:
    """For which GPUs a TensorRT engine is built (none: RTX GPUs of the edge), or with the library of this very device."""

    gpus: tuple[str, ...] = ()
    on_device: bool = False
    max_batch: int = 8
