"""Which images, how their labels are read, how they are split.

Owns: DataOptions. Does not own: reading them (intake.py, data.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from distill.settings.group import Group
from runtimes.commands.settings import Expert
from runtimes.errors import USAGE, UserError
from runtimes.images.volumes import MAX_FILL, MAX_SIDE, MAX_SPACING_MM, MIN_SPACING_MM
from runtimes.images.windows import MOST_WINDOWS, window_named


@dataclass(frozen=True)
class DataOptions(Group):
    """Data: which images, how their labels are read, how they are split."""

    data: str = "phantom"
    """Folder of class folders, CSV file, MedMNIST .npz or name, NIfTI volumes in these, or phantom, phantom-volumes (synthetic)."""
    task: Literal["binary", "multiclass", "multilabel", "ordinal"] | None = None
    """Kind of labels, read off them when not given; any other word names a task of the teacher's folder, as --task-name does."""
    label: str | None = None
    """CSV column that holds the label."""
    uncertain: Literal["unknown", "positive", "negative"] = "unknown"
    """What -1 (uncertain) beside 0 and 1 means in a CSV, as CheXpert writes it."""
    skip_bad_images: bool = False
    """Train without files that cannot be used, and count them in the result."""
    split_seed: Annotated[int, Expert] = 0
    """Seed of the split when the data brings none."""
    keep_together: Literal["near", "group", "none"] = "near"
    """What a split that is made here keeps on one side: near: patients and near copies; group: patients; none: neither."""
    hide_names: Annotated[Literal["auto", "always", "never"], Expert] = "auto"
    """Whether results call images by their hash, not by their file; auto: for DICOM and NIfTI, whose files may be named after patients."""
    phantom_images: tuple[int, int, int] | None = None
    """Synthetic images for training, validation, test; 1200 200 400, or of phantom-volumes 240 60 120, when not given."""
    phantom_size: Annotated[int, Expert] = 96
    """Side of a synthetic image in pixels."""
    slices: int | None = None
    """Most slices of a volume that a network sees, evenly spread; the thickest volume's, up to 32, when not given."""
    axis: Annotated[Literal["axial", "coronal", "sagittal"], Expert] = "axial"
    """How volumes are cut into slices."""
    windows: tuple[str, ...] = ()
    """One to three windows of physical values (CT), a channel each: brain, subdural, bone, ..., or W80L40; inside the exported graph."""
    volume_window: Annotated[tuple[float, float] | None, Expert] = None
    """Intensities shown as black and white; each volume's own percentiles 0.5 and 99.5 when not given."""
    volume_fill: Annotated[float | None, Expert] = None
    """Intensity that stands for NaN in volumes; when not given, NaN is refused."""
    dicom: Literal["images", "series"] = "images"
    """What DICOM files in folders are: images one by one, or with all of a series a volume."""
    volume_spacing: Annotated[tuple[float, float, float] | None, Expert] = None
    """Millimetres between voxels to the right, front and top that volumes are resampled to; as they are when not given."""
    volume_size: Annotated[tuple[int, int, int] | None, Expert] = None
    """Voxels to the right, front and top that are cut out of the middle of a volume, or padded to; all when not given."""

    def check(self) -> None:
        """Refuse values out of range."""
        super().check()
        self.seeds("split_seed")
        self.pixels("phantom_size")
        if self.slices is not None and not 1 <= self.slices <= 512:
            raise UserError(f"--slices {self.slices} must be between 1 and 512", USAGE)
        if len(self.windows) > MOST_WINDOWS:
            raise UserError(f"--windows {' '.join(self.windows)}: {len(self.windows)} windows; expected {MOST_WINDOWS} at most",
                            USAGE)
        for name in self.windows:
            window_named(name)
        if self.windows and self.volume_window is not None:
            raise UserError("--windows and --volume-window both say what is black and white; give one of them", USAGE)
        if self.volume_window is not None and not self.volume_window[0] < self.volume_window[1]:
            raise UserError(f"--volume-window {self.volume_window} is empty; give the lower intensity first", USAGE)
        if self.volume_fill is not None and abs(self.volume_fill) > MAX_FILL:
            raise UserError(f"--volume-fill {self.volume_fill} must be between -{MAX_FILL:g} and {MAX_FILL:g}", USAGE)
        if self.volume_spacing is not None and not all(MIN_SPACING_MM <= side <= MAX_SPACING_MM for side in self.volume_spacing):
            raise UserError(f"--volume-spacing {self.volume_spacing} must be between {MIN_SPACING_MM:g} and {MAX_SPACING_MM:g} mm", USAGE)
        if self.volume_size is not None and not all(1 <= side <= MAX_SIDE for side in self.volume_size):
            raise UserError(f"--volume-size {self.volume_size} must be between 1 and {MAX_SIDE} voxels", USAGE)
        if self.phantom_images is not None and min(self.phantom_images) < 1:
            raise UserError(f"--phantom-images {self.phantom_images} must all be above 0", USAGE)
