"""The settings of rd-export: one frozen dataclass that is command line, Python call and record.

Owns: ExportSettings, which only refuses; the groups that it is handed on as; what of it may ship: of what a user typed only numbers
and choices, for a folder's name may be a patient's. Does not own: the groups (options.py), reading flags and YAML
(runtimes/commands/flags.py), the work (commands.py).
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from export.options import Build, EngineOptions, Execution, Limits, Quantisation
from runtimes.artifact.targets import TARGETS, Precision, Target
from runtimes.backends.threads import check_threads
from runtimes.commands.flags import record
from runtimes.commands.settings import Expert
from runtimes.errors import USAGE, UserError

# What an artifact keeps of the settings it was made with: all but paths, which are kept as a word in brackets or not at all.
KEPT = ("target", "precision", "input", "input_size", "opset", "parity_images", "parity_pictures", "golden", "golden_images", "max_batch",
        "samples", "calibration", "calibration_images", "sensitivity", "max_flips", "max_auc_drop", "keep_slower", "keep_upcast", "gpu",
        "on_device", "device", "threads", "seed")
CHOICES = re.compile("|".join(TARGETS) + r"|executorch|auto|fp32|fp16|bf16|int8|image|images|tensor|synthetic|minmax|entropy|percentile"
                     r"|cpu|cuda|gpu|npu|sm\d{2,3}|\d{1,5}[xX]\d{1,5}|[\d.]{1,12}\s?%?")
OUT = re.compile(rf"artifact(-({'|'.join(TARGETS)}|fp32|fp16|bf16|int8))*")


@dataclass(frozen=True)
class ExportSettings:
    """Export a student, prove that it still takes the same decisions, measure it: student folder -> artifact folder."""

    target: tuple[Target, ...] = ("onnx",)
    """Runtimes of the device, one or several; each becomes an artifact folder of its own."""
    precision: Precision = "fp32"
    """Arithmetic of the graph; bf16 is OpenVINO's, on processors that have it."""
    student_dir: Path = Path("student")
    """Folder written by rd-distill, or an adapted teacher's by rd-adapt."""
    task: str | None = None
    """Which task of a teacher's folder (rd-info lists them); the newest when not given."""
    out: Path | None = None
    """Folder to write; artifact-<target>-<precision> when not given. With several targets, the folder such folders go into."""
    config: Path | None = None
    """YAML file of settings; flags win over it."""

    input: Literal["image", "tensor"] = "image"
    """image: raw pixels in, probabilities out; tensor: plain pixel_values -> logits, which Optimum loads."""
    input_size: str | None = None
    """Raw image size HxW, such as 512x640, to bake the resize into the graph; the model's own size when not given."""
    opset: Annotated[int, Expert] = 18
    """ONNX opset: 18 for the widest reach, 20 where GELU networks must be fast."""

    data: str | None = None
    """Where the student's images are now, if they have moved since training."""
    parity_images: Annotated[int, Expert] = 2000
    """Most validation images that take part in the parity check, evenly spaced; all of them where there are no more."""
    parity_pictures: int = 0
    """How many of the images that moved most are shown in parity.html, 0 to 20, with their labels: they are pictures of patients."""
    golden: Literal["synthetic", "images"] = "synthetic"
    """What the device replays: drawn patterns, which show no patient, or validation images, which then are part of what ships."""
    golden_images: Annotated[int, Expert] = 16
    """How many golden vectors the artifact keeps, 8 to 64."""
    max_batch: Annotated[int, Expert] = 8
    """Largest batch that the parity check tries, beside 1 and 2."""
    samples: Annotated[int, Expert] = 300
    """Timed calls behind latency.json."""

    calibration: Annotated[Literal["auto", "minmax", "entropy", "percentile"], Expert] = "auto"
    """How int8 ranges are found; auto: the one that changes probabilities least."""
    calibration_images: Annotated[int, Expert] = 200
    """Training images that int8 ranges are taken from."""
    sensitivity: Annotated[bool, Expert] = True
    """Leave the layers of an int8 graph that hurt most in float until it passes."""
    max_flips: str = "1%"
    """Share of validation images whose decision may change in a lower precision, such as 1% or 0.01."""
    max_auc_drop: float = 0.005
    """How far AUROC on validation may fall in a lower precision."""
    keep_slower: Annotated[bool, Expert] = False
    """Write an int8 artifact even where it is slower than fp32 on this machine."""
    keep_upcast: Annotated[bool, Expert] = False
    """Write an artifact even where this machine computes its precision in a higher one."""
    gpu: tuple[str, ...] = ()
    """TensorRT: compute capabilities to build engines for, such as sm86 sm89; RTX GPUs of the edge when not given."""
    on_device: bool = False
    """TensorRT: build with the tensorrt of this very device (Jetson, data centre) instead of ahead of time for RTX GPUs."""

    sign: Path | None = None
    """Sign the artifact with this Ed25519 key (PEM); the password of an encrypted one is read from RD_SIGN_PASSWORD."""
    device: str = "cpu"
    """Where the parity check and the timing run: cpu or cuda."""
    threads: int = 1
    """Threads of the runtime in the parity check and the timing."""
    seed: Annotated[int, Expert] = 0
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
        if not self.target or len(set(self.target)) < len(self.target):
            raise UserError(f"--target {' '.join(self.target) or '(nothing)'}: name each of {', '.join(TARGETS)} once at most", USAGE)
        for target in self.target:
            if self.precision not in TARGETS[target].precisions:
                others = ", ".join(name for name, row in TARGETS.items() if self.precision in row.precisions)
                raise UserError(f"--precision {self.precision} is not one of --target {target}, which takes "
                                f"{', '.join(TARGETS[target].precisions)}; targets that have it: {others}", USAGE)
        if not 0 <= self.max_auc_drop < 1:
            raise UserError(f"--max-auc-drop {self.max_auc_drop:g} must be from 0 to below 1, such as 0.005", USAGE)
        self.flip_share()
        for name in ("calibration_images", "parity_images", "max_batch", "samples"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)} must be 1 or more", USAGE)
        check_threads(self.threads)
        if not 0 <= self.parity_pictures <= 20:
            raise UserError(f"--parity-pictures {self.parity_pictures} must be between 0 and 20", USAGE)
        if not 8 <= self.golden_images <= 64:
            raise UserError(f"--golden-images {self.golden_images} must be between 8 and 64", USAGE)
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

    def flip_share(self) -> float:
        """--max-flips as a share from 0 to 1."""
        match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(%?)", self.max_flips.strip())
        share = float(match[1]) / (100 if match[2] else 1) if match else -1.0
        if not 0 <= share <= 1:
            raise UserError(f"--max-flips {self.max_flips} is not a share of images, such as 1% or 0.01", USAGE)
        return share

    def jobs(self) -> tuple[ExportSettings, ...]:
        """These settings once for every target, each with the folder it goes into."""
        name = [f"artifact-{target}-{self.precision}" for target in self.target]
        if len(self.target) == 1:
            return (replace(self, out=self.out or Path(name[0])),)
        root = self.out or Path()
        return tuple(replace(self, target=(target,), out=root / folder) for target, folder in zip(self.target, name, strict=True))

    @property
    def runtime(self) -> Target:
        """The target of a single job."""
        (target,) = self.target
        return target

    def folder(self) -> Path:
        """Where the artifact of a single job goes."""
        return self.out if self.out is not None else Path(f"artifact-{self.runtime}-{self.precision}")

    def build(self) -> Build:
        """What a single job makes."""
        return Build(self.runtime, self.precision, self.input, self.graph_size(), self.opset)

    def quantisation(self) -> Quantisation:
        """How int8 is looked for."""
        return Quantisation(self.calibration, self.calibration_images, self.sensitivity, self.limits())

    def limits(self) -> Limits:
        """What a lower precision may cost."""
        return Limits(self.flip_share(), self.max_auc_drop)

    def execution(self) -> Execution:
        """Where the parity check and the timing run."""
        return Execution(self.device, self.threads)

    def engine(self) -> EngineOptions:
        """How a TensorRT engine is built."""
        return EngineOptions(self.gpu, self.on_device, self.max_batch)

    def kept(self) -> dict[str, Any]:
        """What makes a single job's artifact, as its manifest keeps it: numbers and choices; of paths only that they were given."""
        values, usual = record(self), f"artifact-{self.runtime}-{self.precision}"
        return {"student_dir": "<student>", **({} if self.task is None else {"task": "<task>"}),
                "data": None if self.data is None else "<data>",
                "out": name if OUT.fullmatch(name := self.folder().name) else usual, **{key: _kept(key, values[key]) for key in KEPT}}

    def kept_command(self) -> str:
        """The command that makes such an artifact, from the settings that are kept: nothing of it was typed by a user."""
        usual = ExportSettings(target=self.target, precision=self.precision).kept()
        flags = [f"--target={self.runtime}", f"--precision={self.precision}"]
        for key, value in self.kept().items():
            flag = key.replace("_", "-")
            if value == usual.get(key):
                continue
            if isinstance(value, list):
                flags += [f"--{flag}", *value]
            else:
                flags.append(f"--{flag if value is not False else 'no-' + flag}" + ("" if isinstance(value, bool) else f"={value}"))
        return shlex.join(["rd-export", *flags])


def _kept(key: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_kept(key, part) for part in value]
    return value if not isinstance(value, str) or CHOICES.fullmatch(value) else f"<{key}>"
