"""Every image opened once before training starts: what it is, and everything that is wrong, in one report.

Owns: ImageRecord (hashes, size, colour, depth of an image), BadImage, BadImages. Does not own: how a file is decoded
(runtimes.images.decode), headers of DICOM (dicom_headers.py), which are copies (copies.py), what becomes of bad images (data.py). Keeps
no decoded image.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.data.burned_text import letters_in_a_row
from distill.data.dicom_headers import HeaderFacts, look_at_header
from runtimes.errors import MISSING, UserError
from runtimes.files.folder import sha256_file
from runtimes.images.scans import read_scan, scan_name
from runtimes.images.spec import Item, read_image, resize_matrix
from runtimes.images.volumes import VolumeSpec
from runtimes.text import one_line

SHOWN = 20
MOST_VOLUMES = 4  # opened at once: each takes up to a gigabyte
TEXT_IMAGES = 64  # that are looked at for burned-in text, evenly spread


@dataclass(frozen=True, slots=True)
class BadImage:
    """One thing that is wrong with one image; `row` is its place in the listing, -1 for a file that is in no row."""

    path: str
    reason: str
    detail: str = ""
    row: int = -1

    def __str__(self) -> str:
        return one_line(f"{self.path}: {self.reason}" + (f" ({self.detail})" if self.detail else ""))


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """What is kept of an image after one look: size in pixels, colour, dtype, slices of a volume, hashes.

    digest: SHA-256 of the file or array, the image's key in banks. pixels: SHA-256 of the decoded picture, equal for two files of one
    picture. fingerprint: a 240-bit hash, similar for similar pictures. header: of a DICOM file, or the first of a series. notes: what
    reading a volume says. letters: the longest row of pieces like letters, -1 where it was not looked for.
    """

    digest: str
    height: int
    width: int
    colour: bool
    dtype: str
    fingerprint: bytes = b""
    depth: int = 1
    pixels: str = ""
    header: HeaderFacts | None = None
    notes: tuple[str, ...] = ()
    letters: int = -1


class BadImages(UserError):
    """Images that cannot be trained on; the message lists the first ones, `problems` all of them."""

    def __init__(self, message: str, problems: Sequence[BadImage]) -> None:
        super().__init__(message)
        self.problems = list(problems)


def scan(
    images: Sequence[Item], keys: Sequence[str], *, volume: VolumeSpec | None = None,
    values: bool = False, progress: Callable[[int, int], None] | None = None,
) -> tuple[list[ImageRecord | None], list[BadImage]]:
    """Open every image once, on all cores; what was seen of each (None where nothing could be), and what is wrong.

    volume: how the images become slices where they are volumes. values: they are read as physical values.
    """
    records: list[ImageRecord | None] = []
    problems: list[BadImage] = []
    total = len(keys)
    every = -(-total // TEXT_IMAGES)  # one of so many is looked at for burned-in text: a look takes as long as all the rest
    secret = secrets.token_bytes(32)  # for identities in headers; gone with this call
    cores = os.cpu_count() or 1
    pool = ThreadPoolExecutor(max_workers=cores if volume is None else min(cores, MOST_VOLUMES))
    # `decode` silences warnings inside each thread, and that switch is global: switched once here, nothing leaks out.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for row, (record, reason, detail) in enumerate(pool.map(
                    lambda row: _look(images[row], volume, values, secret, text=row % every == 0), range(total))):
                records.append(record)
                if reason:
                    item = images[row]
                    problems.append(BadImage(str(item) if isinstance(item, Path) else keys[row], reason, detail, row))
                if progress is not None:
                    progress(row + 1, total)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return records, problems


def _look(item: Item, volume: VolumeSpec | None, values: bool, secret: bytes, *, text: bool) -> tuple[ImageRecord | None, str, str]:
    header, notes = None, tuple[str, ...]()
    if not isinstance(item, np.ndarray):
        try:
            if volume is None:
                raw = read_image(item, None, values)
            else:
                seen = read_scan(item)
                raw, notes = volume.of_scan(seen, scan_name(item)), seen.notes
                del seen
            header = look_at_header(item if isinstance(item, Path) else item[0], secret)
            digest = sha256_file(item) if isinstance(item, Path) else hash_files(item)
        except UserError as error:
            if error.exit_code == MISSING:  # a reader that is not installed: no fault of the image
                raise
            reason, detail = _reason(scan_name(item), str(error))
            return None, reason, detail
        except OSError as error:
            return None, "unreadable", error.strerror or type(error).__name__
    else:
        digest = hashlib.sha256(np.ascontiguousarray(item).tobytes()).hexdigest()
        try:
            raw = read_image(item, volume)
        except UserError as error:  # a volume in an array that is flat, or holds NaN
            return None, "constant" if "single value" in str(error) else "unreadable", str(error)
    grey = raw.shape[-1] == 1 or bool((raw[..., 0] == raw[..., 1]).all() and (raw[..., 0] == raw[..., 2]).all())
    pixels = hash_pixels(raw[..., :1] if grey else raw)
    depth = len(raw) if raw.ndim == 4 else 1
    raw = raw[depth // 2] if raw.ndim == 4 else raw  # its middle slice stands for a volume
    record = ImageRecord(digest, raw.shape[0], raw.shape[1], not grey, raw.dtype.name, fingerprint(raw), depth, pixels, header, notes,
                         letters_in_a_row(raw) if text else -1)
    if bool((raw == raw[0, 0]).all()) and depth == 1:
        return record, "constant", f"every pixel is {raw[0, 0].tolist()}"
    return record, "", ""


def _reason(path: Path, message: str) -> tuple[str, str]:
    detail = message.removeprefix(f"{path}: ")
    if not path.exists():
        return "missing", ""
    if "is empty" in detail:
        return "empty", "0 bytes"
    if "pixels, the limit" in detail or "voxels, the limit" in detail:
        return "too large", detail
    if "single value" in detail:
        return "constant", detail
    if detail.startswith("damaged") and "PermissionError" not in detail:
        return "damaged or truncated", detail.partition("(")[2].rstrip(")")
    return "unreadable", detail


def hash_files(paths: Sequence[Path]) -> str:
    """SHA-256 of the files of one volume, whatever their names and order; of one file its own."""
    digests = sorted(sha256_file(path) for path in paths)
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def hash_pixels(raw: NDArray[Any]) -> str:
    """SHA-256 of a picture as decoded: depth, shape and levels, whatever file it came from."""
    digest = hashlib.sha256(f"{raw.dtype.name} {raw.shape} ".encode())
    digest.update(np.ascontiguousarray(raw).data)
    return digest.hexdigest()


def fingerprint(raw: NDArray[Any]) -> bytes:
    """A difference hash (N. Krawetz, 2013), 240 bits: which of two neighbours is brighter at 15 x 17 pixels."""
    step = max(1, min(raw.shape[:2]) // 512)
    plane = raw[::step, ::step, raw.shape[2] // 2].astype(np.float32)
    small = resize_matrix(plane.shape[0], 15) @ plane @ resize_matrix(plane.shape[1], 17).T
    return np.packbits(small[:, 1:] > small[:, :-1] + 0.5).tobytes()


def mixed_depths(paths: Sequence[str], records: Sequence[ImageRecord | None]) -> str:
    """A sentence that names examples when 8-bit and 16-bit images are mixed, else an empty string."""
    examples: dict[str, list[str]] = defaultdict(list)
    for path, record in zip(paths, records, strict=True):
        if record is not None:
            examples[record.dtype].append(path)
    if len(examples) < 2:
        return ""
    depths = "; ".join(f"{len(names)} are {dtype}, such as {', '.join(names[:3])}" for dtype, names in examples.items())
    return f"8-bit and 16-bit images are mixed: {depths}. One network reads one depth: convert one kind"


def complaint(problems: Sequence[BadImage], total: int) -> str:
    """The report of bad images: the count by reason and the first twenty."""
    counts = ", ".join(f"{count} {reason}" for reason, count in Counter(problem.reason for problem in problems).most_common())
    many = "problem" if len(problems) == 1 else "problems"
    lines = [f"{len(problems)} {many} in {total:,} images: {counts}", *(f"  {problem}" for problem in problems[:SHOWN])]
    if len(problems) > SHOWN:
        lines.append(f"  and {len(problems) - SHOWN} more")
    return "\n".join([*lines, "mend or remove them, or add --skip-bad-images to train without them"])
