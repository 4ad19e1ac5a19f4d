"""The head-CT phantom: seeded, procedurally drawn axial slices with six findings, so that everything runs without data.

Owns the labels and how they go together, normal anatomy and its variation, the harmless look-alikes, and the scanner
(window, noise, streaks, motion). Nothing is stored: image i is drawn from (seed, size, i) alone, in numpy alone.
Does not own the shapes of the lesions (`phantom_findings`), splits, or any claim about patients: it is synthetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
import numpy.typing as npt

from distill.phantom import findings as lesions
from distill.phantom.findings import AIR, BONE, FLUID, GREY, WHITE, Grid, Plane, blend, ellipse, seam, step, subtlety

FINDINGS: tuple[str, ...] = ("bleed", "infarct", "mass", "fracture", "shift", "hydrocephalus")
VERSION = 1  # part of every key: raise it when a change of this code changes a pixel


def stream(seed: int, index: int, part: int) -> np.random.Generator:
    """Return the random stream of one part of an image; parts are apart so that a finding leaves the rest as it was."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(index, part))))


def draw_labels(seed: int, index: int) -> npt.NDArray[np.float32]:
    """Return which findings image `index` shows, float32 (6,) of 0 and 1, without drawing it."""
    u = stream(seed, index, 0).random(8).tolist()
    if u[0] < 0.05:
        return np.zeros(len(FINDINGS), np.float32)
    broken = u[1] < 0.24
    blood = u[2] < (0.42 if broken else 0.24)  # one blow, both findings
    stroke = u[3] < 0.24
    tumour = u[4] < (0.12 if blood else 0.26)
    shifted = u[5] < 0.10 + 0.26 * blood + 0.24 * tumour + 0.06 * stroke
    wide = u[6] < 0.15 + 0.12 * blood + 0.10 * tumour
    return np.array([blood, stroke, tumour, broken, shifted, wide], np.float32)


def _brain(rng: np.random.Generator, plane: Plane, bent: Grid, wide: bool, wither: float) -> Grid:
    """Return brain with cortex, sulci, deep grey matter and falx on the bent midline; `wither` is atrophy, 0 to 1."""
    gap = float(rng.uniform(0.008, 0.025)) + 0.06 * wither
    depth = plane.inner - gap - plane.rho
    contrast = (GREY - WHITE) * float(rng.uniform(0.7, 1.4))
    cortex = step(float(rng.uniform(0.07, 0.12)) + 0.04 * plane.medium - depth, 0.06)
    image = WHITE + 0.008 * plane.coarse + contrast * cortex
    deep = ellipse(plane, 0.22, 0.02, 0.09, 0.16, -0.35, 0.2, 3.0, np.abs(bent))
    image = blend(image, deep, WHITE + 0.8 * contrast)
    # The zero lines of a narrow field wander as sulci do; large ventricles under pressure close them.
    furrow = float(rng.uniform(0.22, 0.42)) * (0.45 if wide else 1.0) + 0.40 * wither
    reach = float(rng.uniform(0.14, 0.26)) + 0.14 * wither
    sulci = np.clip((furrow - np.abs(plane.fine)) * 4.0, 0.0, 1.0) * np.clip((reach - depth) * 8.0, 0.0, 1.0)
    image = blend(image, sulci * (0.65 if wide else 0.85), FLUID + 0.06)
    sylvian = np.abs(plane.q + 0.08 + 0.5 * (np.abs(bent) - 0.75) + 0.02 * plane.medium)
    image = blend(image, step(0.012 + 0.04 * wither - sylvian, plane.soft) * step(np.abs(bent) - 0.60, 0.08), FLUID)
    image = blend(image, step(-depth, plane.soft), FLUID)
    ends = step(np.abs(plane.q + 0.02) - 0.48, 0.06)
    image = blend(image, step(0.016 + 0.03 * wither - np.abs(bent), plane.soft) * ends * 0.7, FLUID + 0.05)
    return blend(image, step(0.006 - np.abs(bent), plane.soft) * ends * float(rng.uniform(0.5, 1.0)), GREY + 0.14)


