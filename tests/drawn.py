"""Random pictures in folders and tables, and the real sets where they are.

Owns: picture, class_folders, table, labelled, real. Does not own: tiny runs (runs.py), what is expected of any of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from places import SHARED

REAL = SHARED / "data"


def real(name: str) -> str:
    if not (REAL / name).exists():
        pytest.skip(f"the real data {name} is not here; RD_SHARED names the folder that holds data/{name}")
    return str(REAL / name)


def picture(path: Path, seed: int, mode: str = "L", size: tuple[int, int] = (12, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    if mode == "16":
        image = Image.fromarray(rng.integers(0, 65536, size[::-1]).astype(np.uint16))
    else:
        image = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3)).astype(np.uint8)).convert(mode)
    image.save(path)
    return path


def class_folders(root: Path, counts: dict[str, int], seed: int = 0) -> Path:
    for place, (name, count) in enumerate(counts.items()):
        for index in range(count):
            picture(root / name / f"{index}.png", seed + 1000 * place + index)
    return root


def table(root: Path, lines: list[str], images: int = 0, where: str = "images", name: str = "set.csv") -> str:
    for index in range(images):
        picture(root / where / f"{index}.png", index)
    (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(root / name)


def labelled(count: int) -> list[str]:
    return ["image,label", *(f"{index}.png,{'ab'[index % 2]}" for index in range(count))]


def npz(
    path: Path, counts: tuple[int, int, int] = (20, 6, 8), labels: Any = None, shape: tuple[int, ...] = (14, 14)
) -> str:
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for part, count in zip(("train", "val", "test"), counts, strict=True):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, *shape)).astype(np.uint8)
        arrays[f"{part}_labels"] = (
            (np.arange(count) % 2 if labels is None else labels(rng, count)).astype(np.uint8).reshape(count, -1)
        )
    np.savez_compressed(path, **arrays)
    return str(path)
