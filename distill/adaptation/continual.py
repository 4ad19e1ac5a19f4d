"""One task after another: what rd-adapt begins with, what holds the network, whether earlier tasks still answer, what the folder keeps.

Owns: Continual, which knows the folder gone on from; the trial of earlier heads and its refusal; the images that stay. Does not own:
training (adapt.py), which images a trial is on (trials.py), the distance to earlier features (methods/keep.py), files
(networks/tasks.py), the original (teacher/originals.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from distill.adaptation.earlier import earlier_tasks
from distill.adaptation.trials import Trial, can_be_judged, check_places, find_trials, in_words, kept_rows
from distill.data.image_set import ImageSet
from distill.data.intake import data_name
from distill.data.pixels import PixelStore, build_pixels
from distill.data.training_data import TrainingData
from distill.evaluation.predict import Predictions, calibrate, judge, score
from distill.methods.keep import Keeping
from distill.methods.step import Branches
from distill.networks.checkpoint import WEIGHTS, Calibration, Checkpoint, config_of
from distill.networks.models import Model, ModelSpec, state_hash, weights_hash
from distill.networks.tasks import (
    AGAIN,
    INDEX,
    KeptImages,
    Task,
    TaskFolder,
    digest_of,
    file_digest,
    gone_on,
    loaded,
    own_parts,
    write_tasks,
)
from distill.progress import say
from distill.settings.continual import ContinualOptions
from distill.teacher.originals import Original, open_original, record_original
from distill.teacher.teacher import TeacherInput
from distill.teacher.teachers import FolderNet, load_teacher
from distill.training.answers import predict
from runtimes.errors import PARITY, USAGE, UserError
from runtimes.text import counted

MOST_FORGOTTEN = 0.05  # of what was above chance


@dataclass(frozen=True)
class Outcome:
    """What a trial showed: AUROC before and after this run, on which images; and what is written of the task from now on."""

    task: Task
    was: float | None
    now: float | None
    on: str
    lacking: str = ""  # why it could not be tried

    @property
    def forgotten(self) -> float | None:
        """Share of what was above chance that is lost; None where it was not tried."""
        if self.was is None or self.now is None:
            return None
        return (self.was - self.now) / (self.was - 0.5) if self.was > 0.5 else 0.0

    def loss(self) -> str:
        """What was lost, within a sentence."""
        if self.was is None or self.now is None or self.forgotten is None:
            return self.describe()
        return f"{self.task.name} now AUROC {self.now:.3f}, was {self.was:.3f} ({100 * self.forgotten:.0f} %)"

    def describe(self) -> str:
        """The line that a user reads."""
        if self.was is None or self.now is None:
            return f"{self.task.name}: not tried ({self.lacking or 'its AUROC is not defined'}); it answers by the new network"
        return f"{self.task.name}: now AUROC {self.now:.3f}, was {self.was:.3f} (on {self.on})"


@dataclass(frozen=True)
class Continual:
    """The folder that a run goes on from, None for a first task, and how its tasks are kept."""

    folder: TaskFolder | None
    options: ContinualOptions
    original: Original | None = None  # that new experts stand on, of a folder with --keep-old experts
    more: dict[str, Tensor] = field(default_factory=dict)  # tensors of tasks that went on, by digest

    def begin(self, name: str, weights: str | None, stated: TeacherInput) -> Original:
        """The teacher that adapters are put on: the original of the folder, or what --teacher names, as it is."""
        if self.original is not None:
            return self.original
        teacher = load_teacher(name, weights=weights, stated=stated)
        return Original(teacher, weights_hash(teacher.net), "")

    def check_kept(self, images: ImageSet, name: str) -> None:
        """Say it where what --keep-images keeps of the new task could not be judged later; UserError (exit 2) for volumes."""
        count = self.options.keep_images
        if not count:
            return
        if images.volume is not None:
            raise UserError(f"--keep-images {count}: volumes are not kept; leave it out, or use --keep-old experts", USAGE)
        labels = images.labels[kept_rows(images, count)]
        if not can_be_judged(labels, images.task, images.classes):
            say("warning", f"--keep-images {count} keeps {in_words(labels, images.task, 'image')}: a later task could not try {name} on "
                           "that; keep more, or more kinds of training images")

    def name_of(self, images: ImageSet, asked: str | None) -> str:
        """What the new task is called: as asked, else as the data, numbered where that is taken."""
        if asked is not None:
            return asked
        taken = set(self.folder.names) if self.folder is not None else set()
        name = data_name(images)
        return next(one for count in range(1, len(taken) + 2) if (one := name if count == 1 else f"{name}-{count}") not in taken)

    def trials(self, *, moves: bool) -> list[Trial]:
        """The tasks whose network goes on with this run, with the images that they can be tried on; moves: whether it is trained at all.

        UserError (exit 2), before anything is trained, where one cannot be tried and that was not accepted.
        """
        if self.folder is None or self.options.keep_old == "experts" or not moves:
            return []
        trials = find_trials(self.folder, self.shared(), self.options.old_data)
        if (lacking := [trial for trial in trials if trial.lacking]) and not self.options.accept_forgetting:
            moved = "" if all(trial.images is not None for trial in lacking) else "name images that have moved with --old-data, "
            raise UserError(f"--keep-old {self.options.keep_old}: nobody could tell what is forgotten of "
                            f"{'; of '.join(f'{trial.task.name} ({trial.lacking})' for trial in lacking)}: {moved}keep every task with "
                            "--keep-old experts, or go on with --accept-forgetting", USAGE)
        return trials

    def shared(self) -> list[Task]:
        """The tasks that answer by the newest network, each with a head of its own."""
        assert self.folder is not None
        own = own_parts(self.newest().model.net)
        network = _network(self.folder.tasks[-1], own)
        return [task for task in self.folder.tasks if _network(task, own) == network]

    def newest(self) -> Checkpoint:
        """The newest task's own network."""
        assert self.folder is not None
        return self.folder.checkpoint(self.folder.names[-1])

    def keeping(self, before: Any, sd: Tensor) -> Keeping | None:
        """What holds the network to what it answered, on kept images where there are some; None where nothing does.

        before: the frozen network that is gone on from; sd: spread of its features on the new task's images.
        """
        if self.folder is None or self.options.keep_old != "distil":
            return None
        assert isinstance(before, FolderNet)
        kept = [(images.levels, self.folder.checkpoint(task.name).image_spec) for task in self.shared()
                if (images := self.folder.kept(task.name)) is not None]
        count = counted(sum(len(levels) for levels, _ in kept), "image")
        say("keep", "held to its earlier features on " + (f"{count} kept of earlier tasks" if kept else
                                                          "the new task's images; nothing of earlier tasks is kept"))
        return Keeping(before.model, sd, self.options.keep_weight, kept)

    def outcomes(self, trials: list[Trial], network: Model, run: Path, *, seed: int, bootstrap: int, device: str) -> list[Outcome]:
        """Try earlier tasks on the network as it is now, and say it; UserError (exit 3) where one lost too much, unless it was accepted."""
        outcomes = [self._outcome(trial, network, run / f"old-{place}", seed=seed, bootstrap=bootstrap, device=device)
                    for place, trial in enumerate(trials)]
        for outcome in outcomes:
            say("task", outcome.describe())
        lost = [outcome for outcome in outcomes if outcome.forgotten is None or outcome.forgotten > MOST_FORGOTTEN]
        if lost and not self.options.accept_forgetting:
            raise UserError(f"--keep-old {self.options.keep_old} forgets more than {100 * MOST_FORGOTTEN:.0f} % of what was above chance: "
                            f"{', '.join(outcome.loss() for outcome in lost)}; start anew with --keep-old experts --overwrite, which "
                            f"forgets nothing and removes {run}, or take the result as it is with --resume --accept-forgetting: nothing "
                            "is trained again", PARITY)
        return outcomes

    def _outcome(self, trial: Trial, network: Model, run: Path, *, seed: int, bootstrap: int, device: str) -> Outcome:
        assert self.folder is not None
        before = self.folder.checkpoint(trial.task.name)
        own, state = own_parts(network.net), {name: tensor.detach().cpu() for name, tensor in network.net.state_dict().items()}
        task, tensors = gone_on(trial.task, state, own, network.spec)
        self.more.update(tensors)
        held = before.model.net.state_dict()
        whole = {name: tensors[digest] if digest in tensors else held[name] for name, digest in task.tensors.items()}
        after = loaded(task.spec, whole, f"task {task.name}")
        was = now = None
        metrics, calibration, on = {**task.metrics, "splits": {}}, _unknown(before.calibration), ""
        images = trial.images if trial.kept is None else _as_images(trial.kept, task.spec)
        if images is not None and len(images.rows("val")):
            pixels = (build_pixels(run, images, before.image_spec) if trial.kept is None else
                      PixelStore(trial.kept.levels, None))  # type: ignore[arg-type]  # no file is mapped
            answers = {name: {split: predict(Branches(model.to(device)), pixels, before.image_spec, images.rows(split), device=device,
                                             bank=None, bank_rows=None, probe=None) for split in ("val", "test")
                              if len(images.rows(split)) and (name == "now" or split == "val")}
                       for name, model in (("was", before.model), ("now", after))}
            was, now = (judge(images, answers[name]["val"]).get("val_auroc_student") for name in ("was", "now"))
            count = len(images.rows("val"))
            on = f"{count} of its validation images" if trial.kept is None else f"{counted(count, 'image')} kept of it"
            if trial.kept is None:
                calibration, metrics = _again(images, answers["now"], task.metrics, seed=seed, bootstrap=bootstrap)
        record = {**task.record, "weights_hash": weights_hash(after.to("cpu").net), "files": {WEIGHTS: file_digest(whole)},
                  "moved": {"keep_old": self.options.keep_old, "was": was, "now": now, "on": on}}
        config = config_of(after, before.image_spec, calibration, task.config["rd"].get("licences"))
        return Outcome(replace(task, config=config, metrics=metrics, record=record), was, now, on, trial.lacking)

    def write(self, folder: Path, name: str, model: Model, original: Original, spec: ModelSpec, outcomes: list[Outcome],
              data: TrainingData) -> None:
        """Write the tasks into a new folder beside the newest one's files, prove that those kept bit for bit are, and say it.

        original, spec: what a first task stands on.
        """
        moved = {outcome.task.name: outcome.task for outcome in outcomes}
        pool, images, earlier = dict(self.more), {}, []
        record: Mapping[str, Any] | None
        if self.folder is None:
            record, tensors = record_original(original, spec)
            pool |= tensors
        else:
            record = self.folder.original
            earlier = [moved.get(task.name, task) for task in self.folder.tasks]
            wanted = {digest for task in earlier for digest in task.tensors.values()} | set((record or {}).get("tensors", {}).values())
            pool |= self.folder.tensors(wanted - set(pool))
            images = {task: kept for task in self.folder.names if (kept := self.folder.kept(task)) is not None}
        if self.options.keep_images:
            images[name] = keep_images(data, self.options.keep_images)
        state = {key: tensor.detach().cpu() for key, tensor in model.net.state_dict().items()}
        size = write_tasks(folder, earlier, name, state, record, pool, images)
        newest = Task(name, {}, {}, {}, {key: digest_of(tensor) for key, tensor in state.items()})
        written = TaskFolder(folder, (*earlier, newest), record)
        for task in earlier:
            if task.name not in moved:
                _prove(written, task)
                auroc = task.auroc()
                figures = "no AUROC known" if auroc is None else f"now AUROC {auroc:.3f}, was {auroc:.3f}"
                say("task", f"{task.name}: {figures} (bit for bit)")
        kept_for = f"the original{' and earlier tasks' if earlier else ''}"
        say("task", f"{name}: new" + (f"; {size / 1e3:,.0f} kB beside its weights keep {kept_for}" if size else ""))
        if images:
            count = sum(len(kept.levels) for kept in images.values())
            words = (f"{counted(count, 'image')} of patients {'stays' if count == 1 else 'stay'} in this folder, for --keep-old distil "
                     f"({', '.join(f'{len(kept.levels)} of {task}' for task, kept in images.items())}): pixels and labels without names; "
                     "treat it as you treat the data")
            say("images", words)
            with (folder / "README.md").open("a", encoding="utf-8") as card:
                card.write(f"\n**{words[0].upper()}{words[1:]}.**\n")


