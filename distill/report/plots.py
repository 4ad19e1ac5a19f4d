"""The report's pictures as inline SVG: training curves, ROC, reliability.

Owns: drawing with matplotlib and making the SVG fit a page: colours become CSS variables (so one picture reads in light
and dark), fonts come from the page, no date, no outside reference, the same input gives the same bytes. Does not own:
numbers worth printing (evaluate.py) or the page (report.py). Class names never enter a picture, only the page.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Drawn colour -> CSS variable of the page. The drawn values are marks to find again, never seen.
_MARKS = {
    "ink": "#0a0b01", "muted": "#0a0b02", "line": "#0a0b03", "student": "#0a0b04", "teacher": "#0a0b05",
    "probe": "#0a0b06", "plum": "#0a0b07", "rose": "#0a0b08", "gold": "#0a0b09",
}  # fmt: skip
_OTHERS = ("plum", "gold", "rose", "probe", "muted")
_ROC_POINTS = 200  # a curve of 100,000 images looks the same with this many and weighs 500 times less


@dataclass(frozen=True)
class Plot:
    """One picture: its SVG and its legend, (name, CSS colour variable, dashed) each."""

    svg: str
    legend: tuple[tuple[str, str, bool], ...] = ()


def training(history: Sequence[dict[str, Any]]) -> list[tuple[str, Plot]]:
    """Named pictures of the columns of summary.csv that are there: losses, validation AUROC, learning rate."""
    columns = dict.fromkeys(key for row in history for key in row)
    values = {key: np.asarray([_number(row.get(key)) for row in history]) for key in columns}
    values = {key: column for key, column in values.items() if np.isfinite(column).any()}
    epochs = values.get("epoch", np.arange(1, len(history) + 1, dtype=np.float64))
    losses = sorted((key for key in values if "loss" in key), key=lambda key: key != "train_loss")
    scores = sorted(key for key in values if key.startswith("val_auroc"))
    plots = []
    for name, keys, prefix in (
        ("Loss", losses, "train_loss"),
        ("AUROC on validation", scores, "val_auroc"),
        ("Learning rate", [key for key in values if key == "lr"], ""),
    ):
        if not keys:
            continue
        series = {(key.removeprefix(prefix).replace("_", " ").strip() or "total"): values[key] for key in keys}
        plots.append((name, _curves(epochs, series, f"{name.lower()} over epochs")))
    return plots


def roc(
    student: tuple[Array, Array],
    teacher: tuple[Array, Array] | None,
    decision: tuple[float, float] | None,
    inches: float,
    description: str,
) -> Plot:
    """ROC of (false, true positive rate) pairs: student solid, teacher dashed, a dot where the decision is taken."""

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=_MARKS["line"], linewidth=0.8)
        if teacher is not None:
            axes.plot(*_thinned(teacher), color=_MARKS["teacher"], linewidth=1.2, linestyle="--")
        axes.plot(*_thinned(student), color=_MARKS["student"], linewidth=1.8)
        if decision is not None:
            axes.plot(*decision, color=_MARKS["student"], marker="o", markersize=5)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1), aspect="equal")

    return Plot(_svg(draw, (inches, inches), description))


def reliability(before: Array | None, after: Array, share: Array, description: str) -> Plot:
    """Observed frequency against confidence, bins (K, 2) before and after; share (15,) of decisions per bin."""

    def draw(axes: Any) -> None:
        axes.bar((np.arange(len(share)) + 0.5) / len(share), share, width=0.8 / len(share), color=_MARKS["line"])
        axes.plot([0, 1], [0, 1], color=_MARKS["muted"], linewidth=0.8)
        if before is not None:
            axes.plot(before[:, 0], before[:, 1], color=_MARKS["teacher"], linestyle="--", marker="s", markersize=3.5)
        axes.plot(after[:, 0], after[:, 1], color=_MARKS["student"], marker="o", markersize=4, linewidth=1.8)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence", ylabel="observed")

    legend = [("observed" if before is None else "after", "student", False), ("share of decisions", "line", False)]
    if before is not None:
        legend.insert(1, ("before", "teacher", True))
    return Plot(_svg(draw, (3.9, 3.0), description), tuple(legend))


@dataclass(frozen=True)
class Point:
    """A candidate in a picture of score against cost."""

    x: float
    y: float
    name: str
    chosen: bool = False


def front(points: Sequence[Point], untried: Sequence[float], cost: str, score: str) -> Plot:
    """Scores over costs with the Pareto front as a stair, the one taken filled; ticks at the foot for what has a cost alone."""
    best = [point for point in points if not any(other.x <= point.x and other.y > point.y for other in points)]
    stair = sorted(best, key=lambda point: (point.x, point.y))

    def draw(axes: Any) -> None:
        axes.step([point.x for point in stair], [point.y for point in stair], where="post", color=_MARKS["line"], linewidth=1.2)
        for point in points:
            axes.plot(point.x, point.y, color=_MARKS["student"], marker="o", markersize=7 if point.chosen else 5,
                      markerfacecolor=_MARKS["student"] if point.chosen else "none")
            axes.annotate(point.name, (point.x, point.y), xytext=(0, 7), textcoords="offset points", fontsize=7, ha="center",
                          color=_MARKS["ink" if point.chosen else "muted"], annotation_clip=False)
        low, high = min(point.y for point in points), max(point.y for point in points)
        floor = low - max(high - low, 0.01) * 0.25
        axes.plot(list(untried), [floor] * len(untried), color=_MARKS["muted"], marker="|", linestyle="", markersize=7)
        axes.set(xlabel=cost, ylabel=score, ylim=(floor - max(high - low, 0.01) * 0.1, high + max(high - low, 0.01) * 0.25))
        axes.margins(x=0.12)

    return Plot(_svg(draw, (6.4, 3.6), "students by cost and score"))


def _curves(x: Array, series: dict[str, Array], description: str) -> Plot:
    """Lines over epochs x (E,), each (E,), nan where not measured; the first is drawn heavier, the teacher's dashed."""
    colours = _colours(list(series))
    legend = [(name, colour, colour == "teacher") for name, colour in zip(series, colours, strict=True)]

    def draw(axes: Any) -> None:
        for index, (_, colour, dashed) in enumerate(legend):
            values = series[legend[index][0]]
            finite = np.isfinite(values) & np.isfinite(x)
            axes.plot(
                x[finite], values[finite], color=_MARKS[colour], linewidth=1.8 if index == 0 else 1.2,
                linestyle="--" if dashed else "-", marker="o" if finite.sum() <= 12 else None, markersize=3.5,
            )  # fmt: skip
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if len(x) == 1:
            axes.set(xticks=x, xlim=(x[0] - 0.5, x[0] + 0.5))
        axes.margins(x=0.03, y=0.08)

    return Plot(_svg(draw, (3.9, 2.5), description), tuple(legend))


