"""RD's own settings on held-out training images: which to take is asked here, so that no test image is asked.

Owns: the variants, on folds of BUSI, the demo's phantom, and pneumonia with few labels and a teacher of the domain; the table. Does not
own: running them (study.py), the folds (sets.py), pneumonia's images and teacher (pneumonia.py).

    python -m benchmarks.accuracy.variants --seeds 3 --workers 2
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.accuracy.paired import by_seed, paired, scores, told
from benchmarks.accuracy.pneumonia import few_labels, labels_of, pneumonia_teacher
from benchmarks.accuracy.recipes import BY_PROBE, FOLDS, PAIRS, PNEUMONIA_STUDENT, PROBED, PUBLISHED, RAW, SHORT
from benchmarks.accuracy.sets import fold_of, whole_bank
from benchmarks.accuracy.study import Run, conduct, distilled, points
from benchmarks.record import BENCHMARKS

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
            yield Run("the demo's phantom", variant, fold,
                      ("--config", str(BENCHMARKS / "demo.yaml"), *VARIANTS[variant], "--audit", "0.002"))
        few, hidden = few_labels(work, SHARE, fold)
        for variant in FEW:
            taught = () if variant == "vanilla" else ("--teacher", str(domain), "--unlabelled", str(hidden))
            yield Run(f"pneumonia, {labels_of(SHARE)} labels", variant, fold,
                      ("--data", str(few), *PNEUMONIA_STUDENT, *taught, *VARIANTS[variant]))


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
