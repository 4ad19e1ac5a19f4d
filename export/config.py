"""The settings of rd-export: one frozen dataclass that is command line, Python call and record.

Owns: ExportSettings, which only refuses. Does not own: reading flags and YAML (distill/flags.py), the work (commands.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runtimes.errors import USAGE, UserError


@dataclass(frozen=True)
class ExportSettings:
    """Export a student, prove that it still takes the same decisions, measure it: student folder -> artifact folder."""

    target: Literal["onnx", "openvino", "trt"] = "onnx"
    """Runtime of the device."""
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    """Arithmetic of the graph."""
    student_dir: Path = Path("student")
    """Folder written by rd-distill."""
    out: Path | None = None
    """Folder to write; artifact-<target>-<precision> when not given."""
    config: Path | None = None
    """YAML file of settings; flags win over it."""

    input: Literal["image", "tensor"] = "image"
    """image: raw pixels in, probabilities out; tensor: plain pixel_values -> logits, which Optimum loads."""
    input_size: str | None = None
    """Raw image size HxW, such as 512x640, to bake the resize into the graph; the model's own size when not given."""
    opset: int = 18
    """ONNX opset: 18 for the widest reach, 20 where GELU networks must be fast."""

    data: str | None = None
    """Where the student's images are now, if they have moved since training."""
    parity_images: int = 256
    """Most validation images that take part in the parity check."""
    golden_images: int = 16
    """Validation images kept in the artifact as golden vectors, 8 to 32; they are part of what ships."""
    max_batch: int = 8
    """Largest batch that the parity check tries, beside 1 and 2."""
    samples: int = 300
    """Timed calls behind latency.json."""

    device: str = "cpu"
    """Where the parity check and the timing run: cpu or cuda."""
    threads: int = 1
    """Threads of the runtime in the parity check and the timing."""
    seed: int = 0
    """Seed of random numbers, for runs that are repeated."""
    overwrite: bool = False
    """Replace --out when it is not empty."""
    resume: bool = False
    """Keep --out when it is the finished artifact of this student and these settings; else export anew."""

    def __post_init__(self) -> None:
        if self.overwrite and self.resume:
            raise UserError("--overwrite and --resume contradict each other; give one", USAGE)
        if self.opset not in (18, 19, 20):
            raise UserError(f"--opset {self.opset} is not supported; expected 18, 19 or 20", USAGE)
        for name in ("parity_images", "max_batch", "samples", "threads"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)} must be 1 or more", USAGE)
        if not 8 <= self.golden_images <= 32:
            raise UserError(f"--golden-images {self.golden_images} must be between 8 and 32", USAGE)
        if self.input_size is not None and self.input == "tensor":
            raise UserError("--input-size bakes the resize into an image graph; --input tensor has none: give one of them", USAGE)
        self.graph_size()

    def graph_size(self) -> tuple[int, int] | None:
        """--input-size as (height, width), or None for the model's own."""
        if self.input_size is None:
            return None
        match = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", self.input_size)
        if match is None:
            raise UserError(f"--input-size {self.input_size} is not HEIGHTxWIDTH in pixels, such as 512x640", USAGE)
        height, width = int(match[1]), int(match[2])
        if min(height, width) < 8 or max(height, width) > 4096:
            raise UserError(f"--input-size {self.input_size} must be 8 to 4096 pixels a side", USAGE)
        return height, width

    def folder(self) -> Path:
        """Where the artifact goes."""
        return self.out if self.out is not None else Path(f"artifact-{self.target}-{self.precision}")
