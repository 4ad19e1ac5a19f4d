"""Volumes as a graph for volumes takes them: slices at graph size, and the mask of those that are there where it asks for one.

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

MIN_SIDE = 8
Volume = str | Path | NDArray[Any] | Scan | tuple[str | Path, ...]
Volumes = Volume | Sequence[Volume] | tuple[NDArray[Any], NDArray[Any]]
Stacks = NDArray[Any] | tuple[NDArray[Any], NDArray[np.uint8]]


def as_stacks(volumes: Volumes, artifact: Artifact) -> Stacks:
    """Slices (N, S, h, w, C) and mask (N, S), uint8, 1 where a slice is there, of files, arrays (D, H, W), scans or lists of these.

    Of a network that sees volumes at once the slices alone. A path is a NIfTI file, a DICOM file of many frames or a folder of one DICOM
    series; a tuple of paths is the files of one. An array holds slices along the artifact's axis, first to last, of any numeric
    type: they are scaled, thinned out and resized as in training. A pair (slices, mask), or slices alone that have five dimensions, are
    taken as the graph takes them, once checked. UserError for anything else.
    """
    masked = artifact.image_spec.masked
    if masked and isinstance(volumes, tuple) and len(volumes) == 2 and all(isinstance(array, np.ndarray) for array in volumes):
        return _checked(np.asarray(volumes[0]), artifact), _checked_mask(np.asarray(volumes[1]), np.asarray(volumes[0]))
    if not masked and isinstance(volumes, np.ndarray) and volumes.ndim == 5:
        return _checked(volumes, artifact)
    if isinstance(volumes, np.ndarray | str | Path | Scan) or _is_series(volumes):
        return _joined([_stack(volumes, artifact)], artifact)
    if isinstance(volumes, Sequence) and not isinstance(volumes, bytes):
        if not volumes:
            raise UserError("no volumes; expected at least one")
        return _joined([_stack(volume, artifact) for volume in volumes], artifact)
    raise UserError(f"volumes are {type(volumes).__name__}; expected a path, an array (slices, height, width), a Scan or a list of these")


def _is_series(volume: Any) -> bool:
    """Whether a value is the files of one DICOM series: a tuple of paths, unless each of them is a volume by its name."""
    return (isinstance(volume, tuple) and bool(volume) and all(isinstance(path, str | Path) for path in volume)
            and not all(is_nifti(path) for path in volume))


def stack_of(raw: NDArray[Any], artifact: Artifact) -> Stacks:
    """What the graph takes of one volume, of its slices (D, H, W, 1) as `ImageSpec.read` gives them."""
    return _joined([_placed(raw, artifact)], artifact)


def _stack(volume: Any, artifact: Artifact) -> tuple[NDArray[Any], int]:
    """One volume as the graph takes it, (1, S, h, w, C), and how many of its slices are there."""
    spec = artifact.image_spec
    assert spec.volume is not None
    if isinstance(volume, str | Path):
        return _placed(spec.read(Path(volume)), artifact)
    if _is_series(volume):
        return _placed(spec.read(tuple(map(Path, volume))), artifact)
    if isinstance(volume, Scan):
        return _placed(spec.volume.of_scan(volume), artifact)
    if isinstance(volume, np.ndarray):
        return _placed(spec.volume.of_array(volume), artifact)
    raise UserError(f"a volume is {type(volume).__name__}; expected a path, a tuple of the paths of one series, a Scan or an array "
                    "(slices, height, width)")


def _placed(raw: NDArray[Any], artifact: Artifact) -> tuple[NDArray[Any], int]:
    spec = artifact.image_spec
    raw = spec.channelled(raw)
    height, width = raw.shape[1:3]
    if min(height, width) < MIN_SIDE:
        raise UserError(f"slices of {height}x{width} pixels, expected at least {MIN_SIDE} a side")
    slices = spec.resized(raw)
    if slices.min() == slices.max():
        raise UserError(f"volume with the single value {slices.flat[0]} everywhere; nothing in it can be classified")
    return np.ascontiguousarray(slices[None]), spec.slices_of(raw)


def _joined(stacks: Sequence[tuple[NDArray[Any], int]], artifact: Artifact) -> Stacks:
    """Volumes as the graph takes them: with a mask where it sees slices one by one."""
    slices = np.concatenate([stack for stack, _ in stacks])
    if not artifact.image_spec.masked:
        return slices
    there = np.asarray([count for _, count in stacks])
    return slices, (np.arange(artifact.image_spec.slices) < there[:, None]).astype(np.uint8)


def _checked(slices: NDArray[Any], artifact: Artifact) -> NDArray[Any]:
    spec = artifact.image_spec
    shape = (spec.slices, *artifact.graph_size, spec.channels)
    if slices.dtype != spec.dtype or slices.ndim != 5 or slices.shape[1:] != shape or not len(slices):
        raise UserError(f"slices of {slices.dtype} {slices.shape}, expected {spec.dtype} (volumes, {', '.join(map(str, shape))})")
    return np.ascontiguousarray(slices)


def _checked_mask(mask: NDArray[Any], slices: NDArray[Any]) -> NDArray[np.uint8]:
    if mask.dtype != np.uint8 or mask.shape != slices.shape[:2] or mask.max() > 1:
        raise UserError(f"mask of {mask.dtype} {mask.shape}, expected uint8 {slices.shape[:2]} of 0 and 1")
    if not mask.any(axis=1).all():
        raise UserError("a volume's mask is 0 everywhere; expected one slice at least")
    return np.ascontiguousarray(mask)
