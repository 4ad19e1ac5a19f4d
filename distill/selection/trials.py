"""Short trainings on images held out: the evidence behind a choice, noted one by one, so that a killed run goes on at the next.

Owns: which images judge a trial, its score and losses, what a gain in them is worth. Does not own: what is chosen from them (choosing.py,
length.py), training.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from distill.data.image_set import ImageSet
from distill.data.training_data import TrainingData
from distill.evaluation.gains import cooled_losses, gain_of, groups_of
from distill.evaluation.predict import judge
from distill.methods.build import build_branches
from distill.networks.models import Model
from distill.run import remove_run
from distill.selection.judging import judging_sets
from distill.settings.method import SelectionOptions
from distill.settings.method_table import METHODS
from distill.teacher.teaching import TeacherSignals, probe_teacher, whole_features
from distill.training.pretrain import pretrain
from distill.training.student import Recipe, run_on, train
from runtimes.files import schema
from runtimes.files.folder import read_json, write_json
from runtimes.files.schema import check, list_of, mapping_of, object_of

NOTE = "choice.json"  # in the run's folder: the trials so far
TRIED = object_of({"score": schema.number(-1e30, 1e30), "losses": list_of(schema.number(0, 1e30))})
ANEW = "start anew with --overwrite"


@dataclass(frozen=True)
class Trials:
    """Trainings of --auto-steps from one student: judged by validation, with a seed a trial, or each on a fold of the training images."""

    recipe: Recipe
    data: TrainingData
    student: Model
    signals: TeacherSignals
    run: Path
    sets: tuple[ImageSet, ...]
    by_validation: bool
    count: int
    steps: int
    split_seed: int
    resume: bool
    done: dict[str, Any]
    probed: dict[int, TeacherSignals] = field(default_factory=dict)  # of folds: every trial of one hears the same probe

    @property
    def seen(self) -> str:
        """What judges, in words."""
        return judges_in_words(len(self.groups), by_validation=self.by_validation)

    @property
    def groups(self) -> NDArray[Any]:
        """Patients or groups of the images that judge (n,), of folds one after another."""
        images = self.data.images
        held = [own.rows("val") for own in self.sets]
        return groups_of(images, np.concatenate([own[images.labelled[own]] for own in held]))

    def images_of(self, number: int) -> ImageSet:
        """The images of a trial, split as it trains and is judged."""
        return self.sets[0 if self.by_validation else number]

    def signals_of(self, number: int) -> TeacherSignals:
        """The teacher's bank with a probe that saw the trial's training images alone; its penalty is the one that validation chose."""
        if self.by_validation:
            return self.signals
        if number not in self.probed:
            strength = self.signals.probe.strength
            own = probe_teacher(self.images_of(number), self.signals.bank, self.signals.facts, seed=self.split_seed, tell=False,
                                strengths=(strength,))
            self.probed[number] = replace(own, live=self.signals.live)
        return self.probed[number]

    def recipe_of(self, number: int, method: str | None = None) -> Recipe:
        """The recipe of a trial, by another method than the run's where one is named."""
        return replace(self.recipe.shortened(self.steps, method), seed=self.recipe.seed + number * self.by_validation)

    def perform(self, method: str, number: int, begin: Model | None = None) -> None:
        """Train a copy of `begin`, else of the student, by a method, and note how it is judged; nothing where that was done before."""
        name = f"{method}-{number}"
        if name in self.done:
            return
        recipe, folder = self.recipe_of(number, method), self.run / f"auto-{name}"
        start = copy.deepcopy(self.student if begin is None else begin)
        score, losses = score_trial(recipe, self.data.split_as(self.images_of(number)), start, self.signals_of(number), folder,
                                    resume=self.resume)
        self.done[name] = {"score": score, "losses": losses.tolist()}
        write_json(self.run / NOTE, self.done)

    def first_stage_folder(self, number: int) -> Path:
        """Where the state of a trial's first stage lies."""
        return self.run / f"auto-first-{number}"

    def begun(self, number: int) -> Model:
        """A copy of the student that has been through a first stage as long as the trial asks for."""
        folder = self.first_stage_folder(number)
        student, _ = pretrain(self.recipe_of(number), self.data.split_as(self.images_of(number)), copy.deepcopy(self.student),
                              self.signals_of(number), folder, resume=self.resume)
        return student

    def scores(self, method: str) -> list[float]:
        """Scores of the trials of a method."""
        return [self.done[f"{method}-{number}"]["score"] for number in range(self.count)]

    def losses(self, method: str, count: int | None = None) -> list[NDArray[np.float64]]:
        """Losses of the labelled images that judge (n,), of each trial of a method, or of the first so many."""
        return [np.asarray(self.done[f"{method}-{number}"]["losses"]) for number in range(count or self.count)]

    def probe_losses(self, number: int) -> NDArray[np.float64]:
        """Losses of the teacher's linear probe on the labelled images that judge a trial (n,)."""
        images, own = self.images_of(number), self.signals_of(number)
        rows = images.rows("val")
        rows = rows[images.labelled[rows]]
        logits = own.probe.logits(whole_features(own.bank, own.rows[rows]))
        own.bank.release()
        return cooled_losses(logits, images, rows)[0]


