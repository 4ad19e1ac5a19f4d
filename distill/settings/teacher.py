"""Which teacher, and the bank of its features.

Owns: TeacherOptions. Does not own: loading it (teachers.py), its bank (teaching.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from distill.settings.group import Group
from runtimes.commands.settings import Expert
from runtimes.errors import USAGE, UserError


@dataclass(frozen=True)
class TeacherOptions(Group):
    """Teacher: which one, and the bank of its features."""

    teacher: str = "efficientnet-lite0"
    """timm or short name, folder of rd-distill or rd-adapt, .pt2 or .onnx file, hf:ID, astra (3D), or bank:FOLDER."""
    task_name: Annotated[str | None, Expert] = None
    """Which task of a teacher's folder (short: --task NAME; rd-info lists them); the newest when not given."""
    teacher_size: Annotated[int | None, Expert] = None
    """Teacher input side in pixels; the teacher's own when not given."""
    teacher_weights: str | None = None
    """Weights file of a timm teacher, or `random` (for trials only)."""
    teacher_mean: Annotated[tuple[float, float, float] | None, Expert] = None
    """What pixels from 0 to 1 are normalised with, a number a colour; the teacher's own when not given."""
    teacher_std: Annotated[tuple[float, float, float] | None, Expert] = None
    """The same for the spread of pixels."""
    teacher_pool: Annotated[Literal["auto", "cls", "mean", "cls+mean", "pooler"], Expert] = "auto"
    """How one vector an image comes of tokens: auto as the teacher does it itself, the class token, the mean of patches, both, a pooler."""
    teacher_resize: Annotated[Literal["auto", "squash", "crop", "pad"], Expert] = "auto"
    """Images of another shape than the teacher's: auto as its authors do it, squashed, their middle cropped, or black put around them."""
    teacher_channels: Annotated[Literal[1, 3] | None, Expert] = None
    """Channels that the teacher takes, where its file does not say or you want to be sure; 1 sees the mean of colours."""
    teacher_features: Annotated[str | None, Expert] = None
    """Name of the tensor of an .onnx teacher that holds its features; its only output when not given."""
    bank: Path | None = None
    """Folder of the feature bank; by default one named after teacher and images below `banks`."""
    bank_views: Annotated[int | Literal["live"], Expert] = 8
    """Views an image beside the clean one; of rd-adapt for adapters of pooled features alone. live: of rd-distill, the teacher looks at
    every view that the student sees, in each step, instead: for those who have a GPU."""
    bank_runtime: Annotated[Literal["auto", "torch", "onnx"], Expert] = "auto"
    """What runs the teacher for the bank; auto takes ONNX Runtime on a CPU when the teacher exports, and says which it took."""
    flip: bool = True
    """Mirror images left to right in views; switch off where sides matter."""

    def check(self) -> None:
        """Refuse values out of range."""
        super().check()
        if not self.live:
            self.not_negative("bank_views")
        self.pixels("teacher_size")
        if self.teacher_std is not None and min(self.teacher_std) < 1e-4:
            raise UserError(f"--teacher-std {' '.join(map(str, self.teacher_std))} must be above 0", USAGE)

    @property
    def live(self) -> bool:
        """Whether the teacher looks at every step."""
        return self.bank_views == "live"

    @property
    def banked_views(self) -> int:
        """Views of an image that are banked beside the clean one."""
        return 0 if isinstance(self.bank_views, str) else self.bank_views
