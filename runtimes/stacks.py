"""Volumes as the two arrays a graph for volumes takes: slices at graph size, and the mask of those that are there.

Owns: `as_stacks`, the checks of volumes before a runtime sees them. Does not own: reading and cutting (volumes.py), images (session.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.artifact.artifact import Artifact
from runtimes.errors import UserError
from runtimes.images.scans import Scan, is_nifti
from runtimes.images.spec import read_image

MIN_SIDE = 8
Volume = str | Path | NDArray[Any] | Scan | tuple[str | Path, ...]
Volumes = Volume | Sequence[Volume] | tuple[NDArray[Any], NDArray[Any]]
Stacks = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def as_stacks(volumes: Volumes, artifact: Artifact) -> Stacks:
    """Slices (N, S, h, w, C), uint8, and mask (N, S), 1 where a slice is there, of files, arrays (D, H, W), scans or lists of these.

    A path is a NIfTI file, a DICOM file of many frames or a folder of one DICOM series; a tuple of paths is the files of one. An array
    holds slices along the artifact's axis, first to last, of any numeric type: they are scaled, thinned out and resized as in training. A
    pair (slices, mask) is taken as the graph takes it, once checked. UserError for anything else.
    """
    if isinstance(volumes, tuple) and len(volumes) == 2 and all(isinstance(array, np.ndarray) for array in volumes):
        return _checked(np.asarray(volumes[0]), np.asarray(volumes[1]), artifact)
    if isinstance(volumes, np.ndarray | str | Path | Scan) or _is_series(volumes):
        return _stack(volumes, artifact)
    if isinstance(volumes, Sequence) and not isinstance(volumes, bytes):
        if not volumes:
            raise UserError("no volumes; expected at least one")
        stacks = [_stack(volume, artifact) for volume in volumes]
        return np.concatenate([slices for slices, _ in stacks]), np.concatenate([mask for _, mask in stacks])
    raise UserError(f"volumes are {type(volumes).__name__}; expected a path, an array (slices, height, width), a Scan or a list of these")


def _is_series(volume: Any) -> bool:
    """Whether a value is the files of one DICOM series: a tuple of paths, unless each of them is a volume by its name."""
    return (isinstance(volume, tuple) and bool(volume) and all(isinstance(path, str | Path) for path in volume)
            and not all(is_nifti(path) for path in volume))


def _stack(volume: Any, artifact: Artifact) -> Stacks:
    spec = artifact.image_spec
    assert spec.volume is not None
    if isinstance(volume, str | Path):
        raw = read_image(Path(volume), spec.volume)
    elif _is_series(volume):
        raw = read_image(tuple(map(Path, volume)), spec.volume)
    elif isinstance(volume, Scan):
        raw = spec.volume.of_scan(volume)
    elif isinstance(volume, np.ndarray):
        raw = spec.volume.of_array(volume)
    else:
        raise UserError(f"a volume is {type(volume).__name__}; expected a path, a tuple of the paths of one series, a Scan or an array "
                        "(slices, height, width)")
    raw = spec.channelled(raw)
    height, width = raw.shape[1:3]
    if min(height, width) < MIN_SIDE:
        raise UserError(f"slices of {height}x{width} pixels, expected at least {MIN_SIDE} a side")
    slices = spec.resized(raw)
    if slices.min() == slices.max():
        raise UserError(f"volume with the single value {slices.flat[0]} everywhere; nothing in it can be classified")
    mask = np.arange(spec.slices) < spec.slices_of(raw)
    return np.ascontiguousarray(slices[None]), mask[None].astype(np.uint8)


def _checked(slices: NDArray[Any], mask: NDArray[Any], artifact: Artifact) -> Stacks:
    shape = (artifact.image_spec.slices, *artifact.graph_size, artifact.image_spec.channels)
    if slices.dtype != np.uint8 or slices.ndim != 5 or slices.shape[1:] != shape or not len(slices):
        raise UserError(f"slices of {slices.dtype} {slices.shape}, expected uint8 (volumes, {', '.join(map(str, shape))})")
    if mask.dtype != np.uint8 or mask.shape != slices.shape[:2] or mask.max() > 1:
        raise UserError(f"mask of {mask.dtype} {mask.shape}, expected uint8 {slices.shape[:2]} of 0 and 1")
    if not mask.any(axis=1).all():
        raise UserError("a volume's mask is 0 everywhere; expected one slice at least")
    return np.ascontiguousarray(slices), np.ascontiguousarray(mask)
