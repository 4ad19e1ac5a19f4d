"""--pretrain auto: whether a student begins with its teacher's features of every image, judged on images held out before it trains.

Owns: where the question arises, the evidence, the line that says it. Does not own: a trial (trials.py), the first stage itself
(training/pretrain.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distill.data.image_set import ImageSet
from distill.progress import say
from distill.selection.trials import Trials, Worth, worth
from distill.settings.method import MethodOptions
from distill.settings.method_table import needs_bank


@dataclass(frozen=True)
class FirstStageChoice:
    """Whether a run begins with a first stage, and what was seen on images held out; no evidence where it was asked for or out of place."""

    used: bool
    evidence: Worth | None = None

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"used": self.used, "evidence": self.evidence and self.evidence.as_dict()}


def is_open(method: MethodOptions, images: ImageSet, *, given_weights: bool) -> bool:
    """Whether --pretrain auto has to look: a teacher, a student of random weights, at least as many images without a label as with one."""
    labelled = images.labelled[images.rows("train")]
    return method.pretrain == "auto" and needs_bank(method.method) and not given_weights and 2 * int(labelled.sum()) <= len(labelled)


def choose_first_stage(trials: Trials | None) -> FirstStageChoice:
    """A first stage where the teacher's linear probe is better than the student alone beyond the standard error of the difference.

    A student that copies the features of a teacher becomes as good as what a line can read from them, and no better: where it is better
    than that by itself, copying first has harmed it (benchmarks/accuracy/label_curve.py).
    """
    if trials is None:
        say("pretrain", "left out: too few labels to tell whether the teacher's features are better than the student's own (--pretrain on)")
        return FirstStageChoice(used=False)
    count = 1 if trials.by_validation else trials.count
    for number in range(count):
        trials.perform("vanilla", number)
    probe = [trials.probe_losses(number) for number in range(count)]
    evidence = worth(trials.losses("vanilla", count), probe, trials.groups, by_validation=trials.by_validation)
    used = evidence.word == "helps"
    side = "less" if evidence.gain > 0 else "more"
    than = f"the teacher's probe has {abs(evidence.gain):.4f} +- {evidence.error:.4f} {side} loss than the student alone ({trials.seen})"
    say("pretrain", f"{than}: " + ("first its features of every image, then the labels" if used else
                                   "labels and teacher at once (--pretrain on: its features first)"))
    return FirstStageChoice(used, evidence)
