"""rd-adapt as a story: data, teacher, bank, probe, adapters, training, merge, test, folder.

Owns: the order of the steps and what is printed. Does not own: adapters (adapters.py, insert.py), folds (merge.py), the loop.
"""

from __future__ import annotations

import copy
import shlex
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.adaptation.adaptable import adaptable, check_adaptable
from distill.adaptation.continual import continual
from distill.adaptation.folding import FoldReport, batched, fold_teacher
from distill.adaptation.from_probe import MEMBERS, Course, adapt_from_probe, added_by, at_probe, most_steps
from distill.adaptation.guard import Verdict, cool
from distill.adapters.insert import POOLED, added_parameters, choose_layers, remove_unused
from distill.adapters.layer import adapters_of, routers_of
from distill.adapters.spectral import start_from_svd
from distill.data.image_set import ImageSet
from distill.data.intake import choose_device, describe, read_images
from distill.data.named import PHANTOMS
from distill.data.pixels import build_pixels
from distill.data.training_data import TrainingData
from distill.data.views import ViewSpec
from distill.evaluation.gains import cooled_losses, gain_of, groups_of
from distill.evaluation.predict import Predictions, calibrate, judge, score, summary
from distill.methods.build import method_losses
from distill.methods.step import Branches, Weights
from distill.networks.layout import channels_last
from distill.networks.models import Model, adapt_model, count_macs, count_parameters, feature_width
from distill.progress import say, track
from distill.report.outcome import RunResult, images_digest, write_result
from distill.run import Run, opened_run, start_run
from distill.settings.adapt import AdapterOptions, AdaptSettings
from distill.settings.continual import ContinualOptions
from distill.settings.data import DataOptions
from distill.settings.hidden import check_names_file
from distill.settings.teacher import TeacherOptions
from distill.settings.training import RunOptions, TrainingOptions
from distill.teacher.peft_folder import starts_of, write_peft
from distill.teacher.teachers import check_teacher
from distill.teacher.teaching import BANKS, BankPlan, TeacherSource, check_bank, prepare_teacher, stated_input
from distill.training.answers import predict
from distill.training.batches import Batches
from distill.training.student import fit_by, watched_rows
from runtimes.commands.flags import record
from runtimes.errors import USAGE, UserError
from runtimes.images.spec import ImageSpec

FOLD_IMAGES = 256  # that gates are averaged over, and as many that the fold is judged on
WATCHED_IMAGES = 500  # validation images looked at after each epoch: a teacher is large; the last figures are over all


def adapt(settings: AdaptSettings, command: str) -> int:
    """Adapt a teacher and write its folder; returns the exit code."""
    more = {} if settings.bank else {"the folder of banks": BANKS}
    with opened_run(settings.part(RunOptions), record(settings), "teacher", drawn=settings.data in PHANTOMS, more=more) as run:
        if run is None:
            say("done", f"{settings.out}/ was finished already; nothing to resume")
            return 0
        return _adapt(settings, command, run)


