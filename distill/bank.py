"""The feature bank: what the teacher says of every image and view, computed once, read from disk by memory map.

Owns: FeatureBank, its key, building it shard by shard, resuming, reading it.
Does not own: the teacher (teachers.py), the views (views.py), whether a bank is the right one (audit.py). Features are
never transformed after the fact: the feature of a mirrored image is not the mirrored feature.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import mmap
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from distill.views import ViewSpec, bank_views, view_pixels
from runtimes.errors import UserError
from runtimes.folder import check_files, read_json, read_manifest, sync_folder, write_atomic, write_json, write_manifest
from runtimes.images import ImageSet, ImageSpec

IMAGES_PER_SHARD = 256
CPU_BATCH, GPU_BATCH = 4, 64  # on a CPU small batches stay in the cache: 1.3 to 1.9 times faster than 32
Forward = Callable[[Tensor], dict[str, Tensor]]  # normalised pixels (B, 3, h, w) to named features, each (B, ...)


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

    @property
    def width(self) -> int:
        """Width D of the pooled features."""
        return int(self.shards[0].arrays["pooled"].shape[1])

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
        return np.asarray([self.position[one] for one in hashes], dtype=np.int64)

    def views(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many extra views each image has beside the clean one."""
        return self.starts[indices + 1] - self.starts[indices] - 1

    def features(self, indices: NDArray[np.int64], views: NDArray[np.int64] | int = 0, name: str = "pooled") -> NDArray[np.float32]:
        """Features of images at one view each, (n, D) float32; view 0 is the clean image."""
        rows = self.starts[indices] + views
        shards = np.searchsorted(self.shard_starts, rows, side="right") - 1
        picked = [self.shards[shard].arrays[name][row - self.shard_starts[shard]]
                  for shard, row in zip(shards.tolist(), rows.tolist(), strict=True)]
        return np.stack(picked).astype(np.float32)

    def release(self) -> None:
        """Give the mapped pages back to the system, so that memory does not grow with what was read."""
        for shard in self.shards:
            shard.map.madvise(mmap.MADV_DONTNEED)


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


def build_bank(folder: Path, key: dict[str, Any], images: ImageSet, counts: NDArray[np.int64], spec: ImageSpec,
               forward: Forward, *, views: ViewSpec, seed: int, batch: int = CPU_BATCH,
               progress: Callable[[int, int], None] | None = None) -> FeatureBank:
    """Run the teacher over every image and view, write shards of fp16 features, and open the finished bank.

    counts: extra views of each image (N,). Work goes on in `folder`.partial: a killed build resumes at the next shard, a
    partial folder of another plan is started anew.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    chosen = distinct(images.hashes, counts)
    order = [first for first, _ in chosen.values()]
    counts = np.asarray([count for _, count in chosen.values()], dtype=np.int64)
    plan = {"key": key, "hashes": list(chosen), "views": counts.tolist()}
    if partial.exists() and (not (partial / "plan.json").is_file() or read_json(partial / "plan.json") != plan):
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    write_json(partial / "plan.json", plan)
    blocks = [range(first, min(first + IMAGES_PER_SHARD, len(order))) for first in range(0, len(order), IMAGES_PER_SHARD)]
    total, done = int((counts + 1).sum()), 0

    def read(block: range) -> list[NDArray[np.uint8]]:
        return [spec.stored(images.raw(order[place])) for place in block]

    with ThreadPoolExecutor(1) as reader:
        waiting = [number for number, _ in enumerate(blocks) if not (partial / shard_file(number)).is_file()]
        ahead = reader.submit(read, blocks[waiting[0]]) if waiting else None
        for number, block in enumerate(blocks):
            if number in waiting:
                assert ahead is not None
                levels = ahead.result()
                later = [other for other in waiting if other > number]
                ahead = reader.submit(read, blocks[later[0]]) if later else None
                matrices = [bank_views(views, seed, images.hashes[order[place]], int(counts[place])) for place in block]
                found = _run(levels, matrices, spec, forward, batch, lambda step: progress(step, total) if progress else None, done)
                write_atomic(partial / shard_file(number), _pack(found))
            done += int((counts[list(block)] + 1).sum())
            if progress:
                progress(done, total)
    write_manifest(partial, "bank", {"key": key, "images": len(order), "rows": total})
    partial.rename(folder)
    sync_folder(folder.parent)
    return open_bank(folder)


def _run(levels: list[NDArray[np.uint8]], matrices: list[NDArray[np.float32]], spec: ImageSpec, forward: Forward,
         batch: int, tell: Callable[[int], None], done: int) -> dict[str, NDArray[np.float16]]:
    """Features of every view of some images, in order, as fp16 by name."""
    owner = np.repeat(np.arange(len(levels)), [len(one) for one in matrices])
    flat = np.concatenate(matrices)
    first = np.concatenate([[0], np.flatnonzero(np.diff(owner)) + 1])
    clean = np.zeros(len(owner), dtype=bool)
    clean[first] = True
    found: dict[str, list[NDArray[np.float16]]] = {}
    for start in range(0, len(owner), batch):
        rows = slice(start, start + batch)
        pixels = view_pixels([levels[index] for index in owner[rows]], flat[rows], clean[rows], spec)
        for name, value in forward(pixels).items():
            values = value.detach().cpu().numpy()
            if not np.isfinite(values).all() or np.abs(values).max(initial=0) > 65000:
                raise UserError("the teacher answers features that are not finite or too large for fp16; "
                                "check its weights and its mean and std")
            found.setdefault(name, []).append(values.astype(np.float16))
        tell(done + min(start + batch, len(owner)))
    return {name: np.concatenate(values) for name, values in found.items()}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a bank's lock: of two runs that need the same bank, one builds it and the other waits."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def shard_file(number: int) -> str:
    """File name of a shard."""
    return f"features-{number:05d}.safetensors"


def _pack(arrays: dict[str, NDArray[np.float16]]) -> bytes:
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(values) for name, values in arrays.items()})


def open_bank(folder: Path, *, check: bool = True) -> FeatureBank:
    """Open a finished bank by memory map; files whose bytes are not the manifest's are refused."""
    manifest = read_manifest(folder, "bank")
    if check:
        check_files(folder, manifest)
    plan = read_json(folder / "plan.json")
    starts = np.concatenate([[0], np.cumsum(np.asarray(plan["views"], dtype=np.int64) + 1)])
    count = (len(plan["hashes"]) + IMAGES_PER_SHARD - 1) // IMAGES_PER_SHARD
    shards = tuple(_map(folder / shard_file(number)) for number in range(count))
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
