"""Every format of teacher in miniature: does it load, as what, and how near are its features to the authors' own on pictures of any shape?

Owns: the comparison and its table. Does not own: the formats (stand_ins.py), loading (distill/teacher). Cosine: the smallest over
pictures; centred: of features less their mean over pictures, which shows what a common direction hides.

    python -m benchmarks.robustness.teachers [--pictures 6]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor

from benchmarks.record import RESULTS
from benchmarks.robustness.stand_ins import FORMATS, REFUSALS, StandIn, shallow
from distill.teacher.teacher import Teacher
from distill.teacher.teachers import load_teacher
from runtimes.errors import UserError

SHAPES = ((300, 300), (230, 400), (400, 230))  # height, width
LEAST_COSINE, LEAST_CENTRED = 0.999, 0.99


def picture(height: int, width: int, seed: int) -> Image.Image:
    """A smooth picture of colours, as cameras and scanners make them."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 30, width // 30, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def loaded(stand_in: StandIn) -> Teacher:
    """The teacher as our loader reads it."""
    with shallow():
        return load_teacher(stand_in.teacher, weights=stand_in.weights, stated=stand_in.stated)


@torch.no_grad()
def nearness(teacher: Teacher, stand_in: StandIn, pictures: int) -> tuple[float, float]:
    """The smallest cosine between our features and the authors', plain and centred, over so many pictures of every shape."""
    images = [picture(*shape, seed) for seed in range(pictures) for shape in SHAPES]
    spec = teacher.image_spec
    ours = torch.cat([teacher.features(torch.from_numpy(spec.normalised(spec.stored(np.asarray(image))))[None]) for image in images])
    theirs = torch.cat([stand_in.authors(image).float() for image in images])
    return _cosine(ours, theirs), _cosine(ours - theirs.mean(0), theirs - theirs.mean(0))


def _cosine(ours: Tensor, theirs: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(ours, theirs).min())


def rows(pictures: int) -> Iterator[str]:
    """A line of the table for every format, then for every refusal."""
    for name, form in FORMATS.items():
        with tempfile.TemporaryDirectory() as folder:
            stand_in = form.write(Path(folder) / "model")
            teacher = loaded(stand_in)
            plain, centred = nearness(teacher, stand_in, pictures)
            again = loaded(stand_in).hash == teacher.hash
        spec = teacher.image_spec
        levels = " / ".join(" ".join(f"{value:.3g}" for value in values) for values in (spec.mean, spec.std))
        well = plain >= LEAST_COSINE and centred >= LEAST_CENTRED and again
        yield (f"| {name} | {form.kind} | {spec.height} px, {spec.fit}{f' of {spec.edge}' if spec.edge else ''}, {spec.interpolation} | "
               f"{levels} | {teacher.pooling} | {plain:.5f} | {centred:.4f} | {'yes' if well else '**no**'} |")
    yield ""
    yield "| refused | answer |"
    yield "|---|---|"
    for name, refusal in REFUSALS.items():
        with tempfile.TemporaryDirectory() as folder:
            stand_in = refusal.write(Path(folder) / "model")
            try:
                loaded(stand_in)
                answer = "**loaded**"
            except UserError as error:
                answer = str(error).replace(folder, "...").replace("|", "/")
        yield f"| {name} | {answer} |"


def main() -> None:
    """Print the table and store it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=6, help="pictures of each of three shapes")
    parser.add_argument("--out", type=Path, default=RESULTS / "teachers.md")
    given: Any = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    lines = ["| format | named as | images | mean / std | features | cosine | centred | same and read twice alike |", f"|{'---|' * 8}"]
    print("\n".join(lines))
    for line in rows(given.pictures):
        print(line, flush=True)
        lines.append(line)
    given.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
