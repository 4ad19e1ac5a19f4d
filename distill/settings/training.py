"""How long and how fast a network is trained, and the run around it.

Owns: TrainingOptions, RunOptions. Does not own: the loop (fit.py), the run's folder (run.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from distill.settings.group import Group
from runtimes.backends.threads import check_threads
from runtimes.commands.settings import Expert
from runtimes.errors import USAGE, UserError


@dataclass(frozen=True)
class TrainingOptions(Group):
    """Training: how long, how fast, what is kept."""

    epochs: int = 40
    """Turns through the training images."""
    min_steps: Annotated[int | None, Expert] = None
    """Fewest steps of a run: small data sets are turned through more often."""
    batch: int = 32
    """Images a step."""
    lr: float | None = None
    """Peak learning rate of the student and the shared classifier; 5e-3, or 2e-3 with --student-weights, when not given."""
    weight_decay: Annotated[float | None, Expert] = 0.02
    """AdamW weight decay of the student."""
    warmup: Annotated[float, Expert] = 0.1
    """Share of the steps that warm up."""
    focal_gamma: Annotated[float, Expert] = 2.0
    """Focusing of the multi-label loss; 0 is plain cross-entropy."""
    select: Annotated[Literal["last", "best"], Expert] = "last"
    """Keep the last epoch, or the best on validation."""
    precision: Annotated[Literal["fp32", "bf16"], Expert] = "fp32"
    """Arithmetic of training."""

    def check(self) -> None:
        """Refuse values out of range."""
        super().check()
        self.above_zero("epochs", "batch", "lr")
        self.not_negative("min_steps", "weight_decay", "focal_gamma")
        self.shares("warmup")
        if self.batch < 2:
            raise UserError(f"--batch {self.batch} must be 2 or more: batch normalisation compares the images of a step", USAGE)


@dataclass(frozen=True)
class RunOptions(Group):
    """Run: where to, on what, from which seed."""

    out: Path = Path("out")
    """Folder to write."""
    config: Path | None = None
    """YAML file of settings; flags win over it."""
    bootstrap: Annotated[int, Expert] = 1000
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

    def check(self) -> None:
        """Refuse values out of range."""
        super().check()
        self.not_negative("bootstrap")
        self.seeds("seed")
        check_threads(self.threads)
