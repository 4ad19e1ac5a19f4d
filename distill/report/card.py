"""The README of a student or teacher folder: what it is, what it reached, how to use it, its limits.

Owns: its words. Does not own: the figures in it, the folder's other files (outcome.py).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distill.networks.checkpoint import Calibration
from distill.networks.models import ModelSpec
from runtimes.images.spec import ImageSpec
from runtimes.text import code, markdown


def input_line(spec: ImageSpec) -> str:
    """What goes in: size, channels, depth, and of volumes how they are cut and scaled."""
    fit = {"squash": "", "crop": ", the middle of other shapes", "pad": ", black around other shapes"}[spec.fit]
    image = f"{spec.height}x{spec.width} pixels{fit}, {spec.channels} channel(s), {spec.dtype}{_windows(spec)}"
    if spec.volume is None:
        return image
    cut = spec.volume
    holes = "" if cut.fill is None else f"NaN as {cut.fill:g}, "
    scale = {"window": "intensities", "percentile": "percentiles of the volume", "values": ""}[cut.scaling]
    shown = f"{scale} {cut.window[0]:g} to {cut.window[1]:g} as black to white, " if scale else ""
    spacing = "" if cut.spacing_mm is None else f"voxels of {' x '.join(f'{side:g}' for side in cut.spacing_mm)} mm, "
    size = "" if cut.size is None else f"the middle {' x '.join(map(str, cut.size))} of them, "
    many = f"{cut.slices} {cut.axis} slices of a volume, all at once" if cut.solid else f"up to {cut.slices} {cut.axis} slices of a volume"
    return f"{many}, {spacing}{size}{holes}{shown}{image}"


def _windows(spec: ImageSpec) -> str:
    """The windows of physical values, in words; nothing for grey levels."""
    if not spec.physical:
        return ""
    shown = " and ".join(f"{low:g} to {high:g}" for low, high in spec.windows or (spec.window,))
    return f" values such as HU, shown from {shown}, a channel each" if spec.windows else f" values such as HU, shown from {shown}"


def model_card(spec: ModelSpec, image_spec: ImageSpec, metrics: dict[str, Any], *, synthetic: bool, teacher: dict[str, Any],
               settings: dict[str, Any], command: str, calibration: Calibration) -> str:
    """The card of a model as Markdown."""
    test = metrics["splits"]["test"]

    def cells(branch: str) -> Iterable[str]:
        for name in ("auroc", "balanced_accuracy", "accuracy", "brier", "ece"):
            interval = test[branch].get(name)
            yield f"{interval['value']:.3f} ({interval['low']:.3f} to {interval['high']:.3f})" if interval else "-"

    rows = "\n".join(f"| {branch} | {' | '.join(cells(branch))} |" for branch in ("student", "teacher", "probe") if branch in test)
    banner = "\n**The data is synthetic: a drawn phantom, not patients.**\n" if synthetic else ""
    few = "; ".join(f"{name}: {count}" for name, count in calibration.few_images.items())
    thresholds = f"- thresholds that rest on few validation images: {markdown(few)}\n" if few else ""
    export = f"rd-export --target onnx --student-dir {shlex.quote(Path(settings['out']).name)}"
    return f"""# {markdown(spec.arch)}, {metrics['task']}

Distilled from {markdown(str(teacher.get('teacher', 'no teacher')))} with method `{settings['method']}`.
Research tool, not a medical device.
{banner}
- classes: {', '.join(map(markdown, spec.classes))}
- input: {input_line(image_spec)}
- {metrics['params']:,} parameters, {metrics['macs']:,} multiply-accumulates{', pruned' if spec.cuts else ''}
- test images: {test['n']}
- probabilities: {markdown(calibration.describe())}
{thresholds}
| branch (test) | AUROC | balanced accuracy | accuracy | Brier | ECE |
|---|---|---|---|---|---|
{rows}

95 % bootstrap intervals. Teacher licence: {markdown(str(teacher.get('licence', 'none: no teacher')))}.

Made by: {code(command)}. Export: {code(export)}.
Load: {code(loader(spec))}.
"""


def loader(spec: ModelSpec) -> str:
    """How the folder is loaded in Python: by timm where timm has all of the network."""
    return ("distill.load_checkpoint(Path(\"FOLDER\")).model" if spec.beyond_timm else
            "timm.create_model(\"local-dir:FOLDER\", pretrained=True)")
