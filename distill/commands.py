"""rd-distill as a story: data, teacher, bank, probe, student, training, test, folder.

Owns: the order of the steps, what is printed, the interrupted run's folder. Does not own: how any step is done.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distill.bank import FeatureBank, audit, bank_key, bank_name, build_bank, check_key, locked, open_bank
from distill.batches import Batches
from distill.config import DistillSettings, record
from distill.data import load_images
from distill.fit import fit
from distill.forward import choose_forward, torch_forward
from distill.losses import prevalence_weights
from distill.models import ModelSpec, count_macs, count_parameters, feature_width, weights_hash
from distill.objective import Branches, Weights
from distill.outcome import Outcome, data_name, write_student, write_table
from distill.pixels import PixelStore, build_pixels
from distill.predict import Predictions, calibrate, judge, predict, score
from distill.probe import Probe, fit_probe
from distill.progress import say, track
from distill.reprogram import Hint, Reprogram, standardiser
from distill.scan import BadImages
from distill.students import build_student, timm_name
from distill.teachers import Teacher, load_teacher
from distill.views import ViewSpec
from runtimes.errors import MISSING, USAGE, UserError
from runtimes.folder import check_out, read_json, write_json
from runtimes.images import ImageSet, ImageSpec

PROBE_ROWS = 6000  # banked rows a probe is fitted on: more makes it slower, not better
WATCHED_IMAGES = 2000  # validation images looked at after each epoch; the last figures are over all


@dataclass(frozen=True)
class Taught:
    """What the teacher left behind: its bank, the row of each image in it, the probe, facts."""

    bank: FeatureBank
    rows: NDArray[np.int64]
    probe: Probe
    mean: torch.Tensor
    sd: torch.Tensor
    facts: dict[str, Any]


def distill(settings: DistillSettings, command: str) -> int:
    """Run the main job and write the student folder; returns the exit code."""
    check_out(settings.out, overwrite=settings.overwrite, resume=False)
    device = choose_device(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    arch = timm_name(settings.student)
    run, wanted = find_run(settings)
    images = read_images(settings)
    say("data", describe(images))
    for note in images.facts.get("notes", []):
        say("", note)
    spec = student_image_spec(settings, images)
    views = ViewSpec(flip=0.5 if settings.flip else 0.0)
    taught = None if settings.method == "vanilla" else consult_teacher(settings, images, views, device)
    model_spec = ModelSpec(arch, spec.height, spec.width, images.task, images.classes)
    student = build_student(model_spec, settings.student_weights, settings.seed)
    macs = count_macs(student, spec.height, spec.width)
    say("student", f"{arch}, {count_parameters(student) / 1e6:.2f} M parameters, {macs / 1e6:.1f} M MACs at {spec.width} px, "
                   f"{'random weights' if settings.student_weights is None else 'from ' + settings.student_weights}, on {device}")
    run.mkdir(parents=True, exist_ok=True)
    write_json(run / "settings.json", wanted)
    with track("pixels") as update:
        pixels = build_pixels(run, images, spec, update)
    branches = build_branches(settings, student, taught)
    with torch.random.fork_rng():
        history = train(settings, images, spec, views, pixels, branches, taught, run, device)
    made = {split: run_on(branches, images, spec, pixels, split, taught, device) for split in ("val", "test")}
    calibrations = {branch: calibrate(images, getattr(made["val"], branch), made["val"].rows)
                    for branch in ("student", "teacher", "probe") if getattr(made["val"], branch) is not None}
    splits = score(images, made, calibrations, bootstrap=settings.bootstrap, seed=settings.seed)
    warnings = judge_gain(splits)
    for line in summary(splits):
        say("test" if line.startswith("test") else "val", line.split(" ", 1)[1])
    for warning in warnings:
        say("warning", warning)
    outcome = Outcome(branches.student, spec, images, made, calibrations, splits, history, warnings, macs,
                      taught.facts if taught else {}, record(settings), command)
    write_student(settings.out, outcome, overwrite=settings.overwrite)
    shutil.rmtree(run)
    say("done", f"{settings.out}/  report: {settings.out / 'report.html'}  next: rd-export --target onnx"
                + ("" if settings.out == Path("student") else f" --student-dir {settings.out}"))
    return 0


def choose_device(name: str) -> str:
    """The torch device asked for; a missing one is exit code 5, `auto` is a GPU when there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UserError(f"--device {name} is unknown; expected cpu, cuda, cuda:N or auto", USAGE)
    if name.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = int(name.partition(":")[2] or 0)
        if index >= count:
            raise UserError(f"--device {name}: PyTorch sees {count} CUDA devices; use --device cpu", MISSING)
    return name


