"""What is kept of the header of one DICOM file: kinds of image, and keyed hashes in the place of identities.

Owns: HeaderFacts, `look_at_header`. Does not own: checking a header (runtimes.images.dicom_header), what is made of a set's headers
(dicom_patients.py). The key of the hashes (HMAC-SHA-256) is random and lives for one scan, in memory: nobody can try names on them.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from pathlib import Path

from runtimes.images.decode import MAX_PIXELS
from runtimes.images.dicom_guard import quiet
from runtimes.images.dicom_header import has_magic, read_header

IDENTITIES = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")  # the first that tells patients apart

POSITION = "ImagePositionPatient"


@dataclass(frozen=True, slots=True)
class HeaderFacts:
    """What is kept of a header: kinds as in Header, one keyed hash for each of IDENTITIES, "" where it is empty, and where a slice lies."""

    kinds: tuple[str, ...]
    identities: tuple[str, ...]
    position: tuple[float, ...] | None = None


def look_at_header(path: Path, key: bytes) -> HeaderFacts | None:
    """What a DICOM file's header says; None for any other file."""
    if not has_magic(path):
        return None
    header = read_header(path, MAX_PIXELS, (*IDENTITIES, POSITION), frames=True)
    hashes = []
    with quiet(path):
        for name in IDENTITIES:
            value = str(header.source.get(name) or "").strip()
            hashes.append(hmac.digest(key, f"{name}\0{value}".encode("utf-8", "surrogatepass"), "sha256").hex() if value else "")
        value = header.source.get(POSITION)
        position = tuple(float(number) for number in value) if value is not None and not isinstance(value, str) else None
    return HeaderFacts(header.kinds, tuple(hashes), position)
