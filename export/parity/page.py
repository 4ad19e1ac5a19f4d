"""parity.html: the figures of parity.json on one self-contained page, and the images that moved most as the network sees them.

Owns: what the page shows, pictures of network inputs. Does not own: any figure (parity.py), looks (templates/parity.html). No
script, nothing from outside, no clock: the same export gives the same bytes.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.parity.answers import Image, device_image, graph_inputs
from runtimes.artifact.artifact import Artifact
from runtimes.text import shown

MOST_PIXELS = 192  # a side of a picture; larger ones are shrunk, smaller ones are left as they are
MOST_CLASSES = 4
MOST_SLICES = 6


def parity_page(proof: dict[str, Any], artifact: Artifact, pictures: Sequence[str], *, student: str, synthetic: bool) -> str:
    """The page as text; pictures: data addresses for the first of proof["worst"], the others are shown in figures alone."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    page = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined,
                       trim_blocks=True, lstrip_blocks=True, finalize=shown)
    cases = [_case(case, artifact, pictures[place] if place < len(pictures) else "") for place, case in enumerate(proof["worst"])]
    return page.get_template("parity.html").render(
        title=f"{student} for {artifact.target}, {artifact.precision}", p={"executed_share": {}, **proof}, cases=cases,
        pictured=len(pictures), labelled=any("label" in case for case in proof["worst"]), synthetic=synthetic, task=artifact.task,
        classes=artifact.classes, model=artifact.model, sha256=artifact.model_sha256) + "\n"


def pictures_of(proof: dict[str, Any], images: Sequence[Image], artifact: Artifact, most: int) -> list[str]:
    """Data addresses of the first `most` of proof["worst"] as the network sees them; images: those that parity was asked about."""
    return [picture(graph_inputs(device_image(images[case["image"]], artifact)[1], artifact), artifact) for case in proof["worst"][:most]]


def picture(inputs: tuple[NDArray[np.float32], ...], artifact: Artifact) -> str:
    """A PNG data address of a network input: pixels (3, h, w), or of a volume (S, 3, h, w) some of its slices side by side."""
    from PIL import Image as Pillow

    spec, pixels = artifact.image_spec, inputs[0]
    if pixels.ndim == 4:
        there = np.flatnonzero(inputs[1])
        chosen = there[np.unique(np.linspace(0, len(there) - 1, MOST_SLICES).astype(int))]
        pixels = np.concatenate(list(pixels[chosen]), axis=2)
    unit = np.moveaxis(pixels, 0, -1) * np.asarray(spec.std, np.float32) + np.asarray(spec.mean, np.float32)
    levels = np.clip(np.rint(unit * 255), 0, 255).astype(np.uint8)
    drawn = Pillow.fromarray(np.ascontiguousarray(levels[..., 0] if spec.channels == 1 else levels))
    drawn.thumbnail((MOST_PIXELS * (MOST_SLICES if inputs[0].ndim == 4 else 1), MOST_PIXELS))
    stream = io.BytesIO()
    drawn.save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _case(case: dict[str, Any], artifact: Artifact, shown: str) -> dict[str, Any]:
    """One of the worst images, its classes in the order in which they moved."""
    rows = [(name, there, here, None if here is None else here - there) for name, there, here in
            zip(artifact.classes, case["pytorch"]["probabilities"], case["artifact"]["probabilities"], strict=True)]
    rows.sort(key=lambda row: (-np.inf if row[3] is None else -abs(row[3]), -row[1]))
    there, here = case["pytorch"]["decision"], case["artifact"]["decision"]
    return {"picture": shown, "image": case["image"], "batch": case["batch"], "label": _listed(case.get("label")),
            "there": _listed(there), "here": _listed(here), "flipped": there != here, "change": case["probability_difference"],
            "rows": rows[:MOST_CLASSES]}


def _listed(names: list[str] | None) -> str:
    return "not known" if names is None else ", ".join(names) or "none"
