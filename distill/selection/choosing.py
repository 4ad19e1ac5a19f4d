"""--method auto and --student auto: what serves this data, by trials on images held out.

Owns: what is tried, the choice, the word on a teacher. Does not own: which students are looked at (candidates.py), training (training.py).
Students are chosen by training images alone, methods by validation where it has enough labels; test images are not looked at.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from distill.data.training_data import TrainingData
from distill.evaluation.predict import judge
from distill.methods.build import build_branches
from distill.networks.models import Model, ModelSpec
from distill.networks.students import build_student
from distill.progress import say, track
from distill.pruning.budget import COST, Budget
from distill.run import remove_run
from distill.selection.candidates import Candidate, finalists, largest, screen, spec_of
from distill.selection.folds import held_out
from distill.selection.judging import cooled_losses, gain_of, groups_of, judging_sets
from distill.settings.method import SelectionOptions
from distill.settings.method_table import METHODS, TRIALS
from distill.teacher.teaching import TeacherSignals, probe_teacher
from distill.training.pretrain import has_first_stage, pretrain
from distill.training.student import Recipe, run_on, train
from runtimes.errors import UserError
from runtimes.files import schema
from runtimes.files.folder import read_json, write_json
from runtimes.files.schema import check, list_of, mapping_of, maybe, object_of, text

NOTE = "choice.json"  # in the run's folder: the scores so far
SCREENED = "students.json"  # in the run's folder: every candidate so far

ANEW = "start anew with --overwrite"
SCORE = schema.number(-1e30, 1e30)
TRIED = object_of({"score": SCORE, "losses": list_of(schema.number(0, 1e30))})
SCREENED_ROWS = object_of({"tried": list_of(text()), "candidates": list_of(object_of(
    {"arch": text(), "family": text(), "cost": maybe(COST), "score": maybe(SCORE), "verdict": text()}))}, others=True)


@dataclass(frozen=True)
class Timing:
    """Which latencies a choice of students is about: runtime, threads, and another device's table where it is not this machine."""

    target: Literal["onnx", "openvino"]
    threads: int
    table: dict[str, Any] | None = None


def choose_method(recipe: Recipe, selection: SelectionOptions, data: TrainingData, student: Model, signals: TeacherSignals, run: Path,
                  *, split_seed: int, given_weights: bool, resume: bool) -> dict[str, Any]:
    """The method of the least loss on images held out, all scores, and whether the teacher is worth it.

    Each is trained --auto-steps from the same student: judged by validation where it has enough labels, with a seed a trial, else on folds
    of the training images. A killed run goes on at the next training.
    """
    methods = [name for name in TRIALS if not METHODS[name].stages or signals.bank.stages]
    if len(methods) < len(TRIALS):
        say("auto", "drd is left out: the bank holds no stages; --bank-grid 8 banks them")
    images, count = data.images, selection.auto_folds
    sets = judging_sets(images, split_seed, count)
    if not sets:
        raise UserError(f"--method auto divides the training images into {count} folds, and there are too few; give more images, fewer "
                        "--auto-folds, or name a method")
    by_validation = sets == [images]
    trials: dict[str, Any] = read_json(run / NOTE) if resume and (run / NOTE).is_file() else {}
    check(trials, mapping_of(TRIED), str(run / NOTE), ANEW)
    for number in range(count):
        own_set = images if by_validation else sets[number]
        own = signals if by_validation else probe_teacher(own_set, signals.bank, signals.facts, seed=split_seed, tell=False)
        trial = replace(recipe.shortened(selection.auto_steps), seed=recipe.seed + number * by_validation)
        own_data, first = data.split_as(own_set), run / f"auto-first-{number}"
        start = student
        for method in methods:
            name = f"{method}-{number}"
            if name in trials:
                continue
            if METHODS[method].bank and start is student and has_first_stage(trial.method, own_set, given_weights=given_weights):
                start, _ = pretrain(trial, own_data, copy.deepcopy(student), own, first, resume=resume)
            begin = start if METHODS[method].bank else student
            score, reached = score_trial(trial.shortened(selection.auto_steps, method), own_data, copy.deepcopy(begin), own,
                                        run / f"auto-{name}", resume=resume)
            trials[name] = {"score": score, "losses": reached.tolist()}
            write_json(run / NOTE, trials)
        remove_run(first)
    scores = {method: [trials[f"{method}-{number}"]["score"] for number in range(count)] for method in methods}
    losses = {method: [np.asarray(trials[f"{method}-{number}"]["losses"]) for number in range(count)] for method in methods}
    held = [images.rows("val")] if by_validation else [fold.rows("val") for fold in sets]
    rows = np.concatenate([own[images.labelled[own]] for own in held])
    return describe_choice(scores, losses, groups_of(images, rows), by_validation=by_validation)


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


