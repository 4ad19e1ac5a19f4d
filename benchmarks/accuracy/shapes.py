"""How images of other shapes than the network's square are best brought to it: squashed, their middle cropped, or a border put around.

Owns: BUSI in drawn shapes, which runs make the study, the table. Does not own: running them (study.py), the rules (images/spec.py).
The pictures at hand of BUSI are squares, so each is stretched back to a shape drawn for it; hippocampus volumes have shapes of their own.

    python -m benchmarks.accuracy.shapes --seeds 3 --workers 1
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.accuracy.paired import paired, scores, told
from benchmarks.accuracy.recipes import CORE, SHORT
from benchmarks.accuracy.study import Run, conduct, distilled, points
from benchmarks.record import SHARED

RULES, ALONE = ("squash", "crop", "pad"), "no student"
NARROWEST, WIDEST = 3 / 4, 16 / 9  # width by height
AREA = 256 * 256  # pixels


def runs(seeds: int, work: Path) -> Iterator[Run]:
    """The probes of volumes, once; then seed by seed each rule for teacher and student together: RD by default, the student alone."""
    probed = ("--data", str(SHARED / "msd_hippocampus" / "labels.csv"), "--label", "large_volume", "--axis", "coronal", "--slices", "16",
              "--teacher", "efficientnet-lite0", "--teacher-size", "96", "--bank-views", "0", "--audit", "0.002",
              "--student", "mobilenetv3_small_050", "--size", "32", "--batch", "8", "--epochs", "1", "--min-steps", "1")
    for rule in RULES:
        yield Run("hippocampus volumes, probe alone", f"{ALONE}, {rule}", 0, (*probed, "--method", "kd", "--teacher-resize", rule))
    flags = ("--data", str(in_shapes(work)), "--skip-bad-images", "--audit", "0.002", "--teacher", "efficientnet-lite2",
             "--student", "mobilenetv3_small_050", "--size", "96", *SHORT)
    for seed in range(seeds):
        for rule in RULES:
            yield Run("BUSI in drawn shapes", f"rd, {rule}", seed, (*flags, "--resize", rule, "--teacher-resize", rule, "--method", "rd"))
            yield Run("BUSI in drawn shapes", f"vanilla, {rule}", seed, (*flags, "--resize", rule, *CORE["vanilla"]))


def in_shapes(work: Path) -> Path:
    """A CSV of BUSI whose pictures are stretched to shapes drawn by their place in the list, whatever their label; areas stay."""
    import numpy as np
    from PIL import Image

    source, folder = SHARED / "busi_256px", work / "busi-in-shapes"
    path = folder / "labels.csv"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with (source / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    ratios = np.exp(np.random.default_rng(2026).uniform(np.log(NARROWEST), np.log(WIDEST), len(rows)))
    for place, (row, ratio) in enumerate(zip(rows, ratios, strict=True)):
        with Image.open(source / row["image"]) as picture:
            sides = round((AREA * ratio) ** 0.5), round((AREA / ratio) ** 0.5)
            picture.convert("RGB").resize(sides, Image.Resampling.BICUBIC).save(folder / f"{place:04d}.png")
        row["image"] = f"{place:04d}.png"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def table(rows: list[dict[str, Any]], split: str) -> str:
    """Markdown: AUROC of probe and student on validation and on test, mean (sd over seeds); the difference to squashing."""
    lines = ["| set | method, rule | seeds | probe, validation | probe, test | student, validation | minus squash | student, test | "
             "minus squash |", f"|{'---|' * 9}"]
    for setting in dict.fromkeys(row["setting"] for row in rows):
        values = {part: scores(rows, setting, part) for part in ("val", "test")}
        for method in values["val"]:
            own = [row["splits"] for row in rows if (row["setting"], row["method"]) == (setting, method)]
            probes = (points([splits[part]["probe"]["auroc"] for splits in own if "auroc" in splits[part].get("probe", {})])
                      for part in ("val", "test"))
            cells = [setting, method, str(len(own)), *probes]
            for seeds in (values["val"], values["test"]):
                base = seeds.get(f"{method.split(',')[0]}, {RULES[0]}", {})
                cells += (["", ""] if method.startswith(ALONE) else
                          [points([value / 100 for value in seeds[method].values()]),
                           "" if method.endswith(RULES[0]) else told(paired(seeds[method], base))])
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    conduct(__doc__ or "", "shapes", runs, distilled, table)
