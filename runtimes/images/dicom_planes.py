"""Where slices lie in the patient: sorted along their normal, doubled ones, gaps, tilt, and the affine to RAS+ millimetres.

Owns: Plane, Stack, `stacked`: everything that positions and orientations alone decide, and the sentences for it. Does not own: reading
them from headers, pixels (dicom_series.py), turning voxels (orientation.py). Instance numbers and names of files are never asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtimes.errors import UserError

COSINE = 0.005  # by which directions may differ and are taken as equal: 0.3 degrees, more than headers are rounded by
SIDE = 0.001  # share by which sides of pixels may differ
SAME_MM = 0.001  # positions closer than this are one
SAME_SHARE = 0.02  # ... or closer than this share of the usual step
UNEVEN = 0.1  # share of the usual step that a step may differ from it by: 3.3 and 3.2 mm are 3.25, rounded
ROUNDED = 0.01  # share up to which nobody is told
ASIDE = 0.5  # of a pixel's side: how far a slice may lie beside the line of the others
TILT_DEG = 1.0  # below, a slant is rounding
SHOWN = 4


@dataclass(frozen=True)
class Plane:
    """Where one slice lies, in DICOM's LPS+ millimetres, None where nothing says so.

    position: the centre of its first pixel. orientation: directions along a row and down a column. spacing: between rows, and columns.
    """

    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None


@dataclass(frozen=True)
class Stack:
    """Slices in order: `places[k]` are those of position k (several where it is doubled); `affine`: (column, row, k) to RAS+ mm."""

    places: tuple[tuple[int, ...], ...]
    affine: NDArray[np.float64]
    notes: tuple[str, ...]


def stacked(name: Path, planes: Sequence[Plane], what: str = "slices") -> Stack:
    """Planes of one volume in order along their normal; UserError where they are none, with how many and where in mm."""
    for tag, values in (("ImagePositionPatient", [plane.position for plane in planes]),
                        ("ImageOrientationPatient", [plane.orientation for plane in planes]),
                        ("PixelSpacing", [plane.spacing for plane in planes])):
        missing = sum(value is None for value in values)
        if missing:
            raise UserError(f"{name}: {missing:,} of {len(planes):,} {what} have no {tag}, so where they lie is not known; a volume needs "
                            "it in each")
    along, down = _directions(name, np.asarray([plane.orientation for plane in planes], dtype=np.float64), what)
    tall, wide = _spacing(name, np.asarray([plane.spacing for plane in planes], dtype=np.float64), what)
    positions = np.asarray([plane.position for plane in planes], dtype=np.float64)
    normal = np.cross(along, down)
    depths = positions @ normal
    order = np.argsort(depths, kind="stable")
    notes: list[str] = []
    places = _places(depths, order)
    if len(places) < 2:
        raise UserError(f"{name}: {len(planes):,} {'slice' if len(planes) == 1 else what} at one position; a volume has two positions at "
                        "least. A folder, or a tuple of files, is one series; single images are read as images")
    doubled = sum(len(place) > 1 for place in places)
    middles = np.asarray([depths[list(place)].mean() for place in places])
    _check_steps(name, middles, what, notes)
    firsts = positions[[place[0] for place in places]]
    step = (firsts[-1] - firsts[0]) / (len(places) - 1)
    aside = firsts - (firsts[0] + np.arange(len(places))[:, None] * step)
    aside -= np.outer(aside @ normal, normal)
    furthest = float(np.linalg.norm(aside, axis=1).max())
    if furthest > ASIDE * min(tall, wide):
        raise UserError(f"{name}: {what} do not lie behind one another, up to {furthest:.4g} mm beside a straight line; expected less than "
                        f"half a pixel, {ASIDE * min(tall, wide):.3g} mm")
    if doubled:
        notes.append(f"{doubled:,} of {len(places):,} positions hold the same slice more than once; one is kept")
    lps = np.eye(4)
    lps[:3, :3] = np.stack([along * wide, down * tall, step], axis=1)
    lps[:3, 3] = firsts[0]
    return Stack(places, np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps, tuple(notes))


def _directions(name: Path, orientations: NDArray[np.float64], what: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The directions of rows and columns, one at a right angle to the other."""
    lengths = np.linalg.norm(orientations.reshape(-1, 2, 3), axis=2)
    across = (orientations[:, :3] * orientations[:, 3:]).sum(axis=1)
    wrong = int(((np.abs(lengths - 1.0) > 2 * COSINE).any(axis=1) | (np.abs(across) > COSINE)).sum())
    if wrong:
        raise UserError(f"{name}: ImageOrientationPatient of {wrong:,} {what} holds no two directions at a right angle; write it again")
    kinds: list[NDArray[np.float64]] = []
    counts: Counter[int] = Counter()
    for orientation in orientations:
        kind = next((place for place, known in enumerate(kinds) if np.abs(orientation - known).max() <= COSINE), len(kinds))
        if kind == len(kinds):
            kinds.append(orientation)
        counts[kind] += 1
    if len(kinds) > 1:
        most = ", ".join(f"{count:,}" for _, count in counts.most_common(SHOWN))
        raise UserError(f"{name}: {what} lie in {len(kinds)} orientations ({most}{', ...' if len(kinds) > SHOWN else ''}); a volume has "
                        "one: keep one, in a folder of its own")
    along, down = (part / np.linalg.norm(part) for part in orientations.mean(axis=0).reshape(2, 3))
    down = down - (down @ along) * along
    return along, down / np.linalg.norm(down)


