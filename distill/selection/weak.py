"""Whether a teacher is left out, since the student alone knows more: judged by a short trial on images held out, before it trains.

Owns: where the question arises, the verdict, the line that says it. Does not own: the trial (trials.py), the training.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from distill.data.image_set import ImageSet
from distill.progress import say
from distill.selection.trials import Trials, Worth, judges_in_words, worth
from distill.settings.method import MethodOptions, SelectionOptions
from distill.settings.method_table import METHODS


@dataclass(frozen=True)
class Doubt:
    """Whether the teacher is left out, and what its probe gained over the student alone on images held out."""

    left: bool
    evidence: Worth

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


def is_doubted(method: MethodOptions, selection: SelectionOptions, images: ImageSet, steps: int) -> bool:
    """Whether a trial is worth its time: every training image carries a label, so that there is something to learn without the teacher,
    and the run of so many steps is twice as long as the trial."""
    taught = method.method in METHODS and METHODS[method.method].bank and method.pretrain == "off"
    return (taught and selection.weak_teacher == "leave" and steps >= 2 * selection.auto_steps
            and bool(images.labelled[images.rows("train")].all()))


def judge_teacher(trials: Trials) -> Doubt:
    """Left out where the student alone has less loss than the teacher's linear probe.

    One training judges, on validation or on the first fold. The student in it is younger than the one that is asked for, so a teacher that
    is behind it already is far behind; asked to be so beyond the standard error, it stayed in one of three folds where it harmed
    (benchmarks/accuracy/fading.py).
    """
    trials.perform("vanilla", 0)
    alone = trials.losses("vanilla", 1)
    evidence = worth(alone, [trials.probe_losses(0)], trials.groups[:len(alone[0])], by_validation=trials.by_validation)
    left = evidence.gain < 0
    side = "less" if evidence.gain > 0 else "more"
    say("teacher", f"{'left out' if left else 'kept'}: its probe has {abs(evidence.gain):.4f} +- {evidence.error:.4f} {side} loss than the "
                   f"student alone after {trials.steps:,} steps ({judges_in_words(evidence.images, by_validation=trials.by_validation)})"
                   + ("; --weak-teacher keep takes it all the same" if left else ""))
    return Doubt(left, evidence)
