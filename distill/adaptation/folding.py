"""What folding a trained teacher's adapters into its weights does: errors layer by layer, and decisions end to end.

Owns: FoldReport, the order fold - measure - refuse. Does not own: the formulas of folds (merge.py), training (adapt.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.adapters.layer import adapters_of
from distill.adapters.merge import fold, fold_errors, least_squares, mean_gates, merge_exact, watch, weight_change
from distill.networks.models import Model
from runtimes.errors import PARITY, UserError

Inputs = tuple[Tensor, ...]  # what a model takes: pixels, and of volumes a mask
MergeMode = Literal["exact", "mean", "least-squares"]


@dataclass(frozen=True)
class FoldReport:
    """A merge and its effect on validation images: relative error of the logits, AUROC before and after, decisions that flip."""

    mode: MergeMode
    exact: int
    approximate: int
    kept: int
    images: int = 0
    logit_error: float = 0.0
    flips: int = 0
    auroc_before: float | None = None
    auroc_after: float | None = None
    layers: dict[str, dict[str, float]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"merge": {"mode": self.mode, "exact": self.exact, "approximate": self.approximate, "kept": self.kept,
                          "images": self.images, "logit_error": self.logit_error, "flips": self.flips,
                          "auroc_before": self.auroc_before, "auroc_after": self.auroc_after, "layers": self.layers}}

    def line(self) -> str:
        """One line for the user."""
        parts = [f"{count} adapters {how}" for count, how in ((self.exact, "folded exactly"), (self.approximate, f"folded by {self.mode}"),
                                                              (self.kept, "kept beside their layers")) if count]
        if self.images:
            parts.append(f"logits off by {100 * self.logit_error:.2g} % on {self.images} validation images, {self.flips} flips")
        return ", ".join(parts)


def fold_teacher(model: Model, mode: MergeMode, *, most: float, train: Callable[[], Iterable[Inputs]], val: Callable[[], Iterable[Inputs]],
                 logits: Callable[[], NDArray[np.float32]], decide: Callable[[NDArray[np.float32]], NDArray[Any]],
                 auroc: Callable[[NDArray[np.float32]], float | None]) -> FoldReport:
    """Fold a model's adapters in place as `mode` says; UserError (exit 3) when the logits move by more than `most`.

    train, val: batches of inputs that gates and moments are averaged over, and that errors are measured on. logits: the
    model's answers on validation, before and after; decide, auroc: what becomes of them.
    """
    before = logits()
    count = len(list(adapters_of(model.net)))
    stay = merge_exact(model.net)
    errors: dict[str, dict[str, float]] = {}
    if mode != "exact" and stay:
        moments = watch(model.net, train(), lambda inputs: model(*inputs), moments=mode == "least-squares")
        inside = {name: adapter for name, adapter in adapters_of(model.net) if name in moments and name in stay and adapter.foldable}
        folds = {name: least_squares(moments[name]) if mode == "least-squares"
                 else (weight_change(adapter, mean_gates(moments[name])), None)
                 for name, adapter in inside.items()}
        errors = fold_errors(model.net, folds, val(), lambda inputs: model(*inputs))  # type: ignore[arg-type]
        for name, (change, shift) in folds.items():
            fold(model.net, name, change, shift)
    specs = {name: adapter.spec for name, adapter in adapters_of(model.net)}
    model.spec = replace(model.spec, adapters=specs)
    after = logits()
    moved = float(np.linalg.norm(after - before)) / max(float(np.linalg.norm(before - before.mean(0))), 1e-30)
    report = FoldReport(mode, count - len(stay), len(errors), len(specs), len(before), moved, int((decide(before) != decide(after)).sum()),
                  auroc(before), auroc(after), errors)
    if moved > most:
        raise UserError(f"--merge {mode} moves the logits by {100 * moved:.2g} % on {len(before)} validation images ({report.flips} "
                        f"flips), more than --max-fold-error {most:g}: keep the adapters with --merge exact (add --resume: nothing is "
                        "trained again), raise the limit, or train with --merge-aware", PARITY)
    return report


def batched(rows: NDArray[np.int64], inputs: Callable[[NDArray[np.int64]], Inputs], size: int = 16) -> Iterable[Inputs]:
    """Batches of inputs of some rows."""
    with torch.no_grad():
        for start in range(0, len(rows), size):
            yield inputs(rows[start:start + size])
