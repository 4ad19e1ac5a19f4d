"""Patients of a set of DICOM files by their headers, and which kinds of image a person should know of.

Owns: `with_header_groups`: which key of the headers tells patients apart, when it is doubted, the notes. Does not own: the headers
(dicom_headers.py), making splits (splits.py). What is kept of an identity is the name of the patient's first file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from distill.data.columns import PATIENT, PATIENTS, squeezed
from distill.data.dicom_headers import IDENTITIES, HeaderFacts
from distill.data.metadata import WORDS
from distill.data.sources import Listing
from runtimes.errors import UserError

LARGEST = 0.5  # share of the images that one patient may have: more, and a value is one that was written into all files
NOTED = {"secondary capture": "secondary captures", "localiser": "localisers", "for processing": "raw (FOR PROCESSING)",
         "burned-in annotation": "said to hold burned-in text"}
KEPT = {"study": IDENTITIES.index("StudyInstanceUID"), "series": IDENTITIES.index("SeriesInstanceUID"),
        "frame": IDENTITIES.index("FrameOfReferenceUID")}  # identities that become columns of results
PEOPLE = {"patientfolder", "group"}  # beside the names that columns of patients bear


def with_header_groups(listing: Listing, headers: Sequence[HeaderFacts | None], notes: list[str]) -> Listing:
    """The listing with a column of patients by DICOM header, where tables and folders name none; everything decided is noted.

    UserError where raw images and images for presentation are mixed: one network does not read both.
    """
    rows = [row for row, header in enumerate(headers) if header is not None]
    if not rows:
        return listing
    listing = _with_known(listing, headers)
    _note_kinds(listing.keys, headers, notes)
    people = [name for name in listing.groups if squeezed(name) in PATIENTS | PEOPLE or PATIENT.fullmatch(squeezed(name))]
    if people:
        notes.append(f"patients are those of {' and '.join(people)}; the identities in the DICOM headers are not used")
        return listing
    for place, name in enumerate(IDENTITIES):
        if not any(header.identities[place] for header in headers if header is not None):
            continue
        values = _first_of(headers, place)
        counts = Counter(filter(None, values))
        largest = max(counts.values()) / len(rows)
        if largest > LARGEST:
            notes.append(f"{name} of the DICOM headers is not taken as a patient: one value has {100 * largest:.0f} % of the images")
            continue
        borrowed = sum(bool(value) and not header.identities[place] for value, header in zip(values, headers, strict=True)
                       if header is not None)
        fallback = f"; {borrowed:,} images hold none and are told apart by {' or '.join(IDENTITIES[place + 1:])}" if borrowed else ""
        alone = sum(not values[row] for row in rows)
        fallback += f"; {alone:,} images hold no identity and are taken as a patient each" if alone else ""
        notes.append(f"images that share the {name} of their DICOM header stay in one split: {len(counts):,} in all{fallback}")
        return replace(listing, groups={**listing.groups, f"DICOM {name}": _by_file(values, listing.keys)})
    notes.append("no identity in the DICOM headers tells patients apart: images are divided one by one; a CSV with columns image, label "
                 "and patient says who is who")
    return listing


def _with_known(listing: Listing, headers: Sequence[HeaderFacts | None]) -> Listing:
    """The listing with what headers say beside pixels; a column of a table says more than one of headers."""
    known = {name: [header.identities[place] if header is not None else "" for header in headers] for name, place in KEPT.items()}
    known |= {name: [header.known.get(name, "") if header is not None else "" for header in headers] for name in WORDS}
    return replace(listing, known={**{name: values for name, values in known.items() if any(values)}, **listing.known})


def _first_of(headers: Sequence[HeaderFacts | None], place: int) -> list[str]:
    """The first identity that an image has, from one on."""
    return ["" if header is None else next(filter(None, header.identities[place:]), "") for header in headers]


def _by_file(values: Sequence[str], keys: Sequence[str]) -> list[str]:
    """A group's name that says nothing of a person, and is the same in every run: its first file."""
    first: dict[str, str] = {}
    return [f"that of {first.setdefault(value, key)}" if value else "" for value, key in zip(values, keys, strict=True)]


def _note_kinds(keys: Sequence[str], headers: Sequence[HeaderFacts | None], notes: list[str]) -> None:
    examples: dict[str, list[str]] = {}
    for key, header in zip(keys, headers, strict=True):
        for kind in header.kinds if header is not None else ():
            examples.setdefault(kind, []).append(key)
    if "for processing" in examples and "for presentation" in examples:
        raw, shown = examples["for processing"], examples["for presentation"]
        raise UserError(f"raw images and images for presentation are mixed: {len(raw):,} are FOR PROCESSING, such as {raw[0]}, and "
                        f"{len(shown):,} FOR PRESENTATION, such as {shown[0]}. One network reads one kind: keep one")
    notes += [f"{len(examples[kind]):,} DICOM images are {words}, such as {examples[kind][0]}"
              for kind, words in NOTED.items() if kind in examples]