def _ventricles(rng: np.random.Generator, plane: Plane, bent: Grid, swell: float, push: float) -> Grid:
    """Return the mask of the horns, front and back, and the third ventricle; `push` squeezes the side it comes from."""
    size = swell * float(rng.uniform(0.85, 1.15))
    uneven = float(rng.normal(0.0, 0.10)) - 2.2 * push
    across = np.abs(bent) * (1.0 + np.clip(uneven, -0.45, 0.45) * np.clip(bent * 8.0, -1.0, 1.0))
    girth = 0.055 * size
    open_ = 0.28 + float(rng.uniform(-0.1, 0.1))
    front = ellipse(plane, 0.05 + girth, -0.24, girth, 0.15 + 0.035 * size, -open_, 0.06, 1.2, across)
    stout, long = girth * float(rng.uniform(0.8, 1.3)), 0.13 + 0.045 * size
    back = ellipse(plane, 0.15 + 1.3 * girth, 0.30, stout, long, open_ + 0.1, 0.08, 1.2, across)
    third = ellipse(plane, 0.0, 0.03, 0.012 + 0.020 * size * size, 0.10 + 0.012 * size, 0.0, 0.0, 1.0, bent)
    return np.maximum(np.maximum(front, back), third)


def _specks(rng: np.random.Generator, image: Grid, plane: Plane, bent: Grid) -> Grid:
    """Return the image with what is bright or dark in healthy old brains: calcium, lacunes, pale white matter."""
    pineal, plexus, falx, ganglia, lacune, pale, sinus = rng.random(7).tolist()
    shine = float(rng.uniform(0.15, 0.45))
    if pineal < 0.55:
        image = blend(image, ellipse(plane, 0.0, 0.17, 0.022, 0.025, 0.0, 0.0, 1.0, bent), GREY + shine)
    if plexus < 0.50:
        which = bent if plexus < 0.15 else np.abs(bent)
        image = blend(image, ellipse(plane, 0.24, 0.33, 0.030, 0.045, 0.0, 0.4, 1.0, which), GREY + 0.7 * shine)
    if falx < 0.12:
        y = float(rng.uniform(-0.75, -0.5))
        image = blend(image, ellipse(plane, 0.0, y, 0.02, 0.07, 0.0, 0.0, 1.0, bent), GREY + shine)
    if ganglia < 0.14:
        image = blend(image, ellipse(plane, 0.25, -0.03, 0.035, 0.06, 0.3, 0.8, 2.0, np.abs(bent)), GREY + 0.5 * shine)
    for _ in range(int(lacune * 8) - 5):  # none in most, up to two
        x, y = float(rng.uniform(0.2, 0.42)) * (1 if rng.random() < 0.5 else -1), float(rng.uniform(-0.25, 0.3))
        image = blend(image, ellipse(plane, x, y, 0.028, 0.028, 0.0, 0.2), FLUID + 0.08)
    if pale < 0.25:
        around = ellipse(plane, 0.26, 0.0, 0.20, 0.46, 0.0, 0.5, 8.0, np.abs(bent))
        image = image - (0.03 + 0.12 * pale) * around
    if sinus < 0.6:  # the great sinus at the back holds flowing blood
        image = blend(image, ellipse(plane, 0.0, 0.84, 0.045, 0.05, 0.0, 0.2, 1.0), GREY + 0.13)
    return image


