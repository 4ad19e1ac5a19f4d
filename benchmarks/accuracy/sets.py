"""The data of studies: the three sets that adapters are tried on, BUSI's training images in folds, the bank that serves every fold.

Owns: which files they are and which images validate in a fold. Does not own: pneumonia's images (pneumonia.py), which runs make a study.
"""

from __future__ import annotations

import csv
from pathlib import Path

from sklearn.model_selection import StratifiedGroupKFold

from benchmarks.accuracy.pneumonia import pneumonia_subset
from benchmarks.accuracy.recipes import FOLDS
from benchmarks.commands import rd_distill
from benchmarks.record import SHARED


def three_sets(work: Path) -> dict[str, Path]:
    """The data of the studies of adapters, by name."""
    return {"BUSI": SHARED / "busi_256px", "pneumonia, 470 labels": pneumonia_subset(work),
            "NIH 1000": SHARED / "nih_cxr14_1000_64px" / "labels.csv"}


def fold_of(work: Path, fold: int) -> Path:
    """A CSV of BUSI in which a third of the training images, copies together, validates; the rest trains, test stays test."""
    path = work / f"busi-fold-{fold}.csv"
    with (SHARED / "busi_256px" / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    train = [row for row in rows if row["split"] == "train"]
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    labels, groups = [row["label"] for row in train], [row["dup_group"] for row in train]
    held = {train[place]["image"] for place in list(folds.split(labels, labels, groups))[fold][1]}
    kept = [{"image": str(SHARED / "busi_256px" / row["image"]), "label": row["label"], "dup_group": row["dup_group"],
             "split": "test" if row["split"] == "test" else "val" if row["image"] in held else "train"}
            for row in rows if row["split"] != "val"]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(kept[0]))
        writer.writeheader()
        writer.writerows(kept)
    return path


def whole_bank(work: Path) -> Path:
    """The bank of all of BUSI, which serves every fold."""
    bank = work / "busi-bank"
    if not bank.exists():
        rd_distill(["--data", str(SHARED / "busi_256px"), "--skip-bad-images", "--teacher", "efficientnet-lite2", "--bank", str(bank),
                    "--student", "mobilenetv3_small_050", "--size", "32", "--epochs", "1", "--min-steps", "1", "--audit", "0.002",
                    "--out", str(work / "busi-bank-student"), "--overwrite"], work)
    return bank