def judges_in_words(images: int, *, by_validation: bool) -> str:
    """How many images judge, and of which kind, in words."""
    return f"{images:,} {'validation' if by_validation else 'training'} images held out"


def open_trials(recipe: Recipe, selection: SelectionOptions, data: TrainingData, student: Model, signals: TeacherSignals, run: Path, *,
                split_seed: int, resume: bool) -> Trials | None:
    """What trials of this run are judged on, with those that a killed run noted; None where labels are too few to divide."""
    sets = tuple(judging_sets(data.images, split_seed, selection.auto_folds))
    if not sets:
        return None
    done: dict[str, Any] = read_json(run / NOTE) if resume and (run / NOTE).is_file() else {}
    check(done, mapping_of(TRIED), str(run / NOTE), ANEW)
    return Trials(recipe, data, student, signals, run, sets, sets[0] is data.images, selection.auto_folds, selection.auto_steps, split_seed,
                  resume, done)


def score_trial(trial: Recipe, data: TrainingData, student: Model, signals: TeacherSignals | None, folder: Path, *,
                resume: bool) -> tuple[float, NDArray[np.float64]]:
    """The score that a student reaches on a set's held-out images after the trial's steps, and the loss of each that carries a label."""
    folder.mkdir(exist_ok=True)
    signals = signals if METHODS[trial.method.method].bank else None
    branches = build_branches(trial.method, student, signals, len(data.images.rows("train")))
    train(trial, data, branches, signals, folder, resume=resume)
    remove_run(folder)
    predictions = run_on(branches, data, "val", signals, trial.device)
    known = data.images.labelled[predictions.rows]
    losses, _ = cooled_losses(torch.from_numpy(predictions.student[known]), data.images, predictions.rows[known])
    return judge(data.images, predictions)["score"], losses


Word = Literal["helps", "ties", "harms"]


def word_of(gain: float, band: float) -> Word:
    """What a gain amounts to; within the band it ties."""
    return "helps" if gain > band else "harms" if gain < -band else "ties"


@dataclass(frozen=True)
class Worth:
    """What something gains over the student alone in held-out loss an image, and its standard error."""

    word: Word
    gain: float
    error: float
    images: int

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


def worth(alone: list[NDArray[np.float64]], taught: list[NDArray[np.float64]], groups: NDArray[Any], *, by_validation: bool) -> Worth:
    """The verdict on losses of trials: the error is that over images, and of the same images in every trial also that over trials."""
    join = (lambda own: np.mean(own, axis=0)) if by_validation else np.concatenate
    gain, error = gain_of(join(alone), join(taught), groups)
    if by_validation and len(alone) > 1:
        gains = [float((one - other).mean()) for one, other in zip(alone, taught, strict=True)]
        error = float(np.hypot(error, np.std(gains, ddof=1) / np.sqrt(len(gains))))
    return Worth(word_of(gain, error), gain, error, len(groups))