def continual(name: str, options: ContinualOptions, stated: TeacherInput, asked: str | None) -> Continual:
    """What a run goes on from: the folder that --teacher names, where it holds tasks, looked through before any image is read.

    asked: what the new task is to be called. UserError where the folder is damaged; with exit 2 for a name that is taken, an --old-data
    that is nowhere, and where new experts cannot stand on the folder's original.
    """
    check_places(options.old_data)
    folder = earlier_tasks(name)
    if folder is None:
        return Continual(None, options)
    if asked in folder.names:
        raise UserError(f"--task {asked} is there already: {folder.folder} holds {', '.join(map(repr, folder.names))}; choose another name",
                        USAGE)
    original = _original(folder, stated) if options.keep_old == "experts" else None
    folder.prove()
    say("tasks", f"{folder.folder} holds {', '.join(folder.names)}; --keep-old {options.keep_old}")
    return Continual(folder, options, original)


def _original(folder: TaskFolder, stated: TeacherInput) -> Original:
    """The original that a folder keeps; UserError where it is gone or damaged, or where other images than its own are stated."""
    place, record = folder.folder, folder.original
    if record is None:
        raise UserError(f"--keep-old experts: {place} no longer holds the original that new experts would stand on: an earlier version "
                        f"wrote it, and its experts began in the weights; adapt the original teacher again, or go on with "
                        "--keep-old distil or none", USAGE)
    if stated != TeacherInput(None if stated.size is None else record["teacher"]["image"]["height"]):
        raise UserError(f"--teacher {place} keeps how images reach its original; leave --teacher-size, -mean, -std, -pool, -resize and "
                        "-channels out", USAGE)
    return open_original(record["teacher"], folder.state(record["tensors"]), f"{place / INDEX}: original.teacher")


