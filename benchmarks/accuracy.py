"""Accuracy of every method in the same loop on real data, over seeds: BUSI, NIH ChestX-ray14 (1000), PneumoniaMNIST (rebuilt).

Owns: which runs make a study, the table. Does not own: running them and keeping their rows (study.py), training.

    python benchmarks/accuracy.py methods --seeds 5 --workers 2
    python benchmarks/accuracy.py students --seeds 3 --workers 2
    python benchmarks/accuracy.py pneumonia --table
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from record import RESULTS
from study import SHARED, Run, carry_out, distilled, points, rd_distill, read_rows, study_parser

# What every data set and student is measured with; then what one is measured with besides. All by the defaults of rd-distill.
CORE: dict[str, list[str]] = {
    "vanilla": ["--method", "vanilla"],
    "kd": ["--method", "kd"],
    "fitnet": ["--method", "fitnet"],
    "rd": ["--method", "rd"],
    "drd": ["--method", "drd"],
}
MORE: dict[str, list[str]] = {
    "rd without CKA": ["--method", "rd", "--cka-weight", "0"],
    "rd, a classifier of its own": ["--method", "rd", "--classifier", "own"],
    "rd, biased CKA": ["--method", "rd", "--cka", "biased"],
    "dkd": ["--method", "dkd"],
    "dist": ["--method", "dist"],
    "rkd": ["--method", "rkd"],
    "crd": ["--method", "crd"],
    "at": ["--method", "at", "--views", "tied"],
}
ALL = CORE | MORE
PLAIN = {name: ALL[name] for name in (*CORE, "rd without CKA")}
# The pretrained student at a tenth of the learning rate, as is usual for it.
STUDENTS = {"resnet18": ("--student", "resnet18"), "shufflenetv2": ("--student", "shufflenetv2"),
            "efficientnet-lite0, ImageNet weights": ("--student", "efficientnet-lite0", "--student-weights", "pretrained",
                                                     "--lr", "5e-4")}
PAIRS = {"repvit cut to 60 M MACs": ("--student", "repvit", "--max-macs", "60M"),
         "convnext-atto cut to 50 M MACs": ("--student", "convnext-atto", "--max-macs", "50M", "--lr", "1e-3")}
BUSI = ("--data", str(SHARED / "busi_256px"), "--size", "96", "--teacher", "efficientnet-lite2", "--skip-bad-images")


def busi(seeds: int, work: Path) -> Iterator[Run]:
    """BUSI, 3 classes, its own grouped split; student mobilenetv3_small_050 from scratch at 96 px, teacher Lite2."""
    return on_busi(seeds, PLAIN)


def methods(seeds: int, work: Path) -> Iterator[Run]:
    """The same with every method there is."""
    return on_busi(seeds, ALL)


def on_busi(seeds: int, chosen: dict[str, list[str]]) -> Iterator[Run]:
    """Methods on BUSI, seed by seed."""
    for seed in range(seeds):
        for method, own in chosen.items():
            yield Run("BUSI", method, seed, (*BUSI, "--student", "mobilenetv3_small_050", *own))


def pairs(seeds: int, work: Path) -> Iterator[Run]:
    """The same data and teacher with pruned students of another kind: does a convolutional teacher harm them?"""
    for seed in range(seeds):
        for name, student in PAIRS.items():
            for method in ("vanilla", "kd", "rd", "drd"):
                yield Run(f"BUSI, {name}", method, seed, (*BUSI, *student, *CORE[method]))


def students(seeds: int, work: Path) -> Iterator[Run]:
    """The same data and teacher with further students."""
    for seed in range(seeds):
        for name, student in STUDENTS.items():
            for method, own in CORE.items():
                yield Run(f"BUSI, {name}", method, seed, (*BUSI, *student, *own))


def nih(seeds: int, work: Path) -> Iterator[Run]:
    """NIH ChestX-ray14, 1000 images, 14 findings, split by patient; student mobilenetv3_small_050 at 64 px, teacher Lite2."""
    flags = ("--data", str(SHARED / "nih_cxr14_1000_64px" / "labels.csv"), "--student", "mobilenetv3_small_050", "--size", "64",
             "--teacher", "efficientnet-lite2", "--teacher-size", "128", "--skip-bad-images")
    for seed in range(seeds):
        for method, own in PLAIN.items():
            yield Run("NIH 1000", method, seed, (*flags, *own))


def pneumonia(seeds: int, work: Path) -> Iterator[Run]:
    """PneumoniaMNIST (rebuilt) with few labels and a teacher trained on the 90 % of images that the student never sees."""
    teacher = pneumonia_teacher(work)
    for seed in range(seeds):
        (ten, _), (one, hidden) = few_labels(work, 10, seed), few_labels(work, 1, seed)
        flags = ("--student", "mobilenetv3_small_050", "--size", "64", "--teacher", str(teacher))
        for method, own in PLAIN.items():
            yield Run("1 %: 47 labels", method, seed, (*flags, "--data", str(one), *own))
            if method != "vanilla":
                yield Run("1 %: 47 labels + 423 unlabelled", method, seed, (*flags, "--data", str(one), "--unlabelled", str(hidden), *own))
            yield Run("10 %: 470 labels", method, seed, (*flags, "--data", str(ten), *own))


def pneumonia_arrays() -> dict[str, np.ndarray[Any, Any]]:
    """The rebuilt set's arrays."""
    with np.load(SHARED / "pneumoniamnist_rebuilt.npz") as file:
        return {name: file[name] for name in file.files}


