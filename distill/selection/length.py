"""How long a student is taught where most images carry no label: judged on images held out, before it trains.

Owns: the two lengths, where the question arises, the evidence, the line that says it. Does not own: a trial (trials.py), the training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distill.data.image_set import ImageSet
from distill.progress import say
from distill.selection.trials import Trials, Worth, worth
from distill.settings.method_table import needs_bank
from distill.settings.training import TrainingOptions

FEWEST, LONG = 1200, 3000  # steps: of any run, and of one whose teacher knows more than the student alone


@dataclass(frozen=True)
class Length:
    """Fewest steps of a run, and what was seen on images held out; no evidence where the question did not arise."""

    min_steps: int
    evidence: Worth | None = None

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"min_steps": self.min_steps, "evidence": self.evidence and self.evidence.as_dict()}


def is_open(method: str, training: TrainingOptions, images: ImageSet) -> bool:
    """Whether the length has to be judged: none was asked for, a run of the shorter one would be short, and at least half of the images
    that a teacher speaks of carry no label."""
    rows = images.rows("train")
    turns = training.epochs * -(-len(rows) // training.batch)
    return (training.min_steps is None and needs_bank(method) and turns < LONG
            and 2 * int(images.labelled[rows].sum()) <= len(rows))


def choose_length(trials: Trials | None) -> Length:
    """The longer length where the teacher's linear probe beats the student alone beyond the standard error of the difference.

    The longer a student is taught, the nearer it comes to what its teacher knows: good where that is more than the labels tell it, harmful
    where it is less (benchmarks/accuracy/label_curve.py).
    """
    if trials is None:
        say("length", f"{FEWEST:,} steps: too few labels to tell whether the teacher knows more than the student (--min-steps {LONG})")
        return Length(FEWEST)
    count = 1 if trials.by_validation else trials.count
    for number in range(count):
        trials.perform("vanilla", number)
    probe = [trials.probe_losses(number) for number in range(count)]
    evidence = worth(trials.losses("vanilla", count), probe, trials.groups, by_validation=trials.by_validation)
    chosen = Length(LONG if evidence.word == "helps" else FEWEST, evidence)
    side = "less" if evidence.gain > 0 else "more"
    say("length", f"{chosen.min_steps:,} steps: the teacher's probe has {abs(evidence.gain):.4f} +- {evidence.error:.4f} {side} loss than "
                  f"the student alone ({trials.seen})")
    return chosen
