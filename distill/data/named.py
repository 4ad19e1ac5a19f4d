"""What --data means: a path of some form, or an image set known by name (MedMNIST's, or our synthetic phantom).

Owns: telling the forms apart, where the file of a name is looked for, the sentence when it cannot be had. Does not own:
the forms (folders.py, sources.py, tables.py, archives.py), drawing the phantom (phantom/images.py). medmnist is imported only when
such a set is named.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from distill.data.archives import list_npz
from distill.data.folders import hidden, list_folder
from distill.data.sources import SPLITS, Listing
from distill.data.tables import list_csv
from distill.phantom.images import FINDINGS, PhantomImages
from distill.phantom.volumes import LOCAL, PhantomVolumes
from runtimes.errors import MISSING, USAGE, UserError

MEDMNIST = re.compile(r"([a-z]+mnist(?:3d)?)(?:_(28|64|128|224))?")


def is_there(data: str) -> bool:
    """Whether --data names something: a path that is there, or a set known by name."""
    return bool(data) and (data in PHANTOMS or Path(data).expanduser().exists() or MEDMNIST.fullmatch(data.lower()) is not None)


def list_medmnist(name: str, task: str | None) -> Listing:
    """List a MedMNIST set by name, from the medmnist package's folder or downloaded by it; UserError on any failure."""
    match = MEDMNIST.fullmatch(name.lower())
    forms = "a folder of class folders, a CSV, a MedMNIST .npz, the name of a MedMNIST set, or phantom"
    try:
        import medmnist
        from medmnist.info import DEFAULT_ROOT, INFO
    except ImportError:
        if match is None:
            raise UserError(f"--data {name} does not exist; expected {forms}") from None
        raise UserError(f"--data {name} does not exist, and sets are known by name only with: pip install medmnist",
                        MISSING) from None
    if match is None or match[1] not in INFO:
        near = get_close_matches(name.lower(), [*INFO, *PHANTOMS], 1, 0.6)
        guess = f" Did you mean {near[0]}?" if near else ""
        raise UserError(f"--data {name} does not exist and is no known set.{guess} Expected {forms}")
    size = int(match[2] or 28)
    if match[1].endswith("3d") and size > 64:
        raise UserError(f"--data {name}: sets of volumes are published at 28 and 64 voxels a side: {match[1]}, {match[1]}_64")
    stem = match[1] if size == 28 else f"{match[1]}_{size}"
    root = Path(DEFAULT_ROOT or Path.home() / ".medmnist")
    file = root / f"{stem}.npz"
    info: dict[str, Any] = INFO[match[1]]
    if not file.is_file():
        try:
            root.mkdir(parents=True, exist_ok=True)
            getattr(medmnist, info["python_class"])(split="train", download=True, size=size, root=str(root))
        except Exception as error:  # whatever the package and its downloader raise, the file is not here
            source = info.get("url" if size == 28 else f"url_{size}", "the MedMNIST page")
            raise UserError(f"{name} is not in {root} and could not be downloaded ({type(error).__name__}); "
                            f"fetch {stem}.npz by hand from {source} and put it at {file}") from None
    names = [str(info["label"][value]) for value in sorted(info["label"], key=int)]
    listing = list_npz(file, task, names)
    return replace(listing, facts={**listing.facts, "form": "medmnist", "licence": str(info.get("license", ""))})


Drawn = type[PhantomImages] | type[PhantomVolumes]
PHANTOMS: dict[str, tuple[Drawn, tuple[str, ...], tuple[int, int, int]]] = {
    "phantom": (PhantomImages, FINDINGS, (1200, 200, 400)), "phantom-volumes": (PhantomVolumes, LOCAL, (240, 60, 120))}


def list_phantom(name: str, counts: Sequence[int] | None, seed: int, size_px: int, task: str | None) -> Listing:
    """List the synthetic head-CT phantom, slices or volumes, in blocks of train, val and test; nothing is drawn here."""
    make, findings, usual = PHANTOMS[name]
    counts = usual if counts is None else counts
    if task not in (None, "multilabel"):
        raise UserError(f"--task {task} does not fit the phantom, with {len(findings)} findings an image", USAGE)
    if len(counts) != 3 or min(counts) < 1:
        raise UserError(f"phantom images {tuple(counts)}; expected three counts above 0: train, val, test", USAGE)
    try:
        images = make(sum(counts), seed, size_px)
    except ValueError as error:
        raise UserError(str(error), USAGE) from None
    split = np.repeat(np.asarray(SPLITS, dtype=object), counts)
    keys = tuple(images.key(row) for row in range(len(images)))
    facts = {"form": name, "task_from": "--task" if task else "the phantom's findings"}
    return Listing(images, keys, images.all_labels(), tuple(findings), "multilabel", split, facts=facts, synthetic=True)


def list_data(
    data: str, task: str | None, label: str | None, seed: int, counts: Sequence[int] | None, size_px: int,
    uncertain: str | None = "unknown", series: bool = False,
) -> Listing:
    """List the images of --data in whichever form it is; UserError where it is in none. uncertain: as list_csv takes it.

    series: DICOM files in folders are volumes, by their series.
    """
    path = Path(data).expanduser()
    tables = [] if data in PHANTOMS or not path.is_dir() else sorted(
        entry for entry in path.iterdir() if entry.is_file() and entry.suffix.lower() == ".csv" and not hidden(entry.name))
    if len(tables) > 1:
        raise UserError(f"{data} holds {len(tables)} CSV files ({', '.join(entry.name for entry in tables[:5])}); "
                        f"name one: --data {tables[0]}")
    table = tables[0] if tables else path if path.is_file() and path.suffix.lower() in (".csv", ".tsv") else None
    if table is not None and data not in PHANTOMS:
        listing = list_csv(table, task, label, uncertain)
        if tables:
            listing.facts.setdefault("notes", []).append(f"labels are those of {table.name} inside the folder")
        return listing
    if label is not None:
        raise UserError(f"--label {label} names a column of a CSV; --data {data} is none", USAGE)
    if uncertain not in (None, "unknown"):
        raise UserError(f"--uncertain {uncertain} is about -1 in a CSV; --data {data} is none", USAGE)
    if series and not path.is_dir():
        raise UserError(f"--dicom series is about DICOM files in folders; --data {data} is none", USAGE)
    if data in PHANTOMS:
        return list_phantom(data, counts, seed, size_px, task)
    if path.is_dir():
        return list_folder(path, task, series)
    if path.is_file() and path.suffix.lower() == ".npz":
        return list_npz(path, task)
    if path.is_file() or not data:
        raise UserError(f"--data {data!r} is of no known kind; expected a folder, a .csv, a MedMNIST .npz or name, "
                        "or phantom")
    return list_medmnist(data, task)