def _colours(names: list[str]) -> list[str]:
    """A colour for each series: student and teacher keep theirs on the whole page, the first of several is ink."""
    colours: list[str] = []
    others = 0
    for name in names:
        own = [model for model in ("student", "teacher", "probe") if model in name.split()]
        if own and own[0] not in colours:
            colours.append(own[0])
        elif not colours and len(names) > 1:
            colours.append("ink")
        else:
            colours.append("student" if len(names) == 1 else _OTHERS[others % len(_OTHERS)])
            others += 1
    return colours


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):  # an empty cell of summary.csv: not measured in this epoch
        return float("nan")


def _thinned(curve: tuple[Array, Array]) -> tuple[Array, Array]:
    fpr, tpr = curve
    if len(fpr) <= _ROC_POINTS:
        return curve
    places = np.unique(np.linspace(0, len(fpr) - 1, _ROC_POINTS).round().astype(int))
    return fpr[places], tpr[places]


def _svg(draw: Callable[[Any], None], inches: tuple[float, float], description: str) -> str:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.hashsalt": description, "svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": 9,
        "axes.edgecolor": _MARKS["line"], "axes.labelcolor": _MARKS["muted"], "axes.linewidth": 0.8,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
        "grid.color": _MARKS["line"], "grid.linewidth": 0.4,
        "xtick.color": _MARKS["line"], "ytick.color": _MARKS["line"],
        "xtick.labelcolor": _MARKS["muted"], "ytick.labelcolor": _MARKS["muted"], "text.parse_math": False,
        "path.simplify": True, "axes.unicode_minus": False,
    }  # fmt: skip
    with rc_context(style):
        figure = Figure(figsize=inches, layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        draw(axes)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _inline(stream.getvalue(), description)


def _inline(text: str, description: str) -> str:
    """An SVG file made part of a page: no prologue, no unused or clashing ids, page fonts and page colours."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    view = re.search(r'viewBox="([^"]+)"', text)
    if view is None:
        raise ValueError("matplotlib wrote an SVG without viewBox")
    label = html.escape(description)
    text = f'<svg viewBox="{view[1]}" role="img" aria-label="{label}">' + text[text.index(">") + 1 :]
    text = text.replace("xlink:href", "href")
    prefix = re.sub(r"[^a-z0-9]+", "-", description.lower())
    used = set(re.findall(r"#([A-Za-z][\w-]*)", text))
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'(href="|url\()#', rf"\g<1>#{prefix}-", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    for name, mark in _MARKS.items():
        text = text.replace(mark, f"var(--{name})")
    return re.sub(r"\s+", " ", re.sub(r">\s+<", "><", text)).strip()
