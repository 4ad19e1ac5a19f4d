"""Images and labels given in Python, written as the form of --data that loses nothing: PNG files and a CSV.

Owns: which arrays and labels are taken, their files, the check that the table says what was given. Does not own: reading tables and
files (tables.py, loading.py), so that images from memory go the one way of all images.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from distill.data.sources import Listing
from distill.data.tables import list_csv
from runtimes.errors import UserError
from runtimes.text import class_name_problem

TABLE = "labels.csv"
DTYPES = ("uint8", "uint16")
LEAST_SIDE = 8  # pixels; smaller, an array is rather a row of an image
COLUMNS = ("image", "path", "label", "split", "patient", "group")  # of the table itself


class Pairs(Protocol):
    """Pairs (raw image, label) in memory, or made when asked for: a list, or a data set with a length and numbered items."""

    def __len__(self) -> int:
        """How many pairs there are."""

    def __getitem__(self, place: int, /) -> Any:
        """The pair at a place from 0."""


def array_of(value: Any, what: str) -> NDArray[Any]:
    """A raw image as it is given, as an array (H, W, C) of uint8 or uint16, C 1 or 3; UserError says what to do with any other."""
    try:
        array = np.asarray(value)
    except Exception as error:  # a tensor on a GPU, ragged lists: libraries raise their own types
        raise UserError(f"{what} is {type(value).__name__}, which NumPy takes for no array ({type(error).__name__}); give a NumPy array, "
                        "or a tensor on the CPU") from None
    if array.dtype.kind == "f":
        raise UserError(f"{what} holds {array.dtype}; levels are never scaled silently: give raw grey levels as uint8 or uint16, of values "
                        "from 0 to 1 (array * 255).round().astype('uint8')")
    if array.dtype.name not in DTYPES:
        raise UserError(f"{what} holds {array.dtype}, expected raw grey levels as uint8 or uint16; array.astype('uint8') where they lie "
                        "from 0 to 255")
    shaped = array[..., None] if array.ndim == 2 else array
    if shaped.ndim == 3 and shaped.shape[0] in (1, 3) and shaped.shape[2] not in (1, 3):
        raise UserError(f"{what} has shape {array.shape}, channels first; expected (H, W) or (H, W, C): np.moveaxis(array, 0, -1)")
    if shaped.ndim != 3 or shaped.shape[2] not in (1, 3) or min(shaped.shape[:2]) < LEAST_SIDE:
        raise UserError(f"{what} has shape {array.shape}, expected (H, W) or (H, W, C) with sides from {LEAST_SIDE} pixels and 1 or 3 "
                        "channels")
    return shaped


def write_images(folder: Path, data: Pairs, splits: Iterable[Any] | None = None, patients: Iterable[Any] | None = None) -> Path:
    """Write pairs (image, label) as PNG files and a table into an empty folder; the path of the table.

    label: a text or whole number (class), a mapping of findings to 0, 1 or None (unknown), or None (no label). splits: "train", "val" or
    "test" an image; patients: a text or number an image. UserError names the item that cannot be taken.
    """
    count = _length(data)
    beside = {name: _listed(values, name, count) for name, values in (("split", splits), ("patient", patients)) if values is not None}
    labels = []
    for place in range(count):
        image, label = _pair(data, place)
        _write_png(folder / _file(place), array_of(image, f"image {place}"), f"image {place}")
        labels.append(_label(label, place))
    findings = list(dict.fromkeys(name for label in labels if isinstance(label, dict) for name in label))
    _check_alike(labels, findings)
    with (folder / TABLE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *beside, *(findings or ["label"])])
        for place, label in enumerate(labels):
            cells = [label.get(name, "") for name in findings] if isinstance(label, dict) else [label] * max(1, len(findings))
            writer.writerow([_file(place), *(values[place] for values in beside.values()), *cells])
    return folder / TABLE


def check_table(path: Path, task: str | None, uncertain: str) -> None:
    """UserError where a table of ours would be read as saying anything but what was given: a reader takes some words for no label."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    findings = [name for name in rows[0] if name not in COLUMNS]
    try:
        listing = list_csv(path, task, None, uncertain)
    except UserError as error:
        if len(findings) > 1 and "two 0/1 columns" in str(error):
            raise _no_finding(findings[0]) from None
        raise
    if findings:
        if missing := [name for name in findings if name not in listing.classes]:
            raise _no_finding(missing[0])
        return
    for place, row in enumerate(rows):
        if (label := _label_of(listing, place)) != row["label"]:
            raise UserError(f"label {row['label']!r} of image {place} would be read as {label or 'no label'} from the table that keeps it; "
                            "give the class a plain name, several findings as a mapping {finding: 0 or 1}, and None for no label")