def _adapt(settings: AdaptSettings, command: str, opened: Run) -> int:
    run = opened.folder
    device = choose_device(settings.device)
    check_adaptable(settings.teacher)
    stated = stated_input(settings.part(TeacherOptions))
    check_teacher(settings.teacher, weights=settings.teacher_weights, stated=stated)
    earlier = continual(settings.teacher, settings.part(ContinualOptions), stated, settings.task_name)
    if settings.bank is not None:
        check_bank(settings.bank)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    images = read_images(settings.part(DataOptions), settings.out)
    if images.names:
        check_names_file(settings.out)
    say("data", describe(images))
    original = earlier.begin(settings.teacher, settings.teacher_weights, stated)
    teacher, name = original.teacher, earlier.name_of(images, settings.task_name)
    earlier.check_kept(images, name)
    trials = earlier.trials(moves=settings.method != "linear")
    model, spec = adaptable(settings.teacher, teacher, images, seed=settings.seed, pooling=settings.slice_pooling)
    adapter = settings.part(AdapterOptions)
    views = ViewSpec(flip=0.5 if settings.flip else 0.0, solid=model.spec.solid)
    plan = BankPlan(settings.bank, settings.banked_views if adapter.pooled else 0, runtime=settings.bank_runtime, threads=settings.threads)
    source = TeacherSource(settings.teacher, settings.teacher_weights, loaded=teacher, stated=stated)
    signals = prepare_teacher(source, plan, images, views, device, probe_seed=settings.split_seed)
    original = replace(original, public=original.public or signals.facts["teacher_public"])
    signals.facts["teacher_public"], plain_spec = original.public, model.spec
    pool = count_parameters(model.slice_pool) if model.spec.bag else 0
    plain = count_parameters(model) - count_parameters(model.head) - pool
    if adapter.pooled:
        check_unadapted(model, settings.teacher)
        course = course_of(adapter, settings.part(TrainingOptions), images, feature_width(model), decay=settings.decay, seed=settings.seed,
                           device=device)
        added, where = added_by(course, model), f"{course.members} members behind the pool"
    else:
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            model = at_probe(build_adapters(adapter, model, spec, settings.teacher), signals.probe)
        added, where = added_parameters(model.net), f"{len(model.spec.adapters)} layer(s)"
    say("adapters", f"{settings.method}, {where}, from the probe, {added:,} parameters added ({100 * added / plain:.2f} %), "
                    f"head {count_parameters(model.head):,}{f', pooling of slices {pool:,}' if pool else ''}, on {device}")
    starts = starts_of(model.net, settings.start != "zero") if settings.peft else {}
    parents = {"images": images_digest(images), "teacher": signals.facts["teacher_hash"]}
    start_run(opened, parents)
    with track("pixels") as update:
        data = TrainingData(images, spec, views, build_pixels(run, images, spec, update))
    branches = Branches(model)
    if settings.method != "linear":
        branches.keeping = earlier.keeping(teacher.net, signals.sd)

    def answer(judged: Branches, rows: Any) -> Predictions:
        return predict(judged, data.pixels, spec, rows, device=device, bank=signals.bank, bank_rows=signals.rows, probe=signals.probe,
                       banked_only=adapter.pooled)

    training = replace(settings.part(TrainingOptions), weight_decay=settings.decay)
    with torch.random.fork_rng():
        if adapter.pooled:
            model, verdict, history = adapt_from_probe(course, model, images, signals, adapter.keep_experts, split_seed=settings.split_seed)
        else:
            history = train(adapter, training, data, branches, run, answer, seed=settings.seed, device=device, resume=settings.resume)
            verdict = judged_by_validation(adapter, images, history, answer, branches)
            if verdict.used:
                cool(model, verdict.temperature)
            else:
                model = at_probe(adaptable(settings.teacher, teacher, images, seed=settings.seed, pooling=settings.slice_pooling)[0],
                                 signals.probe)
    say("experts", verdict.line())
    branches = Branches(model.to(device))
    channels_last(branches)
    for router in routers_of(model.net):
        router.share = 0.0 if settings.merge_aware else 1.0
    model.spec = replace(model.spec, adapters={name: replace(adapter.spec, constant=bool(settings.merge_aware))
                                               for name, adapter in adapters_of(model.net)})
    unmerged = copy.deepcopy(model.net) if settings.peft and verdict.used else None
    if settings.peft and unmerged is None:
        say("peft", "nothing to write: the probe is kept, and no weight changed")
    folded = merged(adapter, branches, data, answer, seed=settings.seed, device=device)
    outcomes = earlier.outcomes(trials, branches.student, run, seed=settings.seed, bootstrap=settings.bootstrap, device=device)
    predictions = {split: answer(branches, images.rows(split)) for split in ("val", "test")}
    calibrations = {branch: calibrate(images, getattr(predictions["val"], branch), predictions["val"].rows)
                    for branch in ("student", "probe")}
    splits = score(images, predictions, calibrations, bootstrap=settings.bootstrap, seed=settings.seed)
    for line in summary(splits, calibrations["student"]):
        say(line.split(" ", 1)[0], line.split(" ", 1)[1].replace("student AUROC", "teacher AUROC", 1))
    macs = count_macs(branches.student, spec.height, spec.width)
    result = RunResult(branches.student, spec, images, predictions, calibrations, splits, history, [], macs, signals.facts,
                       record(settings), command)

    def also(folder: Path) -> None:
        earlier.write(folder, name, branches.student, original, plain_spec, outcomes, data)
        if unmerged is not None:
            write_peft(folder / "peft", unmerged, starts, signals.facts["teacher"], original.net_hash)

    write_result(settings.out, result, kind="teacher", overwrite=opened.overwrite, also=also,
                 more={"adapters": {"method": settings.method, "added": added, "kept": len(branches.student.spec.adapters),
                                    "base_hash": signals.facts["teacher_hash"], "experts": verdict.as_dict(), **folded.as_dict()}})
    data_flag = "" if settings.data == "phantom" else f"--data {shlex.quote(str(settings.data))} "
    say("done", f"{settings.out}/  report: {settings.out / 'report.html'}  "
                f"next: rd-distill {data_flag}--teacher {settings.out}")
    return 0


