"""rd-distill as a story: data, teacher, bank, probe, student, training, test, folder.

Owns: the order of the steps, what is printed, the interrupted run's folder. Does not own: how any step is done, the same story from
Python (python.py).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from distill.adaptation.adapt import adapt
from distill.data.image_set import ImageSet
from distill.data.intake import choose_device, describe, read_images
from distill.data.named import PHANTOMS
from distill.data.pixels import build_pixels
from distill.data.training_data import TrainingData
from distill.data.views import ViewSpec
from distill.evaluation.predict import calibrate, judge_gain, score, summary
from distill.methods.build import build_branches, grid_of
from distill.networks.checkpoint import load_checkpoint
from distill.networks.models import Model, ModelSpec, count_macs, count_parameters
from distill.networks.own import OwnStudent, tried
from distill.networks.solid import TYPED, is_solid
from distill.networks.stages import cut_stages
from distill.networks.students import build_own, build_student, check_weights, timm_arguments, timm_name
from distill.progress import say, track
from distill.pruning.shrinking import budget_of, device_table, shrink_student
from distill.report.outcome import RunResult, images_digest, write_result
from distill.run import Run, opened_run, start_run
from distill.selection.candidates import spec_of
from distill.selection.choosing import Timing, choose_method, choose_student
from distill.selection.length import FEWEST, choose_length, is_open
from distill.selection.trials import open_trials
from distill.selection.weak import is_doubted, judge_teacher
from distill.settings.data import DataOptions
from distill.settings.distill import DistillSettings
from distill.settings.hidden import check_names_file
from distill.settings.method import MethodOptions, SelectionOptions
from distill.settings.method_table import METHODS
from distill.settings.student import BudgetOptions, StudentOptions
from distill.settings.teacher import TeacherOptions
from distill.settings.training import RunOptions, TrainingOptions
from distill.teacher.teacher import Teacher
from distill.teacher.teachers import check_teacher, load_teacher, sees_volumes
from distill.teacher.teaching import BANKS, BankPlan, TeacherSource, check_bank, live_teacher, prepare_teacher, stated_input
from distill.training.batches import training_steps
from distill.training.pretrain import FirstStage, pretrain
from distill.training.student import Recipe, distils_probe, peak_lr, run_on, task_gradients, train, train_a_little
from runtimes.commands.flags import record
from runtimes.errors import USAGE, UserError
from runtimes.files.folder import MANIFEST
from runtimes.images.spec import ImageSpec
from runtimes.measure.device_table import read_table


@dataclass(frozen=True)
class OwnNetworks:
    """What Python hands over in place of names: a teacher, a student's network; None where the settings name it."""

    teacher: Teacher | None = None
    student: OwnStudent | None = None


NAMED = OwnNetworks()


def distill(settings: DistillSettings, command: str) -> int:
    """Run the main job and write the student folder; returns the exit code."""
    more = {"the adapted teacher's folder": teacher_folder(settings.out)} if settings.adapt != "none" else {}
    if settings.bank is None and settings.banked:
        more["the folder of banks"] = BANKS
    with opened_run(settings.part(RunOptions), record(settings), "student", drawn=settings.data in PHANTOMS, more=more) as run:
        if run is None:
            say("done", f"{settings.out}/ was finished already; nothing to resume")
            return 0
        result, choices = story(settings, command, run, listing=settings.out)
        write_result(settings.out, result, overwrite=run.overwrite, more=choices)
        say("done", f"{settings.out}/  report: {settings.out / 'report.html'}  next: rd-export --target onnx"
                    + ("" if settings.out == Path("student") else f" --student-dir {settings.out}"))
        return 0


