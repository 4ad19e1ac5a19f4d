"""What is kept of the header of one DICOM file: kinds of image, words of the standard, and keyed hashes in the place of all other texts.

Owns: HeaderFacts, `look_at_header`. Does not own: checking a header (runtimes.images.dicom_header), which words are known (metadata.py),
what is made of a set's headers (dicom_patients.py). The key of the hashes (HMAC-SHA-256) is random and lives for one scan, in memory:
nobody can try names on them.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.data.metadata import WORDS, known_value, maker_of
from runtimes.images.decode import MAX_PIXELS
from runtimes.images.dicom_guard import quiet
from runtimes.images.dicom_header import has_magic, read_header

IDENTITIES = ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "SeriesInstanceUID")  # the first that tells patients apart
COLUMNS = {"modality": ("Modality",), "body_part": ("BodyPartExamined",), "view": ("ViewPosition",),
           "laterality": ("ImageLaterality", "Laterality"), "sex": ("PatientSex",), "age": ("PatientAge",), "site": ("InstitutionName",)}
SCANNER = ("Manufacturer", "ManufacturerModelName")
FURTHER = (*IDENTITIES, *(tag for tags in COLUMNS.values() for tag in tags if tag != "Modality"), *SCANNER)

POSITION = "ImagePositionPatient"


@dataclass(frozen=True, slots=True)
class HeaderFacts:
    """What is kept of a header: kinds as in Header, one keyed hash for each of IDENTITIES, "" where it is empty, and what is known beside.

    known: values by column of results (metadata.WORDS): a word of the standard, an age in years, or a keyed hash. position: where a slice
    lies.
    """

    kinds: tuple[str, ...]
    identities: tuple[str, ...]
    known: dict[str, str] = field(default_factory=dict)
    position: tuple[float, ...] | None = None


def look_at_header(path: Path, key: bytes) -> HeaderFacts | None:
    """What a DICOM file's header says; None for any other file."""
    if not has_magic(path):
        return None
    header = read_header(path, MAX_PIXELS, (*FURTHER, POSITION), frames=True)

    def hashed(name: str, value: str) -> str:
        return hmac.digest(key, f"{name}\0{value}".encode("utf-8", "surrogatepass"), "sha256").hex() if value else ""

    with quiet(path):
        identities = tuple(hashed(name, str(header.source.get(name) or "").strip()) for name in IDENTITIES)
        known = {}
        for column, tags in COLUMNS.items():
            value = known_value(column, next(filter(None, (_text(header.source, tag) for tag in tags)), ""))
            word = column == "age" or value in WORDS[column].values()
            known[column] = value if word else hashed(column, value)
        maker, model = (_text(header.source, tag) for tag in SCANNER)
        known["scanner"] = f"{maker_of(maker)}|{hashed('scanner', f'{maker}|{model}')}" if maker or model else ""
        place = header.source.get(POSITION)
        position = tuple(float(number) for number in place) if place is not None and not isinstance(place, str) else None
    return HeaderFacts(header.kinds, identities, {column: value for column, value in known.items() if value}, position)


def _text(source: Any, tag: str) -> str:
    """What a tag says; nothing where it cannot be read: what is told beside pictures is no reason to refuse one."""
    try:
        return str(source.get(tag) or "").strip()
    except Exception:  # pydicom parses a value when it is asked for, and raises many types
        return ""
