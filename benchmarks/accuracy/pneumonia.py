"""PneumoniaMNIST (rebuilt) cut for studies: the student's 10 %, few labels of it, a teacher trained on the other 90 %.

Owns: which images are whose, the teacher. Does not own: which runs make a study (methods.py, adapters.py, domain_teacher.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.commands import rd_distill
from benchmarks.record import SHARED


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


def labels_of(share: float) -> int:
    """How many of the student's 470 images carry a label at so many per cent of the whole set's 4,708."""
    return min(470, round(4708 * share / 100))


def few_labels(work: Path, share: float, seed: int) -> tuple[Path, Path | None]:
    """A set with so many per cent of the labels, drawn by seed from the student's 470, and a folder of the others (None at 10 %)."""
    from PIL import Image

    ten = pneumonia_subset(work)
    if share == 10:
        return ten, None
    with np.load(ten) as file:
        arrays = dict(file)
    images, labels, count = arrays["train_images"], arrays["train_labels"].reshape(-1), labels_of(share)
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
