"""The detector of burned-in text against text that is drawn over real pictures: how much it sees, how often it is wrong.

Owns: the drawn texts, the table, the sheet of pictures that it takes for text. Does not own: the detector (distill/data/burned_text.py).
Real pictures may hold text of their own (BUSI does): those that it flags as they are go on a sheet, to be judged by eye.

    python -m benchmarks.robustness.burned_text [--sheet FILE.png]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.record import SHARED, facts
from benchmarks.robustness.dicom import collections
from distill.data.burned_text import SMALLEST_SIDE, TEXT, letters_in_a_row
from runtimes.errors import UserError
from runtimes.images.decode import decode

TEXTS = ("SMITH JOHN", "MUELLER ANNA", "DOE^JANE", "1943-11-27", "ID 4711-88", "12/03/2019 11:47", "KIM SOO", "GARCIA M", "Jones, Peter",
         "born 7 May 1950")
SMALLEST, LARGEST = 10, 21  # of the font
DARKEST, BRIGHTEST = 190, 255


def pictures() -> Iterator[tuple[str, list[Any]]]:
    """Real pictures by set, each (H, W, 1 or 3), as far as they are here."""
    yield "BUSI, 256 px", [decode(path) for path in sorted((SHARED / "busi_256px").glob("*/*.png"))]
    slices = [decode(path) for path in sorted((SHARED / "cq500_ct0_dicom").glob("*.dcm"))]
    yield "CQ500, one head CT, 512 px", [(levels >> 8).astype(np.uint8) for levels in slices]
    others = []
    for path in [*collections()["pydicom's wheel"], *collections()["highdicom"]]:
        try:
            levels = decode(path)
        except UserError:
            continue
        if min(levels.shape[:2]) >= SMALLEST_SIDE:
            others.append((levels >> 8).astype(np.uint8) if levels.dtype == np.uint16 else levels)
    yield f"test files of pydicom and highdicom, {SMALLEST_SIDE} px and more", others
    yield "NIH chest, 64 px", [decode(path) for path in sorted((SHARED / "nih_cxr14_1000_64px").rglob("*.png"))[:200]]


def written(levels: Any, random: np.random.Generator) -> Any:
    """A picture with one line of text somewhere in it."""
    image = Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels).convert("L")
    pen, text = ImageDraw.Draw(image), TEXTS[int(random.integers(len(TEXTS)))]
    font: Any = ImageFont.load_default(int(random.integers(SMALLEST, LARGEST + 1)))
    width, height = (int(side) for side in pen.textbbox((0, 0), text, font=font)[2:])
    place = (int(random.integers(1, max(2, image.width - width))), int(random.integers(1, max(2, image.height - height))))
    pen.text(place, text, font=font, fill=int(random.integers(DARKEST, BRIGHTEST + 1)))
    return np.asarray(image)[..., None]


def main() -> None:
    """Print the table, and keep the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sheet", type=Path, help="write the pictures that are flagged as they are into this PNG")
    given = parser.parse_args()
    print(f"{facts()['date']}\n| pictures | count | flagged as they are | of the others, with drawn text: seen | ms a picture |")
    print("|---|---|---|---|---|")
    flagged: list[Any] = []
    for name, images in pictures():
        if not images:
            print(f"| {name} | not here | | | |")
            continue
        random, start = np.random.default_rng(0), time.perf_counter()
        own = [letters_in_a_row(image) >= TEXT for image in images]
        seconds = time.perf_counter() - start
        flagged += [image for image, hit in zip(images, own, strict=True) if hit]
        others = [image for image, hit in zip(images, own, strict=True) if not hit]
        seen = sum(letters_in_a_row(written(image, random)) >= TEXT for image in others)
        print(f"| {name} | {len(images)} | {sum(own)} | {seen} of {len(others)} ({seen / len(others):.2f}) | "
              f"{1e3 * seconds / len(images):.0f} |", flush=True)
    if given.sheet and flagged:
        sheet = Image.new("L", (12 * 160, -(-len(flagged) // 12) * 160))
        for place, image in enumerate(flagged):
            shown = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).convert("L").resize((160, 160))
            sheet.paste(shown, (place % 12 * 160, place // 12 * 160))
        sheet.save(given.sheet)


if __name__ == "__main__":
    main()
