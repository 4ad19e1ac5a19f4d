"""--method auto and --student auto: what serves this data, by trials on held-out training images alone.

Owns: the folds, what is tried, the choice. Does not own: which students are looked at (candidates.py), training (training.py).
Validation and test images are not looked at.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from distill.data.image_set import ImageSet
from distill.data.splits import divide, merge_groups
from distill.data.training_data import TrainingData
from distill.evaluation.predict import judge
from distill.methods.build import build_branches
from distill.networks.models import Model, ModelSpec
from distill.networks.students import build_student
from distill.progress import say, track
from distill.pruning.budget import COST, Budget
from distill.run import remove_run
from distill.selection.candidates import Candidate, finalists, largest, screen, spec_of
from distill.settings.method import SelectionOptions
from distill.settings.method_table import METHODS, TRIALS
from distill.teacher.teaching import TeacherSignals, probe_teacher
from distill.training.student import Recipe, run_on, train
from runtimes.errors import UserError
from runtimes.files import schema
from runtimes.files.folder import read_json, write_json
from runtimes.files.schema import check, list_of, mapping_of, maybe, object_of, text

NOTE = "choice.json"  # in the run's folder: the scores so far
SCREENED = "students.json"  # in the run's folder: every candidate so far

ANEW = "start anew with --overwrite"
SCORE = schema.number(-1e30, 1e30)
SCREENED_ROWS = object_of({"tried": list_of(text()), "candidates": list_of(object_of(
    {"arch": text(), "family": text(), "cost": maybe(COST), "score": maybe(SCORE), "verdict": text()}))}, others=True)


@dataclass(frozen=True)
class Timing:
    """Which latencies a choice of students is about: runtime, threads, and another device's table where it is not this machine."""

    target: Literal["onnx", "openvino"]
    threads: int
    table: dict[str, Any] | None = None


def choose_method(recipe: Recipe, selection: SelectionOptions, data: TrainingData, student: Model, signals: TeacherSignals, run: Path,
                  *, split_seed: int, resume: bool) -> dict[str, Any]:
    """The method with the best mean score (AUROC, or minus the loss) on held-out training images, and all scores by fold.

    Each is trained --auto-steps from the same student; a killed run goes on at the next training.
    """
    methods = [name for name in TRIALS if not METHODS[name].stages or signals.bank.stages]
    if len(methods) < len(TRIALS):
        say("auto", "drd is left out: the bank holds no stages; --bank-grid 8 banks them")
    folds = held_out(data.images, selection.auto_folds, split_seed)
    trial_scores: dict[str, float] = read_json(run / NOTE) if resume and (run / NOTE).is_file() else {}
    check(trial_scores, mapping_of(SCORE), str(run / NOTE), ANEW)
    for number, fold in enumerate(folds):
        own = probe_teacher(fold, signals.bank, signals.facts, seed=split_seed, tell=False)
        for method in methods:
            name = f"{method}-{number}"
            if name in trial_scores:
                continue
            trial = recipe.shortened(selection.auto_steps, method)
            trial_scores[name] = score_trial(trial, data.split_as(fold), copy.deepcopy(student), own, run / f"auto-{name}", resume=resume)
            write_json(run / NOTE, trial_scores)
    scores = {method: [trial_scores[f"{method}-{number}"] for number in range(len(folds))] for method in methods}
    return describe_choice(scores)


def score_trial(trial: Recipe, data: TrainingData, student: Model, signals: TeacherSignals | None, folder: Path, *,
                resume: bool) -> float:
    """The score that a student reaches on a fold's held-out images after the trial's steps."""
    folder.mkdir(exist_ok=True)
    signals = signals if METHODS[trial.method.method].bank else None
    branches = build_branches(trial.method, student, signals, len(data.images.rows("train")))
    train(trial, data, branches, signals, folder, resume=resume)
    remove_run(folder)
    return judge(data.images, run_on(branches, data, "val", signals, trial.device))["score"]


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
            score = score_trial(trial, data.split_as(fold), student, own, run / f"proxy-{place}", resume=resume)
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


def describe_choice(scores: dict[str, list[float]]) -> dict[str, Any]:
    """Say what each method reached and take the best mean; of equals the simpler."""
    best = max(scores, key=lambda method: float(np.mean(scores[method])))
    say("auto", "held-out training images, mean of " + f"{len(scores[best])} folds: "
                + ", ".join(f"{method} {np.mean(values):.3f}" for method, values in scores.items()))
    gains = [score - plain for score, plain in zip(scores[best], scores["vanilla"], strict=True)]
    say("auto", f"taken: {best}" + ("" if best == "vanilla" else f", {np.mean(gains):+.3f} above vanilla "
                                                                  f"(by fold {', '.join(f'{gain:+.3f}' for gain in gains)})"))
    return {"method": best, "scores": scores}


def held_out(images: ImageSet, folds: int, seed: int) -> list[ImageSet]:
    """The training images divided into folds by patient and near copy, stratified; each set validates on one and trains on the rest.

    Validation and test images belong to no split of a fold; unlabelled images train, unless their patient is held out.
    """
    rows = images.rows("train")
    labels = images.labels[rows]
    known = images.labelled[rows]
    positives = labels == 1 if images.task == "multilabel" else labels[:, None] == np.arange(len(images.classes))
    owners = [] if images.groups is None else [images.groups[rows].astype(str).tolist()]
    near = [] if images.alike is None else [[str(number) for number in images.alike[rows].tolist()]]
    groups = merge_groups([*owners, *near, *([[images.hashes[row] for row in rows]] if images.hashes else [])], len(rows))
    part = np.full(len(rows), -1)
    part[known] = divide(positives[known], groups[known], [1 / folds] * folds, seed)
    home = dict(zip(groups[known].tolist(), part[known].tolist(), strict=True))
    image_sets = []
    for fold in range(folds):
        split = np.full(len(images), "", dtype=object)
        split[rows] = ["val" if mine == fold else "" if mine < 0 and home.get(group) == fold else "train"
                       for mine, group in zip(part.tolist(), groups.tolist(), strict=True)]
        if not (split == "val").any() or not (split == "train").any():
            raise UserError(f"--method auto divides the training images into {folds} folds, and there are too few; give more images, fewer "
                            "--auto-folds, or name a method")
        image_sets.append(replace(images, split=split))
    return image_sets