def find_run(settings: DistillSettings) -> tuple[Path, dict[str, Any]]:
    """The folder of the run beside --out and the settings that make it: none there, or --resume and the same settings."""
    run = settings.out.with_name(f"{settings.out.name}.partial")
    wanted = {key: value for key, value in record(settings).items()
              if key not in ("resume", "overwrite", "threads", "config", "bootstrap", "audit")}
    if run.exists() and settings.overwrite:
        shutil.rmtree(run)
    if (run / "settings.json").is_file() and not settings.resume:
        raise UserError(f"{run} holds an interrupted run; --resume goes on with it, --overwrite starts anew", USAGE)
    if (run / "settings.json").is_file():
        held = read_json(run / "settings.json")
        changed = [f"--{key.replace('_', '-')} was {held.get(key)!r}, now {value!r}" for key, value in wanted.items()
                   if held.get(key) != value]
        if changed:
            raise UserError(f"--resume: {run} was started with other settings ({'; '.join(changed)}); "
                            "repeat them, or start anew with --overwrite", USAGE)
    return run, wanted


def read_images(settings: DistillSettings) -> ImageSet:
    """The images a set of settings names, checked file by file; bad ones are all listed in a CSV beside --out."""
    try:
        with track("data") as update:
            return load_images(settings.data, task=settings.task, label=settings.label, seed=settings.split_seed,
                               unlabelled=settings.unlabelled, skip_bad_images=settings.skip_bad_images,
                               phantom_images=settings.phantom_images, phantom_size=settings.phantom_size, progress=update)
    except BadImages as error:
        listed = settings.out.with_name(f"{settings.out.name}.bad-images.csv")
        listed.parent.mkdir(parents=True, exist_ok=True)
        write_table(listed, [{"path": one.path, "reason": one.reason, "detail": one.detail} for one in error.problems])
        raise UserError(f"{error}; all of them are listed in {listed}", error.exit_code) from None


def images_for(manifest: dict[str, Any], data: str | None = None) -> ImageSet:
    """The same images and split a student folder was made from, or another --data read in the same way."""
    held = dict(manifest["settings"])
    paths = {key: Path(held[key]) for key in ("out", "config", "unlabelled", "bank") if held.get(key)}
    held |= {**paths, "phantom_images": tuple(held["phantom_images"]), **({"data": data} if data else {})}
    return read_images(DistillSettings(**held))


def describe(images: ImageSet) -> str:
    """One line on the data: what, task, classes, sizes of the splits."""
    counts = {split: len(images.rows(split)) for split in ("train", "val", "test")}
    kind = "findings" if images.task == "multilabel" else "classes"
    hidden = int((~images.labelled).sum())
    skipped = sum(images.facts.get("skipped", {}).values())
    return (f"{data_name(images)}, {images.task} ({images.facts.get('task_from', '--task')}), "
            f"{len(images.classes)} {kind}: {counts['train']:,} / {counts['val']:,} / {counts['test']:,} images"
            + (f", {hidden:,} of them unlabelled" if hidden else "") + (f", {skipped} skipped" if skipped else ""))


def student_image_spec(settings: DistillSettings, images: ImageSet) -> ImageSpec:
    """How images reach the student: the data's own depth and channels, at --size or a size near the images' own."""
    side = settings.size
    if side is None:
        median = max(images.facts.get("median_size", (96, 96)))
        side = min(max(32 * round(median / 32), 64), 128)
    window = tuple(images.facts.get("window", (0.0, 255.0)))
    mean, std = pretrained_statistics(settings)
    return ImageSpec(side, side, images.facts.get("channels", 3), images.facts.get("dtype", "uint8"),
                     (float(window[0]), float(window[1])), mean, std)


