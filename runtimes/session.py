"""From images to Scores: check what comes in, run it, decide.

Owns: Session, `open_session`, `as_batch`, the one place where inputs are checked before a runtime sees them (some runtimes
turn NaN into confident answers), and the clock from file to decision. Does not own: which runtime opens what (targets.py), the resize
rule (spec.py), files (decode.py), what is written beside an answer (results/).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import isfinite
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from runtimes.artifact.artifact import Artifact, read_artifact
from runtimes.artifact.targets import Opening, Runtime
from runtimes.errors import UserError
from runtimes.images.decode import MAX_PIXELS, decode
from runtimes.images.scans import read_scan, scan_name
from runtimes.scores import Scores, calibrated, decide
from runtimes.stacks import as_stacks, stack_of

Images = str | Path | NDArray[Any] | Sequence[str | Path | NDArray[Any]]
Feeds = NDArray[Any] | tuple[NDArray[Any], NDArray[Any]]  # what a graph takes: one array, or of volumes slice by slice also a mask
ARRAY, FLOAT = np.ndarray, np.dtype(np.float32)  # found once: a lookup in numpy and a new dtype at every call cost more than they look
MIN_SIDE = 8  # pixels; below that there is nothing to see, and a resize would invent it


class Session(Protocol):
    """A model ready to answer."""

    def run(self, images: Images) -> Scores:
        """Scores of a path, a list of paths, a raw array (H, W, C) or (H, W), or a batch (N, H, W, C); volumes as `as_stacks`."""

    def facts(self) -> dict[str, Any]:
        """What really runs: model, runtime, version, provider, precision, threads."""

    def close(self) -> None:
        """Free the model's memory."""