def _spacing(name: Path, spacings: NDArray[np.float64], what: str) -> tuple[float, float]:
    if not (spacings > 0).all():
        raise UserError(f"{name}: PixelSpacing of {int((spacings <= 0).any(axis=1).sum()):,} {what} is not above 0; write it again")
    if (np.abs(spacings / spacings[0] - 1.0) > SIDE).any():
        kinds = Counter(f"{tall:.4g} x {wide:.4g} mm" for tall, wide in spacings.tolist())
        raise UserError(f"{name}: {what} have pixels of several sizes ({_counted(kinds)}); a volume has one: keep one, in a folder alone")
    tall, wide = np.median(spacings, axis=0).tolist()
    return tall, wide


def _counted(kinds: Counter[str]) -> str:
    return ", ".join(f"{count:,} of {kind}" for kind, count in kinds.most_common(SHOWN)) + (", ..." if len(kinds) > SHOWN else "")


def _places(depths: NDArray[np.float64], order: NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
    """Slices by position: those whose depths are equal but for rounding are one position."""
    steps = np.diff(depths[order])
    apart = steps[steps > SAME_MM]
    limit = max(SAME_MM, SAME_SHARE * float(np.median(apart))) if len(apart) else SAME_MM
    places: list[list[int]] = [[int(order[0])]]
    for row, step in zip(order[1:].tolist(), steps.tolist(), strict=True):
        if step > limit:
            places.append([])
        places[-1].append(row)
    return tuple(tuple(place) for place in places)


def _check_steps(name: Path, depths: NDArray[np.float64], what: str, notes: list[str]) -> None:
    """Refuse gaps and uneven steps between positions; note what may be rounding."""
    steps = np.diff(depths)
    usual = float(np.median(steps))
    shares = np.abs(steps / usual - 1.0)
    wrong = np.flatnonzero(shares > UNEVEN)
    if len(wrong):
        times = np.rint(steps[wrong] / usual)
        if (times >= 2).all() and (np.abs(steps[wrong] / usual - times) <= UNEVEN * times).all():
            missing = int((times - 1).sum())
            where = ", ".join(f"between {depths[row] - depths[0]:.4g} and {depths[row + 1] - depths[0]:.4g} mm"
                              for row in wrong[:SHOWN].tolist())
            raise UserError(f"{name}: {missing:,} {what if missing > 1 else what[:-1]} of {len(depths) + missing:,} "
                            f"{'are' if missing > 1 else 'is'} missing, {where} from the first{', ...' if len(wrong) > SHOWN else ''} "
                            f"(steps of {usual:.4g} mm elsewhere); bring them, or cut the series there")
        kinds = Counter(f"{step:.3g} mm" for step in steps.tolist())
        raise UserError(f"{name}: steps between {what} are uneven ({_counted(kinds)}); a volume has one step, within "
                        f"{100 * UNEVEN:.0f} %: resample it, or keep a part with one step")
    if shares.max() > ROUNDED:
        notes.append(f"steps between {what} differ by up to {100 * float(shares.max()):.0f} % ({steps.min():.4g} to {steps.max():.4g} mm), "
                     f"taken as rounding of {(depths[-1] - depths[0]) / len(steps):.4g} mm")