def _skull(rng: np.random.Generator, image: Grid, plane: Plane, broken: tuple[Grid, Grid] | None, bump: float) -> Grid:
    """Return the image with bone, its sutures, a fracture if there is one, scalp and air around it, shape (S, S)."""
    rho = plane.rho if broken is None else broken[1]
    middle = (rho - 0.5 * (1.0 + plane.inner)) / (1.0 - plane.inner)
    bone = BONE - 0.12 * np.clip(1.0 - 4.0 * np.abs(middle), 0.0, 1.0) + 0.02 * plane.coarse
    sign = np.clip(plane.p * 4.0, -1.0, 1.0)
    mirrored = replace(plane, p=np.abs(plane.p))
    # Sutures come in pairs at known places, jagged and partly closed, each side in its own degree.
    for low, high in ((0.85, 1.15), (2.30, 2.65)):
        angle, open_, lean = float(rng.uniform(low, high)), float(rng.uniform(0.0, 0.55)), float(rng.uniform(-1, 1))
        line = seam(mirrored, rho, math.sin(angle), -math.cos(angle), 1.1 * plane.soft, 1.0, 0.010)
        bone = bone - line * open_ * np.clip(1.0 + 1.2 * lean * sign, 0.0, 1.0) * (BONE - GREY)
    if rng.random() < 0.12:
        bone = bone - seam(plane, rho, 0.0, -1.0, plane.soft, 0.0, 0.008) * 0.4 * (BONE - GREY)
    if broken is not None:
        bone = blend(bone, broken[0], GREY - 0.04)
    out = rho - 1.0
    image = blend(image, step(rho - plane.inner, plane.soft), bone)
    ex, ey = rng.uniform(-1.0, 1.0, 2).tolist()
    cap = np.clip((plane.p * ex + plane.q * ey) / (math.hypot(ex, ey) + 1e-6) - 0.55, 0.0, 1.0)
    scalp = float(rng.uniform(0.03, 0.06)) + bump * cap
    image = blend(image, step(out, plane.soft), 0.30 + 0.25 * step(out - 0.5 * scalp, plane.soft))
    return blend(image, step(plane.rho - 1.0 - scalp, plane.soft), AIR)


def _scan(rng: np.random.Generator, image: Grid, plane: Plane) -> npt.NDArray[np.uint8]:
    """Return what scanner and viewer make of the slice: hardening, streaks, motion, noise, window; uint8 (S, S, 1)."""
    inside = step(1.0 - plane.rho, 0.1)
    image = image + float(rng.uniform(-0.01, 0.05)) * (plane.rho * plane.rho - 0.4) * inside
    for _ in range(int(rng.random() * 5.0) - 2):
        turn, offset = float(rng.uniform(0.0, math.pi)), float(rng.uniform(-0.7, 0.7))
        strength = float(rng.normal(0.0, 0.06))
        line = np.abs(plane.p * math.cos(turn) + plane.q * math.sin(turn) - offset)
        image = image + strength * np.clip(1.0 - line * (1.0 / float(rng.uniform(0.05, 0.15))), 0.0, 1.0) * inside
    if rng.random() < 0.18:
        dx, dy = rng.integers(-2, 3, 2).tolist()
        scale = max(1, round(image.shape[0] / 96))
        image = 0.65 * image + 0.35 * np.roll(image, (dy * scale, dx * scale), (0, 1))
    noise = rng.standard_normal(image.shape, dtype=np.float32) * float(rng.uniform(0.010, 0.045))
    blur = float(rng.uniform(0.05, 0.25))
    image = image + noise
    for axis in (0, 1):  # the reconstruction kernel, which also ties the noise of neighbours together
        image = (1.0 - 2.0 * blur) * image + blur * (np.roll(image, 1, axis) + np.roll(image, -1, axis))
    gain, level = float(rng.uniform(0.88, 1.14)), float(rng.uniform(-0.03, 0.03))
    shown = np.clip(((image - 0.45) * gain + 0.45 + level) * 255.0 + 0.5, 0.0, 255.0)
    return shown[:, :, None].astype(np.uint8)