def keep_images(data: TrainingData, count: int) -> KeptImages:
    """Some labelled training images as the network is fed, such that they can be judged where any of them can."""
    rows = kept_rows(data.images, count)
    return KeptImages(data.pixels.rows(rows), data.images.labels[rows])


def _network(task: Task, own: tuple[str, ...]) -> Mapping[str, str]:
    """A task's tensors by digest without those that are its own alone."""
    return {name: digest for name, digest in task.tensors.items() if not name.startswith(own)}


def _prove(written: TaskFolder, task: Task) -> None:
    """UserError where a task that was to stay does not come back out of the new folder as it was."""
    state = written.state(task.tensors)
    if (expected := task.record.get("weights_hash")) is not None and state_hash(state) != expected:
        raise UserError(f"task {task.name} does not come back from {written.folder.name} as it was written; {AGAIN}, and report this")


def _as_images(kept: KeptImages, spec: ModelSpec) -> ImageSet:
    """Kept images as a set of validation images: pixels are read from them, not from here."""
    return ImageSet((), tuple(map(str, range(len(kept.labels)))), kept.labels, spec.classes, spec.task, np.full(len(kept.labels), "val"))


def _unknown(calibration: Calibration) -> Calibration:
    """A calibration that was fitted to answers which are no longer given."""
    return replace(calibration, not_calibrated={name: "its network went on to another task, and it was not fitted again"
                                                for name in calibration.not_calibrated or ("every class",)})


def _again(images: ImageSet, answers: Mapping[str, Predictions], metrics: Mapping[str, Any], *, seed: int,
           bootstrap: int) -> tuple[Calibration, dict[str, Any]]:
    """Calibration and figures of a task by the network as it is now."""
    calibration = calibrate(images, answers["val"].student, answers["val"].rows)
    splits = score(images, dict(answers), {"student": calibration}, bootstrap=bootstrap, seed=seed)
    return calibration, {**metrics, "thresholds": list(calibration.thresholds), "splits": splits}


