"""The settings of rd-adapt: one frozen dataclass that is command line, Python call and record.

Owns: AdaptSettings, its defaults by method, the settings of the bank behind it. Does not own: what a setting does (adapt.py).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distill.config import DistillSettings
from distill.experts import AdapterSpec, theory_scale
from runtimes.errors import USAGE, UserError

AdaptMethod = Literal["lora", "moe", "molre", "spectral", "linear"]


@dataclass(frozen=True)
class AdaptSettings:
    """Adapt a frozen teacher to a task with low-rank experts: data + teacher -> a teacher folder."""

    method: AdaptMethod = "spectral"
    """lora: one expert; moe: routed experts from zero; molre: soft routing; spectral: experts from the weights' spectrum; linear: none,
    the head alone, and of volumes the pooling of slices."""
    data: str = "phantom"
    """Folder of class folders, CSV file, MedMNIST .npz or name, NIfTI volumes in these, or phantom, phantom-volumes (synthetic)."""
    teacher: str = "efficientnet-lite0"
    """timm or short name, folder of rd-adapt or rd-distill, or hf:ID."""
    out: Path = Path("teacher")
    """Folder to write."""
    config: Path | None = None
    """YAML file of settings; flags win over it."""

    place: Literal["auto", "blocks", "pooled"] = "auto"
    """blocks: beside layers inside the network; pooled: behind its pool, on banked features; auto: pooled for molre."""
    adapt_layers: Literal["all-linear", "attention", "mlp", "pointwise"] = "all-linear"
    """Which layers of the blocks get an adapter."""
    adapt_share: float = 0.5
    """Largest adapter in shares of its layer's weights; layers too small for it are left alone."""
    init: Literal["auto", "zero", "pissa", "svd"] = "auto"
    """Start of the experts: zero change, the largest singular values (lora), segments of the spectrum (auto for spectral)."""
    experts: int | None = None
    """Experts a layer: 1 for lora, 6 for molre, 8 for moe and spectral when not given."""
    rank: int | None = None
    """Rank of each expert: 8 for lora and molre, 1 for moe and spectral when not given."""
    top_k: int | None = None
    """Experts that stay on for an input: 2 for moe and spectral, all for molre when not given."""
    scaling: Literal["fixed", "theory"] = "fixed"
    """fixed: --scale; theory: sqrt(3 n eta / r) of each layer."""
    scale: float | None = None
    """Factor of the experts' sum: 2 for lora, 1 for molre, 16 for moe and spectral when not given."""
    eta: float = 1.0
    """Ratio of full fine-tuning's learning rate to the adapters', for --scaling theory."""
    rho: float = 10.0
    """Divisor of the experts' starting singular values."""
    balance: float = 1e-3
    """Weight of the balance loss of sparse gates."""

    merge: Literal["exact", "mean", "least-squares"] = "exact"
    """exact: fold what folds exactly and keep routed adapters; mean, least-squares: fold these too, and measure it."""
    merge_aware: float = 0.0
    """Last share of the training in which gates become constants, so that all adapters fold exactly."""
    max_fold_error: float = 0.05
    """Largest relative error of the logits that --merge mean and least-squares may bring (exit 3 above)."""
    peft: bool = False
    """Also write the adapters as a PEFT folder, <out>/peft, for the original network: lora, or routed with --merge-aware."""

    task: Literal["binary", "multiclass", "multilabel", "ordinal"] | None = None
    """Read off the labels when not given."""
    label: str | None = None
    """CSV column that holds the label."""
    uncertain: Literal["unknown", "positive", "negative"] = "unknown"
    """What -1 (uncertain) beside 0 and 1 means in a CSV, as CheXpert writes it."""
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

    teacher_size: int | None = None
    """Teacher input side in pixels; the teacher's own when not given."""
    teacher_weights: str | None = None
    """Weights file of a timm teacher, or `random` (for trials only)."""
    bank: Path | None = None
    """Folder of the feature bank; by default one named after teacher and images below `banks`."""
    bank_views: int = 8
    """Views an image beside the clean one, for adapters of pooled features; the probe alone takes the clean image."""
    bank_runtime: Literal["auto", "torch", "onnx"] = "auto"
    """What runs the teacher for the bank; auto takes ONNX Runtime on a CPU when the teacher exports, and says which it took."""
    flip: bool = True
    """Mirror images left to right in views; switch off where sides matter."""

    epochs: int = 10
    """Turns through the training images."""
    min_steps: int | None = None
    """Fewest steps of a run, small data sets are turned through more often: 100, behind the pool, where steps are cheap, 1000."""
    batch: int = 32
    """Images a step."""
    lr: float = 1e-3
    """Peak learning rate of adapters and head."""
    weight_decay: float = 0.01
    """AdamW weight decay."""
    warmup: float = 0.1
    """Share of the steps that warm up."""
    focal_gamma: float = 2.0
    """Focusing of the multi-label loss; 0 is plain cross-entropy."""
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
        for name in ("experts", "rank", "scale", "rho", "eta", "lr", "max_fold_error", "adapt_share"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"--{name.replace('_', '-')} {value} must be above 0", USAGE)
        if not 0 <= self.merge_aware < 1:
            raise UserError(f"--merge-aware {self.merge_aware} must be at least 0 and below 1", USAGE)
        if self.merge_aware and self.method == "lora":
            raise UserError("--merge-aware is for gates; lora has none and folds exactly as it is", USAGE)
        if self.merge_aware and self.select == "best":
            raise UserError("--merge-aware changes the gates until the last epoch; leave --select best out", USAGE)
        if self.method == "linear" and (self.place == "blocks" or self.merge != "exact" or self.merge_aware or self.peft):
            raise UserError("--method linear trains no adapter: leave --place, --merge, --merge-aware and --peft out", USAGE)
        if self.init == "pissa" and self.method != "lora":
            raise UserError("--init pissa is for lora; routed experts start with --init svd or zero", USAGE)
        if self.init == "svd" and self.method != "spectral":
            raise UserError("--init svd is for spectral; moe is the same with a start from zero", USAGE)
        if self.pooled and self.init in ("pissa", "svd"):
            raise UserError(f"--init {self.init} needs layers with a spectrum; --place pooled has none: use --place blocks", USAGE)
        if self.method == "spectral" and self.pooled:
            raise UserError("spectral experts come from the spectra of layers; use --place blocks", USAGE)
        if self.peft and (self.pooled or (self.method != "lora" and not self.merge_aware)):
            raise UserError("--peft needs changes of layers' weights that do not depend on the input: --method lora, or --merge-aware "
                            "with --place blocks", USAGE)
        self.spec(64)
        self.teaching()  # checks the settings it shares with rd-distill

    @property
    def pooled(self) -> bool:
        """Whether the adapter sits behind the pool."""
        return self.place == "pooled" or (self.place == "auto" and self.method in ("molre", "linear"))

    @property
    def fewest_steps(self) -> int:
        """--min-steps, or its default by place."""
        return (1000 if self.pooled else 100) if self.min_steps is None else self.min_steps

    @property
    def start(self) -> Literal["zero", "pissa", "svd"]:
        """How the experts start."""
        return self.init if self.init != "auto" else "svd" if self.method == "spectral" else "zero"

    def spec(self, inputs: int) -> AdapterSpec:
        """The adapter beside a layer of so many inputs."""
        experts, rank, top_k, scale, gate = {"lora": (1, 8, 0, 2.0, "none"), "moe": (8, 1, 2, 16.0, "linear"),
                                             "molre": (6, 8, 0, 1.0, "mlp"), "spectral": (8, 1, 2, 16.0, "linear"),
                                             "linear": (1, 1, 0, 1.0, "none")}[self.method]
        rank = self.rank or rank
        scale = theory_scale(inputs, rank, self.eta) if self.scaling == "theory" else self.scale or scale
        count = self.experts or experts
        return AdapterSpec(count, rank, scale, gate, top_k=min(top_k, count) if self.top_k is None else self.top_k)  # type: ignore[arg-type]

    def teaching(self) -> DistillSettings:
        """The settings of the bank and the probe behind an adaptation, as rd-distill takes them."""
        names = {one.name for one in dataclasses.fields(DistillSettings)} & {one.name for one in dataclasses.fields(self)}
        shared = {name: getattr(self, name) for name in names - {"method", "out", "config"}}
        own = {"min_steps": self.fewest_steps, "bank_views": self.bank_views if self.pooled else 0, "out": self.out}
        return DistillSettings(**(shared | own))


def adapt_settings(settings: DistillSettings, out: Path) -> AdaptSettings:
    """The adaptation behind `rd-distill --adapt`: its data, teacher, device and seed, all else by default."""
    names = ("data", "task", "label", "uncertain", "skip_bad_images", "split_seed", "keep_together", "phantom_images", "phantom_size",
             "slices", "axis", "volume_window", "volume_fill", "slice_pooling", "teacher", "teacher_size",
             "teacher_weights", "bank_views", "bank_runtime", "flip", "bootstrap", "device", "threads", "seed", "overwrite", "resume")
    return AdaptSettings(method=settings.adapt, out=out, **{name: getattr(settings, name) for name in names})  # type: ignore[arg-type]
