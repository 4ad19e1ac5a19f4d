"""Programs that run one artifact, with its own shapes and classes filled in: Python, Node, a web page, C++.

Owns: the facts that listings are filled with. Does not own: the programs (listings/*.txt), which of them a target has (targets/), the
README around them (card.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.artifact.artifact import INPUT_NAMES, MASK, Artifact
from runtimes.backends.ov import HINTS
from runtimes.text import code, fenced, html_text, literal

ELEMENTS = {"uint8": "u8", "uint16": "u16", "int16": "i16"}
ARRAYS = {"uint8": "Uint8Array", "uint16": "Uint16Array", "int16": "Int16Array"}


def listings(artifact: Artifact, programs: Sequence[str]) -> str:
    """Markdown: the section on how to run an artifact, every program complete; programs: those of its target."""
    return "\n\n".join([
        f"Save these beside this folder, here called {code(_folder(artifact))}, not in it: with a file more it is refused as changed.",
        "Python with `runtimes` (numpy, Pillow and one runtime; no torch):", fenced_listing("runtimes.py.txt", artifact), *programs])


def listing(name: str, artifact: Artifact, *, web: bool = False) -> str:
    """One program, by the name of its template, filled in; web: whether a web page stands beside it, to point at."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    pages = Environment(loader=FileSystemLoader(Path(__file__).parent / "listings"), undefined=StrictUndefined, trim_blocks=True,
                        lstrip_blocks=True, autoescape=False)  # programs: names reach them as string literals
    pages.filters |= {"python": lambda text: literal(text, "python"), "javascript": lambda text: literal(text, "javascript"),
                      "cpp": lambda text: literal(text, "cpp"), "html_text": html_text}
    return str(pages.get_template(name).render(**_facts(artifact, web))).rstrip() + "\n"


def _folder(artifact: Artifact) -> str:
    """The folder's name in the listings: what it was written as, or would have been by default where that might name somebody."""
    return str(artifact.manifest["settings"]["out"])


def fenced_listing(name: str, artifact: Artifact, *, web: bool = False) -> str:
    """One program as a block of Markdown."""
    language = {"py": "python", "mjs": "javascript"}.get(kind := name.split(".")[1], kind)
    return fenced(listing(name, artifact, web=web), language)


def _facts(artifact: Artifact, web: bool) -> dict[str, Any]:
    """What the templates know of an artifact."""
    spec, tensor = artifact.image_spec, artifact.input_kind == "tensor"
    height, width = (spec.height, spec.width) if tensor else artifact.graph_size
    solid = spec.volume is not None and spec.volume.solid
    raw = "slices.raw" if spec.masked else "volume.raw" if solid else "image.raw"
    what = f"the {'values' if spec.physical else 'pixels'} of one image, {height} rows of {width} x {spec.channels} {spec.dtype}"
    if spec.volume is not None:
        what = (f"{spec.slices if solid else f'1 to {spec.slices}'} slices of {height} rows of {width} x {spec.channels} {spec.dtype}, "
                "scaled and resized as in training")
    shape = (*([spec.slices] if solid else []), height, width, spec.channels)
    other = "" if artifact.baked or spec.volume is not None else (
        f"\n// An image of another size has to be brought to {height}x{width} first: antialiased bilinear"
        f"{', as the web page does' if web else ''}.")
    low, high = map(float, spec.window)
    facts = artifact.manifest["artifact"]
    return {
        "folder": _folder(artifact), "model": artifact.model, "onnx": artifact.row.origin or artifact.model, "student": facts["student"],
        "synthetic": facts["synthetic"],
        "inputs": list(artifact.input_names), "input": INPUT_NAMES[artifact.input_kind], "mask": MASK, "tensor": tensor,
        "volume": spec.masked, "solid": solid, "values": spec.physical, "shape": ", ".join(map(str, shape)),
        "array": ARRAYS[spec.dtype], "baked": artifact.baked, "answer": "logits" if tensor else "probabilities",
        "height": height, "width": width, "channels": spec.channels, "slices": spec.slices, "dtype": spec.dtype,
        "bytes": prod(shape) * np.dtype(spec.dtype).itemsize, "low": low, "high": high,
        "scale": 255 / (high - low), "mean": list(map(float, spec.mean)), "std": list(map(float, spec.std)),
        "classes": list(artifact.classes),
        "multilabel": artifact.task == "multilabel", "thresholds": [] if tensor else list(artifact.thresholds),
        "temperatures": list(artifact.temperatures), "hint": HINTS[artifact.precision],
        "element": "f32" if tensor else ELEMENTS[spec.dtype], "raw": raw,
        "raw_told": f"{raw}: {what}, nothing else{', little-endian' if spec.dtype != 'uint8' else ''}.{other}",
    }
