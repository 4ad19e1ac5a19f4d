"""A scan of any form, a NIfTI file or DICOM, as physical values in the nearest RAS+ orientation with their spacing.

Owns: Scan, `read_scan`, NIfTI. Does not own: DICOM (dicom_series.py), axes (orientation.py), what becomes of a scan (volumes.py).
Training and devices read through this one function.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.errors import MISSING, UserError
from runtimes.images.dicom_planes import TILT_DEG
from runtimes.images.dicom_series import Series, read_series, series_files
from runtimes.images.orientation import Orientation, nearest_ras, orientation, slant
from runtimes.images.physical import MAX_VOXELS, Values, rescaled

SUFFIXES = (".nii", ".nii.gz")
MAX_TILT_DEG = 45.0  # no gantry tilts by more


@dataclass(frozen=True)
class Scan:
    """Voxels (x, y, z), to the patient's right, front and top: int16 where all are whole numbers that fit, else float32.

    spacing_mm: between voxels along x, y and z. notes: what a person should know, a sentence each. across: the axis that runs through the
    slices as they were made. shift: by how many voxels each slice lies further along x, y and z than the one before, as a tilted gantry
    leaves them; zeros where that is less than a degree. files: what was read, of a folder the slices alone.
    """

    values: NDArray[Any]
    spacing_mm: tuple[float, float, float]
    notes: tuple[str, ...] = ()
    across: int = 2
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    files: tuple[Path, ...] = ()


def is_nifti(path: Path | str) -> bool:
    """Whether a file's name is that of a NIfTI file."""
    return str(path).lower().endswith(SUFFIXES)


def scan_name(item: Path | Sequence[Path]) -> Path:
    """What messages call a scan: its file or folder; of several files the folder that holds them all."""
    if isinstance(item, Path):
        return item
    return item[0] if len(item) == 1 else Path(os.path.commonpath([path.parent for path in item]) if item else "")


def read_scan(item: Path | Sequence[Path]) -> Scan:
    """A NIfTI file, a folder that holds one DICOM series, the files of one, or one DICOM file of many frames.

    UserError, which begins with `scan_name`, for what is missing, damaged, too large or no volume, and (exit 5) without its reader.
    """
    name = scan_name(item)
    try:
        if not isinstance(item, Path):
            series = read_series(name, item)
        elif item.is_dir():
            series = read_series(name, series_files(item))
        elif is_nifti(item):
            series = _nifti(item)
        else:
            series = read_series(name, [item])
    except MemoryError:
        raise UserError(f"{name}: does not fit into memory") from None
    try:
        turns = orientation(series.affine)
    except ValueError as error:
        raise UserError(f"{name}: holds {error}, so how it lies is not known; write it again") from None
    return _placed(name, series, turns)


def _placed(name: Path, series: Series, turns: Orientation) -> Scan:
    """Voxels (x, y, z) with the spacing between their planes, and the shift of slices that do not lie behind one another."""
    affine, notes = series.affine, series.notes
    columns = np.empty((3, 3))
    for column, (axis, direction) in zip(affine[:3, :3].T, turns, strict=True):
        columns[axis] = direction * column
    across, tilt, sides = turns[2][0], slant(affine), np.linalg.norm(columns, axis=1)
    shift = np.zeros(3)
    if tilt >= TILT_DEG:
        first, second = (axis for axis in range(3) if axis != across)
        units = columns / sides[:, None]
        if tilt > MAX_TILT_DEG or abs(units[first] @ units[second]) > np.sin(np.radians(TILT_DEG)):
            raise UserError(f"{name}: its axes miss right angles by {tilt:.1f} degrees; expected slices with right angles, shifted by "
                            f"{MAX_TILT_DEG:.0f} degrees at most")
        for axis in (first, second):
            shift[axis] = columns[across] @ units[axis] / sides[axis]
        normal = np.cross(units[first], units[second])
        sides[across] = abs(columns[across] @ normal) / np.linalg.norm(normal)
        notes = (*notes, f"slices are shifted against their normal by {tilt:.1f} degrees, as by a tilted gantry: they are taken as they "
                         "were made, and shifted back for cuts across them, another spacing or a size")
    x, y, z = sides.tolist()
    return Scan(nearest_ras(series.values, turns), (x, y, z), notes, across, (float(shift[0]), float(shift[1]), float(shift[2])),
                series.files)


def _nifti(path: Path) -> Series:
    """Values (i, j, k), scaled as the header says, their affine and notes."""
    try:
        import nibabel
    except ImportError:
        raise UserError(f"{path}: NIfTI files are read by nibabel, which is missing; pip install 'rd-distill[volume]'", MISSING) from None
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{path}: the file is empty")
        image: Any = nibabel.load(path)
        shape = tuple(int(side) for side in image.shape)
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        if len(shape) != 3:
            raise UserError(f"{path}: shape {tuple(image.shape)}, expected one volume (x, y, z)")
        if int(np.prod(shape)) > MAX_VOXELS:
            raise UserError(f"{path}: {int(np.prod(shape)):,} voxels, the limit is {MAX_VOXELS:,}")
        header = image.header
        placed = not hasattr(header, "get_best_affine") or "sform_code" not in header or bool(header["sform_code"] or header["qform_code"])
        notes = () if placed else ("the file says nothing of its orientation (sform and qform are 0): taken as nibabel takes it, the "
                                   "first axis from the patient's right to left",)
        return Series(_scaled(path, image.dataobj, shape), np.asarray(image.affine, dtype=np.float64), notes, (path,))
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: cannot be opened (No such file or directory)") from None
    except Exception as error:  # nibabel, gzip and numpy raise many types on damaged files; each means the same to the user
        text = str(error).strip()
        raise UserError(f"{path}: damaged or truncated ({type(error).__name__}{': ' + text.splitlines()[0] if text else ''})") from None


def _scaled(path: Path, data: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Physical values (i, j, k), worked out slice by slice."""
    stored = np.asarray(data.get_unscaled()).reshape(shape)
    if stored.dtype.kind not in "iufb" or 0 in shape:
        raise UserError(f"{path}: voxels of {stored.dtype} {shape}; expected numbers, one a voxel")
    slope, intercept = float(data.slope), float(data.inter)
    values = Values((shape[2], shape[1], shape[0]))
    for place in range(shape[2]):
        values.put(place, rescaled(stored[:, :, place], slope, intercept).T)
    return values.array.transpose(2, 1, 0)
