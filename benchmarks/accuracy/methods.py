"""Accuracy of every method in the same loop on real data, over seeds: BUSI, NIH ChestX-ray14 (1000), PneumoniaMNIST (rebuilt).

Owns: which runs make a study, the table. Does not own: running them and keeping their rows (study.py), training.

    python -m benchmarks.accuracy.methods methods --seeds 5 --workers 2
    python -m benchmarks.accuracy.methods students --seeds 3 --workers 2
    python -m benchmarks.accuracy.methods pneumonia --table
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.accuracy.paired import by_seed, scores, without_teacher
from benchmarks.accuracy.recipes import ALL, BY_PROBE, CORE, PAIRS, RAW, SHORT
from benchmarks.accuracy.study import Run, carry_out, distilled, points, study_parser
from benchmarks.record import RESULTS, SHARED, read_rows

PLAIN = {name: ALL[name] for name in (*CORE, "rd without CKA")}
STUDENTS = {"resnet18": ("--student", "resnet18"), "shufflenetv2": ("--student", "shufflenetv2"),
            "efficientnet-lite0, ImageNet weights": ("--student", "efficientnet-lite0", "--student-weights", "pretrained")}
PAIRED = {name: ALL[name] for name in ("vanilla", "kd", BY_PROBE)}  # by five seeds: is the teacher's harm more than chance?
SMALL_PIXELS = ("--student", "mobilenetv3_small_050", "--size", "64", "--teacher", "efficientnet-lite2", "--teacher-size", "128")
BUSI_ANY = ("--data", str(SHARED / "busi_256px"), "--teacher", "efficientnet-lite2", "--skip-bad-images")
BUSI = (*BUSI_ANY, "--size", "96")


def methods(seeds: int, work: Path) -> Iterator[Run]:
    """BUSI, 3 classes, its own grouped split; every method; student mobilenetv3_small_050 from scratch at 96 px, teacher Lite2."""
    for seed in range(seeds):
        for method, own in ALL.items():
            yield Run("BUSI", method, seed, (*BUSI, "--student", "mobilenetv3_small_050", *own))


def pairs(seeds: int, work: Path) -> Iterator[Run]:
    """The same data and teacher with pruned students of another kind: does a convolutional teacher harm them?"""
    for seed in range(seeds):
        for name, student in PAIRS.items():
            for method, own in PAIRED.items():
                yield Run(f"BUSI, {name}", method, seed, (*BUSI, *student, *SHORT, *own))


def students(seeds: int, work: Path) -> Iterator[Run]:
    """The same data and teacher with further students, at 64 px, or a ResNet-18 would not fit the hours."""
    for seed in range(seeds):
        for name, student in STUDENTS.items():
            for method, own in CORE.items():
                yield Run(f"BUSI at 64 px, {name}", method, seed, (*BUSI_ANY, "--size", "64", *student, *SHORT, *own))


def nih(seeds: int, work: Path) -> Iterator[Run]:
    """NIH ChestX-ray14, 1000 images, 14 findings, split by patient; student mobilenetv3_small_050 at 64 px, teacher Lite2."""
    flags = ("--data", str(SHARED / "nih_cxr14_1000_64px" / "labels.csv"), *SMALL_PIXELS, "--skip-bad-images")
    for seed in range(seeds):
        for method, own in PLAIN.items():
            yield Run("NIH 1000", method, seed, (*flags, *own))


def pneumonia(seeds: int, work: Path) -> Iterator[Run]:
    """PneumoniaMNIST (rebuilt) with all its labels, teacher Lite2 (ImageNet); few labels: domain_teacher.py."""
    flags = ("--data", str(SHARED / "pneumoniamnist_rebuilt.npz"), *SMALL_PIXELS, "--bank-views", "3", *SHORT)
    for seed in range(seeds):
        for method, own in CORE.items():
            yield Run("pneumonia, 4,708 labels", method, seed, (*flags, *own))


def teachers(seeds: int, work: Path) -> Iterator[Run]:
    """BUSI with a better teacher: Lite2 and Lite0 side by side in the bank; vanilla beside them. An adapted teacher: adapters.py."""
    small = (*BUSI, "--student", "mobilenetv3_small_050", *SHORT)
    kinds = {"Lite2": (), "Lite2 + Lite0": ("--second-teacher", "efficientnet-lite0")}
    for seed in range(seeds):
        yield Run("BUSI, no teacher", "vanilla", seed, (*small, *CORE["vanilla"]))
        yield Run("BUSI, Lite2", "rd, CKA against the teacher's own features", seed, (*small, *RAW))
        for kind, teacher in kinds.items():
            for method in ("kd", "fitnet", "rd", BY_PROBE):
                yield Run(f"BUSI, {kind}", method, seed, (*small, *teacher, *CORE[method]))


STUDIES = {"methods": methods, "students": students, "pairs": pairs, "teachers": teachers, "nih": nih, "pneumonia": pneumonia}


def table(rows: list[dict[str, Any]], split: str = "test") -> str:
    """Markdown: mean (sd over seeds) in points; gain over vanilla of the same setting and seed."""
    heads = ("setting", "method", "seeds", "accuracy", "balanced accuracy", "macro AUROC", "AUROC minus vanilla, by seed",
             "teacher branch", "probe", "ECE")
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    settings = list(dict.fromkeys(row["setting"] for row in rows))

    for setting in settings:
        here = [row for row in rows if row["setting"] == setting]
        found = scores(rows, setting, split)
        base = without_teacher(rows, setting, split, found)
        for method in dict.fromkeys(row["method"] for row in here):
            own = sorted((row for row in here if row["method"] == method), key=lambda row: int(row["seed"]))
            pick = lambda branch, name, own=own: [row["splits"][split][branch][name] for row in own  # noqa: E731
                                                  if branch in row["splits"][split] and name in row["splits"][split][branch]]
            cells = [setting, method, str(len(own)),
                     *(points(pick("student", name)) for name in ("accuracy", "balanced_accuracy", "auroc")),
                     by_seed(found[method], base) if method != "vanilla" else "",
                     *(points(pick(*one)) for one in (("teacher", "auroc"), ("probe", "auroc"), ("student", "ece")))]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing of a study and print its table."""
    parser = study_parser(__doc__ or "")
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--methods", nargs="*", help="only these methods")
    parser.add_argument("extra", nargs="*", help="further flags for every run, after --")
    given = parser.parse_args()
    rows = given.rows or RESULTS / f"accuracy-{given.study}.jsonl"
    if not given.table:
        work = given.work.resolve()
        work.mkdir(parents=True, exist_ok=True)
        runs = [run for run in STUDIES[given.study](given.seeds, work) if not given.methods or run.method in given.methods]
        carry_out(runs, rows, given.workers,
                  lambda run: distilled(run, work, "--audit", "0.002", *given.extra) | {"extra": given.extra})
    print(table(read_rows(rows), given.split))


if __name__ == "__main__":
    main()