def check_unadapted(model: Model, teacher: str) -> None:
    """UserError (exit 2) where a model has an adapter behind its pool already."""
    if POOLED in model.spec.adapters:
        raise UserError(f"teacher {teacher} has an adapter behind its pool already, and what is trained now would follow it; "
                        "adapt the original teacher, or use --place blocks", USAGE)


def course_of(options: AdapterOptions, training: TrainingOptions, images: ImageSet, width: int, *, decay: float, seed: int,
              device: str) -> Course:
    """How members behind the pool are trained by the options of adapters and of training."""
    assert training.lr is not None
    steps = most_steps(int(images.labelled[images.rows("train")].sum()), training.batch)
    return Course(None if options.method == "linear" else options.spec(width), MEMBERS, steps, training.batch, training.lr,
                  decay, training.focal_gamma, options.balance, seed, device)


def build_adapters(options: AdapterOptions, model: Model, spec: ImageSpec, teacher: str) -> Model:
    """The teacher with fresh adapters at their start, or with those it has; says which layers were left alone and why."""
    inside = {name: adapter for name, adapter in model.spec.adapters.items() if name != POOLED}
    if inside:
        requested, own = options.spec(64), next(iter(inside.values()))
        if any((getattr(requested, part) != getattr(own, part)) for part in ("experts", "rank", "gate", "top_k")):
            raise UserError(f"teacher {teacher} has adapters of {own.experts} experts of rank {own.rank}, gate {own.gate}; go on "
                            "with the same --method, --experts, --rank and --top-k, or fold them first with --merge mean", USAGE)
        say("", f"going on with the {len(inside)} adapters of {teacher}")
        return model
    wide = options.spec(64)
    chosen = choose_layers(model.net, options.adapt_layers, wide.rank * (wide.experts if options.start == "svd" else 1),
                           wide.rank * wide.experts, options.adapt_share)
    inputs = {name: model.net.get_submodule(name).weight[0].numel() for name in chosen.layers}  # type: ignore[index,union-attr,operator]
    model = adapt_model(model, {name: options.spec(count) for name, count in inputs.items()})
    unused = remove_unused(model.net, inputs, lambda: in_both_modes(model, torch.zeros(1, 3, spec.height, spec.width)))
    if len(unused) == len(inputs):
        raise UserError(f"--adapt-layers {options.adapt_layers}: teacher {teacher} reads the weights of all {len(unused)} layers chosen "
                        "instead of calling them, so that no adapter beside them would run; choose another kind", USAGE)
    model.spec = replace(model.spec, adapters={name: adapter.spec for name, adapter in adapters_of(model.net)})
    reasons = [*chosen.left.values(), *("read, not called" for _ in unused)]
    if reasons:
        say("", f"{len(reasons)} layers left alone: " + ", ".join(f"{reasons.count(reason)} {reason}" for reason in dict.fromkeys(reasons)))
    if options.start != "zero":
        for _, adapter in adapters_of(model.net):
            start_from_svd(adapter, rho=1.0 if options.start == "pissa" else options.rho)
    return model


def in_both_modes(model: Model, pixels: Tensor) -> None:
    """The trunk on some pixels as training runs it, then as everything after it does; the model is left in evaluation mode."""
    for training in (True, False):
        model.train(training)
        model.trunk(pixels)


