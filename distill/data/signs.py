"""Signs of an image that are not its picture: what is known beside it, its size, its file. They may give labels away, or tell splits apart.

Owns: Sign, `signs_of`. Does not own: what columns may hold (metadata.py), the probe (leaks.py), tests between splits (shifts.py). No sign
carries a text of a file or a name: only words of results, numbers, and codes of forms.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from distill.data.metadata import WORDS, for_results
from distill.data.scan import ImageRecord

DIGITS = re.compile(r"\d+")
BARS = re.compile(r"[\s_.()-]+")


@dataclass(frozen=True)
class Sign:
    """A value an image (N,): a float, NaN where it is not known, or a code with a word each. kind: where it is from."""

    name: str
    kind: Literal["known", "size", "file"]
    values: NDArray[Any]
    words: tuple[str, ...] = ()

    @property
    def numeric(self) -> bool:
        """Whether values are amounts, not codes."""
        return not self.words


def signs_of(known: dict[str, list[str]], records: Sequence[ImageRecord], images: Sequence[Any], keys: Sequence[str],
             classes: Sequence[str]) -> list[Sign]:
    """All signs of some images that differ between them."""
    signs = [_number("age", "known", [float(value) if value else np.nan for value in known[name]]) if name == "age" else
             _code(name, "known", for_results(name, known[name])) for name in WORDS if name in known]
    signs += [_number(name, "size", [getattr(record, name) for record in records]) for name in ("width", "height", "depth")]
    signs.append(_code("colour", "size", ["colour" if record.colour else "grey" for record in records]))
    if isinstance(images, list) and all(isinstance(image, Path) for image in images):
        signs += _of_files(images, keys, classes)
    return [sign for sign in signs if len(np.unique(sign.values)) > 1]


def _number(name: str, kind: Literal["known", "size", "file"], values: Sequence[float]) -> Sign:
    return Sign(name.replace("_", " "), kind, np.asarray(values, dtype=np.float64))


def _code(name: str, kind: Literal["known", "size", "file"], values: Sequence[str]) -> Sign:
    places = {value: number for number, (value, _) in enumerate(Counter(values).most_common())}
    codes = np.asarray([places[value] for value in values])
    return Sign(name.replace("_", " "), kind, codes, tuple(value or "not known" for value in places))


def _of_files(paths: Sequence[Path], keys: Sequence[str], classes: Sequence[str]) -> list[Sign]:
    """What files and their names look like, without the names of classes in them: those are where labels come from."""
    spelt = sorted({BARS.sub("", name.casefold()) for name in classes} - {""}, key=len, reverse=True)
    spelt = [name for name in spelt if len(name) > 1 and not name.isdigit()]

    def form(text: str) -> str:
        """A name without numbers and names of classes."""
        bare = BARS.sub("", text.casefold())
        for name in spelt:
            bare = bare.replace(name, "")
        return DIGITS.sub("#", bare)

    pure = [PurePosixPath(key) for key in keys]
    # The first folder of class folders is the label's own; split folders stand above it. Neither is a sign.
    folders = ["/".join(part for part in map(form, path.parent.parts) if part not in ("", "train", "val", "test", "#")) for path in pure]
    numbers = [DIGITS.findall(path.stem) for path in pure]
    last = [float(found[-1][-15:]) if found else np.nan for found in numbers]
    signs = [_code("form of the file name", "file", [form(path.name) for path in pure]), _code("form of the folder", "file", folders),
             _number("depth of the folder", "file", [float(len(path.parts)) for path in pure]),
             _number("size of the file", "file", [_bytes(path) for path in paths])]
    if len(set(last)) == len(last):  # numbers that begin anew in every folder say only how many lie there
        signs.append(_number("number in the file name", "file", last))
    return signs


def _bytes(path: Path) -> float:
    try:
        return float(path.stat().st_size)
    except OSError:
        return float("nan")
