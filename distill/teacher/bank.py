"""The feature bank: what the teacher says of every image and view, computed once, read from disk by memory map.

Owns: FeatureBank, its key and name, reading it. Does not own: building it (banking.py), the views (views.py), whether a bank is the
right one (audit.py). Features are never transformed after the fact: the feature of a mirrored image is not the mirrored feature.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.data.views import ViewSpec
from runtimes.errors import UserError
from runtimes.files.folder import check_files, read_json, read_manifest
from runtimes.files.schema import anything, list_of, mapping_of, object_of, one_of, text, whole
from runtimes.files.schema import check as check_schema
from runtimes.files.strict_json import strict_json
from runtimes.images.spec import ImageSpec

IMAGES_PER_SHARD = 256
PLAN = "plan.json"
MAX_HEADER = 1 << 20  # bytes; ours have some hundred
CHUNK = 1 << 22  # values looked at together
AGAIN = "name another --bank folder, or remove this one to have it built again"
PLANNED = object_of({"key": object_of({"teacher": text(), "views": mapping_of(anything), "seed": whole(-(2**63), 2**64)}, others=True),
                     "hashes": list_of(text(128, least=1), 1), "views": list_of(whole(0, 10**6))}, others=True)
FEATURES = object_of({"dtype": one_of("F16"), "shape": list_of(whole(0, 2**40), 2, 5), "data_offsets": list_of(whole(0, 2**50), 2, 2)})


def header(value: Any, key: str) -> str:
    """The rule of a shard's header: fp16 tensors, the pooled features among them, and nothing but a mask and stages beside."""
    problem = object_of({"pooled": FEATURES}, {"__metadata__": mapping_of(text())}, others=True)(value, key)
    strange = [] if problem else [name for name in value if not re.fullmatch(r"pooled|mask|stage\d{1,3}|__metadata__", name)]
    return problem or (f"{strange[0][:80]!r} is not known" if strange else "") or next(
        (fault for name, entry in value.items() if name != "__metadata__" and (fault := FEATURES(entry, name))), "")


@dataclass(frozen=True)
class Shard:
    """One safetensors file of the bank: rows of each named feature, memory-mapped, fp16."""

    arrays: dict[str, NDArray[np.float16]]
    map: mmap.mmap


