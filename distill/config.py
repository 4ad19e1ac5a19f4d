"""The settings of rd-distill: one frozen dataclass that is command line, Python call and record.

Owns: DistillSettings and the range of each setting. Does not own: which contradict each other (contradictions.py), reading them
(flags.py), what a setting does.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distill.contradictions import refuse_contradictions
from runtimes.errors import USAGE, UserError
from runtimes.threads import check_threads
from runtimes.volumes import MAX_FILL


@dataclass(frozen=True)
class DistillSettings:
    """Distil a frozen teacher into a small student: data + teacher -> a student folder."""

    student: str = "mobilenetv3"
    """Short name (mobilenetv3, mobilenetv3-small, efficientnet-lite0, resnet18, ...), any timm name, or auto: the best within a budget."""
    data: str = "phantom"
    """Folder of class folders, CSV file, MedMNIST .npz or name, NIfTI volumes in these, or phantom, phantom-volumes (synthetic)."""
    teacher: str = "efficientnet-lite0"
    """timm or short name, folder of rd-distill or rd-adapt, .pt2 file, hf:ID, or bank:FOLDER."""
    method: Literal["rd", "drd", "kd", "dkd", "dist", "fitnet", "rkd", "crd", "at", "vanilla", "auto"] = "rd"
    """rd: Reprogramming Distillation, drd: stages too; kd, dkd, dist teach logits, fitnet, rkd, crd features, at maps; auto: by trial."""
    out: Path = Path("student")
    """Folder to write."""
    config: Path | None = None
    """YAML file of settings; flags win over it."""

    task: Literal["binary", "multiclass", "multilabel", "ordinal"] | None = None
    """Read off the labels when not given."""
    label: str | None = None
    """CSV column that holds the label."""
    uncertain: Literal["unknown", "positive", "negative"] = "unknown"
    """What -1 (uncertain) beside 0 and 1 means in a CSV, as CheXpert writes it."""
    unlabelled: Path | None = None
    """Folder of further training images without labels."""
    skip_bad_images: bool = False
    """Train without files that cannot be used, and count them in the result."""
    split_seed: int = 0
    """Seed of the split when the data brings none."""
    keep_together: Literal["near", "group", "none"] = "near"
    """What a split that is made here keeps on one side: near: patients and near copies; group: patients; none: neither."""
    phantom_images: tuple[int, int, int] | None = None
    """Synthetic images for training, validation, test; 1200 200 400, or of phantom-volumes 240 60 120, when not given."""
    phantom_size: int = 96
    """Side of a synthetic image in pixels."""
    slices: int | None = None
    """Most slices of a volume that a network sees, evenly spread; the thickest volume's, up to 32, when not given."""
    axis: Literal["axial", "coronal", "sagittal"] = "axial"
    """How volumes are cut into slices."""
    volume_window: tuple[float, float] | None = None
    """Intensities shown as black and white; each volume's own percentiles 0.5 and 99.5 when not given."""
    volume_fill: float | None = None
    """Intensity that stands for NaN in volumes; when not given, NaN is refused."""
    slice_pooling: Literal["attention", "mean"] = "attention"
    """How the features of slices become one of the volume."""

    size: int | None = None
    """Student input side in pixels; by default the images' own, rounded to 32 and kept within 64 to 128."""
    student_weights: str | None = None
    """Start from `pretrained` or from a .safetensors or .pth file; random when not given."""

    max_params: str | None = None
    """Most parameters of the student, such as 0.5M: a larger one is pruned until it fits."""
    max_macs: str | None = None
    """Most multiply-accumulates of an input, such as 30M."""
    max_latency_ms: float | None = None
    """Most milliseconds of an input (p90), measured on this machine on the exported, untrained student."""
    latency_target: Literal["onnx", "openvino"] = "onnx"
    """Runtime that --max-latency-ms is about."""
    latency_threads: int = 1
    """Threads of that runtime."""
    latency_table: Path | None = None
    """Latencies of another device, by rd-bench --save-table: --max-latency-ms is then about that device; nothing is timed here."""
    importance: Literal["auto", "magnitude", "taylor", "bn-scale"] = "auto"
    """What pruning keeps: large weights, weights whose loss would hurt, channels of large scales; auto: taylor with --student-weights."""
    prune_scope: Literal["layer", "network"] = "layer"
    """layer: every layer loses the same share; network: channels are ranked over all layers, and some may lose nearly all."""
    prune_unit: int = 8
    """Channels are kept in multiples of this, as the target's kernels like them."""
    prune_rounds: int | None = None
    """Prune in this many rounds, training a little between them; when not given one, or with --student-weights one for every halving."""
    prune_steps: int = 200
    """Steps of training between two rounds of pruning."""

    adapt: Literal["none", "lora", "moe", "molre", "spectral"] = "none"
    """Adapt the teacher first, as rd-adapt does, into <out>-teacher."""
    teacher_size: int | None = None
    """Teacher input side in pixels; the teacher's own when not given."""
    teacher_weights: str | None = None
    """Weights file of a timm teacher, or `random` (for trials only)."""
    teacher_adapter: Path | None = None
    """PEFT folder (LoRA) to merge into the teacher, such as rd-adapt --peft writes; it must fit the teacher's weights."""
    second_teacher: str | None = None
    """A further teacher, named as --teacher is: its features are banked behind the first one's, at no cost for the student."""
    bank: Path | None = None
    """Folder of the feature bank; by default one named after teacher and images below `banks`."""
    bank_views: int = 8
    """Views an image beside the clean one."""
    bank_seed: int = 0
    """Seed of the banked views."""
    bank_grid: int = 0
    """Also bank the teacher's stages, pooled to a grid of this side; 0 banks pooled features alone, or 8 x 8 for drd and at."""
    bank_runtime: Literal["auto", "torch", "onnx"] = "auto"
    """What runs the teacher; auto takes ONNX Runtime on a CPU when the teacher exports, and says which it took."""
    audit: float = 0.01
    """Share of the bank recomputed live in PyTorch (cosine at least 0.999); 0 skips it."""
    views: Literal["fresh", "tied"] = "fresh"
    """fresh: the student draws its own augmentation; tied: it sees exactly the banked view."""
    flip: bool = True
    """Mirror images left to right in views; switch off where sides matter."""

    epochs: int = 40
    """Turns through the training images."""
    min_steps: int = 1200
    """Fewest steps of a run: small data sets are turned through more often."""
    batch: int = 32
    """Images a step."""
    labelled_batch: int = 16
    """Labelled images a step, on top of `batch`, when unlabelled images are there."""
    lr: float | None = None
    """Peak learning rate of the student and the shared classifier; 5e-3, or 2e-3 with --student-weights, when not given."""
    weight_decay: float = 0.02
    """AdamW weight decay of the student."""
    warmup: float = 0.1
    """Share of the steps that warm up."""
    phi_lr: float = 0.1
    """Learning rate of the reprogramming module, as a factor of --lr."""
    phi_weight_decay: float = 0.05
    """AdamW weight decay of the reprogramming module."""
    phi_width: int = 128
    """Inner width of the reprogramming module."""
    phi_dropout: float = 0.5
    """Dropout in the reprogramming module."""
    stages: int = 3
    """Stages of drd and at, the pooled features being the last."""
    auto_folds: int = 3
    """Folds of the training images on which --method auto tries rd, drd, fitnet, kd and vanilla; --student auto uses the first."""
    auto_steps: int = 400
    """Steps of each training of --method auto."""
    auto_students: int = 8
    """Networks that --student auto tries, of all that fit the budget."""
    proxy_steps: int = 150
    """Steps of each training of --student auto."""
    classifier: Literal["shared", "own"] = "shared"
    """own: the teacher branch of rd gets a classifier of its own, to see what sharing is worth."""
    kd_weight: float = 1.0
    """Weight of the logit distillation."""
    cka_weight: float = 1.0
    """Weight of 1 - CKA; 0 switches it off."""
    teacher_weight: float = 1.0
    """Weight of the task loss on the teacher branch."""
    hint_weight: float = 1.0
    """Weight of the feature loss of fitnet, rkd, crd and at."""
    cka: Literal["debiased", "biased"] = "debiased"
    """Estimator of the CKA in the loss; the reported CKA is always debiased."""
    cka_against: Literal["reprogrammed", "teacher"] = "reprogrammed"
    """teacher: rd's CKA compares the student with the teacher's own features, to see what reprogramming them is worth."""
    kd_from: Literal["auto", "branch", "probe"] = "auto"
    """Whose logits rd and drd distil: branch: of the teacher branch, which learns beside the student, as published; probe: of the
    linear probe, fitted before; auto: of the probe for rd of images that all carry a label, else of the branch."""
    temperature: float = 4.0
    """Temperature of the logit distillation."""
    decay: Literal["auto", "none", "linear"] = "auto"
    """linear: kd and teacher-branch weights fall to zero during training; auto: for drd, as published."""
    focal_gamma: float = 2.0
    """Focusing of the multi-label loss; 0 is plain cross-entropy."""
    ema: float = 0.0
    """Decay of a moving average of the weights, such as 0.999; 0 switches it off."""
    select: Literal["last", "best"] = "last"
    """Keep the last epoch, or the best on validation."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of training."""

    bootstrap: int = 1000
    """Resamples behind a confidence interval."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto: a GPU when there is one, and said."""
    threads: int | None = None
    """CPU threads; the machine's own choice when not given."""
    seed: int = 0
    """Seed of weights, order and augmentation."""
    overwrite: bool = False
    """Replace --out when it is not empty, and drop an interrupted run."""
    resume: bool = False
    """Go on with an interrupted run of the same settings."""

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"--{name.replace('_', '-')} {value} must be a finite number", USAGE)
        positive = ("epochs", "batch", "labelled_batch", "lr", "temperature", "phi_width", "latency_threads", "prune_unit",
                    "prune_rounds", "prune_steps", "auto_steps", "auto_students", "proxy_steps")
        for name in positive:
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)} must be above 0", USAGE)
        for name in ("bank_views", "bank_grid", "min_steps", "weight_decay", "phi_lr", "kd_weight", "cka_weight", "teacher_weight",
                     "hint_weight", "focal_gamma", "bootstrap", "seed", "bank_seed", "split_seed"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)} must not be negative", USAGE)
        for name in ("seed", "bank_seed", "split_seed"):
            if getattr(self, name) >= 2**32:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)} must be below 2**32", USAGE)
        if self.max_latency_ms is not None and self.max_latency_ms <= 0:
            raise UserError(f"--max-latency-ms {self.max_latency_ms} must be above 0", USAGE)
        if self.batch < 2:
            raise UserError(f"--batch {self.batch} must be 2 or more: batch normalisation compares the images of a step", USAGE)
        check_threads(self.threads)
        if self.latency_table is None:  # a table's device may have more cores
            check_threads(self.latency_threads, "--latency-threads")
        for name in ("audit", "warmup", "phi_dropout", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)} must be at least 0 and below 1", USAGE)
        if self.slices is not None and not 1 <= self.slices <= 512:
            raise UserError(f"--slices {self.slices} must be between 1 and 512", USAGE)
        if self.volume_window is not None and not self.volume_window[0] < self.volume_window[1]:
            raise UserError(f"--volume-window {self.volume_window} is empty; give the lower intensity first", USAGE)
        if self.volume_fill is not None and abs(self.volume_fill) > MAX_FILL:
            raise UserError(f"--volume-fill {self.volume_fill} must be between -{MAX_FILL:g} and {MAX_FILL:g}", USAGE)
        if self.phantom_images is not None and min(self.phantom_images) < 1:
            raise UserError(f"--phantom-images {self.phantom_images} must all be above 0", USAGE)
        for name in ("size", "teacher_size", "phantom_size"):
            side = getattr(self, name)
            if side is not None and not 16 <= side <= 1024:
                raise UserError(f"--{name.replace('_', '-')} {side} must be between 16 and 1024 pixels", USAGE)
        if not 2 <= self.auto_folds <= 20:
            raise UserError(f"--auto-folds {self.auto_folds} must be 2 to 20", USAGE)
        if self.method in ("at", "drd") and not 2 <= self.stages <= 5:
            raise UserError(f"--stages {self.stages} must be 2 to 5; one stage is --method rd", USAGE)
        refuse_contradictions(self)
