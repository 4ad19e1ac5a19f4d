"""Every image once decoded at the student's size, on disk, read by memory map: training never decodes twice.

Owns: PixelStore and building it. Does not own: how a raw image becomes grey levels (runtimes/images.py), augmentation.
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
from numpy.typing import NDArray

from runtimes.errors import UserError
from runtimes.folder import read_json, sha256_file, write_json
from runtimes.images import ImageSet, ImageSpec


@dataclass(frozen=True)
class PixelStore:
    """Grey levels (N, h, w, C), uint8, memory-mapped."""

    levels: NDArray[np.uint8]
    map: mmap.mmap

    def rows(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Copies of some images, (n, h, w, C)."""
        return self.levels[indices]

    def release(self) -> None:
        """Give the mapped pages back to the system, so that memory does not grow with what was read."""
        self.map.madvise(mmap.MADV_DONTNEED)


def build_pixels(folder: Path, images: ImageSet, spec: ImageSpec,
                 progress: Callable[[int, int], None] | None = None) -> PixelStore:
    """Decode all images into `folder`/pixels.u8, or open it when it holds exactly these images in this form."""
    path, note = folder / "pixels.u8", folder / "pixels.json"
    shape = (len(images), spec.height, spec.width, spec.channels)
    digest = hashlib.sha256(repr((sorted(spec.as_dict().items()), shape)).encode())
    for one in images.hashes:
        digest.update(one.encode())
    if not _fresh(path, note, digest.hexdigest()):
        folder.mkdir(parents=True, exist_ok=True)
        note.unlink(missing_ok=True)
        written = hashlib.sha256()
        with path.open("wb") as file, ThreadPoolExecutor(os.cpu_count() or 1) as readers:
            for first in range(0, len(images), 64):
                block = range(first, min(first + 64, len(images)))
                for levels in readers.map(lambda index: spec.stored(images.raw(index)), block):
                    data = levels.tobytes()
                    written.update(data)
                    file.write(data)
                if progress:
                    progress(block[-1] + 1, len(images))
            file.flush()
            os.fsync(file.fileno())
        write_json(note, {"images": digest.hexdigest(), "levels": written.hexdigest()})
    with path.open("rb") as file:
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return PixelStore(np.frombuffer(view, dtype=np.uint8).reshape(shape), view)


def _fresh(path: Path, note: Path, images: str) -> bool:
    """Whether the levels on disk are those of these images, byte for byte; anything else is decoded again."""
    if not (path.is_file() and note.is_file()):
        return False
    try:
        return read_json(note) == {"images": images, "levels": sha256_file(path)}
    except UserError:
        return False
