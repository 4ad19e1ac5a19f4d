"""RD's own settings on held-out training images: which to take is asked here, so that no test image is asked.

Owns: the folds of BUSI's training images as a data set each, the demo's phantom, pneumonia with few labels and a teacher of the domain,
the variants, the table. Does not own: running them (study.py), pneumonia's images and teacher (pneumonia.py).

    python benchmarks/variants.py --seeds 3 --workers 2
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accuracy import BY_PROBE, PAIRS, RAW, SHORT
from domain_teacher import STUDENT
from paired import by_seed, paired, scores, told
from pneumonia import few_labels, labels_of, pneumonia_teacher
from sklearn.model_selection import StratifiedGroupKFold
from study import HERE, PROBED, PUBLISHED, SHARED, Run, conduct, distilled, points, rd_distill

FADING = ("--decay", "linear")
VARIANTS: dict[str, tuple[str, ...]] = {
    "vanilla": ("--method", "vanilla"),
    "rd": PUBLISHED,
    "rd, fading": (*PUBLISHED, *FADING),
    "rd, CKA against the teacher": RAW,
    "rd, CKA against the teacher, fading": (*RAW, *FADING),
    "rd without CKA": (*PUBLISHED, "--cka-weight", "0"),
    BY_PROBE: PROBED,
    f"{BY_PROBE}, without CKA": (*PROBED, "--cka-weight", "0"),
    "rd by default, CKA weight 0.2": ("--method", "rd", "--cka-weight", "0.2"),
    "kd": ("--method", "kd"),
    "kd, fading": ("--method", "kd", *FADING),
}
# RepViT's channels were ranked over the whole network when these rows were measured.
STUDENTS = {"repvit": (*PAIRS["repvit pruned to 60 M MACs"], "--prune-scope", "network"),
            "mobilenetv3_small_050": ("--student", "mobilenetv3_small_050")}
FOLDS = 3
FEW = [name for name in VARIANTS if "fading" not in name]  # on validation images of the demo's phantom, and of pneumonia
SHARE = 1  # per cent of pneumonia's labels; the student's other images stand by without one


def runs(seeds: int, work: Path) -> Iterator[Run]:
    """Every variant on every fold; a fold is a seed as well, so --seeds is the number of folds (3)."""
    bank, domain = whole_bank(work), pneumonia_teacher(work)
    for fold in range(min(seeds, FOLDS)):
        data = ("--data", str(fold_of(work, fold)), "--skip-bad-images", "--size", "96")
        for student, flags in STUDENTS.items():
            for variant, own in VARIANTS.items():
                teacher = () if variant == "vanilla" else ("--teacher", "efficientnet-lite2", "--bank", str(bank))
                yield Run(student, variant, fold, (*data, *flags, *SHORT, *teacher, *own, "--audit", "0.002"))
        for variant in FEW:
            yield Run("the demo's phantom", variant, fold, ("--config", str(HERE / "demo.yaml"), *VARIANTS[variant], "--audit", "0.002"))
        few, hidden = few_labels(work, SHARE, fold)
        for variant in FEW:
            taught = () if variant == "vanilla" else ("--teacher", str(domain), "--unlabelled", str(hidden))
            yield Run(f"pneumonia, {labels_of(SHARE)} labels", variant, fold, ("--data", str(few), *STUDENT, *taught, *VARIANTS[variant]))


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


def table(rows: list[dict[str, Any]], split: str) -> str:
    """Markdown: mean (sd over folds) of AUROC in points on held-out training images, paired differences to vanilla and to RD."""
    lines = ["| student | method | folds | AUROC | minus vanilla | by fold | minus rd |", "|---|---|---|---|---|---|---|"]
    for setting in dict.fromkeys(row["setting"] for row in rows):
        found = scores(rows, setting, "val")  # whatever --split asks: settings are not chosen on test
        for name, values in found.items():
            base, ours = found.get("vanilla", {}), found.get("rd", {})
            gains = f"{told(paired(values, base))} | {by_seed(values, base)}" if name != "vanilla" else " | "
            lines.append(f"| {setting} | {name} | {len(values)} | {points([one / 100 for one in values.values()])} | {gains} "
                         f"| {told(paired(values, ours)) if name not in ('rd', 'vanilla') else ''} |")
    return "\n".join(lines)


if __name__ == "__main__":
    conduct(__doc__ or "", "variants", runs, distilled, table)