def pretrained_statistics(settings: DistillSettings) -> tuple[Any, Any]:
    """Mean and std of the student's input: those of its weights when it starts from some, ImageNet's otherwise."""
    import timm

    config = timm.get_pretrained_cfg(timm_name(settings.student))
    if settings.student_weights and config is not None:
        return tuple(config.mean), tuple(config.std)
    return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def consult_teacher(settings: DistillSettings, images: ImageSet, views: ViewSpec, device: str) -> Taught:
    """Load the teacher, build or open its bank, audit it, and fit the probe."""
    counts = np.where(images.split == "train", settings.bank_views, 0).astype(np.int64)
    seed = settings.bank_seed
    if settings.teacher.startswith("bank:"):
        bank = open_bank(Path(settings.teacher.removeprefix("bank:")))
        say("bank", f"{bank.folder}: teacher {bank.key['teacher']}, {bank.rows:,} rows; no teacher at hand, so no audit")
        facts = {"teacher": bank.key["teacher"], "teacher_hash": bank.key["teacher_hash"], "licence": "unknown"}
        return probe_teacher(settings, images, bank, facts)
    teacher = load_teacher(settings.teacher, size=settings.teacher_size, weights=settings.teacher_weights)
    say("teacher", f"{teacher.name}, {teacher.parameters / 1e6:.2f} M parameters, {teacher.image_spec.width} px, frozen")
    base = teacher.image_spec
    low, high = images.facts.get("window", (0.0, 255.0))
    spec = replace(base, channels=images.facts.get("channels", 3), dtype=images.facts.get("dtype", "uint8"),
                   window=(float(low), float(high)))
    key = bank_key(teacher.name, teacher.hash, spec, views, seed, settings.bank_grid)
    folder = settings.bank or Path("banks") / bank_name(key, images.hashes, counts)
    bank = find_bank(settings, folder, key, images, counts, teacher, spec, views, device)
    if settings.audit:
        worst = audit(bank, images, spec, torch_forward(teacher, device), views=views, seed=seed, share=settings.audit)
        say("audit", f"smallest cosine to a live teacher {worst:.6f}")
    if weights_hash(teacher.net.to("cpu")) != teacher.hash:
        raise UserError(f"the weights of teacher {teacher.name} changed while it ran; it must stay frozen, report this")
    facts = {"teacher": teacher.name, "teacher_hash": teacher.hash, "licence": teacher.licence, "bank": str(folder)}
    return probe_teacher(settings, images, bank, facts)


def find_bank(settings: DistillSettings, folder: Path, key: dict[str, Any], images: ImageSet, counts: NDArray[np.int64],
              teacher: Teacher, spec: ImageSpec, views: ViewSpec, device: str) -> FeatureBank:
    """Open the bank when it is there and matches, else build it."""
    rows = f"{int((counts > 0).sum()):,} images x {settings.bank_views + 1} views + {int((counts == 0).sum()):,}"
    with locked(folder):
        if folder.is_dir() and any(folder.iterdir()):
            bank = open_bank(folder)
            check_key(bank, key)
            short = bank.views(bank.indices(images.hashes)) < counts
            if short.any():
                raise UserError(f"bank {folder} holds fewer views than {settings.bank_views} for {int(short.sum())} training "
                                "images; lower --bank-views or name another --bank folder")
            say("bank", f"{folder}, found: {rows}")
            return bank
        forward, runtime = choose_forward(teacher, settings.bank_runtime, device=device, grid=settings.bank_grid,
                                          threads=settings.threads)
        say("bank", f"{rows}, through {runtime}")
        with track("bank") as update:
            return build_bank(folder, key, images, counts, spec, forward, views=views, seed=settings.bank_seed, progress=update)


def probe_teacher(settings: DistillSettings, images: ImageSet, bank: FeatureBank, facts: dict[str, Any]) -> Taught:
    """Fit the linear probe on banked views of the labelled training images and say what it reaches on validation."""
    rows = bank.indices(images.hashes)
    train = images.rows("train")
    known = train[images.labelled[train]]
    generator = np.random.default_rng([settings.split_seed, 11])
    pairs = np.asarray([(row, view) for row in known for view in range(int(bank.views(rows[[row]])[0]) + 1)])
    if len(pairs) > PROBE_ROWS:
        pairs = pairs[generator.choice(len(pairs), PROBE_ROWS, replace=False)]
    features = torch.from_numpy(bank.features(rows[pairs[:, 0]], pairs[:, 1]))
    val = images.rows("val")
    outputs = len(images.classes) - (images.task == "ordinal")
    probe = fit_probe(features, torch.from_numpy(images.labels[pairs[:, 0]]), torch.from_numpy(bank.features(rows[val])),
                      torch.from_numpy(images.labels[val]), images.task, outputs)
    logits = probe.logits(torch.from_numpy(bank.features(rows[val]))).numpy()
    reached = judge(images, Predictions(val, logits, None, None, None))
    say("probe", f"linear probe of the teacher on validation: AUROC {reached.get('val_auroc_student', float('nan')):.3f}")
    sample = train if len(train) <= PROBE_ROWS else generator.choice(train, PROBE_ROWS, replace=False)
    views = generator.integers(0, bank.views(rows[sample]) + 1)
    mean, sd = standardiser(torch.from_numpy(bank.features(rows[sample], views)))
    bank.release()
    return Taught(bank, rows, probe, mean, sd, facts)


