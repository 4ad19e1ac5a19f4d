"""Which student, and the budget that it must fit.

Owns: StudentOptions, BudgetOptions. Does not own: building it (students.py), pruning it (shrinking.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from distill.settings.group import Group
from runtimes.backends.threads import check_threads
from runtimes.commands.settings import Expert


@dataclass(frozen=True)
class StudentOptions(Group):
    """Student: which network, at which size, from which weights."""

    student: str = "mobilenetv3"
    """Short name (mobilenetv3, mobilenetv3-small, resnet18, ...), any timm name, monai:NAME (3D), or auto: the best within a budget."""
    size: int | None = None
    """Student input side in pixels; by default the images' own, rounded to 32 and kept within 64 to 128."""
    resize: Annotated[Literal["squash", "crop", "pad"], Expert] = "squash"
    """Images of another shape than the student's square: squashed, or their middle cropped, or black put around them."""
    student_weights: str | None = None
    """Start from `pretrained` or from a .safetensors or .pth file; random when not given."""
    slice_pooling: Annotated[Literal["attention", "mean"], Expert] = "attention"
    """How the features of slices become one of the volume."""

    def check(self) -> None:
        """Refuse values out of range."""
        super().check()
        self.pixels("size")


@dataclass(frozen=True)
class BudgetOptions(Group):
    """Budget: what the student may cost, and how it is pruned to it."""

    max_params: str | None = None
    """Most parameters of the student, such as 0.5M: a larger one is pruned until it fits."""
    max_macs: str | None = None
    """Most multiply-accumulates of an input, such as 30M."""
    max_latency_ms: float | None = None
    """Most milliseconds of an input (p90), measured on this machine on the exported, untrained student."""
    latency_target: Annotated[Literal["onnx", "openvino"], Expert] = "onnx"
    """Runtime that --max-latency-ms is about."""
    latency_threads: Annotated[int, Expert] = 1
    """Threads of that runtime."""
    latency_table: Annotated[Path | None, Expert] = None
    """Latencies of another device, by rd-bench --save-table: --max-latency-ms is then about that device; nothing is timed here."""
    importance: Annotated[Literal["auto", "magnitude", "taylor", "bn-scale"], Expert] = "auto"
    """What pruning keeps: large weights, weights whose loss would hurt, channels of large scales; auto: taylor with --student-weights."""
    prune_scope: Annotated[Literal["layer", "network"], Expert] = "layer"
    """layer: every layer loses the same share; network: channels are ranked over all layers, and some may lose nearly all."""
    prune_unit: Annotated[int, Expert] = 8
    """Channels are kept in multiples of this, as the target's kernels like them."""
    prune_rounds: Annotated[int | None, Expert] = None
    """Prune in this many rounds, training a little between them; when not given one, or with --student-weights one for every halving."""
    prune_steps: Annotated[int, Expert] = 200
    """Steps of training between two rounds of pruning."""

    def check(self) -> None:
        """Refuse values out of range."""
        super().check()
        self.above_zero("max_latency_ms", "latency_threads", "prune_unit", "prune_rounds", "prune_steps")
        if self.latency_table is None:  # a table's device may have more cores
            check_threads(self.latency_threads, "--latency-threads")

    @property
    def limited(self) -> bool:
        """Whether there is a budget at all."""
        return (self.max_params, self.max_macs, self.max_latency_ms) != (None, None, None)
