"""rd-distill as a story: data, teacher, bank, probe, student, training, test, folder.

Owns: the order of the steps, what is printed, the interrupted run's folder. Does not own: how any step is done.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from distill.adapt import adapt
from distill.adapt_config import adapt_settings
from distill.bridges import build_branches
from distill.candidates import spec_of
from distill.checkpoint import load_checkpoint
from distill.choosing import choose_method, choose_student
from distill.config import DistillSettings
from distill.intake import choose_device, describe, read_images
from distill.models import Model, ModelSpec, count_macs, count_parameters
from distill.named import PHANTOMS
from distill.objective import STAGED
from distill.outcome import Outcome, images_digest, write_result
from distill.pixels import build_pixels
from distill.predict import calibrate, judge_gain, score, summary
from distill.progress import say, track
from distill.run import Run, opened_run, start_run
from distill.shrinking import budget_of, shrink_student
from distill.stages import cut_stages
from distill.students import build_student, check_weights, timm_arguments, timm_name
from distill.teachers import check_teacher
from distill.teaching import BANKS, check_bank, consult_teacher
from distill.training import distils_probe, peak_lr, run_on, task_gradients, train, train_a_little
from distill.views import ViewSpec
from runtimes.device_table import read_table
from runtimes.errors import USAGE, UserError
from runtimes.flags import record
from runtimes.folder import MANIFEST
from runtimes.images import ImageSet, ImageSpec


def distill(settings: DistillSettings, command: str) -> int:
    """Run the main job and write the student folder; returns the exit code."""
    more = {"the adapted teacher's folder": teacher_folder(settings.out)} if settings.adapt != "none" else {}
    if settings.bank is None and settings.method != "vanilla":
        more["the folder of banks"] = BANKS
    with opened_run(settings, record(settings), "student", drawn=settings.data in PHANTOMS, more=more) as run:
        if run is None:
            say("done", f"{settings.out}/ was finished already; nothing to resume")
            return 0
        return _distill(settings, command, run)


def _distill(settings: DistillSettings, command: str, opened: Run) -> int:
    run, asked = opened.folder, settings
    arch = check_names(settings)
    if settings.adapt != "none":
        settings = with_adapted_teacher(settings, command)
    device = choose_device(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    images = read_images(settings)
    say("data", describe(images))
    for note in images.facts.get("notes", []):
        say("", note)
    if settings.method in STAGED and images.volume is not None:
        raise UserError(f"--method {settings.method} is about maps of images; use rd for volumes", USAGE)
    if settings.method == "dkd" and images.task == "multilabel":
        raise UserError("--method dkd splits the label's class from the others, and here an image may have several; use kd or dist", USAGE)
    spec = student_image_spec(settings, images)
    views = ViewSpec(flip=0.5 if settings.flip else 0.0)
    if settings.method == "vanilla":
        say("teacher", "none: --method vanilla trains on labels alone")
    taught = None if settings.method == "vanilla" else consult_teacher(settings, images, views, device)
    like = ModelSpec(arch or "auto", spec.height, spec.width, images.task, images.classes, timm_arguments(arch or ""), slices=spec.slices,
                     pooling=settings.slice_pooling)
    student = None if arch is None else named_student(settings, like, device)
    parents = {"images": images_digest(images), "teacher": taught.facts["teacher_hash"] if taught else None}
    start_run(opened, parents)
    with track("pixels") as update:
        pixels = build_pixels(run, images, spec, update)
    choices: dict[str, Any] = {}
    with torch.random.fork_rng():
        if student is None:
            arch, choices["students"] = choose_student(settings, like, images, spec, views, pixels, taught, run, device)
            student = named_student(settings, spec_of(arch, like), device)
        else:
            student = shrink_student(
                settings, student, run,
                gradients=lambda model: task_gradients(settings, images, spec, views, pixels, model),
                train=lambda model, number: train_a_little(settings, images, spec, views, pixels, model, taught,
                                                           run / f"round-{number}", device))
        if settings.method == "auto":
            assert taught is not None
            choices["choice"] = choose_method(settings, images, spec, views, pixels, student, taught, run, device)
            settings = replace(settings, method=choices["choice"]["method"])
            taught = None if settings.method == "vanilla" else taught
    target = "linear probe" if distils_probe(settings, images) else "teacher branch"
    taught_by = f", taught the logits of the {target} (--kd-from {settings.kd_from})" if settings.method in ("rd", "drd") else ""
    say("method", f"{settings.method}{taught_by}, learning rate {peak_lr(settings):g}")
    macs = count_macs(student, spec.height, spec.width)
    branches = build_branches(settings, student, taught, len(images.rows("train")))
    with torch.random.fork_rng():
        history = train(settings, images, spec, views, pixels, branches, taught, run, device)
    made = {split: run_on(branches, images, spec, pixels, split, taught, device) for split in ("val", "test")}
    calibrations = {branch: calibrate(images, getattr(made["val"], branch), made["val"].rows)
                    for branch in ("student", "teacher", "probe") if getattr(made["val"], branch) is not None}
    splits = score(images, made, calibrations, bootstrap=settings.bootstrap, seed=settings.seed)
    warnings = judge_gain(splits)
    for line in summary(splits, calibrations["student"]):
        say(*line.split(" ", 1))
    for warning in warnings:
        say("warning", warning)
    outcome = Outcome(branches.student, spec, images, made, calibrations, splits, history, warnings, macs,
                      taught.facts if taught else {}, record(asked), command)
    write_result(settings.out, outcome, overwrite=opened.overwrite, more=choices)
    say("done", f"{settings.out}/  report: {settings.out / 'report.html'}  next: rd-export --target onnx"
                + ("" if settings.out == Path("student") else f" --student-dir {settings.out}"))
    return 0


def check_names(settings: DistillSettings) -> str | None:
    """The student's architecture, None for auto; UserError for whatever is named and is not there, before any image is looked at."""
    arch = None if settings.student == "auto" else timm_name(settings.student)
    if arch is not None and settings.student_weights is not None:
        check_weights(arch, settings.student_weights)
    if settings.latency_table is not None:
        read_table(settings.latency_table)
    if settings.method != "vanilla":
        check_teacher(settings.teacher, weights=settings.teacher_weights, adapter=settings.teacher_adapter)
        if settings.second_teacher is not None:
            check_teacher(settings.second_teacher, flag="--second-teacher")
        if settings.bank is not None:
            check_bank(settings.bank)
    budget_of(settings)  # a number that is none is refused, too
    return arch