class CheckedSession:
    """A Session: `as_batch`, then a runtime, then `decide`."""

    def __init__(self, artifact: Artifact, runtime: Runtime) -> None:
        self.artifact = artifact
        self.runtime = runtime
        spec = artifact.image_spec
        ready = artifact.input_kind == "image" and spec.volume is None
        self._dtype = np.dtype(spec.dtype) if ready else None
        image = np.empty((1, *artifact.graph_size, spec.channels), spec.dtype)
        self._shape, self._strides, self._places = image.shape, image.strides, (0, image.size // 3, image.size // 2)
        self._classes = len(artifact.classes)
        self._answer = (1, self._classes)

    def run(self, images: Images) -> Scores:
        """Scores of a path, a list of paths, a raw array (H, W, C) or (H, W), or a batch (N, H, W, C)."""
        artifact = self.artifact
        batch: Feeds
        # A model has emptied the caches before this runs: what can be known beforehand is, and one ready image takes a short way.
        if (type(images) is ARRAY and images.dtype is self._dtype and images.shape == self._shape
                and images.strides == self._strides):
            first, second, third = map(images.item, self._places)
            if first == second == third:
                _refuse_constant(images)
            batch, shape = images, self._answer
        else:
            batch = as_batch(images, artifact)
            shape = (len(batch[0] if isinstance(batch, tuple) else batch), self._classes)
        logits, probabilities, attention = self.runtime.run(batch)
        for answer in (logits, probabilities):
            if answer is not None and (answer.shape != shape or (answer.dtype is not FLOAT and answer.dtype != FLOAT)):
                raise UserError(f"{artifact.model} answered {answer.dtype} {answer.shape}, expected float32 {shape}; export it again")
        # An overflow in fp16, say: no answer is better than a confident one. numpy's way to ask takes a tenth of a small model's time.
        if not isfinite(sum(map(sum, logits.tolist()))):
            raise UserError(f"{artifact.model} answered NaN or Inf for a valid image; do not use it on this runtime")
        if probabilities is None:
            probabilities = calibrated(logits, artifact.task, artifact.temperatures)
        decisions = decide(probabilities, artifact.task, artifact.thresholds)
        return Scores(logits, probabilities, decisions, artifact.classes, artifact.task, attention)

    def run_file(self, path: str | Path, *, trace: str | Path | None = None, dicom_sr: str | Path | None = None,
                 overwrite: bool = False) -> Scores:
        """Scores of the file (or folder) of one image or volume, as `run` gives them; beside it, where named, a trace and a DICOM report.

        trace: a JSON file of what answered, what and how fast, without a word of whom; times in it are of this one call. dicom_sr: a
        Comprehensive SR of the patient whose image it is. overwrite replaces what this wrote before, and nothing else. UserError as of
        `run`; exit 2 for places that cannot be written, or a report on what is no DICOM; exit 5 without highdicom.
        """
        from runtimes.results.findings import findings_of, origin_of  # here: `run` needs none of it, and a device starts sooner
        from runtimes.results.record import check_results, state_of, write_results
        from runtimes.results.trace import MOMENTS

        path, trace, dicom_sr = Path(path), None if trace is None else Path(trace), None if dicom_sr is None else Path(dicom_sr)
        check_results(path, trace=trace, dicom_sr=dicom_sr, overwrite=overwrite)
        wanted = trace is not None or dicom_sr is not None
        before = state_of(path) if wanted else []
        moments = [perf_counter_ns()]
        raw, notes, files = _read(path, self.artifact)
        moments.append(perf_counter_ns())
        feeds = _feeds_of(raw, self.artifact)
        moments.append(perf_counter_ns())
        scores = self.run(feeds)
        scores.notes = notes
        moments.append(perf_counter_ns())
        if wanted:
            if state_of(path) != before:
                raise UserError(f"{path} was changed while it was answered; repeat when it is whole")
            ms = {name: (end - start) / 1e6 for name, (start, end) in zip(MOMENTS, pairwise(moments), strict=True)}
            write_results(files, findings_of(scores, self.artifact.thresholds), origin_of(self.artifact, self.facts()), ms, notes,
                          trace=trace, dicom_sr=dicom_sr)
        return scores

    def facts(self) -> dict[str, Any]:
        """What really runs: model, runtime, version, provider, precision, threads."""
        artifact = self.artifact
        return {"target": artifact.target, "precision": artifact.precision, "opset": artifact.opset, "model": artifact.model,
                "model_sha256": artifact.model_sha256, **self.runtime.facts()}

    def close(self) -> None:
        """Free the model's memory."""
        self.runtime.close()


def open_session(folder: Path | str, *, threads: int | None = None, device: str = "cpu", check: bool = True,
                 public_key: Path | str | None = None, spin: bool | None = None,
                 hint: Literal["latency", "throughput"] = "latency", cache: Path | None = None) -> CheckedSession:
    """Open an artifact folder; threads None means all cores this process may use.

    public_key: the PEM file of the key that must have signed it; every file is then checked, whatever `check` says, and what is opened
    is checked in any case. spin: as of OrtSession; hint, cache: as of OpenVinoSession; the other runtimes have no such choice.
    Raises UserError where files are missing, changed or not signed (exit 1), or the runtime or device is missing (exit 5).
    """
    artifact = read_artifact(folder, check=check, public_key=public_key)
    return CheckedSession(artifact, open_runtime(artifact, threads=threads, device=device, spin=spin, hint=hint, cache=cache))


def open_runtime(artifact: Artifact, *, threads: int | None = None, device: str = "cpu", spin: bool | None = None,
                 hint: Literal["latency", "throughput"] = "latency", cache: Path | None = None) -> Runtime:
    """The runtime an artifact was made for with its model in it; UserError (exit 5) where library or device is missing."""
    return artifact.row.open(artifact.model_bytes(), Opening(
        str(artifact.model_path), artifact.precision, threads, device, spin, hint, cache, artifact.manifest.get("engine", {})))


def as_batch(images: Images, artifact: Artifact) -> Feeds:
    """What the graph takes: volumes as slices and mask, all else as one array; UserError for any other input."""
    return as_images(images, artifact) if artifact.image_spec.volume is None else as_stacks(images, artifact)


def as_images(images: Images, artifact: Artifact) -> NDArray[Any]:
    """Images as the one array the graph takes, (N, H, W, C) or for `pixel_values` (N, 3, h, w); UserError for any other input.

    Arrays at graph size pass untouched; others are resized by `ImageSpec.resized`, unless the graph has its own resize.
    """
    if isinstance(images, np.ndarray):
        batch = _batch_of_array(images, artifact)
    elif isinstance(images, str | Path):
        batch = _from_raw(_read(Path(images), artifact)[0], artifact)[None]
    elif isinstance(images, Sequence) and not isinstance(images, bytes):
        if not images:
            raise UserError("no images; expected at least one")
        batch = np.concatenate([as_images(image, artifact) for image in images])
    else:
        raise UserError(f"images are {type(images).__name__}; expected a path, a list of paths or a numpy array")
    return batch


def _batch_of_array(images: NDArray[Any], artifact: Artifact) -> NDArray[Any]:
    spec = artifact.image_spec
    if artifact.input_kind == "tensor" and images.dtype == np.float32:
        return _pixel_values(images, artifact)
    if images.dtype != spec.dtype:
        expected = f"{spec.dtype}{' (or float32 pixel_values)' if artifact.input_kind == 'tensor' else ''}"
        kind = "values such as HU" if spec.physical else "raw grey levels"
        raise UserError(f"image array of dtype {images.dtype}, expected {expected}: {kind}, not scaled and not normalised")
    if images.ndim == 2 and spec.channels == 1:
        images = images[..., None]
    batch = images[None] if images.ndim == 3 else images
    if batch.ndim != 4 or batch.shape[3] != spec.channels:
        raise UserError(f"image array of shape {images.shape}, expected (height, width, {spec.channels}) or a batch "
                        f"(images, height, width, {spec.channels})")
    if len(batch) == 0:
        raise UserError("no images; expected at least one")
    if artifact.input_kind == "image" and batch.shape[1:3] == artifact.graph_size:
        _refuse_constant(batch)
        return batch if batch.flags.c_contiguous else np.ascontiguousarray(batch)
    return np.stack([_from_raw(image, artifact) for image in batch])


def _from_raw(raw: NDArray[Any], artifact: Artifact) -> NDArray[Any]:
    """One raw image (H, W, C) as the graph takes it."""
    height, width, _ = raw.shape
    if min(height, width) < MIN_SIDE or height * width > MAX_PIXELS:
        raise UserError(f"image of {height}x{width} pixels, expected at least {MIN_SIDE} a side and at most {MAX_PIXELS:,} in all")
    _refuse_constant(raw[None])
    spec = artifact.image_spec
    if artifact.input_kind == "tensor":
        return spec.normalised(spec.stored(raw)[None])[0]
    if artifact.baked:
        if (height, width) != artifact.graph_size:
            size = f"{artifact.graph_size[0]}x{artifact.graph_size[1]}"
            raise UserError(f"image of {height}x{width} pixels, this graph takes {size} and resizes by itself; "
                            "bring images of that size, or export without --input-size")
        return raw
    return spec.resized(raw)


def _read(path: Path, artifact: Artifact) -> tuple[NDArray[Any], tuple[str, ...], tuple[Path, ...]]:
    """One file as a raw image (H, W, C), or as the slices of a volume (D, H, W, 1); what a person should know of the scan; its files."""
    spec = artifact.image_spec
    if spec.volume is not None:
        scan = read_scan(path)
        return spec.volume.of_scan(scan, scan_name(path)), scan.notes, scan.files
    raw = decode(path, values=spec.physical)
    if raw.dtype != spec.dtype:
        raise UserError(f"{path}: pixels are {raw.dtype}, this model takes {spec.dtype} grey levels from "
                        f"{spec.window[0]:g} to {spec.window[1]:g}")
    return spec.channelled(raw), (), (path,)


def _feeds_of(raw: NDArray[Any], artifact: Artifact) -> Feeds:
    """What the graph takes of what `_read` has read."""
    return _from_raw(raw, artifact)[None] if artifact.image_spec.volume is None else stack_of(raw, artifact)


def _pixel_values(values: NDArray[Any], artifact: Artifact) -> NDArray[Any]:
    shape = (3, artifact.image_spec.height, artifact.image_spec.width)
    batch = values[None] if values.ndim == 3 else values
    if batch.ndim != 4 or batch.shape[1:] != shape or len(batch) == 0:
        raise UserError(f"pixel_values of shape {values.shape}, expected (images, {shape[0]}, {shape[1]}, {shape[2]})")
    flat = batch.reshape(-1)
    with np.errstate(all="ignore"):
        suspicious = not np.isfinite(flat @ flat)  # one pass; an overflow is told apart from NaN and Inf by the second
    if suspicious and not np.isfinite(flat).all():
        raise UserError("pixel_values hold NaN or Inf; expected finite normalised pixels")
    _refuse_constant(batch)
    return np.ascontiguousarray(batch)


def _refuse_constant(batch: NDArray[Any]) -> None:
    """Refuse images of one single value (an unplugged sensor, an empty frame); three pixels settle it for most images."""
    size = batch.size // len(batch)
    for place, start in enumerate(range(0, batch.size, size)):
        first = batch.item(start)
        if first == batch.item(start + size // 2) and first == batch.item(start + size // 3):
            image = batch[place]
            if image.min() == image.max():
                raise UserError(f"image with the single value {image.flat[0]} everywhere; nothing in it can be classified")
