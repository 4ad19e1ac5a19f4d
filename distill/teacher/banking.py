"""Building a feature bank: the teacher over every image and view, shard by shard, going on where it was stopped.

Owns: build_bank, what the teacher sees of an image or a volume. Does not own: the bank once it is there (bank.py), the teacher
(teachers.py), the views (views.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from distill.data.image_set import ImageSet
from distill.data.views import ViewSpec, bank_views, view_pixels
from distill.teacher.bank import FeatureBank, distinct, open_bank, shard_blocks, shard_file
from runtimes.errors import USAGE, UserError
from runtimes.files.folder import read_json, sync_folder, write_atomic, write_json, write_manifest
from runtimes.files.outputs import remove_ours
from runtimes.images.spec import ImageSpec

CPU_BATCH, GPU_BATCH = 4, 64  # on a CPU small batches stay in the cache: 1.3 to 1.9 times faster than 32
PLAN = "plan.json"
NAMES = r"(plan\.json|manifest\.json|features-\d+\.safetensors)"
TORN = re.compile(rf"\.{NAMES}(\.\d+-\d+)?\.tmp")  # half a file of an unfinished bank, after a kill
OWN = re.compile(rf"{NAMES}|{TORN.pattern}")
Forward = Callable[[Tensor], dict[str, Tensor]]  # normalised pixels (B, 3, h, w) to named features, each (B, ...)


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
    if partial.is_symlink() or (partial.exists() and not partial.is_dir()):
        raise UserError(f"{partial} is in the way of a bank that is being built; move it away, or name another --bank", USAGE)
    if partial.exists() and not _holds(partial, plan) and (left := remove_ours(partial, OWN)):
        raise UserError(f"{partial} is where the bank is built, and holds what none of our commands wrote ({left[0]}); move it away, or "
                        "name another --bank", USAGE)
    partial.mkdir(parents=True, exist_ok=True)
    for orphan in partial.iterdir():
        if TORN.fullmatch(orphan.name):
            orphan.unlink()
    write_json(partial / PLAN, plan)
    blocks = shard_blocks(len(order))
    total, done = int((counts + 1).sum()), 0

    def read(block: range) -> list[NDArray[np.uint8]]:
        return [image_levels(images.raw(order[place], spec.volume), spec) for place in block]

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
                features = _run(levels, matrices, spec, forward, batch, lambda step: progress(step, total) if progress else None, done)
                write_atomic(partial / shard_file(number), _pack(features))
            done += int((counts[list(block)] + 1).sum())
            if progress:
                progress(done, total)
    write_manifest(partial, "bank", {"key": key, "images": len(order), "rows": total})
    partial.rename(folder)
    sync_folder(folder.parent)
    return open_bank(folder)


def _holds(partial: Path, plan: dict[str, Any]) -> bool:
    """Whether an unfinished bank is one of this plan."""
    try:
        return (partial / PLAN).is_file() and read_json(partial / PLAN) == plan
    except UserError:  # damaged: started anew
        return False


def image_levels(raw: NDArray[Any], spec: ImageSpec) -> NDArray[np.uint8]:
    """What the teacher sees of a raw image, (h, w, C), or of a volume, (slices, h, w, C): only the slices that are there."""
    stored = spec.stored(raw)
    return stored if not spec.masked else stored[:spec.slices_of(raw)]


def _run(levels: list[NDArray[np.uint8]], matrices: list[NDArray[np.float32]], spec: ImageSpec, forward: Forward,
         batch: int, tell: Callable[[int], None], done: int) -> dict[str, NDArray[np.float16]]:
    """Features of every view of some images, in order, as fp16 by name; of volumes slice by slice, padded, and the mask."""
    owner = np.repeat(np.arange(len(levels)), [len(views) for views in matrices])
    flat = np.concatenate(matrices)
    first = np.concatenate([[0], np.flatnonzero(np.diff(owner)) + 1])
    clean = np.zeros(len(owner), dtype=bool)
    clean[first] = True
    if not spec.masked:
        return _rows(levels, owner, flat, clean, spec, forward, batch, tell, done)
    counts = np.asarray([len(levels[index]) for index in owner])
    slices = [plane for index in owner for plane in levels[index]]

    def volumes(step: int) -> None:  # slices done, told as volumes
        tell(done + int((np.cumsum(counts) <= step).sum()))

    features = _rows(slices, np.arange(len(slices)), np.repeat(flat, counts, axis=0), np.repeat(clean, counts), spec, forward, batch,
                     volumes, 0)
    mask = np.arange(spec.slices) < counts[:, None]
    padded = {name: np.zeros((*mask.shape, *values.shape[1:]), np.float16) for name, values in features.items()}
    for name, values in features.items():
        padded[name][mask] = values
    return {**padded, "mask": mask.astype(np.float16)}


def _rows(levels: list[NDArray[np.uint8]], owner: NDArray[np.int64], flat: NDArray[np.float32], clean: NDArray[np.bool_],
          spec: ImageSpec, forward: Forward, batch: int, tell: Callable[[int], None], done: int) -> dict[str, NDArray[np.float16]]:
    """Features of pictures levels[owner] under the affine views `flat`, in order, as fp16 by name."""
    features: dict[str, list[NDArray[np.float16]]] = {}
    for start in range(0, len(owner), batch):
        rows = slice(start, start + batch)
        pixels = view_pixels([levels[index] for index in owner[rows]], flat[rows], clean[rows], spec)
        for name, value in forward(pixels).items():
            values = value.detach().cpu().numpy()
            if not np.isfinite(values).all() or np.abs(values).max(initial=0) > 65000:
                raise UserError("the teacher answers features that are not finite or too large for fp16; "
                                "check its weights and its mean and std")
            features.setdefault(name, []).append(values.astype(np.float16))
        tell(done + min(start + batch, len(owner)))
    return {name: np.concatenate(values) for name, values in features.items()}


def _pack(arrays: dict[str, NDArray[np.float16]]) -> bytes:
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(values) for name, values in arrays.items()})