def student_rows(labels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The 10 % of the training images that belong to the student: 470, stratified, one fixed draw."""
    generator = np.random.default_rng(2024)
    shares = [generator.permutation(np.flatnonzero(labels == value)) for value in (0, 1)]
    count = round(470 * len(shares[0]) / len(labels))
    return np.sort(np.concatenate([shares[0][:count], shares[1][:470 - count]]))


def pneumonia_subset(work: Path) -> Path:
    """The set with the student's 470 training images alone; validation and test whole."""
    path = work / "pneumoniamnist-10.npz"
    if path.is_file():
        return path
    arrays = pneumonia_arrays()
    mine = student_rows(arrays["train_labels"].reshape(-1))
    np.savez(path, **(arrays | {f"train_{name}": arrays[f"train_{name}"][mine] for name in ("images", "labels")}))  # type: ignore[arg-type]
    return path


def pneumonia_teacher(work: Path) -> Path:
    """EfficientNet-Lite0 fine-tuned on the other 90 %: 3 epochs at 112 px from ImageNet weights."""
    folder, data = work / "pneumonia-teacher", work / "pneumoniamnist-teacher.npz"
    if not (folder / "manifest.json").is_file():
        arrays = pneumonia_arrays()
        mine = student_rows(arrays["train_labels"].reshape(-1))
        others = np.setdiff1d(np.arange(len(arrays["train_labels"])), mine)
        arrays |= {"train_images": arrays["train_images"][others], "train_labels": arrays["train_labels"][others]}
        np.savez(data, **arrays)  # type: ignore[arg-type]
        rd_distill(["--data", str(data), "--student", "efficientnet-lite0", "--student-weights", "pretrained", "--size", "112",
                 "--method", "vanilla", "--epochs", "3", "--lr", "3e-4", "--out", str(folder), "--overwrite"], work)
    return folder


def few_labels(work: Path, share: float, seed: int) -> tuple[Path, Path | None]:
    """A set with so many per cent of the labels, drawn by seed from the student's 470, and a folder of the others (None at 10 %)."""
    from PIL import Image

    ten = pneumonia_subset(work)
    if share == 10:
        return ten, None
    with np.load(ten) as file:
        arrays = dict(file)
    images, labels, count = arrays["train_images"], arrays["train_labels"].reshape(-1), round(4708 * share / 100)
    generator = np.random.default_rng([2024, seed])
    healthy = max(1, round(count * float((labels == 0).mean())))
    shown = np.sort(np.concatenate([generator.permutation(np.flatnonzero(labels == value))[:number]
                                    for value, number in ((0, healthy), (1, count - healthy))]))
    few, hidden = work / f"pneumoniamnist-{share:g}-seed{seed}.npz", work / f"pneumonia-hidden-{share:g}-seed{seed}"
    np.savez(few, **(arrays | {f"train_{name}": arrays[f"train_{name}"][shown] for name in ("images", "labels")}))  # type: ignore[arg-type]
    hidden.mkdir(exist_ok=True)
    for row in np.setdiff1d(np.arange(len(labels)), shown):
        Image.fromarray(images[row]).save(hidden / f"{row:03d}.png")
    return few, hidden


STUDIES = {"busi": busi, "methods": methods, "students": students, "pairs": pairs, "nih": nih, "pneumonia": pneumonia}


def table(rows: list[dict[str, Any]], split: str = "test") -> str:
    """Markdown: mean (sd over seeds) in points; gain over vanilla of the same setting and seed."""
    heads = ("setting", "method", "seeds", "accuracy", "balanced accuracy", "macro AUROC", "AUROC minus vanilla, by seed",
             "teacher branch", "probe", "ECE")
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    settings = list(dict.fromkeys(row["setting"] for row in rows))

    for setting in settings:
        here = [row for row in rows if row["setting"] == setting]
        base = {row["seed"]: row["splits"][split]["student"]["auroc"] for row in rows
                if row["setting"].split(" +")[0] == setting.split(" +")[0] and row["method"] == "vanilla"}
        for method in dict.fromkeys(row["method"] for row in here):
            own = sorted((row for row in here if row["method"] == method), key=lambda row: int(row["seed"]))
            pick = lambda branch, name, own=own: [row["splits"][split][branch][name] for row in own  # noqa: E731
                                                  if branch in row["splits"][split] and name in row["splits"][split][branch]]
            found = {row["seed"]: row["splits"][split]["student"]["auroc"] for row in own}
            gains = ", ".join(f"{(value - base[seed]) * 100:+.1f}" for seed, value in found.items() if seed in base)
            cells = [setting, method, str(len(own)),
                     *(points(pick("student", name)) for name in ("accuracy", "balanced_accuracy", "auroc")),
                     gains if method != "vanilla" else "", *(points(pick(*one)) for one in (("teacher", "auroc"), ("probe", "auroc"),
                                                                                             ("student", "ece")))]
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
