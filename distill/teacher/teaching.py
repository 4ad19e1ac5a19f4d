"""What the teacher leaves behind for a run: its bank, opened or built and audited, and a probe of what it has to teach.

Owns: TeacherSignals and the order bank, audit, probe. Does not own: loading a teacher, the bank's files, fitting a probe.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from distill.data.image_set import ImageSet
from distill.data.pixels import build_pixels
from distill.data.views import ViewSpec
from distill.evaluation.predict import Predictions, judge
from distill.networks.models import weights_hash
from distill.networks.slices import mean_of_slices
from distill.progress import say, track
from distill.settings.teacher import TeacherOptions
from distill.teacher.audit import audit, check_key
from distill.teacher.bank import FeatureBank, bank_key, bank_name, open_bank
from distill.teacher.banking import CPU_BATCH, GPU_BATCH, build_bank
from distill.teacher.forward import choose_forward, torch_forward
from distill.teacher.live import LiveTeacher
from distill.teacher.probe import Probe, fit_probe, standardiser
from distill.teacher.public_names import OWN_TEACHER, public_teacher
from distill.teacher.teacher import Teacher, TeacherInput, fed
from distill.teacher.teachers import load_teacher
from distill.teacher.volume_teachers import is_volume_teacher
from runtimes.errors import USAGE, UserError
from runtimes.files.folder import read_manifest
from runtimes.files.outputs import claimed
from runtimes.images.spec import ImageSpec

BANKS = Path("banks")  # where banks go that no --bank names
PROBE_ROWS = 6000  # banked rows a probe is fitted on: more makes it slower, not better


@dataclass(frozen=True)
class TeacherSignals:
    """What the teacher left behind: its bank, the row of each image in it, the probe, facts; itself where it looks at every step."""

    bank: FeatureBank
    rows: NDArray[np.int64]
    probe: Probe
    mean: torch.Tensor
    sd: torch.Tensor
    facts: dict[str, Any]
    live: LiveTeacher | None = None


@dataclass(frozen=True)
class TeacherSource:
    """Where a teacher comes from: its name as typed, and what replaces its own input side and weights or is merged into them.

    own: the teacher itself, where Python hands one over in place of a name. loaded: the one that the name names, where it is at hand.
    stated: what a user says of its images and features. task: of a folder that holds several.
    """

    name: str
    weights: str | None = None
    adapter: Path | None = None
    own: Teacher | None = None
    loaded: Teacher | None = None
    stated: TeacherInput | None = None
    task: str | None = None


def stated_input(options: TeacherOptions) -> TeacherInput:
    """What a user says of a teacher's images and features."""
    return TeacherInput(options.teacher_size, options.teacher_mean, options.teacher_std, options.teacher_pool, options.teacher_resize,
                        options.teacher_channels, options.teacher_features)


@dataclass(frozen=True)
class BankPlan:
    """Which features are to be banked, where (None: a folder below `banks`), by which runtime, and the share audited live."""

    folder: Path | None
    views: int
    seed: int = 0
    grid: int = 0
    runtime: Literal["auto", "torch", "onnx"] = "auto"
    audit: float = 0.01
    threads: int | None = None


def prepare_teacher(source: TeacherSource, plan: BankPlan, images: ImageSet, views: ViewSpec, device: str, *,
                    second: str | None = None, second_task: str | None = None, probe_seed: int = 0) -> TeacherSignals:
    """Load the teacher, build or open its bank, audit it, and fit the probe; of two teachers the features stand side by side."""
    bank, facts = bank_teacher(source, plan, images, views, device)
    if second is not None:
        own = None if plan.folder is None or second.startswith("bank:") else Path(f"{plan.folder}-second")
        size = source.stated.size if source.stated is not None and is_volume_teacher(second) else None
        beside = TeacherSource(second, stated=TeacherInput(size), task=second_task)
        other, more = bank_teacher(beside, replace(plan, folder=own, grid=0), images, views, device)
        bank = bank.joined(other)
        facts |= {name: f"{facts[name]} + {more[name]}" for name in ("teacher", "teacher_public", "licence")}
        facts["teacher_hash"] = hashlib.sha256(f"{facts['teacher_hash']} {more['teacher_hash']}".encode()).hexdigest()
    return probe_teacher(images, bank, facts, seed=probe_seed)


