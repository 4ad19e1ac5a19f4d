"""DICOM slices of one series, or the frames of one file, to one array of physical values and its affine.

Owns: `read_series`, `series_files`: what of a folder is a slice, what must agree between slices, rescale, padding, doubled slices.
Does not own: a file's header and pixels (dicom_header.py, dicom.py), where slices lie (dicom_planes.py), RAS+ (scans.py).
Files are read in threads, slice by slice into one array. What is said holds counts, millimetres and names of the standard.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.errors import UserError
from runtimes.images.dicom import stored_frames
from runtimes.images.dicom_guard import quiet
from runtimes.images.dicom_header import GREYS, Header, NoImage, read_header, seems_dicom, value_of
from runtimes.images.dicom_planes import TILT_DEG, Plane, stacked
from runtimes.images.orientation import slant
from runtimes.images.physical import MAX_VOXELS, Values, rescaled

MAX_PIXELS = 64_000_000  # of a slice
MAX_FILES = 10_000
THREADS = 4
TOGETHER = 8  # slices that are decoded at once: memory stays flat
PLACES = ("ImagePositionPatient", "ImageOrientationPatient", "GantryDetectorTilt")
FURTHER = (*PLACES, "SeriesInstanceUID", "FrameOfReferenceUID")
PHYSICAL = ("CT", "MR", "PT", "NM")  # modalities whose values mean something however they are shown
DISK_INDEX = "DICOMDIR"
# Where objects with functional groups say where a frame lies: sequence, keyword, how many numbers.
GROUPS = (("PlanePositionSequence", "ImagePositionPatient", 3), ("PlaneOrientationSequence", "ImageOrientationPatient", 6),
          ("PixelMeasuresSequence", "PixelSpacing", 2))


@dataclass(frozen=True)
class Slice:
    """One slice before its pixels are read: its file, its place there, where it lies, what its values are multiplied by."""

    path: Path
    header: Header
    plane: Plane
    slope: float
    intercept: float


@dataclass(frozen=True)
class Series:
    """Physical values (column, row, slice), their affine to RAS+ mm, what a person should know of them, and the files of the slices."""

    values: NDArray[Any]
    affine: NDArray[np.float64]
    notes: tuple[str, ...]
    files: tuple[Path, ...]


def series_files(folder: Path) -> tuple[Path, ...]:
    """DICOM files anywhere below a folder, sorted; hidden ones and the index of a disk are none. UserError for too many."""
    files: list[Path] = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(place, name) for name in names if not name.startswith(".") and name.upper() != DISK_INDEX]
        if len(files) > MAX_FILES:
            raise UserError(f"{folder}: more than {MAX_FILES:,} files; expected a folder of one series")
    return tuple(path for path in sorted(files) if seems_dicom(path))


def read_series(name: Path, paths: Sequence[Path]) -> Series:
    """The volume of these files, in any order: slices of one frame each, or one file of many frames. `name` is what messages begin with.

    Slices are sorted by ImagePositionPatient along the normal of ImageOrientationPatient. Localisers, secondary captures among other
    images, and what is no image are left out and noted. Values are those after each slice's slope and intercept; padding becomes the
    lowest value that is none. MONOCHROME1 is not turned round for CT, MR, PT and NM, and refused for the others. UserError for all
    that is no volume: missing positions, gaps, doubled slices that differ, anything that should agree and does not.
    """
    if not paths:
        raise UserError(f"{name}: holds no DICOM file; expected the slices of one series")
    headers, left_out = _headers(sorted(set(paths)))
    chosen = _slices_among(name, headers, left_out)
    notes = [f"{sum(left_out.values()):,} files of the series' folder are no slices of it and are left out: "
             + ", ".join(f"{count:,} {kind}" for kind, count in sorted(left_out.items()))] if left_out else []
    several = [path for path, header in chosen if header.frames > 1]
    if several and len(chosen) > 1:
        raise UserError(f"{name}: {len(several):,} of {len(chosen):,} files hold several frames; a volume is one file of many frames, or "
                        "one frame a file")
    what = "frames" if several else "slices"
    with quiet(name):  # pydicom converts a value, and may warn of it, when it is asked for
        _check_alike(name, [header for _, header in chosen])
        slices = _frames(*chosen[0]) if several else [_slice(path, header) for path, header in chosen]
    stack = stacked(name, [item.plane for item in slices], what)
    header = chosen[0][1]
    if len(stack.places) * header.rows * header.columns > MAX_VOXELS:
        raise UserError(f"{name}: {len(stack.places):,} {what} of {header.columns}x{header.rows} pixels, the limit is {MAX_VOXELS:,}")
    if header.photometric == "MONOCHROME1":
        notes.append("values are those of the file: MONOCHROME1 is about how they are shown, and is not applied to a volume")
    with quiet(name):
        notes += _said_of_tilt(chosen[0][0], header, stack.affine)
    order = [-1] * len(slices)
    for place, rows in enumerate(stack.places):
        for row in rows:
            order[row] = place
    values = _filled(name, slices, order, (len(stack.places), header.rows, header.columns), several[0] if several else None)
    return Series(values.transpose(2, 1, 0), stack.affine, (*notes, *stack.notes), tuple(path for path, _ in chosen))


def _headers(paths: Sequence[Path]) -> tuple[list[tuple[Path, Header]], Counter[str]]:
    """Headers of the files that are images, and how many are none, by kind."""
    def read(path: Path) -> Header | str:
        try:
            path.open("rb").close()
            return read_header(path, MAX_PIXELS, FURTHER, frames=True)
        except NoImage as error:
            return error.kind
        except OSError as error:
            raise UserError(f"{path}: cannot be opened ({error.strerror})") from None

    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(read, paths))
    images = [(path, answer) for path, answer in zip(paths, answers, strict=True) if isinstance(answer, Header)]
    return images, Counter(answer for answer in answers if isinstance(answer, str))


def _slices_among(name: Path, headers: list[tuple[Path, Header]], left_out: Counter[str]) -> list[tuple[Path, Header]]:
    """Files without localisers, and without secondary captures where there are other images; both are counted."""
    for kind, plural in (("localiser", "localisers"), ("secondary capture", "secondary captures")):
        rest = [(path, header) for path, header in headers if kind not in header.kinds]
        if len(rest) < len(headers) and (rest or kind == "localiser"):
            left_out[plural] += len(headers) - len(rest)
            headers = rest
    if not headers:
        found = ", ".join(f"{count:,} {kind}" for kind, count in sorted(left_out.items()))
        raise UserError(f"{name}: holds no slice of a volume, but {found}; expected the slices of one series")
    return headers


def _check_alike(name: Path, headers: Sequence[Header]) -> None:
    """Refuse files that cannot be one volume, with counts; and what is no volume of grey values."""
    for tag, one, several in (("SeriesInstanceUID", "series", "series"), ("FrameOfReferenceUID", "frame of reference",
                                                                          "frames of reference")):
        counts = Counter(str(header.source.get(tag) or "") for header in headers)
        if len(counts) > 1:
            numbers = ", ".join(f"{count:,}" for _, count in counts.most_common(6)) + (", ..." if len(counts) > 6 else "")
            raise UserError(f"{name}: holds files of {len(counts)} {several} ({numbers}); a volume is one {one}: keep each in a folder of "
                            "its own")
    kinds: tuple[tuple[str, list[str]], ...] = (
        ("SOP classes", [header.sop_class or "an unknown class" for header in headers]),
        ("sizes", [f"{header.columns}x{header.rows}" for header in headers]),
        ("photometric interpretations", [header.photometric for header in headers]))
    for what, found in kinds:
        named = Counter(found)
        if len(named) > 1:
            shown = ", ".join(f"{count:,} of {kind}" for kind, count in named.most_common(4))
            raise UserError(f"{name}: slices of several {what} ({shown}); a volume has one: keep one, in a folder of its own")
    header = headers[0]
    kind = header.sop_class or "an unknown SOP class"
    if header.photometric not in GREYS:
        what = f"{header.frames:,} frames" if header.frames > 1 else f"{len(headers):,} images"
        raise UserError(f"{name}: holds {what} in colour ({header.photometric}, {kind}), which are no volume; a volume holds grey values: "
                        "read them as images, one frame a file")
    if header.photometric == "MONOCHROME1" and header.modality not in PHYSICAL:
        raise UserError(f"{name}: is MONOCHROME1 and of none of the modalities {', '.join(PHYSICAL)}, so whether high values mean much or "
                        "little is not sure; write it as MONOCHROME2")
    if any(header.source.get("ModalityLUTSequence") for header in headers):
        raise UserError(f"{name}: values go through a ModalityLUTSequence, which is not read for volumes; write RescaleSlope and "
                        "RescaleIntercept")


def _numbers(path: Path, source: Any, tag: str, count: int) -> tuple[float, ...] | None:
    """So many finite numbers of a tag; None where it is missing or empty."""
    value = value_of(path, source, tag)
    if value is None or (isinstance(value, str) and not value.strip()) or (hasattr(value, "__len__") and not len(value)):
        return None
    try:
        numbers = tuple(float(number) for number in value)
    except (TypeError, ValueError, OverflowError):
        numbers = ()
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise UserError(f"{path}: the tag {tag} does not hold {count} finite numbers")
    return numbers


def _slice(path: Path, header: Header) -> Slice:
    if header.frames == 1 and header.source.get("PerFrameFunctionalGroupsSequence"):
        return _frames(path, header)[0]
    position, orientation, spacing = (_numbers(path, header.source, tag, count) for _, tag, count in GROUPS)
    return Slice(path, header, Plane(position, orientation, spacing), header.slope, header.intercept)


def _frames(path: Path, header: Header) -> list[Slice]:
    """The frames of a file as its functional groups describe them: what is said of one frame goes before what is shared."""
    source = header.source
    each, shared = (list(source.get(name) or []) for name in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"))
    if not each:
        raise UserError(f"{path}: holds {header.frames:,} frames ({header.sop_class or 'an unknown SOP class'}) and says of none where "
                        "it lies in the patient: a film or a stack without geometry, and no volume; write its frames as images")
    if len(each) != header.frames:
        raise UserError(f"{path}: describes {len(each):,} frames and holds {header.frames:,}; write it again")
    slices = []
    for group in each:
        places = [group, *shared[:1]]
        position, orientation, spacing = (
            next((numbers for place in places for item in list(place.get(sequence) or [])[:1]
                  if (numbers := _numbers(path, item, tag, count)) is not None), None) for sequence, tag, count in GROUPS)
        slope, intercept = _rescale_of(path, places, header)
        slices.append(Slice(path, header, Plane(position, orientation, spacing), slope, intercept))
    return slices


def _rescale_of(path: Path, places: Sequence[Any], header: Header) -> tuple[float, float]:
    """Slope and intercept of a frame; the file's own where its groups hold none."""
    for place in places:
        for item in list(place.get("PixelValueTransformationSequence") or [])[:1]:
            slope, intercept = (_number(path, item, tag) for tag in ("RescaleSlope", "RescaleIntercept"))
            if slope is None or intercept is None or slope == 0.0:
                raise UserError(f"{path}: a frame's PixelValueTransformationSequence lacks RescaleSlope or RescaleIntercept, or the slope "
                                "is 0; expected both")
            return slope, intercept
    return header.slope, header.intercept


