"""Pictures as SVG text, drawn by plain Python: scales, axes, points, steps. Colours are CSS variables of the page around them.

Owns: Scale, `chart` and the marks in it. Does not own: what is drawn (page.py), colours (its style).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from runtimes.text import html_text

WIDTH, HEIGHT = 460, 330
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 46
MARKS = {"fp32": "circle", "fp16": "square", "bf16": "diamond", "int8": "triangle", "teacher": "star"}


@dataclass(frozen=True)
class Scale:
    """From values to a length of the picture, straight or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Where a value stands; what lies outside stands on the edge."""
        value = min(max(value, self.low), self.high)
        part = (math.log(value / self.low) / math.log(self.high / self.low) if self.log else (value - self.low) / (self.high - self.low))
        return self.start + part * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values along the scale, four to eight of them."""
        if not self.log or self.high / self.low < 6:  # so short a piece of a logarithmic scale is nearly straight
            step = _round_step((self.high - self.low) / 5)
            first = math.ceil(self.low / step - 1e-9)
            return [round(place * step, 10) for place in range(first, math.floor(self.high / step + 1e-9) + 1)]
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
            ticks = [digit * 10.0**power for power in powers for digit in digits if self.low <= digit * 10.0**power <= self.high]
            if len(ticks) >= 4:
                return ticks
        return ticks


def horizontal(values: Sequence[float], *, log: bool = True) -> Scale:
    """The scale of a picture's width that holds all values with a little room."""
    low, high = min(values), max(values)
    return Scale(low / 1.15, high * 1.15, LEFT, WIDTH - RIGHT, True) if log else Scale(low, high, LEFT, WIDTH - RIGHT)


def vertical(low: float, high: float) -> Scale:
    """The scale of a picture's height."""
    return Scale(low, high, HEIGHT - BOTTOM, TOP)


def chart(x: Scale, y: Scale, body: Sequence[str], *, x_label: str, y_label: str, title: str) -> str:
    """Axes, grid, labels and what is drawn between them as one <svg>."""
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html_text(title)}">']
    for value in y.ticks():
        place = y.at(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place:.1f}" y2="{place:.1f}"/>'
                     f'<text class="tick" x="{LEFT - 7}" y="{place + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in x.ticks():
        place = x.at(value)
        parts.append(f'<line class="grid" x1="{place:.1f}" x2="{place:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
                     f'<text class="tick" x="{place:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:g}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text class="label" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{html_text(x_label)}</text>'
                 f'<text class="label" x="13" y="{middle}" text-anchor="middle" transform="rotate(-90 13 {middle})">'
                 f"{html_text(y_label)}</text>")
    return "".join([*parts, *body, "</svg>"])


def mark(kind: str, x: float, y: float, colour: str, title: str, *, hollow: bool = False, size: float = 6) -> str:
    """One point, with words for who hovers or listens."""
    shape = MARKS.get(kind, "circle")
    fill = f'style="fill:{"var(--card)" if hollow else colour};stroke:{colour}" class="mark"'
    if shape == "circle":
        drawn = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" {fill}>'
    else:
        corners = " ".join(f"{x + size * dx:.1f},{y + size * dy:.1f}" for dx, dy in _corners(shape))
        drawn = f'<polygon points="{corners}" {fill}>'
    return f"{drawn}<title>{html_text(title)}</title></{'circle' if shape == 'circle' else 'polygon'}>"


def line(points: Sequence[tuple[float, float]], colour: str, *, dashes: str = "", title: str = "", width: float = 2) -> str:
    """A line through points of the picture."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashed = f'stroke-dasharray="{dashes}" ' if dashes else ""
    return (f'<polyline points="{path}" {dashed}style="fill:none;stroke:{colour};stroke-width:{width}">'
            f"<title>{html_text(title)}</title></polyline>")


def words(x: float, y: float, text: str, *, anchor: str = "start", colour: str = "var(--muted)") -> str:
    """Text inside a picture."""
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="fill:{colour}">{html_text(text)}</text>'


def sample(kind: str, colour: str, *, hollow: bool = False) -> str:
    """A mark for a legend."""
    return f'<svg class="key" viewBox="0 0 16 16" aria-hidden="true">{mark(kind, 8, 8, colour, "", hollow=hollow)}</svg>'


def stroke_sample(colour: str, dashes: str = "") -> str:
    """A piece of a line for a legend."""
    return f'<svg class="key wide" viewBox="0 0 28 16" aria-hidden="true">{line([(1, 8), (27, 8)], colour, dashes=dashes)}</svg>'


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(digit * power for digit in (1, 2, 2.5, 5, 10) if digit * power >= rough - 1e-12)


def _corners(shape: str) -> list[tuple[float, float]]:
    if shape == "square":
        return [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]
    if shape == "diamond":
        return [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)]
    if shape == "triangle":
        return [(0, -1.2), (1.15, 0.9), (-1.15, 0.9)]
    return [(radius * math.sin(turn * math.pi / 5), -radius * math.cos(turn * math.pi / 5))
            for turn, radius in ((turn, 1.5 if turn % 2 == 0 else 0.65) for turn in range(10))]