def build_branches(settings: DistillSettings, student: Any, taught: Taught | None) -> Branches:
    """The student with what its method trains beside it."""
    width = feature_width(student)
    if taught is None or settings.method == "kd":
        return Branches(student)
    if settings.method == "fitnet":
        return Branches(student, hint=Hint(taught.mean, taught.sd, width))
    return Branches(student, phi=Reprogram(taught.mean, taught.sd, width, dropout=settings.phi_dropout))


def train(settings: DistillSettings, images: ImageSet, spec: ImageSpec, views: ViewSpec, pixels: PixelStore, branches: Branches,
          taught: Taught | None, run: Path, device: str) -> list[dict[str, Any]]:
    """Train the branches and return a row an epoch."""
    rows = images.rows("train")
    labelled = rows[images.labelled[rows]]
    labels = torch.from_numpy(images.labels)
    batches = Batches(pixels, labels, labelled if taught is None else rows, labelled, spec, views, settings.seed, settings.batch,
                      settings.labelled_batch, settings.views, taught.bank if taught else None, taught.rows if taught else None,
                      images.hashes, settings.bank_seed, taught.probe if taught and settings.method == "kd" else None)
    if settings.views == "tied" and taught is None:
        raise UserError("--views tied needs a bank; --method vanilla has none", USAGE)
    weights = Weights(settings.teacher_weight, settings.kd_weight, settings.cka_weight, settings.hint_weight, settings.temperature,
                      settings.cka == "debiased", settings.focal_gamma)
    class_weights = prevalence_weights(labels[labelled]).to(device) if images.task == "multilabel" else None
    watched = np.sort(np.random.default_rng(0).permutation(images.rows("val"))[:WATCHED_IMAGES])

    def evaluate(judged: Branches) -> dict[str, float]:
        made = predict(judged, pixels, spec, watched, device=device, bank=taught.bank if taught else None,
                       bank_rows=taught.rows if taught else None, probe=None)
        return judge(images, made)

    with track("train") as update:
        return fit(branches, batches, settings.method, weights, epochs=settings.epochs, min_steps=settings.min_steps,
                   lr=settings.lr, weight_decay=settings.weight_decay, phi_lr=settings.phi_lr,
                   phi_weight_decay=settings.phi_weight_decay, warmup=settings.warmup, decay=settings.decay, ema=settings.ema,
                   precision=settings.precision, device=device, class_weights=class_weights, seed=settings.seed, folder=run,
                   resume=settings.resume, evaluate=evaluate, select=settings.select, progress=update)


def run_on(branches: Branches, images: ImageSet, spec: ImageSpec, pixels: PixelStore, split: str, taught: Taught | None,
           device: str) -> Predictions:
    """What all branches answer on a split."""
    return predict(branches, pixels, spec, images.rows(split), device=device, bank=taught.bank if taught else None,
                   bank_rows=taught.rows if taught else None, probe=taught.probe if taught else None)


def judge_gain(splits: dict[str, Any]) -> list[str]:
    """Warn when the teacher has nothing to teach: its probe is not above the student on validation."""
    auroc: Callable[[str], float | None] = lambda branch: (  # noqa: E731
        splits["val"].get(branch, {}).get("auroc", {}).get("value"))
    probe, student = auroc("probe"), auroc("student")
    if probe is not None and student is not None and probe <= student:
        return [f"the teacher's probe (validation AUROC {probe:.3f}) is not above the student ({student:.3f}): "
                "this teacher may have nothing to teach here; compare with --method vanilla, or try another teacher"]
    return []


def summary(splits: dict[str, Any]) -> list[str]:
    """Probe, teacher branch and student side by side, a line a split."""
    lines = []
    for split in ("val", "test"):
        words = []
        for name, branch in (("student", "student"), ("teacher branch", "teacher"), ("probe", "probe")):
            found = splits[split].get(branch, {}).get("auroc")
            if found:
                words.append(f"{name} AUROC {found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})")
        ece = splits[split]["student"].get("ece")
        if ece:
            words.append(f"ECE {ece['value']:.3f} ({splits[split]['student']['ece_uncalibrated']['value']:.3f} before calibration)")
        lines.append(f"{split} " + ", ".join(words))
    return lines


if __name__ == "__main__":
    sys.exit("run rd-distill, or python -m distill.cli")
