"""Every image once decoded at the student's size, on disk, read by memory map: training never decodes twice.

Owns: PixelStore and building it. Does not own: how a raw image becomes grey levels (runtimes/images/spec.py), augmentation.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.data.image_set import ImageSet
from distill.data.views import normalise, unit_levels
from runtimes.errors import UserError
from runtimes.files.folder import read_json, sha256_file, write_json
from runtimes.files.schema import check, list_of, object_of, whole
from runtimes.images.spec import ImageSpec


@dataclass(frozen=True)
class PixelStore:
    """Grey levels (N, h, w, C), uint8, memory-mapped; of volumes (N, S, h, w, C) and how many slices of each are there (N,)."""

    levels: NDArray[np.uint8]
    map: mmap.mmap
    slices: NDArray[np.int64] | None = None

    def rows(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Copies of some images, (n, h, w, C), or volumes, (n, S, h, w, C)."""
        return self.levels[indices]

    def mask(self, indices: NDArray[np.int64]) -> Tensor | None:
        """Which slices of some volumes are there, (n, S) of 0 and 1; None for images."""
        if self.slices is None:
            return None
        return torch.from_numpy((np.arange(self.levels.shape[1]) < self.slices[indices][:, None]).astype(np.float32))

    def inputs(self, indices: NDArray[np.int64], spec: ImageSpec) -> tuple[Tensor, ...]:
        """What a model takes of some clean images: (pixels,), or of volumes (pixels, mask)."""
        pixels = normalise(unit_levels(self.rows(indices)), spec.mean, spec.std)
        mask = self.mask(indices)
        return (pixels,) if mask is None else (pixels, mask)

    def release(self) -> None:
        """Give the mapped pages back to the system, so that memory does not grow with what was read."""
        self.map.madvise(mmap.MADV_DONTNEED)


def _shape(images: ImageSet, spec: ImageSpec) -> tuple[int, ...]:
    return (len(images), *((spec.slices,) if spec.slices else ()), spec.height, spec.width, spec.levels_channels)


def pixel_bytes(images: ImageSet, spec: ImageSpec) -> int:
    """Bytes that the store of these images takes on disk."""
    return int(np.prod(_shape(images, spec), dtype=np.int64))


def build_pixels(folder: Path, images: ImageSet, spec: ImageSpec,
                 progress: Callable[[int, int], None] | None = None) -> PixelStore:
    """Decode all images into `folder`/pixels.u8, or open it when it holds exactly these images in this form."""
    path, note = folder / "pixels.u8", folder / "pixels.json"
    shape = _shape(images, spec)
    digest = hashlib.sha256(repr((sorted(spec.as_dict().items()), shape)).encode())
    for image_hash in images.hashes:
        digest.update(image_hash.encode())
    if not _fresh(path, note, digest.hexdigest()):
        folder.mkdir(parents=True, exist_ok=True)
        note.unlink(missing_ok=True)
        written = hashlib.sha256()
        counts: list[int] = []

        def read(index: int) -> tuple[NDArray[np.uint8], int]:
            raw = images.raw(index, spec.volume)
            return spec.stored(raw), spec.slices_of(raw)

        with path.open("wb") as sink, ThreadPoolExecutor(os.cpu_count() or 1) as readers:
            for first in range(0, len(images), 64):
                block = range(first, min(first + 64, len(images)))
                for levels, count in readers.map(read, block):
                    data = levels.tobytes()
                    written.update(data)
                    sink.write(data)
                    counts.append(count)
                if progress:
                    progress(block[-1] + 1, len(images))
            sink.flush()
            os.fsync(sink.fileno())
        write_json(note, {"images": digest.hexdigest(), "levels": written.hexdigest(), **({"slices": counts} if spec.masked else {})})
    with path.open("rb") as file:
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    slices = _slices(note, len(images), spec.slices) if spec.masked else None
    return PixelStore(np.frombuffer(view, dtype=np.uint8).reshape(shape), view, slices)


def _slices(note: Path, count: int, most: int) -> NDArray[np.int64]:
    """How many slices of each volume are there."""
    content = read_json(note)
    rule = object_of({"slices": list_of(whole(1, most), count, count)}, others=True)
    check(content, rule, str(note), "remove it, to have them counted again")
    return np.asarray(content["slices"], dtype=np.int64)


def _fresh(path: Path, note: Path, images: str) -> bool:
    """Whether the levels on disk are those of these images, byte for byte; anything else is decoded again."""
    if not (path.is_file() and note.is_file()):
        return False
    try:
        content = read_json(note)
        return content.get("images") == images and content.get("levels") == sha256_file(path)
    except UserError:
        return False