def bank_teacher(source: TeacherSource, plan: BankPlan, images: ImageSet, views: ViewSpec,
                 device: str) -> tuple[FeatureBank, dict[str, Any]]:
    """The bank of one teacher, found or built, and audited; with the teacher's facts."""
    if source.own is None and source.name.startswith("bank:"):
        bank = open_bank(Path(source.name.removeprefix("bank:")))
        check_key(bank, {"views": views.as_dict(), "seed": plan.seed})  # --flip and --views tied speak of what was banked
        say("bank", f"{bank.folder}: teacher {bank.key['teacher']}, {bank.rows:,} rows; no teacher at hand, so no audit")
        facts = {"teacher": bank.key["teacher"], "teacher_public": public_teacher(bank.key["teacher"]),
                 "teacher_hash": bank.key["teacher_hash"], "licence": "unknown"}
        return bank, facts
    teacher = source.own or source.loaded or load_teacher(source.name, weights=source.weights, adapter=source.adapter,
                                                          stated=source.stated, task=source.task)
    before = weights_hash(teacher.net)  # not teacher.hash, which for a .pt2 is that of the whole file
    teacher.introduce()
    base = teacher.image_spec
    spec = fed(base, images)
    if base.physical and not spec.physical:
        low, high = base.window
        say("", f"its own window, {low:g} to {high:g} of values such as HU, is not used: these volumes are not read as values (--windows)")
    if base.volume is not None and base.volume.spacing_mm and spec.volume is not None and spec.volume.spacing_mm != base.volume.spacing_mm:
        say("", "its own spacing is not used: volumes in arrays do not say theirs; they are squashed to its voxels")
    bank, folder = find_bank(plan, images, teacher, spec, views, device)
    if plan.audit:
        worst = audit(bank, images, spec, torch_forward(teacher, device), views=views, seed=plan.seed, share=plan.audit)
        say("audit", f"smallest cosine to a live teacher {worst:.6f}")
    if weights_hash(teacher.net.to("cpu")) != before:
        raise UserError(f"the weights of teacher {teacher.name} changed while it ran; it must stay frozen, report this")
    hub = not Path(source.name.removeprefix("hf:")).expanduser().exists()
    public = OWN_TEACHER if source.own else public_teacher(teacher.name, hub=hub)
    facts = {"teacher": teacher.name, "teacher_public": public, "teacher_hash": teacher.hash, "licence": teacher.licence,
             "bank": str(folder), "teacher_input": teacher.describe()}
    return bank, facts


def live_teacher(source: TeacherSource, plan: BankPlan, images: ImageSet, folder: Path, device: str) -> LiveTeacher:
    """The loaded teacher of a source as it looks at every step; all images at its size lie in `folder`."""
    teacher = source.own or source.loaded
    assert teacher is not None, "loaded before its bank was built"
    spec = fed(teacher.image_spec, images)
    forward, runtime = choose_forward(teacher, plan.runtime, device=device, grid=0, threads=plan.threads)
    with track("pixels") as update:
        pixels = build_pixels(folder, images, spec, update)
    say("live", f"the teacher looks at every view of the student's, through {runtime}")
    return LiveTeacher(lambda batch: forward(batch)["pooled"], pixels, spec, CPU_BATCH if device == "cpu" else GPU_BATCH)


