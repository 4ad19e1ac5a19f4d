"""The findings of the head-CT phantom: how a bleed, an infarct, a mass or a fracture is painted on a slice.

Owns the shapes of the lesions, their densities and how subtle they may be, and the plane they are painted on. Does not
own normal anatomy, the displaced midline or the large ventricles (those are anatomy with other numbers), the labels or
the scanner: see `phantom`. Densities are display grey levels, 0 (air) to 1 (bone), not Hounsfield units.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Grid = npt.NDArray[np.floating]  # float32 throughout
AIR, FLUID, WHITE, GREY, BLOOD, BONE = 0.02, 0.22, 0.41, 0.49, 0.70, 0.98


@dataclass(frozen=True)
class Plane:
    """One slice in head units (outer skull at rho = 1): p to the right, q backwards, `soft` one pixel; grids (S, S)."""

    p: Grid
    q: Grid
    rho: Grid  # distance from the centre, 1 on the outer table
    inner: Grid  # rho of the inner table, which differs from place to place
    soft: float  # width of one pixel, hence of every edge
    coarse: Grid  # smooth fields of about unit deviation, from wide to narrow
    medium: Grid
    fine: Grid


@functools.lru_cache(maxsize=32)
def _spline(size: int, cells: int) -> Grid:
    """Return the matrix (size, cells + 3) that turns `cells` spans of a cubic B-spline into pixels."""
    at = (np.arange(size) + 0.5) * cells / size
    t = np.abs(at[:, None] - (np.arange(cells + 3) - 1.0)[None, :])
    near, far = 2.0 / 3.0 - t * t + 0.5 * t**3, np.clip(2.0 - t, 0.0, None) ** 3 / 6.0
    return np.where(t < 1.0, near, far).astype(np.float32)


def _field(rng: np.random.Generator, size: int, cells: int) -> Grid:
    """Return a smooth random field of about unit deviation, `cells` bumps wide whatever the size, shape (S, S)."""
    basis = _spline(size, cells)
    knots = rng.standard_normal((cells + 3, cells + 3), dtype=np.float32)
    return np.asarray((basis @ knots) @ basis.T * 2.0, dtype=np.float32)


@functools.lru_cache(maxsize=8)
def _axis(size: int) -> Grid:
    """Return pixel centres from -1 to 1, shape (S,)."""
    return ((np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1.0).astype(np.float32)


def plane_of_head(rng: np.random.Generator, size: int) -> Plane:
    """Return a head of its own shape, place, tilt and skull thickness, as the plane everything is painted on."""
    half = float(rng.uniform(0.68, 0.82))
    tall = min(half * float(rng.uniform(1.12, 1.30)), 0.92)
    tilt, egg = float(rng.normal(0.0, 0.10)), float(rng.uniform(0.0, 0.12))
    cx, cy = rng.uniform(-0.05, 0.05, 2).tolist()
    x, y = _axis(size)[None, :] - cx, _axis(size)[:, None] - cy
    c, s = math.cos(tilt), math.sin(tilt)
    q = (y * c - x * s) * (1.0 / tall)
    p = (x * c + y * s) * (1.0 / half) * (1.0 - egg * q)
    rho = np.sqrt(p * p + q * q)
    coarse, medium, fine = (_field(rng, size, cells) for cells in (4, 11, 20))
    thick = float(rng.uniform(0.075, 0.125))
    # Thicker in front and behind; at times much thicker in front (harmless, and bright at the edge of the brain).
    frontal = float(rng.uniform(0.04, 0.10)) if rng.random() < 0.12 else 0.02
    bony = thick * (1.0 + 0.15 * coarse) + frontal * np.clip(-q * 2.5 - 1.2, 0, 1) + 0.02 * np.clip(q * 5.0 - 3.8, 0, 1)
    return Plane(p, q, rho, 1.0 - bony, 2.0 / (size * half), coarse, medium, fine)


def step(distance: Grid, width: float) -> Grid:
    """Return 0 to 1 over an edge of the given width centred on distance 0, shape (S, S)."""
    return np.asarray(np.clip(distance * (1.0 / width) + 0.5, 0.0, 1.0))


def blend(image: Grid, mask: Grid, density: float | Grid) -> Grid:
    """Return the image with `density` laid over it where the mask (0 to 1) says so, shape (S, S)."""
    return image + mask * (density - image)


def ellipse(
    plane: Plane, x: float, y: float, rx: float, ry: float, angle: float = 0.0, wobble: float = 0.0, edge: float = 1.0,
    across: Grid | None = None,
) -> Grid:
    """Return the mask of a rotated ellipse, its outline bent by `wobble`, its edge `edge` pixels wide, shape (S, S)."""
    dx = (plane.p if across is None else across) - x
    dy = plane.q - y
    c, s = math.cos(angle), math.sin(angle)
    along, athwart = (dx * c + dy * s) * (1.0 / rx), (dy * c - dx * s) * (1.0 / ry)
    inside = 1.0 - (along * along + athwart * athwart)
    if wobble:
        inside = inside + wobble * plane.medium
    # 1 - d squared falls by 2 / r per unit length at the outline, so this is the distance to it in pixels.
    return step(inside * (0.5 * min(rx, ry)), edge * plane.soft)


def subtlety(rng: np.random.Generator) -> float:
    """Return how plain a finding is, 0 (barely there) to 1 (plain): all degrees occur, the middle most often."""
    return 0.5 * (float(rng.random()) + float(rng.random()))


def bleed(image: Grid, plane: Plane, ventricles: Grid, side: float, rng: np.random.Generator) -> Grid:
    """Return the image with fresh blood: in the brain, subdural, epidural or in a ventricle; shape (S, S)."""
    kind, plain = rng.random(), subtlety(rng)
    turn, a, b, c = rng.random(4).tolist()
    density = BLOOD + 0.01 + 0.14 * plain + 0.015 * plane.medium
    within = step(plane.inner - plane.rho, plane.soft)
    if kind < 0.42:
        reach = 0.25 + 0.35 * a
        x, y = side * reach * math.sin(0.4 + 2.2 * turn), -reach * 1.2 * math.cos(0.4 + 2.2 * turn)
        rx, ry = 0.08 + 0.17 * plain, (0.08 + 0.17 * plain) * (0.65 + 0.6 * b)
        rim = ellipse(plane, x, y, rx * 1.5, ry * 1.5, 3.0 * c, 0.5, 3.0)
        image = blend(image, rim * within * 0.6, WHITE - 0.10)
        return blend(image, ellipse(plane, x, y, rx, ry, 3.0 * c, 0.35, 1.5) * within, density)
    angle = 0.5 + 2.1 * turn
    ex, ey = side * math.sin(angle), -math.cos(angle)
    if kind < 0.70:  # subdural: a crescent that follows the inner table and thins out to both ends
        reach = 0.1 + 0.5 * a
        facing = np.clip(((plane.p * ex + plane.q * ey) / (plane.rho + 0.01) - reach) * (1.0 / (1.0 - reach)), 0.0, 1.0)
        depth = (0.08 + 0.17 * plain) * np.sqrt(facing)
        return blend(image, step(plane.rho - plane.inner + depth, plane.soft) * within * (facing > 0), density)
    if kind < 0.85:  # epidural: a lens that bulges into the brain
        rx, ry = 0.12 + 0.16 * plain, 0.26 + 0.18 * b
        lens = ellipse(plane, 0.90 * ex, 0.90 * ey, rx, ry, math.atan2(ey, ex))
        return blend(image, lens * within, density)
    # In a ventricle blood sinks: the back of the horns fills up to a level; a clot in the third ventricle at times.
    horn = ventricles * step(plane.q - (0.32 - 0.5 * plain), 2.0 * plane.soft)
    if a < 0.6:
        horn = horn * step(plane.p * side, 2.0 * plane.soft)
    spill = ellipse(plane, side * (0.20 + 0.05 * b), 0.30, 0.07 + 0.08 * plain, 0.10 + 0.10 * c, -0.4 * side, 0.3)
    return blend(image, np.maximum(horn, spill), density)


def infarct(image: Grid, plane: Plane, rng: np.random.Generator) -> Grid:
    """Return the image with a hypodense wedge that has lost cortex and sulci, apex deep, base at the skull (S, S)."""
    side = 1.0 if rng.random() < 0.5 else -1.0
    plain = subtlety(rng)
    angle, spread = 0.45 + 2.2 * float(rng.random()), 0.36 + 0.40 * float(rng.random())
    x, y = side * float(rng.uniform(0.10, 0.30)), float(rng.uniform(-0.15, 0.15))
    dx, dy = (plane.p - x) * side, plane.q - y
    # The wedge is where both half planes through the apex hold; ragged, because territories are.
    first = dx * math.cos(angle - spread) + dy * math.sin(angle - spread)
    second = -dx * math.cos(angle + spread) - dy * math.sin(angle + spread)
    wedge = step(np.minimum(first, second) + 0.035 * plane.medium - 0.03, 5.0 * plane.soft)
    wedge = wedge * step(plane.p * side - 0.03, 2.0 * plane.soft) * step(plane.inner - 0.03 - plane.rho, plane.soft)
    # Mixing towards one flat value loses the texture; early ones only lose the cortex, late ones are dark.
    return blend(image, wedge * (0.70 + 0.25 * plain), WHITE - 0.09 - 0.13 * plain)


def mass(image: Grid, plane: Plane, side: float, rng: np.random.Generator) -> Grid:
    """Return the image with a round lesion (ring, solid or dark) in its oedema, shape (S, S)."""
    kind, plain = rng.random(), subtlety(rng)
    turn, a, b = rng.random(3).tolist()
    reach = 0.30 + 0.32 * a
    x, y = side * reach * math.sin(0.35 + 2.4 * turn), -reach * 1.15 * math.cos(0.35 + 2.4 * turn)
    radius = 0.10 + 0.15 * plain
    within = step(plane.inner - 0.02 - plane.rho, plane.soft)
    halo = ellipse(plane, x, y, radius * (1.5 + 0.7 * b), radius * (1.5 + 0.7 * b), 0.0, 0.8, 4.0)
    image = blend(image, halo * within * 0.8, WHITE - 0.10 - 0.06 * plain)
    body = ellipse(plane, x, y, radius, radius * (0.85 + 0.25 * b), 0.0, 0.10) * within
    if kind < 0.5:  # a ring with a dead core
        image = blend(image, body, GREY + 0.07 + 0.10 * plain)
        core = ellipse(plane, x, y, radius * 0.62, radius * 0.55, 0.0, 0.15) * within
        return blend(image, core, FLUID + 0.10)
    if kind < 0.8:  # solid, denser than grey matter, not as dense as blood
        return blend(image, body, GREY + 0.03 + 0.06 * plain + 0.02 * plane.fine)
    image = blend(image, body, GREY + 0.01)
    return blend(image, ellipse(plane, x, y, radius * 0.8, radius * 0.75, 0.0, 0.1) * within, FLUID + 0.07)


def seam(plane: Plane, rho: Grid, ex: float, ey: float, width: float, oblique: float, zigzag: float) -> Grid:
    """Return the mask of a narrow gap through the skull where it faces (ex, ey), `width` in head units (S, S)."""
    along = plane.p * ex + plane.q * ey
    aside = plane.q * ex - plane.p * ey + oblique * (rho - 1.0) + zigzag * plane.fine
    return step(width * 0.5 - np.abs(aside), plane.soft) * (along > 0)


def fracture(plane: Plane, side: float, rng: np.random.Generator) -> tuple[Grid, Grid]:
    """Return the fracture's gap as a mask and rho with the broken edge pushed inwards, shapes (S, S)."""
    plain = subtlety(rng)
    angle, oblique, kind = float(rng.uniform(0.15, 2.95)), float(rng.uniform(-1.6, 1.6)), rng.random()
    ex, ey = side * math.sin(angle), -math.cos(angle)
    rho = plane.rho
    if kind < 0.55:  # depressed: past the line the bone steps in, and comes back to its place further on
        past = plane.q * ex - plane.p * ey
        fall = np.clip(1.0 - past * (1.0 / (0.25 + 0.20 * plain)), 0.0, 1.0) * step(past, plane.soft)
        rho = rho + (0.04 + 0.09 * plain) * fall * (plane.p * ex + plane.q * ey > 0)
    gap = seam(plane, rho, ex, ey, max(0.030 + 0.060 * plain, plane.soft), oblique, 0.0)
    return gap * (0.60 + 0.40 * plain), rho
