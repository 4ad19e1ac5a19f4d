"""From a finished fp32 graph to one of lower precision that still decides as PyTorch does, or to a refusal with the figures.

Owns: Int8Task (what is known of the images), the search over calibration methods and over layers left in float, the refitted
temperature. Does not own: making a graph (fp16.py, int8.py, to_openvino.py), the limits (gate.py), files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.evaluation.calibrate import choose_temperatures
from distill.networks.checkpoint import EVERY_CLASS, Calibration
from export.options import Limits
from export.precision.gate import Verdict, judge_logits
from export.precision.int8 import METHODS, Feeds, Form, quantised, ranges, sensitivities
from runtimes.errors import PARITY, UserError
from runtimes.scores import Task

SENSITIVITY_IMAGES = 16
Answer = Callable[[bytes, Feeds], NDArray[Any]]  # logits (N, C) of a graph for single images, by the runtime that will run it


@dataclass(frozen=True)
class Int8Task:
    """What a search needs: images as the graph takes them, for calibration (train) and judging (val), PyTorch's answer, labels."""

    calibration: Feeds
    judged: Feeds
    labels: NDArray[Any]
    expected: NDArray[Any]
    task: Task
    limits: Limits
    student: Calibration
    classes: tuple[str, ...]

    def judge(self, logits: NDArray[Any]) -> tuple[Verdict, Calibration]:
        """The verdict on logits (N, C) under a temperature fitted to them, and that calibration."""
        # Thresholds move with the temperatures, so decisions are compared under the student's own.
        verdict = judge_logits(logits, self.expected, self.labels, self.task, self.student, self.limits)
        return verdict, refitted(logits, self.labels, self.task, self.student, self.classes) if np.isfinite(logits).all() else self.student


@dataclass(frozen=True)
class Int8Result:
    """A graph that may ship: bytes, its own calibration, what was tried."""

    data: bytes
    calibration: Calibration
    record: dict[str, Any] = field(default_factory=dict)


def refitted(logits: NDArray[Any], labels: NDArray[Any], task: Task, old: Calibration, classes: Sequence[str]) -> Calibration:
    """Temperatures fitted to these logits where that is shown to help; thresholds move along, so that borders in logits stay."""
    temperatures, reasons = choose_temperatures(logits, labels, task, fallback=old.temperatures)
    names = classes if task == "multilabel" else (EVERY_CLASS,)
    moved = {name: reason for name, before, after, reason in zip(names, old.temperatures, temperatures, reasons, strict=True)
             if before != after}
    not_calibrated = {name: reason for name, reason in {**old.not_calibrated, **moved}.items() if reason}
    old = replace(old, not_calibrated=not_calibrated)
    if not old.thresholds:
        return replace(old, temperatures=temperatures)
    limits = np.clip(np.asarray(old.thresholds, dtype=np.float64), 1e-12, 1 - 1e-12)
    border = np.log(limits / (1 - limits)) * np.asarray(old.temperatures) / np.asarray(temperatures)
    return replace(old, temperatures=temperatures, thresholds=tuple(float(threshold) for threshold in 1 / (1 + np.exp(-border))))


def find_int8(data: bytes, problem: Int8Task, answer: Answer, *, method: str = "auto", sensitivity: bool = True, rank: Answer | None = None,
              form: Form = "unsigned", progress: Callable[[int, int], None] | None = None) -> Int8Result:
    """An int8 graph within the limits: the best calibration, then as few layers in float as it takes.

    rank: who ranks the layers by what each one moves, where `answer` opens a graph slowly. UserError (exit 3) if nothing passes.
    """
    tried: list[dict[str, Any]] = []

    def attempt(tensor_ranges: Any, name: str, keep: Sequence[str]) -> tuple[bytes, Verdict, Calibration]:
        graph = quantised(data, tensor_ranges, keep, form=form)
        verdict, calibration = problem.judge(answer(graph, problem.judged))
        tried.append({"calibration": name, "layers_in_float": len(keep), "changed_decisions": verdict.changed,
                      "auroc_change": verdict.auroc_change, "mean_probability_change": verdict.mean_probability_change,
                      "passed": verdict.passed})
        return graph, verdict, calibration

    whole = {}
    for name in METHODS if method == "auto" else (method,):
        tensor_ranges = ranges(data, problem.calibration, name, form)  # type: ignore[arg-type]
        whole[name] = (tensor_ranges, *attempt(tensor_ranges, name, ()))
    name = min(whole, key=lambda key: (not whole[key][2].passed, whole[key][2].mean_probability_change))
    tensor_ranges, graph, verdict, calibration = whole[name]
    keep: list[str] = []
    moved: dict[str, float] = {}
    if not verdict.passed and sensitivity:
        moved = sensitivities(data, tensor_ranges, problem.calibration[:SENSITIVITY_IMAGES], rank or answer, form, progress)
        ranked = sorted(moved, key=lambda layer: -moved[layer])
        fails, passes = 0, 0
        while not passes and fails < len(ranked) // 2:  # with half of its layers in float a graph is no int8 any more
            count = min(max(1, 2 * fails), len(ranked) // 2)
            graph, verdict, calibration = attempt(tensor_ranges, name, ranked[:count])
            fails, passes = (fails, count) if verdict.passed else (count, 0)
        while passes - fails > 1:
            count = (passes + fails) // 2
            candidate = attempt(tensor_ranges, name, ranked[:count])
            if candidate[1].passed:
                (graph, verdict, calibration), passes = candidate, count
            else:
                fails = count
        keep = ranked[:passes]
    if not verdict.passed:
        best = min(tried, key=lambda trial: trial["mean_probability_change"])
        how = (f"the nearest of {len(tried)} attempts ({best['calibration']}, {best['layers_in_float']} layers in float): "
               f"{best['changed_decisions']} of {verdict.decisions} decisions flipped")
        raise UserError(f"int8 does not pass: {'; '.join(verdict.reasons)}; {how}. Use --precision fp16 or fp32, another --student, or "
                        "raise the limit by name; no artifact was written", PARITY)
    return Int8Result(graph, calibration, {"calibration": name, "calibration_images": len(problem.calibration), "layers_in_float": keep,
                                      "sensitivities": {layer: float(value) for layer, value in moved.items()}, "attempts": tried,
                                      "verdict": verdict.describe()})