def named_student(settings: DistillSettings, spec: ModelSpec, device: str) -> Model:
    """The student as training starts from it; one that the method cannot teach is refused before any work."""
    student = build_student(spec, settings.student_weights, settings.seed)
    say("student", f"{spec.arch}, {count_parameters(student) / 1e6:.2f} M parameters, "
                   f"{count_macs(student, spec.height, spec.width) / 1e6:.1f} M MACs at {spec.width} px, "
                   f"{'random weights' if settings.student_weights is None else 'from ' + settings.student_weights}, on {device}")
    if settings.method in STAGED:
        cut_stages(student, settings.stages - 1)
    return student


def teacher_folder(out: Path) -> Path:
    """Where --adapt writes the teacher of a student."""
    return Path(f"{out}-teacher")


def with_adapted_teacher(settings: DistillSettings, command: str) -> DistillSettings:
    """Adapt the teacher into <out>-teacher, and go on with that folder as the teacher."""
    folder = teacher_folder(settings.out)
    adapt(adapt_settings(settings, folder), command)
    return replace(settings, teacher=str(folder), teacher_size=None, teacher_weights=None)


def student_image_spec(settings: DistillSettings, images: ImageSet) -> ImageSpec:
    """How images reach the student: the data's own depth and channels, at --size or a size near the images' own."""
    side = settings.size
    if side is None:
        median = max(images.facts.get("median_size", (96, 96)))
        side = min(max(32 * round(median / 32), 64), 128)
    window = tuple(images.facts.get("window", (0.0, 255.0)))
    mean, std = pretrained_statistics(settings)
    return ImageSpec(side, side, images.facts.get("channels", 3), images.facts.get("dtype", "uint8"),
                     (float(window[0]), float(window[1])), mean, std, images.volume)


def pretrained_statistics(settings: DistillSettings) -> tuple[Any, Any]:
    """Mean and std of the student's input: those of its weights when it starts from some, ImageNet's otherwise."""
    import timm

    if settings.student_weights and (Path(settings.student_weights) / MANIFEST).is_file():
        earlier = load_checkpoint(Path(settings.student_weights)).image_spec
        return earlier.mean, earlier.std
    config = timm.get_pretrained_cfg(timm_name(settings.student), allow_unregistered=True) if settings.student_weights else None
    if config is not None:
        return tuple(config.mean), tuple(config.std)
    return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


if __name__ == "__main__":
    sys.exit("run rd-distill, or python -m distill.cli")
