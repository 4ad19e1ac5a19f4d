"""Deep Reprogramming Distillation: banked maps of the teacher's stages go on through the student's own later stages.

Owns: the convolutional reprogramming module, DRD's losses per stage. Does not own: cutting a student (stages.py), RD's last stage
(build.py). DRD: arXiv 2605.04447; its last stage is RD.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn import functional as F

from distill.evaluation.losses import cka_loss
from distill.networks.models import Model
from distill.networks.stages import Stages


class ConvReprogram(nn.Module):
    """phi_i: three convolutions from a banked map (B, C, g, g) to a student's map (B, c, h, w), shape = (c, h, w)."""

    def __init__(self, channels: int, shape: tuple[int, int, int], inner: int = 64) -> None:
        super().__init__()
        self.size = shape[1:]
        self.standardise = nn.BatchNorm2d(channels, affine=False)
        self.narrow = nn.Sequential(nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.GELU())
        self.mix = nn.Sequential(nn.Conv2d(inner, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner), nn.GELU())
        self.expand = nn.Conv2d(inner, shape[0], 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Banked maps (B, C, g, g) to reprogrammed maps (B, c, h, w)."""
        resized_maps = F.interpolate(self.narrow(self.standardise(maps)), self.size, mode="bilinear", align_corners=False)
        return self.expand(self.mix(resized_maps))  # type: ignore[no-any-return]


class Deep(nn.Module):
    """One reprogramming module a stage: channels of the banked maps, shapes (c, h, w) of the student's."""

    reprograms = True

    def __init__(self, channels: Sequence[int], shapes: Sequence[tuple[int, int, int]]) -> None:
        super().__init__()
        self.phis = nn.ModuleList(ConvReprogram(count, shape) for count, shape in zip(channels, shapes, strict=True))

    def losses(self, student: Model, stages: Stages, maps: Sequence[Tensor], own: Sequence[Tensor], on_labels: Callable[[Tensor], Tensor],
               on_logits: Callable[[Tensor], Tensor], *, debiased: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Sums over stages of the task loss of hybrid logits, of the student's distance to them, and of 1 - CKA.

        maps: banked, (B, C, g, g) a stage; own: the student's at the ends of its stages. CKA compares maps averaged over places: the
        banked view and the student's are cut differently. Hybrid passes leave the statistics of the student's normalisation alone.
        """
        task, kd, cka = [], [], []
        for index, (module, banked, mine) in enumerate(zip(self.phis, maps, own, strict=True)):
            reprogrammed = module(banked)
            with _statistics_kept(student):
                logits = student.logits(student.adapted(stages.onward(index, reprogrammed)))
            task.append(on_labels(logits))
            kd.append(on_logits(logits.detach()))
            cka.append(cka_loss(reprogrammed.mean((2, 3)), mine.mean((2, 3)), debiased=debiased))
        return sum(task[1:], task[0]), sum(kd[1:], kd[0]), sum(cka[1:], cka[0])


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """Batch statistics normalise, but do not enter the running ones."""
    norms = [norm for norm in model.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
