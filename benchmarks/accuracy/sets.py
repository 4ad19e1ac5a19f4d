"""The data of studies: the three sets that adapters are tried on, BUSI's training images in folds, the bank that serves every fold.

Owns: which files they are, which images validate in a fold, which keep their label. Does not own: pneumonia's images (pneumonia.py),
which runs make a study.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from benchmarks.accuracy.pneumonia import pneumonia_subset
from benchmarks.accuracy.recipes import FOLDS
from benchmarks.commands import rd_distill
from benchmarks.record import SHARED


def three_sets(work: Path) -> dict[str, Path]:
    """The data of the studies of adapters, by name."""
    return {"BUSI": SHARED / "busi_256px", "pneumonia, 470 labels": pneumonia_subset(work),
            "NIH 1000": SHARED / "nih_cxr14_1000_64px" / "labels.csv"}


def thinned(work: Path, name: str, count: int, seed: int, *, keep_others: bool = True) -> Path:
    """A CSV of BUSI or NIH in which so many training images, drawn by seed, keep their label; the others have none, or are left out."""
    source = {"BUSI": SHARED / "busi_256px" / "labels.csv", "NIH": SHARED / "nih_cxr14_1000_64px" / "labels.csv"}[name]
    folder = source.parent / "images" if name == "NIH" else source.parent
    path = work / f"{name.lower()}-{count}{'' if keep_others else '-alone'}-seed{seed}.csv"
    with source.open(newline="") as file:
        rows = list(csv.DictReader(file))
    train = [place for place, row in enumerate(rows) if row["split"] == "train"]
    generator = np.random.default_rng([2024, seed])
    if name == "NIH":
        findings = list(rows[0])[list(rows[0]).index("split") + 1:]
        shown = set(generator.permutation(train)[:count].tolist())
    else:
        findings = ["label"]
        kinds = sorted({row["label"] for row in rows})
        of_kind = {kind: [place for place in train if rows[place]["label"] == kind] for kind in kinds}
        shares = {kind: max(1, round(count * len(of_kind[kind]) / len(train))) for kind in kinds[1:]}
        shares[kinds[0]] = count - sum(shares.values())
        shown = {place for kind in kinds for place in generator.permutation(of_kind[kind])[:shares[kind]].tolist()}
    for place in train:
        if place not in shown:
            rows[place] |= dict.fromkeys(findings, "")
    rows = [row for place, row in enumerate(rows) if keep_others or row["split"] != "train" or place in shown]
    for row in rows:
        row["image"] = str(folder / row["image"])
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def fold_of(work: Path, fold: int, *, as_test: bool = False) -> Path:
    """A CSV of BUSI in which a third of the training images, copies together, validates; the rest trains, test stays test.

    as_test: that third takes the place of test, which is left out, and validation stays as it is: for what reads validation to train.
    """
    path = work / f"busi-fold-{fold}{'-as-test' if as_test else ''}.csv"
    judged = "test" if as_test else "val"
    with (SHARED / "busi_256px" / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    train = [row for row in rows if row["split"] == "train"]
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    labels, groups = [row["label"] for row in train], [row["dup_group"] for row in train]
    held = {train[place]["image"] for place in list(folds.split(labels, labels, groups))[fold][1]}
    kept = [{"image": str(SHARED / "busi_256px" / row["image"]), "label": row["label"], "dup_group": row["dup_group"],
             "split": judged if row["image"] in held else row["split"]} for row in rows if row["split"] != judged]
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