@dataclass(frozen=True)
class FeatureBank:
    """Features by image and view; rows of image i stand together, view 0 (the clean image) first."""

    folder: Path
    key: dict[str, Any]
    position: dict[str, int]
    starts: NDArray[np.int64]
    shards: tuple[Shard, ...]
    shard_starts: NDArray[np.int64]
    beside: FeatureBank | None = None
    places: NDArray[np.int64] | None = None  # where each image lies in the bank beside

    @property
    def width(self) -> int:
        """Width D of the pooled features, of all teachers together."""
        return sum(self.widths)

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of each teacher's pooled features."""
        return (int(self.shards[0].arrays["pooled"].shape[-1]), *(self.beside.widths if self.beside else ()))

    @property
    def masked(self) -> int | None:
        """Slices S of the volumes in the bank; None for a bank of images."""
        mask = self.shards[0].arrays.get("mask")
        return None if mask is None else int(mask.shape[1])

    def deepest(self, count: int) -> dict[str, int]:
        """The deepest `count` stages of `stages`, or all when there are fewer."""
        return dict(list(self.stages.items())[-count:])

    @property
    def stages(self) -> dict[str, int]:
        """Channels C of the maps (n, C, g, g) of the teacher's stages by their names, shallow to deep; empty without --bank-grid."""
        names = sorted((name for name in self.shards[0].arrays if name.startswith("stage")), key=lambda name: int(name[5:]))
        return {name: int(self.shards[0].arrays[name].shape[1]) for name in names}

    @property
    def rows(self) -> int:
        """Number of (image, view) rows."""
        return int(self.starts[-1])

    def indices(self, hashes: Sequence[str]) -> NDArray[np.int64]:
        """Positions of images in the bank by their hashes; an unknown image is an error."""
        missing = [image_hash for image_hash in hashes if image_hash not in self.position]
        if missing:
            raise UserError(f"bank {self.folder} lacks {len(missing)} of {len(hashes)} images (first: {missing[0][:16]}); "
                            "name another --bank folder, or leave --bank out to have one built")
        if self.beside is not None:
            self.beside.indices(hashes)
        return np.asarray([self.position[image_hash] for image_hash in hashes], dtype=np.int64)

    def views(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many extra views each image has beside the clean one."""
        own: NDArray[np.int64] = self.starts[indices + 1] - self.starts[indices] - 1
        return own if self.beside is None or self.places is None else np.minimum(own, self.beside.views(self.places[indices]))

    def features(self, indices: NDArray[np.int64], views: NDArray[np.int64] | int = 0, name: str = "pooled") -> NDArray[np.float32]:
        """Features of images at one view each, (n, D) float32, of volumes (n, S, D); view 0 is the clean image.

        name "mask", of volumes: which slices are there, (n, S) of 0 and 1.
        """
        rows = self.starts[indices] + views
        shards = np.searchsorted(self.shard_starts, rows, side="right") - 1
        picked = [self.shards[shard].arrays[name][row - self.shard_starts[shard]]
                  for shard, row in zip(shards.tolist(), rows.tolist(), strict=True)]
        features = np.stack(picked).astype(np.float32)
        if name != "pooled" or self.beside is None or self.places is None:
            return features
        return np.concatenate([features, self.beside.features(self.places[indices], views)], axis=-1)

    def release(self) -> None:
        """Give the mapped pages back to the system, so that memory does not grow with what was read."""
        for shard in self.shards:
            shard.map.madvise(mmap.MADV_DONTNEED)
        if self.beside is not None:
            self.beside.release()

    def joined(self, other: FeatureBank) -> FeatureBank:
        """This bank with another teacher's features behind its own, of the same views of the same images; stages stay this one's."""
        places = np.asarray([other.position.get(image_hash, -1) for image_hash in self.position], dtype=np.int64)
        if (self.key["views"], self.key["seed"], self.masked) != (other.key["views"], other.key["seed"], other.masked):
            raise UserError(f"banks {self.folder} and {other.folder} hold other views or slices of the images; build them with the same "
                            "--bank-seed, --flip and --slices")
        return replace(self, beside=other, places=places)


def bank_key(teacher_name: str, teacher_hash: str, spec: ImageSpec, views: ViewSpec, seed: int, grid: int = 0) -> dict[str, Any]:
    """All that decides a feature except the image: teacher, preprocessing, views, seed, per-stage grid (0: pooled only)."""
    return {"teacher": teacher_name, "teacher_hash": teacher_hash, "preprocessing": spec.as_dict(),
            "views": views.as_dict(), "seed": seed, "grid": grid}


def distinct(hashes: Sequence[str], counts: NDArray[np.int64]) -> dict[str, tuple[int, int]]:
    """Each picture once: hash to (its first index, the most views that any of its copies needs)."""
    pictures: dict[str, tuple[int, int]] = {}
    for index, (image_hash, count) in enumerate(zip(hashes, counts.tolist(), strict=True)):
        first, most = pictures.get(image_hash, (index, count))
        pictures[image_hash] = (first, max(most, count))
    return pictures


def bank_name(key: dict[str, Any], hashes: Sequence[str], counts: NDArray[np.int64]) -> str:
    """Folder name of the bank for a key and a set of images with their view counts."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode())
    for image_hash, (_, count) in sorted(distinct(hashes, counts).items()):
        digest.update(f"{image_hash} {count}".encode())
    name = "".join(letter if letter.isalnum() else "-" for letter in key["teacher"]).strip("-")[-40:]
    return f"{name}-{digest.hexdigest()[:12]}"


def shard_blocks(count: int) -> list[range]:
    """Which of `count` images each shard holds."""
    return [range(first, min(first + IMAGES_PER_SHARD, count)) for first in range(0, count, IMAGES_PER_SHARD)]


def shard_file(number: int) -> str:
    """File name of a shard."""
    return f"features-{number:05d}.safetensors"


def open_bank(folder: Path, *, check: bool = True) -> FeatureBank:
    """Open a finished bank by memory map; files whose bytes are not the manifest's, or that hold no features, are refused.

    Every value is looked at once here, so that NaN is found before a training, not in it.
    """
    manifest = read_manifest(folder, "bank")
    if check:
        check_files(folder, manifest)
    plan = read_json(folder / PLAN)
    check_schema(plan, PLANNED, str(folder / PLAN), AGAIN)
    hashes, views = plan["hashes"], plan["views"]
    if len(views) != len(hashes) or len(set(hashes)) != len(hashes):
        raise UserError(f"{folder / PLAN}: {len(views)} numbers of views for {len(hashes)} images, {len(set(hashes))} of them different; "
                        f"expected one number for each image, and each image once; {AGAIN}")
    starts = np.concatenate([[0], np.cumsum(np.asarray(views, dtype=np.int64) + 1)])
    shards: list[Shard] = []
    for number, block in enumerate(shard_blocks(len(hashes))):
        path = folder / shard_file(number)
        shards.append(_map(path, int(starts[block.stop] - starts[block.start])))
        first, last = (_forms(shard.arrays) for shard in (shards[0], shards[-1]))
        if first != last:
            raise UserError(f"{path} holds {last}, the first shard {first}; {AGAIN}")
    return FeatureBank(folder, plan["key"], {image_hash: index for index, image_hash in enumerate(hashes)}, starts, tuple(shards),
                       starts[:-1:IMAGES_PER_SHARD])


def bank_views_of(folder: Path) -> dict[str, Any]:
    """The views of a bank, by its key; its features are not looked at."""
    plan = read_json(folder / PLAN)
    check_schema(plan, PLANNED, str(folder / PLAN), AGAIN)
    return dict(plan["key"]["views"])


def _forms(arrays: dict[str, NDArray[np.float16]]) -> dict[str, tuple[int, ...]]:
    """Shapes of a shard's features without their rows."""
    return {name: values.shape[1:] for name, values in sorted(arrays.items())}


def _map(path: Path, rows: int) -> Shard:
    """Map a safetensors file of fp16 features: 8 bytes of header length, a JSON header, then the raw data, checked from end to end."""
    try:
        with path.open("rb") as file:
            view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise UserError(f"{path} cannot be read ({error}); {AGAIN}") from None
    arrays = {name: np.frombuffer(view, dtype="<f2", count=prod(shape), offset=begin).reshape(shape)
              for name, (begin, shape) in _layout(view, path).items()}
    _check_features(arrays, rows, path)
    view.madvise(mmap.MADV_DONTNEED)  # the pages that the check has read
    return Shard(arrays, view)


def _layout(view: mmap.mmap, path: Path) -> dict[str, tuple[int, list[int]]]:
    """Where each tensor of a safetensors file begins, and its shape; UserError where they do not fill the file, one behind another."""
    length = int.from_bytes(view[:8], "little")
    if len(view) < 8 or not 2 <= length <= min(MAX_HEADER, len(view) - 8):
        raise UserError(f"{path} begins with a header of {length} bytes in a file of {len(view)}; {AGAIN}")
    try:
        content = strict_json(view[8:8 + length].decode("utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: the header is not readable JSON ({error}); {AGAIN}") from None
    check_schema(content, header, str(path), AGAIN)
    entries = sorted(((name, entry) for name, entry in content.items() if name != "__metadata__"), key=lambda pair: pair[1]["data_offsets"])
    at = 0
    for name, entry in entries:
        begin, end = entry["data_offsets"]
        if begin != at or end - begin != 2 * prod(entry["shape"]):
            raise UserError(f"{path}: {name}.data_offsets is {entry['data_offsets']}, expected {[at, at + 2 * prod(entry['shape'])]} for "
                            f"shape {entry['shape']} and behind what comes before; {AGAIN}")
        at = end
    if 8 + length + at != len(view):
        raise UserError(f"{path} holds {len(view) - 8 - length} bytes of features, its header speaks of {at}; {AGAIN}")
    return {name: (8 + length + entry["data_offsets"][0], entry["shape"]) for name, entry in entries}


def _check_features(arrays: dict[str, NDArray[np.float16]], rows: int, path: Path) -> None:
    """UserError for features of other names, ranks or numbers of rows than a bank has, for NaN and Inf, and a mask of more than 0 and 1."""
    slices = arrays["mask"].shape[1:] if "mask" in arrays else ()  # what volumes have between rows and features
    for name, values in arrays.items():
        rest = {"pooled": 1, "mask": 0}.get(name, 3)
        if len(values) != rows or 0 in values.shape or values.ndim != 1 + len(slices) + rest or values.shape[1:1 + len(slices)] != slices:
            expected = ", ".join([f"{rows} rows", *(f"{count} slices" for count in slices), f"{rest} further sizes"])
            raise UserError(f"{path}: {name}.shape is {list(values.shape)}, expected {expected}; {AGAIN}")
        flat = values.reshape(-1).view("<u2")
        for start in range(0, flat.size, CHUNK):
            if (flat[start:start + CHUNK] & 0x7FFF).max() >= 0x7C00:  # the bits of Inf, or above: a fifth of isfinite's time
                raise UserError(f"{path}: {name} holds NaN or Inf; {AGAIN}")
    mask = arrays.get("mask")
    if mask is not None and not (((mask == 0) | (mask == 1)).all() and (mask[:, 0] == 1).all() and (mask[:, :-1] >= mask[:, 1:]).all()):
        raise UserError(f"{path}: the mask holds other values than 1 for the slices of a volume and then 0; {AGAIN}")
