"""The feature bank: what the teacher says of every image and view, computed once, read from disk by memory map.

Owns: FeatureBank, its key and name, reading it. Does not own: building it (banking.py), the views (views.py), whether a bank is the
right one (audit.py). Features are never transformed after the fact: the feature of a mirrored image is not the mirrored feature.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.views import ViewSpec
from runtimes.errors import UserError
from runtimes.folder import check_files, read_json, read_manifest
from runtimes.images import ImageSpec

IMAGES_PER_SHARD = 256


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
        return int(self.shards[0].arrays["pooled"].shape[-1]) + (self.beside.width if self.beside else 0)

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
        missing = [one for one in hashes if one not in self.position]
        if missing:
            raise UserError(f"bank {self.folder} lacks {len(missing)} of {len(hashes)} images (first: {missing[0][:16]}); "
                            "name another --bank folder, or leave --bank out to have one built")
        if self.beside is not None:
            self.beside.indices(hashes)
        return np.asarray([self.position[one] for one in hashes], dtype=np.int64)

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
        found = np.stack(picked).astype(np.float32)
        if name != "pooled" or self.beside is None or self.places is None:
            return found
        return np.concatenate([found, self.beside.features(self.places[indices], views)], axis=-1)

    def release(self) -> None:
        """Give the mapped pages back to the system, so that memory does not grow with what was read."""
        for shard in self.shards:
            shard.map.madvise(mmap.MADV_DONTNEED)
        if self.beside is not None:
            self.beside.release()

    def joined(self, other: FeatureBank) -> FeatureBank:
        """This bank with another teacher's features behind its own, of the same views of the same images; stages stay this one's."""
        places = np.asarray([other.position.get(one, -1) for one in self.position], dtype=np.int64)
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
    found: dict[str, tuple[int, int]] = {}
    for index, (one, count) in enumerate(zip(hashes, counts.tolist(), strict=True)):
        first, most = found.get(one, (index, count))
        found[one] = (first, max(most, count))
    return found


def bank_name(key: dict[str, Any], hashes: Sequence[str], counts: NDArray[np.int64]) -> str:
    """Folder name of the bank for a key and a set of images with their view counts."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode())
    for one, (_, count) in sorted(distinct(hashes, counts).items()):
        digest.update(f"{one} {count}".encode())
    name = "".join(letter if letter.isalnum() else "-" for letter in key["teacher"]).strip("-")[-40:]
    return f"{name}-{digest.hexdigest()[:12]}"


def shard_blocks(count: int) -> list[range]:
    """Which of `count` images each shard holds."""
    return [range(first, min(first + IMAGES_PER_SHARD, count)) for first in range(0, count, IMAGES_PER_SHARD)]


def shard_file(number: int) -> str:
    """File name of a shard."""
    return f"features-{number:05d}.safetensors"


def open_bank(folder: Path, *, check: bool = True) -> FeatureBank:
    """Open a finished bank by memory map; files whose bytes are not the manifest's are refused."""
    manifest = read_manifest(folder, "bank")
    if check:
        check_files(folder, manifest)
    plan = read_json(folder / "plan.json")
    starts = np.concatenate([[0], np.cumsum(np.asarray(plan["views"], dtype=np.int64) + 1)])
    shards = tuple(_map(folder / shard_file(number)) for number, _ in enumerate(shard_blocks(len(plan["hashes"]))))
    return FeatureBank(folder, plan["key"], {one: index for index, one in enumerate(plan["hashes"])}, starts, shards,
                       starts[:-1:IMAGES_PER_SHARD])


def _map(path: Path) -> Shard:
    """Map a safetensors file of fp16 arrays: 8 bytes of header length, a JSON header, then the raw data."""
    with path.open("rb") as file:
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    length = int.from_bytes(view[:8], "little")
    header = json.loads(view[8:8 + length])
    arrays = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            data = np.frombuffer(view, dtype=np.float16, count=(end - begin) // 2, offset=8 + length + begin)
            arrays[name] = data.reshape(entry["shape"])
    return Shard(arrays, view)