def _no_finding(name: str) -> UserError:
    return UserError(f"finding {name!r} would not be read as one from the table that keeps it: no image has it at 0 or 1, or it is the "
                     "name of something else there, as age and sex are; leave it out, or name it otherwise")


def _label_of(listing: Listing, row: int) -> str:
    """What a listing says of one image with one label."""
    labels: NDArray[Any] = listing.labels[row]
    if listing.task == "multilabel":
        return "the findings " + ", ".join(name for name, value in zip(listing.classes, labels.tolist(), strict=True) if value == 1)
    return listing.classes[int(labels)] if labels >= 0 else ""


def _file(place: int) -> str:
    return f"image-{place:06d}.png"


def _length(data: Any) -> int:
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__") or isinstance(data, Mapping):
        raise UserError(f"data is {type(data).__name__}, expected a path, or pairs (image array, label) in a list or a data set with a "
                        "length")
    if not len(data):
        raise UserError("data is empty; expected pairs (image array, label), or a path")
    return len(data)


def _listed(values: Any, name: str, count: int) -> list[str]:
    """What goes with each image, as cells of the table."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise UserError(f"{name}s is {type(values).__name__}, expected a list of one entry an image")
    cells = ["" if value is None else str(_plain(value)) for value in values]
    if len(cells) != count:
        raise UserError(f"{name}s has {len(cells):,} entries for {count:,} images; expected one an image")
    return cells


def _pair(data: Pairs, place: int) -> tuple[Any, Any]:
    try:
        item = data[place]
    except Exception as error:  # a data set's own code, or a table with other keys
        raise UserError(f"item {place} of data cannot be had ({type(error).__name__}: {error}); expected pairs (image array, label), "
                        "numbered from 0") from error
    if not isinstance(item, tuple | list) or len(item) != 2:
        description = f"{type(item).__name__} of {len(item)}" if isinstance(item, tuple | list) else type(item).__name__
        raise UserError(f"item {place} of data is {description}, expected a pair (image array, label)")
    return item[0], item[1]


def _plain(value: Any) -> Any:
    """A scalar of NumPy or torch as Python's own; anything else as it is."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value


def _label(label: Any, place: int) -> str | dict[str, str]:
    """A label as cells of the table."""
    label = _plain(label)
    if isinstance(label, Mapping):
        cells = {}
        for name, state in label.items():
            if not isinstance(name, str) or name.casefold() in COLUMNS or not name or class_name_problem(name):
                raise UserError(f"finding {name!r} of image {place} is no name for one; expected a word other than {', '.join(COLUMNS)}")
            state = _plain(state)
            if state is not None and not (isinstance(state, bool | int | float) and state in (0, 1)):
                raise UserError(f"finding {name!r} of image {place} is {state!r}, expected 0, 1, or None where it is unknown")
            cells[name] = "" if state is None else str(int(state))
        return cells
    if label is None:
        return ""
    if isinstance(label, bool | int):
        return str(int(label))
    if not isinstance(label, str):
        raise UserError(f"label {label!r} of image {place} is {type(label).__name__}, expected a text or whole number (class), a mapping "
                        "{finding: 0, 1 or None}, or None for no label")
    if not label.strip():
        raise UserError(f"label {label!r} of image {place} is empty; give None where there is no label")
    if problem := class_name_problem(label):
        raise UserError(f"label of image {place}: {problem}")
    return label


def _check_alike(labels: Sequence[str | dict[str, str]], findings: Sequence[str]) -> None:
    if not findings:
        return
    if len(findings) == 1:
        raise UserError(f"{findings[0]!r} is the only finding; give it as a class: labels 0 and 1 instead of mappings")
    if alone := next((place for place, label in enumerate(labels) if isinstance(label, str) and label), None):
        raise UserError(f"image {alone} has the label {labels[alone]!r} and others have findings; expected one form for all images")


def _write_png(path: Path, image: NDArray[Any], what: str) -> None:
    from PIL import Image

    if image.dtype == np.uint16 and image.shape[2] == 3:
        raise UserError(f"{what} is 16-bit colour, which is not kept; give one 16-bit grey channel, or 8-bit colour")
    pixels = np.ascontiguousarray(image[..., 0] if image.shape[2] == 1 else image)
    Image.fromarray(pixels).save(path, compress_level=1)
