"""--method auto and --student auto: what serves this data, by trials on images held out.

Owns: what is tried, the choice, the word on a teacher. Does not own: a trial (trials.py), which students are looked at (candidates.py).
Students are chosen by training images alone, methods by validation where it has enough labels; test images are not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from distill.data.training_data import TrainingData
from distill.networks.models import Model, ModelSpec
from distill.networks.students import build_student
from distill.progress import say, track
from distill.pruning.budget import COST, Budget
from distill.run import remove_run
from distill.selection.candidates import Candidate, finalists, largest, screen, spec_of
from distill.selection.folds import held_out
from distill.selection.trials import ANEW, Trials, judges_in_words, score_trial, word_of, worth
from distill.settings.method import SelectionOptions
from distill.settings.method_table import METHODS, TRIALS
from distill.teacher.teaching import TeacherSignals, probe_teacher
from distill.training.student import Recipe
from runtimes.errors import UserError
from runtimes.files import schema
from runtimes.files.folder import read_json, write_json
from runtimes.files.schema import check, list_of, maybe, object_of, text

WORTH_POINTS = 1.0  # of AUROC: what a teacher gives or takes beyond it counts. Loss foresaw less: the trials are not calibrated alike
SCREENED = "students.json"  # in the run's folder: every candidate so far

SCORE = schema.number(-1e30, 1e30)
SCREENED_ROWS = object_of({"tried": list_of(text()), "candidates": list_of(object_of(
    {"arch": text(), "family": text(), "cost": maybe(COST), "score": maybe(SCORE), "verdict": text()}))}, others=True)


@dataclass(frozen=True)
class Timing:
    """Which latencies a choice of students is about: runtime, threads, and another device's table where it is not this machine."""

    target: Literal["onnx", "openvino"]
    threads: int
    table: dict[str, Any] | None = None


def choose_method(trials: Trials | None, *, first: bool) -> dict[str, Any]:
    """The method of the best AUROC on images held out, all scores, and whether the teacher is worth it; each starts from the same student.

    first: whether methods with a teacher begin with its features of every image, in one first stage that they share.
    """
    if trials is None:
        raise UserError("--method auto divides the training images into folds, and there are too few labels; give more images, or name a "
                        "method")
    methods = [name for name in TRIALS if not METHODS[name].stages or trials.signals.bank.stages]
    if len(methods) < len(TRIALS):
        say("auto", "drd is left out: the bank holds no stages; --bank-grid 8 banks them")
    for number in range(trials.count):
        begun: Model | None = None
        for method in methods:
            taught = METHODS[method].bank and f"{method}-{number}" not in trials.done
            if first and taught and begun is None:
                begun = trials.begun(number)
            trials.perform(method, number, begun if taught else None)
        remove_run(trials.first_stage_folder(number))
    return describe_choice({method: trials.scores(method) for method in methods}, {method: trials.losses(method) for method in methods},
                           trials.groups, by_validation=trials.by_validation)


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
    """Take the method of the best mean AUROC, of equals the simpler, and say whether RD, the way to use a teacher, is worth it.

    scores: AUROC of each trial; where a trial's images have none, its mean loss below 0, and losses alone decide. losses: of each trial's
    held-out images (n,), of folds one after another, of validation the same images in each; groups (n,) or of all folds together: patients.
    """
    means = {method: float(np.mean(np.concatenate(own))) for method, own in losses.items()}
    ranked = all(score >= 0 for own in scores.values() for score in own)
    best = max(scores, key=lambda method: float(np.mean(scores[method])) if ranked else -means[method])
    seen = f"{judges_in_words(len(groups), by_validation=by_validation)}, {len(losses[best])} {'seeds' if by_validation else 'folds'}"
    say("auto", f"{'AUROC' if ranked else 'loss'} on {seen}: "
                + ", ".join(f"{method} {np.mean(scores[method]) if ranked else value:.4f}" for method, value in means.items())
                + f"; taken: {best}")
    verdict = worth(losses["vanilla"], losses["rd"], groups, by_validation=by_validation)
    points = gained_points(scores) if ranked else None
    word = verdict.word if points is None else word_of(points, WORTH_POINTS)
    told = {"helps": "it helps", "ties": "nothing to tell it from none", "harms": "it harms"}[word]
    gained = "" if points is None else f" {points:+.1f} points of AUROC and"
    say("teacher", f"{told}: rd gained{gained} {verdict.gain:+.4f} +- {verdict.error:.4f} in held-out loss over the student alone")
    return {"method": best, "scores": scores, "losses": means, "teacher": {**verdict.as_dict(), "word": word, "points": points}}


def gained_points(scores: dict[str, list[float]]) -> float:
    """Points of AUROC by which RD's trials lie above those of the student alone, on average."""
    return 100 * float(np.mean(scores["rd"]) - np.mean(scores["vanilla"]))