def train(options: AdapterOptions, training: TrainingOptions, data: TrainingData, branches: Branches, run: Path,
          answer: Callable[[Branches, Any], Predictions], *, seed: int, device: str, resume: bool) -> list[dict[str, Any]]:
    """Train adapters inside blocks and the head, and return a row an epoch; the epoch of the least held-out loss is kept.

    With merge_aware the last is, and with keep_experts "last" the one that --select names.
    """
    images = data.images
    rows = images.rows("train")
    labelled = rows[images.labelled[rows]]
    labels = torch.from_numpy(images.labels)
    batches = Batches(data.pixels, labels, labelled, labelled, data.spec, data.views, seed, training.batch, 0)
    by_loss = options.keep_experts != "last" and not options.merge_aware
    routers = routers_of(branches.student.net)

    def score(predictions: Predictions) -> float:
        known = images.labelled[predictions.rows]
        if not known.any():
            return 0.0
        return -float(cooled_losses(torch.from_numpy(predictions.student[known]), images, predictions.rows[known])[0].mean())

    def set_gates(step: int, total: int) -> None:
        last = total * options.merge_aware
        for router in routers:  # to zero a little before the end, so that the last steps train what will be folded
            router.share = 1.0 if step < total - last else max(0.0, (total - 0.25 * last - step) / (0.75 * last))

    return fit_by(replace(training, select="best") if by_loss else training, images, branches, batches, partial(method_losses, "adapt"),
                  Weights(focal_gamma=training.focal_gamma, balance=options.balance), answer, watched=WATCHED_IMAGES, seed=seed,
                  device=device, run=run, resume=resume, before_step=set_gates if options.merge_aware else None,
                  weighted=training.focal_gamma > 0, score=score if by_loss else None)


def judged_by_validation(options: AdapterOptions, images: ImageSet, history: list[dict[str, Any]],
                         answer: Callable[[Branches, Any], Predictions], branches: Branches) -> Verdict:
    """The verdict on a trained network against its start, the probe, on the validation images that were looked at after each epoch."""
    keep, count = options.keep_experts, len(history)
    epoch = count if options.merge_aware else max(range(count), key=lambda place: (history[place]["score"], place)) + 1
    if keep == "last":
        return Verdict(True, 0.0, 0.0, 0, 0, f"{count} epochs")
    rows = watched_rows(images, WATCHED_IMAGES)
    rows = rows[images.labelled[rows]]
    if not len(rows):
        return Verdict(keep == "best", 0.0, 0.0, 0, 0, f"epoch {epoch} of {count}")
    predictions = answer(branches, rows)
    assert predictions.probe is not None
    start, _ = cooled_losses(torch.from_numpy(predictions.probe), images, rows)
    end, temperature = cooled_losses(torch.from_numpy(predictions.student), images, rows)
    gain, error = gain_of(start, end, groups_of(images, rows))
    return Verdict(keep == "best" or gain > error, gain, error, len(rows), 0, f"epoch {epoch} of {count}", temperature)


def merged(options: AdapterOptions, branches: Branches, data: TrainingData, answer: Callable[[Branches, Any], Predictions], *, seed: int,
           device: str) -> FoldReport:
    """Fold what is to be folded, in place, and say what it did to validation images."""
    images = data.images
    branches.eval()
    generator = np.random.default_rng([seed, 13])
    train_rows, val_rows = (np.sort(generator.permutation(images.rows(split))[:FOLD_IMAGES]) for split in ("train", "val"))

    def load(rows: Any) -> tuple[Tensor, ...]:
        return tuple(tensor.to(device) for tensor in data.pixels.inputs(rows, data.spec))

    def logits() -> Any:
        return answer(branches, val_rows).student

    def decide(outputs: Any) -> Any:
        return outputs > 0 if images.task == "multilabel" else outputs.argmax(axis=1)

    def auroc(outputs: Any) -> float | None:
        return judge(images, Predictions(val_rows, outputs, None, None, None)).get("val_auroc_student")

    folded = fold_teacher(branches.student, options.merge, most=options.max_fold_error, train=lambda: batched(train_rows, load),
                          val=lambda: batched(val_rows, load), logits=logits, decide=decide, auroc=auroc)
    if folded.exact or folded.approximate or folded.kept:
        say("merge", folded.line())
    return folded