def check_bank(folder: Path) -> None:
    """UserError where a bank can be neither opened nor built; its features are not read."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--bank {folder} is a file; name a folder", USAGE)
    if folder.is_dir() and any(folder.iterdir()):
        read_manifest(folder, "bank")


def find_bank(plan: BankPlan, images: ImageSet, teacher: Teacher, spec: ImageSpec, views: ViewSpec,
              device: str) -> tuple[FeatureBank, Path]:
    """Open the bank when it is there and matches, else build it; with its folder as the user names it."""
    counts = np.where(images.split == "train", plan.views, 0).astype(np.int64)
    key = bank_key(teacher.name, teacher.hash, spec, views, plan.seed, plan.grid)
    folder = plan.folder or BANKS / bank_name(key, images.hashes, counts)
    rows = f"{int((counts > 0).sum()):,} images x {plan.views + 1} views + {int((counts == 0).sum()):,}"
    check_bank(folder)

    def opened() -> FeatureBank:
        bank = open_bank(folder)
        check_key(bank, key)
        short = bank.views(bank.indices(images.hashes)) < counts
        if short.any():
            raise UserError(f"bank {folder} holds fewer views than {plan.views} for {int(short.sum())} training "
                            "images; lower --bank-views or name another --bank folder")
        say("bank", f"{folder}, found: {rows}")
        return bank

    def there() -> bool:  # a bank appears whole or not at all
        return folder.is_dir() and any(folder.iterdir())

    if there():
        return opened(), folder
    with claimed(folder, flag="--bank", wait=True) as place:  # of two runs that need the same bank, one builds it and the other waits
        if there():
            return opened(), folder
        forward, runtime = choose_forward(teacher, plan.runtime, device=device, grid=plan.grid, threads=plan.threads)
        say("bank", f"{rows}, through {runtime}")
        with track("bank") as update:
            return build_bank(place, key, images, counts, spec, forward, views=views, seed=plan.seed, progress=update,
                              batch=CPU_BATCH if device == "cpu" else GPU_BATCH), folder


def whole_features(bank: FeatureBank, rows: NDArray[np.int64], views: NDArray[np.int64] | int = 0) -> torch.Tensor:
    """Features of whole images (n, D) as a probe takes them: of volumes the mean over slices."""
    if bank.masked is None:
        return torch.from_numpy(bank.features(rows, views))
    parts = []
    for start in range(0, len(rows), 256):  # slice features of all rows at once could be gigabytes
        part = slice(start, start + 256)
        own = views if isinstance(views, int) else views[part]
        parts.append(mean_of_slices(torch.from_numpy(bank.features(rows[part], own)),
                                    torch.from_numpy(bank.features(rows[part], own, "mask"))))
    return torch.cat(parts)


def probe_teacher(images: ImageSet, bank: FeatureBank, facts: dict[str, Any], *, seed: int = 0,
                  tell: bool = True, strengths: tuple[float, ...] | None = None) -> TeacherSignals:
    """Fit the linear probe on banked views of the labelled training images and say what it reaches on validation.

    strengths: of its penalty, as scikit-learn's C, among which validation chooses; those of probe.py when not given.
    """
    rows = bank.indices(images.hashes)
    train = images.rows("train")
    known = train[images.labelled[train]]
    generator = np.random.default_rng([seed, 11])
    pairs = np.asarray([(row, view) for row in known for view in range(int(bank.views(rows[[row]])[0]) + 1)])
    if len(pairs) > PROBE_ROWS:
        pairs = pairs[generator.choice(len(pairs), PROBE_ROWS, replace=False)]
    features = whole_features(bank, rows[pairs[:, 0]], pairs[:, 1])
    val = images.rows("val")
    outputs = len(images.classes) - (images.task == "ordinal")
    probe = fit_probe(features, torch.from_numpy(images.labels[pairs[:, 0]]), whole_features(bank, rows[val]),
                      torch.from_numpy(images.labels[val]), images.task, outputs, strengths)
    logits = probe.logits(whole_features(bank, rows[val])).numpy()
    reached = judge(images, Predictions(val, logits, None, None, None))
    auroc = reached.get("val_auroc_student")
    if tell:
        say("probe", "linear probe of the teacher on validation: AUROC " + (
            "undefined, no class there has both outcomes" if auroc is None else f"{auroc:.3f}"))
    most = PROBE_ROWS if bank.masked is None else max(64, PROBE_ROWS // bank.masked)
    sample = train if len(train) <= most else generator.choice(train, most, replace=False)
    views = generator.integers(0, bank.views(rows[sample]) + 1)
    sample_features = torch.from_numpy(bank.features(rows[sample], views))
    if bank.masked is not None:
        sample_features = sample_features[torch.from_numpy(bank.features(rows[sample], views, "mask")) > 0]
    mean, sd = standardiser(sample_features)
    bank.release()
    return TeacherSignals(bank, rows, probe, mean, sd, facts)
