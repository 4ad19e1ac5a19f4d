"""The settings of rd-adapt: one frozen dataclass that is command line, Python call and record.

Owns: AdapterOptions with its defaults by method, AdaptSettings. Does not own: what a setting does (adapt.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from distill.adapters.experts import AdapterSpec, theory_scale
from distill.settings.continual import ContinualOptions, check_task_name
from distill.settings.data import DataOptions
from distill.settings.group import Group, flag
from distill.settings.teacher import TeacherOptions
from distill.settings.training import RunOptions, TrainingOptions
from runtimes.commands.settings import Expert
from runtimes.errors import USAGE, UserError

AdaptMethod = Literal["lora", "moe", "molre", "spectral", "linear"]


@dataclass(frozen=True)
class AdapterOptions(Group):
    """Adapters: which experts, beside which layers, and what becomes of them."""

    method: AdaptMethod = "spectral"
    """lora: one expert; moe: routed experts from zero; molre: soft routing; spectral: experts from the weights' spectrum; linear: none,
    the head alone, and of volumes the pooling of slices."""
    place: Annotated[Literal["auto", "blocks", "pooled"], Expert] = "auto"
    """blocks: beside layers inside the network; pooled: behind its pool, on banked features; auto: pooled for molre."""
    adapt_layers: Annotated[Literal["all-linear", "attention", "mlp", "pointwise"], Expert] = "all-linear"
    """Which layers of the blocks get an adapter."""
    adapt_share: Annotated[float, Expert] = 0.5
    """Largest adapter in shares of its layer's weights; layers too small for it are left alone."""
    init: Annotated[Literal["auto", "zero", "pissa", "svd"], Expert] = "auto"
    """Start of the experts: zero change, the largest singular values (lora), segments of the spectrum (auto for spectral)."""
    experts: Annotated[int | None, Expert] = None
    """Experts a layer: 1 for lora, 6 for molre, 8 for moe and spectral when not given."""
    rank: int | None = None
    """Rank of each expert: 8 for lora and molre, 1 for moe and spectral when not given."""
    top_k: Annotated[int | None, Expert] = None
    """Experts that stay on for an input: 2 for moe and spectral, all for molre when not given."""
    scaling: Annotated[Literal["fixed", "theory"], Expert] = "fixed"
    """fixed: --scale; theory: sqrt(3 n eta / r) of each layer."""
    scale: Annotated[float | None, Expert] = None
    """Factor of the experts' sum: 2 for lora, 1 for molre, 16 for moe and spectral when not given."""
    eta: Annotated[float, Expert] = 1.0
    """Ratio of full fine-tuning's learning rate to the adapters', for --scaling theory."""
    rho: Annotated[float, Expert] = 10.0
    """Divisor of the experts' starting singular values."""
    balance: Annotated[float, Expert] = 1e-3
    """Weight of the balance loss of sparse gates."""
    keep_experts: Annotated[Literal["better", "best", "last"], Expert] = "better"
    """better: only where they lower the loss on held-out images by more than its standard error, else the probe they start from; best:
    their best point, whatever it gained; last: trained to the end."""

    merge: Literal["exact", "mean", "least-squares"] = "exact"
    """exact: fold what folds exactly and keep routed adapters; mean, least-squares: fold these too, and measure it."""
    merge_aware: Annotated[float, Expert] = 0.0
    """Last share of the training in which gates become constants, so that all adapters fold exactly."""
    max_fold_error: Annotated[float, Expert] = 0.05
    """Largest relative error of the logits that --merge mean and least-squares may bring (exit 3 above)."""
    peft: bool = False
    """Also write the adapters as a PEFT folder, <out>/peft, for the original network: lora, or routed with --merge-aware."""

    def check(self) -> None:
        """Refuse values out of range and settings that cannot both hold."""
        super().check()
        self.above_zero("experts", "rank", "scale", "rho", "eta", "max_fold_error", "adapt_share")
        if not 0 <= self.merge_aware < 1:
            raise UserError(f"--merge-aware {self.merge_aware} must be at least 0 and below 1", USAGE)
        if self.merge_aware and self.method == "lora":
            raise UserError("--merge-aware is for gates; lora has none and folds exactly as it is", USAGE)
        if self.merge_aware and self.pooled and self.method != "linear":
            raise UserError("--merge-aware is for gates beside layers, which fold into their weights; behind the pool there is none: use "
                            "--place blocks", USAGE)
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

    @property
    def pooled(self) -> bool:
        """Whether the adapter sits behind the pool."""
        return self.place == "pooled" or (self.place == "auto" and self.method in ("molre", "linear"))

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


@dataclass(frozen=True)
class AdaptSettings(RunOptions, TrainingOptions, ContinualOptions, AdapterOptions, TeacherOptions, DataOptions):
    """Adapt a frozen teacher to a task with low-rank experts: data + teacher -> a teacher folder."""

    out: Path = Path("teacher")
    """Folder to write."""
    teacher: str = "efficientnet-lite0"
    """timm or short name, folder of rd-adapt or rd-distill, or hf:ID."""
    task_name: str | None = None
    """What this task is called in the folder (short: --task NAME); as the data when not given."""
    slice_pooling: Annotated[Literal["attention", "mean"], Expert] = "attention"
    """How the features of slices become one of the volume."""
    epochs: int = 10
    """Turns through the training images; behind the pool the number of steps is chosen on held-out images."""
    min_steps: Annotated[int, Expert] = 100
    """Fewest steps of a run inside blocks: small data sets are turned through more often."""
    lr: float | None = 1e-3
    """Peak learning rate of adapters and head."""
    weight_decay: Annotated[float | None, Expert] = None
    """AdamW weight decay: 0.01, behind the pool 1, when not given."""
    focal_gamma: Annotated[float, Expert] = 0.0
    """Focusing of the multi-label loss, with weights by prevalence; 0 is plain cross-entropy, which the probe was fitted by."""
    select: Annotated[Literal["last", "best"], Expert] = "last"
    """With --keep-experts last, inside blocks: keep the last epoch, or the best on validation."""

    def check(self) -> None:
        """Refuse values out of range and settings that cannot both hold."""
        super().check()
        check_task_name(self.task_name)
        if self.keep_old == "distil" and self.pooled and self.method != "linear":
            raise UserError(f"--keep-old distil holds layers to what they answered, and --method {self.method} behind the pool adds one "
                            "that every earlier head would see through; use --keep-old experts, or --place blocks", USAGE)
        if self.merge_aware and (self.select == "best" or self.keep_experts == "best"):
            chosen = "--select best" if self.select == "best" else "--keep-experts best"
            raise UserError(f"--merge-aware changes the gates until the last epoch; leave {chosen} out", USAGE)
        if self.select == "best" and self.keep_experts != "last":
            raise UserError(f"--keep-experts {self.keep_experts} takes the epoch of the least held-out loss; leave --select best out, "
                            "or give --keep-experts last", USAGE)
        if self.live:
            raise UserError("--bank-views live is for rd-distill; rd-adapt takes banked views: give a number", USAGE)
        if self.overwrite and self.resume:
            raise UserError("--overwrite and --resume contradict each other; give one", USAGE)
        if self.teacher.startswith("bank:") and (needless := [flag(name) for name in ("bank", "teacher_size", "teacher_weights")
                                                              if getattr(self, name)]):
            raise UserError(f"--teacher {self.teacher} holds features already; leave {' and '.join(needless)} out", USAGE)

    @property
    def decay(self) -> float:
        """--weight-decay, or its default by place."""
        return (1.0 if self.pooled else 0.01) if self.weight_decay is None else self.weight_decay
