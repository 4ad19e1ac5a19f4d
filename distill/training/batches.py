"""Training batches as a pure function of seed and step, so that a resumed run sees exactly what an unbroken one would.

Owns: the order of images, labelled and unlabelled rows, fresh and tied views. Does not own: losses, the loop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.data.pixels import PixelStore
from distill.data.views import ViewSpec, bank_views, draw_views, fresh_pixels
from distill.methods.step import Batch
from distill.networks.slices import mean_of_slices
from distill.teacher.bank import FeatureBank
from distill.teacher.live import LiveTeacher
from distill.teacher.probe import Probe
from runtimes.images.spec import ImageSpec

RELEASE_EVERY = 50  # steps between giving mapped pages back


@lru_cache(maxsize=8)
def _permutation(seed: int, stream: int, turn: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, stream, turn]).permutation(count)


def stream(seed: int, name: int, count: int, start: int, length: int) -> NDArray[np.int64]:
    """Positions start..start+length of an endless stream of permutations of `count` items: each item once a turn."""
    places = np.arange(start, start + length)
    return np.asarray([_permutation(seed, name, int(place // count), count)[place % count] for place in places], dtype=np.int64)


def training_steps(images: int, batch: int, epochs: int, fewest: int) -> int:
    """Steps of a training: so many turns through all its images, more where those would be fewer than asked."""
    return max(epochs, 1) * max(-(-images // batch), -(-fewest // max(epochs, 1)))


@dataclass(frozen=True)
class Batches:
    """What a training step is made of. rows: train images (labelled or not); labelled: those with a label.

    With unlabelled images a batch is `labelled_batch` labelled rows, then `batch` rows of any kind whose labels are hidden.
    """

    pixels: PixelStore
    labels: Tensor
    rows: NDArray[np.int64]
    labelled: NDArray[np.int64]
    spec: ImageSpec
    view_spec: ViewSpec
    seed: int
    batch: int
    labelled_batch: int
    views: Literal["fresh", "tied"] = "fresh"
    bank: FeatureBank | None = None
    bank_rows: NDArray[np.int64] | None = None
    hashes: tuple[str, ...] = ()
    bank_seed: int = 0
    probe: Probe | None = None
    banked_only: bool = False
    stages: tuple[str, ...] = ()
    mixup: float = 0.0
    live: LiveTeacher | None = None
    steps: int | None = None

    @property
    def mixed(self) -> bool:
        """Whether some training images carry no label."""
        return len(self.labelled) < len(self.rows)

    def steps_per_epoch(self, epochs: int, min_steps: int) -> int:
        """Batches an epoch: one turn through all training images, more when the run would have fewer than `min_steps`; or `steps`."""
        return self.steps or training_steps(len(self.rows), self.batch, epochs, min_steps) // max(epochs, 1)

    def pick(self, step: int) -> tuple[NDArray[np.int64], int]:
        """Image indices of a step and how many of them, from the front, show their labels."""
        if not self.mixed:
            places = stream(self.seed, 1, len(self.labelled), step * self.batch, self.batch)
            return self.labelled[places], self.batch
        known = stream(self.seed, 1, len(self.labelled), step * self.labelled_batch, self.labelled_batch)
        others = stream(self.seed, 2, len(self.rows), step * self.batch, self.batch)
        return np.concatenate([self.labelled[known], self.rows[others]]), self.labelled_batch

    def __call__(self, step: int) -> Batch:
        """The batch of a step, on the CPU."""
        indices, shown = self.pick(step)
        generator = np.random.default_rng([self.seed, 3, step])
        clean = viewed = logits = taught_mask = None
        maps: tuple[Tensor, ...] = ()
        mask = self.pixels.mask(indices)
        drawn = np.zeros(len(indices), dtype=np.int64)
        if self.bank is not None and self.bank_rows is not None:
            places = self.bank_rows[indices]
            drawn = generator.integers(0, self.bank.views(places) + 1)
            clean = torch.from_numpy(self.bank.features(places))
            viewed = torch.from_numpy(self.bank.features(places, drawn))
            taught_mask = torch.from_numpy(self.bank.features(places, 0, "mask")) if self.bank.masked else None
            maps = tuple(torch.from_numpy(self.bank.features(places, drawn, name)) for name in self.stages)
            if self.probe is not None:
                logits = self.probe.logits(mean_of_slices(clean, taught_mask))
        if self.banked_only:  # adapters of pooled features never see a pixel
            return Batch(torch.empty(len(indices), 0), self.labels[indices], clean, viewed, mask=taught_mask, taught_mask=taught_mask)
        if self.views == "tied":
            matrices = np.stack([bank_views(self.view_spec, self.bank_seed, self.hashes[index], int(view))[view]
                                 for index, view in zip(indices, drawn, strict=True)])
        else:
            matrices = draw_views(self.view_spec, len(indices), generator)
        if self.live is not None:
            clean = viewed = self.live.features(indices, matrices)
            logits = None if self.probe is None else self.probe.logits(clean)
        pixels = fresh_pixels(self.pixels.rows(indices), matrices, generator, self.spec)
        labels = self.labels[indices]
        if shown < len(indices):
            labels = labels.clone()
            labels[shown:] = torch.nan if labels.is_floating_point() else -1
        if step % RELEASE_EVERY == RELEASE_EVERY - 1:
            self.pixels.release()
            if self.bank is not None:
                self.bank.release()
        if pixels.ndim == 4:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        batch = Batch(pixels, labels, clean, viewed, logits, mask, maps, taught_mask)
        return blended(batch, generator, self.mixup) if self.mixup else batch


def blended(batch: Batch, generator: np.random.Generator, concentration: float) -> Batch:
    """Each image mixed with another of the batch, and what the teacher says of both alike (mixup, Zhang et al. 2018, of images that need
    no label).

    One share a batch from Beta(concentration, concentration). The teacher is banked, so that its features are mixed, not its input.
    """
    share = torch.tensor(generator.beta(concentration, concentration), dtype=torch.float32)
    order = torch.from_numpy(generator.permutation(len(batch.pixels)))

    def mix(values: Tensor | None) -> Tensor | None:
        return None if values is None else torch.lerp(values[order], values, share)

    maps = tuple(torch.lerp(part[order], part, share) for part in batch.maps)
    return replace(batch, pixels=torch.lerp(batch.pixels[order], batch.pixels, share), clean=mix(batch.clean), viewed=mix(batch.viewed),
                   probe_logits=mix(batch.probe_logits), maps=maps, share=share, other_labels=batch.labels[order])