def _number(path: Path, item: Any, tag: str) -> float | None:
    value = value_of(path, item, tag)
    return None if value is None else (_numbers(path, {tag: [value]}, tag, 1) or (None,))[0]


def _said_of_tilt(path: Path, header: Header, affine: NDArray[np.float64]) -> list[str]:
    """A note where the header speaks of a tilted gantry that positions do not show."""
    tilt = _number(path, header.source, "GantryDetectorTilt")
    upright = abs(affine[2, 2]) > 0.9999 * np.linalg.norm(affine[:3, 2])
    if tilt is None or abs(tilt) < TILT_DEG or slant(affine) >= TILT_DEG or not upright:
        return []
    return [f"GantryDetectorTilt is {tilt:.4g} degrees, and positions and orientations show none; they are believed"]


def _filled(name: Path, slices: Sequence[Slice], order: Sequence[int], shape: tuple[int, int, int], many: Path | None) -> NDArray[Any]:
    """Physical values (slice, row, column), padding set to the lowest value that is none."""
    values = Values(shape)
    lowest = np.inf
    padded: dict[int, NDArray[np.uint8]] = {}
    done: set[int] = set()
    doubled = sum(count > 1 for count in Counter(order).values())
    with closing(_stored(slices, many)) as frames:
        for row, stored in frames:
            item, place = slices[row], order[row]
            physical = rescaled(stored, item.slope, item.intercept)
            hidden = _padding(stored, item.header)
            if place in done:
                kept = values.array[place]
                if not np.array_equal(kept, physical if kept.dtype == np.int16 else physical.astype(kept.dtype)):
                    raise UserError(f"{name}: {doubled:,} of {len(set(order)):,} positions hold several slices that differ: several "
                                    "acquisitions, phases or echoes in one series; keep one of them, in a folder of its own")
                continue
            done.add(place)
            values.put(place, physical)
            present = physical if hidden is None else physical[~hidden]
            lowest = min(lowest, float(present.min())) if present.size else lowest
            if hidden is not None:
                padded[place] = np.packbits(hidden)
    for place, bits in padded.items() if np.isfinite(lowest) else ():
        hidden = np.unpackbits(bits, count=shape[1] * shape[2]).astype(bool).reshape(shape[1:])
        values.array[place][hidden] = lowest
    return values.array


def _padding(stored: NDArray[Any], header: Header) -> NDArray[np.bool_] | None:
    if header.padding is None:
        return None
    hidden = header.is_padding(stored)
    return hidden if hidden.any() else None


def _stored(slices: Sequence[Slice], many: Path | None) -> Generator[tuple[int, NDArray[Any]], None, None]:
    """Stored values of every slice and its row, a few at a time: of a file of many frames in one pass, of files in threads."""
    if many is not None:
        with quiet(many):
            yield from enumerate(stored_frames(many, slices[0].header))
        return

    def read(row: int) -> NDArray[Any]:
        with quiet(slices[row].path):
            return next(stored_frames(slices[row].path, slices[row].header))

    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        for start in range(0, len(slices), TOGETHER):
            rows = range(start, min(start + TOGETHER, len(slices)))
            yield from zip(rows, pool.map(read, rows), strict=True)