def story(settings: DistillSettings, command: str, opened: Run, networks: OwnNetworks = NAMED, *,
          listing: Path | None = None, first_stage: FirstStage = pretrain) -> tuple[RunResult, dict[str, Any]]:
    """Data to a tested student: the result, and what was chosen on the way by trial; nothing is written but the run's folder and banks.

    listing: where a list of bad images goes, should there be any; nowhere when not given. first_stage: what trains a student before it
    sees a label, where that is done.
    """
    run, resume, banked = opened.folder, settings.resume, settings.banked
    arch = check_names(settings, networks)
    source = TeacherSource(settings.teacher, settings.teacher_weights, settings.teacher_adapter, networks.teacher,
                           stated=stated_input(settings.part(TeacherOptions)), task=settings.task_name)
    if settings.adapt != "none":
        folder = teacher_folder(settings.out)
        adapt(settings.adaptation(folder), command)
        source = TeacherSource(str(folder), adapter=settings.teacher_adapter)
    device = choose_device(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    images = read_images(settings.part(DataOptions), listing, unlabelled=settings.unlabelled)
    if images.names and listing is not None:
        check_names_file(listing)
    say("data", describe(images))
    for note in images.facts.get("notes", []):
        say("", note)
    check_images(settings, images)
    spec = student_image_spec(settings.part(StudentOptions), images, networks.student, arch)
    like = ModelSpec(arch or "auto", spec.height, spec.width, images.task, images.classes, network_arguments(arch, spec, networks.student),
                     slices=spec.slices, pooling=settings.slice_pooling)
    views = views_for(settings, images, spec, source)
    method = settings.part(MethodOptions)
    if networks.student is not None:  # what this method cannot teach is refused before the bank is built
        _check_stages(build_own(like, networks.student, settings.seed), method)
    signals = None
    if banked:
        plan = BankPlan(settings.bank, settings.banked_views, settings.bank_seed, grid_of(method, settings.bank_grid),
                        settings.bank_runtime, settings.audit, settings.threads)
        if settings.live and source.own is None:
            source = replace(source, loaded=load_teacher(source.name, weights=source.weights, adapter=source.adapter, stated=source.stated,
                                                         task=source.task))
        signals = prepare_teacher(source, plan, images, views, device, second=settings.second_teacher,
                                  second_task=settings.second_task_name, probe_seed=settings.split_seed)
    else:
        say("teacher", f"none: --method {settings.method} trains on labels alone")
    start = partial(named_student, weights=settings.student_weights, seed=settings.seed, method=method, device=device, own=networks.student)
    student = None if arch is None else start(like)
    start_run(opened, {"images": images_digest(images), "teacher": signals.facts["teacher_hash"] if signals else None})
    with track("pixels") as update:
        data = TrainingData(images, spec, views, build_pixels(run, images, spec, update))
    if signals is not None and settings.live:
        signals = replace(signals, live=live_teacher(source, plan, images, run / "teacher", device))
    given_weights = settings.student_weights is not None
    lr = peak_lr(settings.lr, given_weights=given_weights)
    steps = FEWEST if settings.min_steps is None else settings.min_steps
    recipe = Recipe(method, replace(settings.part(TrainingOptions), lr=lr, min_steps=steps), settings.seed, device)
    choices: dict[str, Any] = {}
    with torch.random.fork_rng():
        if student is None:
            timing = Timing(settings.latency_target, settings.latency_threads, device_table(settings.latency_table))
            arch, choices["students"] = choose_student(
                recipe, settings.part(SelectionOptions), budget_of(settings.part(BudgetOptions)), timing, like, data, signals, run,
                split_seed=settings.split_seed, resume=resume)
            student = start(spec_of(arch, like))
        else:
            student = shrink_student(
                settings.part(BudgetOptions), student, run, given_weights=given_weights, chosen_after=settings.method == "auto",
                resume=resume, gradients=lambda model: task_gradients(recipe, data, model),
                train=lambda model, number: train_a_little(recipe, settings.prune_steps, data, model, signals, run / f"round-{number}",
                                                           resume=resume))
        begins = method.pretrain == "on"
        undecided = is_open(settings.method, settings.part(TrainingOptions), images)
        length = training_steps(len(images.rows("train")), settings.batch, settings.epochs, steps)
        doubted = is_doubted(method, settings.part(SelectionOptions), images, length)
        if signals is not None and (undecided or doubted or settings.method == "auto"):
            trials = open_trials(recipe, settings.part(SelectionOptions), data, student, signals, run, split_seed=settings.split_seed,
                                 resume=resume)
            if settings.method == "auto":
                choices["choice"] = choose_method(trials, first=begins)
                method = replace(method, method=choices["choice"]["method"])
                recipe = replace(recipe, method=method)
            if doubted and trials is not None:
                doubt = judge_teacher(trials)
                choices["weak_teacher"] = doubt.as_dict()
                method = replace(method, method="vanilla") if doubt.left else method
                recipe = replace(recipe, method=method)
            if undecided and METHODS[method.method].bank:
                chosen = choose_length(trials)
                choices["length"] = chosen.as_dict()
                recipe = replace(recipe, training=replace(recipe.training, min_steps=chosen.min_steps))
        if signals is not None and begins:
            student, epochs = first_stage(recipe, data, student, signals, run / "pretrain", resume=resume)
            choices["pretrain"] = {"epochs": len(epochs), "start": epochs[0]["val_loss"], "end": epochs[-1]["val_loss"]}
            before = f", {epochs[0]['val_loss']:.3f} after the first epoch" if len(epochs) > 1 else ""
            say("pretrain", "learnt the features of every training image, labels unread; on validation 1 - cosine between student and "
                            f"teacher is {epochs[-1]['val_loss']:.3f}{before}")
        facts = signals.facts if signals and (METHODS[method.method].bank or begins) else {}
        signals = signals if METHODS[method.method].bank else None
    row = METHODS[method.method]
    target = "linear probe" if distils_probe(method, images) else "teacher branch"
    say("method", method.method + (f", taught the logits of the {target} (--kd-from {method.kd_from})" if row.branch else "")
                  + f", learning rate {lr:g}")
    macs = count_macs(student, spec.height, spec.width)
    branches = build_branches(method, student, signals, len(images.rows("train")))
    with torch.random.fork_rng():
        history = train(recipe, data, branches, signals, run, resume=resume)
    predictions = {split: run_on(branches, data, split, signals, device) for split in ("val", "test")}
    calibrations = {branch: calibrate(images, getattr(predictions["val"], branch), predictions["val"].rows)
                    for branch in ("student", "teacher", "probe") if getattr(predictions["val"], branch) is not None}
    splits = score(images, predictions, calibrations, bootstrap=settings.bootstrap, seed=settings.seed)
    warnings = judge_gain(splits)
    for line in summary(splits, calibrations["student"]):
        say(*line.split(" ", 1))
    for warning in warnings:
        say("warning", warning)
    return RunResult(branches.student, spec, images, predictions, calibrations, splits, history, warnings, macs,
                     facts, record(settings), command), choices


def check_names(settings: DistillSettings, networks: OwnNetworks = NAMED) -> str | None:
    """The student's architecture, None for auto; UserError for whatever is named and is not there, before any image is looked at."""
    if networks.student is not None:
        arch: str | None = networks.student.arch
    else:
        arch = None if settings.student == "auto" else timm_name(settings.student)
    if arch is not None and settings.student_weights is not None:
        check_weights(arch, settings.student_weights)
    if settings.latency_table is not None:
        read_table(settings.latency_table)
    if settings.banked:
        if networks.teacher is None:
            check_teacher(settings.teacher, weights=settings.teacher_weights, adapter=settings.teacher_adapter, task=settings.task_name,
                          stated=stated_input(settings.part(TeacherOptions)))
        if settings.second_teacher is not None:
            check_teacher(settings.second_teacher, flag="--second-teacher", task=settings.second_task_name)
        if settings.bank is not None:
            check_bank(settings.bank)
    budget_of(settings.part(BudgetOptions))  # a number that is none is refused, too
    return arch


def check_images(settings: DistillSettings, images: ImageSet) -> None:
    """Refuse (exit 2) a method, mixing or a live teacher that cannot teach what these images are, or are labelled with."""
    method, row = settings.method, METHODS.get(settings.method)
    if row and row.stages and images.volume is not None:
        raise UserError(f"--method {method} is about maps of images; use rd for volumes", USAGE)
    if settings.mixup and images.volume is not None:
        raise UserError(f"--mixup {settings.mixup:g} mixes images, and volumes differ in their slices; leave it out", USAGE)
    if settings.live and images.volume is not None:
        raise UserError("--bank-views live is for single images; of volumes a teacher is banked: give a number of views", USAGE)
    if row and row.one_finding and images.task == "multilabel":
        raise UserError(f"--method {method} splits the label's class from the others, and here an image may have several; use kd or dist",
                        USAGE)


def named_student(spec: ModelSpec, *, weights: str | None, seed: int, method: MethodOptions, device: str,
                  own: OwnStudent | None = None) -> Model:
    """The student as training starts from it; one that the method cannot teach is refused before any work."""
    student = build_student(spec, weights, seed) if own is None else build_own(spec, own, seed)
    source = "its own weights" if own is not None else "random weights" if weights is None else f"from {weights}"
    say("student", f"{spec.arch}, {count_parameters(student) / 1e6:.2f} M parameters, "
                   f"{count_macs(student, spec.height, spec.width) / 1e6:.1f} M MACs at {spec.width} px, {source}, on {device}")
    _check_stages(student, method)
    return student


def _check_stages(student: Model, method: MethodOptions) -> None:
    """UserError where a method is about stages and the student shows too few."""
    if method.method in METHODS and METHODS[method.method].stages:
        cut_stages(student, method.stages - 1)


def network_arguments(arch: str | None, spec: ImageSpec, own: OwnStudent | None = None) -> dict[str, Any]:
    """What the student's network is made with; one of the user's own is tried out for it."""
    if own is not None:
        return {"features": tried(own, spec.height, spec.width)}
    return {"channels": spec.levels_channels} if arch is not None and is_solid(arch) else timm_arguments(arch or "")


def teacher_folder(out: Path) -> Path:
    """Where --adapt writes the teacher of a student."""
    return Path(f"{out}-teacher")


def views_for(settings: DistillSettings, images: ImageSet, spec: ImageSpec, source: TeacherSource) -> ViewSpec:
    """How images are augmented: volumes as solids where both student and teacher see them at once, else in the plane of their slices."""
    views = ViewSpec(flip=0.5 if settings.flip else 0.0)
    if images.volume is None or spec.masked:
        return views
    seen = [source.name] * settings.banked + ([settings.second_teacher] if settings.second_teacher else [])
    return replace(views, solid=source.own is None and all(map(sees_volumes, seen)))


def student_image_spec(options: StudentOptions, images: ImageSet, own: OwnStudent | None = None, arch: str | None = None) -> ImageSpec:
    """How images reach the student: the data's own depth and channels, at --size or a size near the images' own.

    A student that sees volumes at once takes as many slices as --slices says, or the median volume has, in multiples of 16.
    """
    if arch is not None and is_solid(arch) and images.volume is None:
        raise UserError(f"--student {options.student} sees whole volumes, and the data are single images; name volumes (NIfTI, series "
                        "of DICOM, an .npz of volumes), or another student", USAGE)
    side = options.size
    if side is None:
        median = max(images.facts.get("median_size", (96, 96)))
        side = min(max(32 * round(median / 32), 64), 128)
    mean, std = pretrained_statistics(options) if own is None else (own.mean, own.std)
    form = images.form
    if arch is not None and is_solid(arch) and images.volume is not None:
        depth = images.facts["depths"][1]
        most = images.volume.slices if images.facts.get("slices_stated") else min(max(16 * round(depth / 16), 16), 64)
        form["volume"] = replace(images.volume, slices=most, solid=True)
    return ImageSpec(side, side, mean=mean, std=std, fit=options.resize, **form)


def pretrained_statistics(options: StudentOptions) -> tuple[Any, Any]:
    """Mean and std of the student's input: those of its weights when it starts from some, ImageNet's otherwise."""
    import timm

    if options.student_weights and (Path(options.student_weights) / MANIFEST).is_file():
        earlier = load_checkpoint(Path(options.student_weights)).image_spec
        return earlier.mean, earlier.std
    known = options.student_weights and not options.student.startswith(TYPED)
    config = timm.get_pretrained_cfg(timm_name(options.student), allow_unregistered=True) if known else None
    if config is not None:
        return tuple(config.mean), tuple(config.std)
    return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


if __name__ == "__main__":
    sys.exit("run rd-distill, or python -m distill.cli")