def draw(labels: npt.NDArray[np.float32], seed: int, index: int, size_px: int, height: float = 0.0,
         grain: int = 0) -> npt.NDArray[np.uint8]:
    """Return slice `index` with the findings in `labels` (6,), cut at a height (in radii of the head); uint8 (S, S, 1)."""
    has = dict(zip(FINDINGS, (labels > 0.5).tolist(), strict=True))
    rng = stream(seed, index, 1)
    plane = lesions.plane_of_head(rng, size_px)
    if height:
        wide = (1.0 - height * height) ** -0.5
        plane = replace(plane, p=plane.p * wide, q=plane.q * wide, rho=plane.rho * wide, soft=plane.soft * wide)
    side = 1.0 if rng.random() < 0.5 else -1.0
    # Drawn whatever the labels are, so that the anatomy after them is the same head with and without a finding.
    old, atrophy, hit, bump = rng.random(), subtlety(rng), rng.random(), 0.10 + 0.20 * subtlety(rng)
    wither = atrophy if old < 0.3 and not has["hydrocephalus"] else 0.0
    moved, swollen = stream(seed, index, 2), stream(seed, index, 3)
    # A lesion pushes the midline away from itself; without one, either way.
    push = -side * (0.06 + 0.13 * subtlety(moved)) if has["shift"] else 0.0
    bent = plane.p - (push + float(rng.normal(0.0, 0.012))) * np.clip(1.15 - plane.rho * plane.rho, 0.0, 1.0)
    swell = float(rng.uniform(0.65, 1.20)) + 0.9 * wither  # drawn whatever follows
    swell = 1.10 + 1.00 * subtlety(swollen) if has["hydrocephalus"] else swell
    brain, holes = _brain(rng, plane, bent, has["hydrocephalus"], wither), _ventricles(rng, plane, bent, swell, push)
    if has["infarct"]:
        brain = lesions.infarct(brain, plane, stream(seed, index, 4))
    brain = blend(brain, holes, FLUID - 0.02)
    brain = _specks(rng, brain, plane, bent)
    if has["mass"]:
        brain = lesions.mass(brain, plane, side, stream(seed, index, 5))
    if has["bleed"]:
        brain = lesions.bleed(brain, plane, holes, side, stream(seed, index, 6))
    broken = lesions.fracture(plane, side, stream(seed, index, 7)) if has["fracture"] else None
    image = _skull(rng, brain, plane, broken, bump if hit < (0.75 if has["fracture"] else 0.15) else 0.0)
    return _scan(stream(seed, index, 8 + grain), image, plane)


@dataclass(frozen=True)
class PhantomImages(Sequence[npt.NDArray[np.uint8]]):
    """Sequence of n slices, uint8 (size_px, size_px, 1); ValueError for a negative n or seed or a size under 32."""

    n: int
    seed: int = 0
    size_px: int = 96

    def __post_init__(self) -> None:
        if self.n < 0 or self.seed < 0 or self.size_px < 32:
            raise ValueError(
                f"phantom: got n={self.n}, seed={self.seed}, size_px={self.size_px}; expected n >= 0, seed >= 0 and "
                "size_px >= 32: smaller slices cannot show a fracture. Correct the settings."
            )

    def __len__(self) -> int:
        return self.n

    @overload
    def __getitem__(self, index: int) -> npt.NDArray[np.uint8]: ...
    @overload
    def __getitem__(self, index: slice) -> list[npt.NDArray[np.uint8]]: ...
    def __getitem__(self, index: int | slice) -> npt.NDArray[np.uint8] | list[npt.NDArray[np.uint8]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.n))]
        place = self._place(index)
        return draw(draw_labels(self.seed, place), self.seed, place, self.size_px)

    def _place(self, index: int) -> int:
        place = int(index) + self.n if index < 0 else int(index)
        if not 0 <= place < self.n:
            raise IndexError(f"phantom: image {index} asked for, but there are {self.n}")
        return place

    def labels(self, index: int) -> npt.NDArray[np.float32]:
        """Return the findings of one image, float32 (6,) in the order of FINDINGS, without drawing it."""
        return draw_labels(self.seed, self._place(index))

    def all_labels(self) -> npt.NDArray[np.float32]:
        """Return the findings of all images, float32 (n, 6)."""
        return np.array([draw_labels(self.seed, i) for i in range(self.n)], np.float32).reshape(self.n, len(FINDINGS))

    def key(self, index: int) -> str:
        """Return the name of one image's content: the same string means the same pixels, in any process."""
        return f"phantom/v{VERSION}/seed{self.seed}/size{self.size_px}/{self._place(index):07d}"
