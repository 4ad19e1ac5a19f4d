"""Image sets known by name: MedMNIST's, from that package's folder or downloaded by it, and our synthetic phantom.

Owns: what a name means, where its file is looked for, the sentence when it cannot be had. Does not own: the .npz format
(sources.py), drawing the phantom (phantom.py). medmnist is imported only when one of its sets is named.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from distill.phantom import FINDINGS, PhantomImages
from distill.sources import SPLITS, Listing, list_npz
from runtimes.errors import MISSING, USAGE, UserError


def list_medmnist(name: str, task: str | None) -> Listing:
    """List a MedMNIST set by name, from the medmnist package's folder, or downloaded by that package; UserError on any failure."""
    match = re.fullmatch(r"([a-z]+mnist(?:3d)?)(?:_(28|64|128|224))?", name.lower())
    forms = "a folder of class folders, a CSV, a MedMNIST .npz, the name of a MedMNIST set, or phantom"
    try:
        import medmnist
        from medmnist.info import DEFAULT_ROOT, INFO
    except ImportError:
        if match is None:
            raise UserError(f"--data {name} does not exist; expected {forms}") from None
        raise UserError(f"--data {name} does not exist here, and sets are known by name only with: pip install medmnist", MISSING) from None
    if match is None or match[1] not in INFO:
        near = get_close_matches(name.lower(), [*INFO, "phantom"], 1, 0.6)
        guess = f" Did you mean {near[0]}?" if near else ""
        raise UserError(f"--data {name} does not exist and is no known set.{guess} Expected {forms}")
    if match[1].endswith("3d"):
        raise UserError(f"--data {name} holds volumes; expected a set of 2D images, such as {match[1].removesuffix('3d')[:5]}... without 3d")
    size = int(match[2] or 28)
    stem = match[1] if size == 28 else f"{match[1]}_{size}"
    root = Path(DEFAULT_ROOT or Path.home() / ".medmnist")
    file = root / f"{stem}.npz"
    info: dict[str, Any] = INFO[match[1]]
    if not file.is_file():
        try:
            root.mkdir(parents=True, exist_ok=True)
            getattr(medmnist, info["python_class"])(split="train", download=True, size=size, root=str(root))
        except Exception as error:  # the package and its downloader raise whatever they like; all mean that the file is not here
            raise UserError(f"{name} is not in {root} and could not be downloaded ({type(error).__name__}); "
                            f"fetch {stem}.npz from {info.get('url', 'the MedMNIST page')} by hand and put it at {file}") from None
    names = [str(info["label"][value]) for value in sorted(info["label"], key=int)]
    listing = list_npz(file, task, names)
    return replace(listing, facts={**listing.facts, "form": "medmnist", "licence": str(info.get("license", ""))})


def list_phantom(counts: Sequence[int], seed: int, size_px: int, task: str | None) -> Listing:
    """List the synthetic head-CT phantom in blocks of train, val and test; nothing is drawn here."""
    if task not in (None, "multilabel"):
        raise UserError(f"--task {task} does not fit the phantom, whose {len(FINDINGS)} findings are multi-label", USAGE)
    if len(counts) != 3 or min(counts) < 1:
        raise UserError(f"phantom images {tuple(counts)}; expected three counts above 0, for train, val and test", USAGE)
    try:
        images = PhantomImages(sum(counts), seed, size_px)
    except ValueError as error:
        raise UserError(str(error), USAGE) from None
    split = np.repeat(np.asarray(SPLITS, dtype=object), counts)
    keys = tuple(images.key(row) for row in range(len(images)))
    facts = {"form": "phantom", "task_from": "--task" if task else "the phantom's findings"}
    return Listing(images, keys, images.all_labels(), tuple(FINDINGS), "multilabel", split, facts=facts, synthetic=True)