def choose_student(recipe: Recipe, selection: SelectionOptions, budget: Budget, timing: Timing, like: ModelSpec, data: TrainingData,
                   signals: TeacherSignals | None, run: Path, *, split_seed: int, resume: bool) -> tuple[str, list[dict[str, Any]]]:
    """The network within the budget that learns best in --proxy-steps, and what became of every candidate.

    like: the student's spec but for its network. A killed run goes on at the next trial. UserError (exit 4) when nothing fits.
    """
    path = run / SCREENED
    screening = read_json(path) if resume and path.is_file() else None
    if screening:
        check(screening, SCREENED_ROWS, str(path), ANEW)
        candidates, names = [Candidate.from_row(row) for row in screening["candidates"]], screening["tried"]
    else:
        try:
            with track("screen") as update:
                candidates = screen(like, budget, timing.target, timing.threads, table=timing.table, progress=update)
        except UserError:  # nothing is trained yet, and the next try will have another budget
            remove_run(run)
            raise
        names = finalists(candidates, selection.auto_students)
        say("students", f"{len(candidates)} looked at, {sum(not row.verdict for row in candidates)} within {budget}, {len(names)} tried "
                        f"for {selection.proxy_steps} steps")

    def note() -> None:
        write_json(path, {"tried": names, "candidates": [row.as_row() for row in candidates]})

    note()
    fold = held_out(data.images, selection.auto_folds, split_seed)[0]
    own = None if signals is None else probe_teacher(fold, signals.bank, signals.facts, seed=split_seed, tell=False)
    trial = recipe.shortened(selection.proxy_steps, "rd" if recipe.method.method == "auto" else recipe.method.method)
    for arch in names:
        place = next(index for index, row in enumerate(candidates) if row.arch == arch)
        if candidates[place].score is not None or candidates[place].verdict:
            continue
        student = build_student(spec_of(arch, like), None, recipe.seed)
        try:
            score, _ = score_trial(trial, data.split_as(fold), student, own, run / f"proxy-{place}", resume=resume)
            candidates[place] = replace(candidates[place], score=score)
        except UserError as error:  # a network that this method cannot teach is no reason to stop
            candidates[place] = replace(candidates[place], verdict=f"cannot be taught: {error}")
        note()
    return settled(candidates, names)


def settled(candidates: list[Candidate], names: list[str]) -> tuple[str, list[dict[str, Any]]]:
    """Take the candidate of the best score, of equals the cheaper, and say what became of each."""
    scored = [next(candidate for candidate in candidates if candidate.arch == arch) for arch in names]
    scored = [candidate for candidate in scored if candidate.score is not None]
    if not scored:
        raise UserError(f"none of the students tried can be trained; of {names[0]}: "
                        f"{next(candidate.verdict for candidate in candidates if candidate.arch == names[0])}")
    best = max(scored, key=lambda candidate: candidate.score or 0.0)
    competing = {family: candidate.arch for family, candidate in largest(candidates).items()}
    rows = []
    for candidate in candidates:
        larger = competing.get(candidate.family)
        verdict = candidate.verdict or ("taken" if candidate is best else "tried, another learnt better" if candidate.score is not None else
                                        f"fits, not tried: {larger}, the larger, competes" if larger != candidate.arch else
                                        f"fits, not among the {len(names)} tried")
        rows.append(replace(candidate, verdict=verdict).as_row())
    for candidate in sorted(scored, key=lambda candidate: -(candidate.score or 0.0)):
        say("students", f"{candidate.arch}: {candidate.score:.3f}, {candidate.cost}" + ("  taken" if candidate is best else ""))
    return best.arch, rows


def describe_choice(scores: dict[str, list[float]], losses: dict[str, list[NDArray[np.float64]]], groups: NDArray[Any], *,
                    by_validation: bool) -> dict[str, Any]:
    """Take the method of the least mean loss, of equals the simpler, and say whether RD, the way to use a teacher, is worth it.

    losses: of each trial's held-out images (n,), of folds one after another, of validation the same images in each; groups (n,) or of all
    folds together: patients.
    """
    means = {method: float(np.mean(np.concatenate(own))) for method, own in losses.items()}
    best = min(means, key=lambda method: means[method])
    kind, parts = ("validation", "seeds") if by_validation else ("training", "folds")
    seen = f"{len(groups):,} {kind} images held out, {len(losses[best])} {parts}"
    say("auto", f"loss on {seen}: " + ", ".join(f"{method} {value:.4f}" for method, value in means.items()) + f"; taken: {best}")
    word = worth(losses["vanilla"], losses["rd"], groups, by_validation=by_validation)
    say("teacher", word.line())
    return {"method": best, "scores": scores, "losses": means, "teacher": word.as_dict()}


@dataclass(frozen=True)
class Worth:
    """What a teacher is worth: what RD gains over the student alone in held-out loss an image, and its standard error."""

    word: Literal["helps", "ties", "harms"]
    gain: float
    error: float
    images: int

    def line(self) -> str:
        """One line for the user."""
        told = {"helps": "it helps", "ties": "nothing to tell it from none", "harms": "it harms"}[self.word]
        return f"{told}: rd gained {self.gain:+.4f} +- {self.error:.4f} over the student alone in held-out loss"

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
    return Worth("helps" if gain > error else "harms" if gain < -error else "ties", gain, error, len(groups))
