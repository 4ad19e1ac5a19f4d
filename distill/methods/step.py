"""What a method sees of one step: the batch, all that is trained, the weights, and the student's answer to the batch.

Owns: Batch, Branches, Weights, Step and its loss on labels. Does not own: what a method adds up (its own file), formulas (losses.py),
the loop (fit.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from distill.evaluation.losses import task_loss
from distill.methods.keep import Keeping
from distill.methods.reprogram import Reprogram
from distill.networks.models import Model, class_scores
from distill.networks.slices import mean_of_slices
from distill.networks.stages import Stages


@dataclass(frozen=True)
class Batch:
    """One step's input: pixels (B, 3, h, w), labels, and teacher features (B, D) of the clean image and of a view.

    Of volumes: pixels (B, S, 3, h, w), and the mask (B, S) of slices that are there, where the student sees them one by one; where the
    teacher does, features of slices (B, T, D) and taught_mask (B, T). For DRD: maps of the teacher's stages (B, C, g, g) on the view.
    Where images are mixed: share (0-d) of an image's own in its pixels and in all that the teacher says of it, and the labels of the
    images that the rest comes from.
    """

    pixels: Tensor
    labels: Tensor
    clean: Tensor | None = None
    viewed: Tensor | None = None
    probe_logits: Tensor | None = None
    mask: Tensor | None = None
    maps: tuple[Tensor, ...] = ()
    taught_mask: Tensor | None = None
    share: Tensor | None = None
    other_labels: Tensor | None = None


class Branches(nn.Module):
    """All that is trained: the student and what its method trains beside it, such as a reprogramming module or a projection.

    phi and classifier are the teacher branch of RD, which is judged beside the student; beside: further modules by name. A module that
    says `reprograms = True` has the learning rate and decay of the reprogramming module.
    """

    phi: Reprogram | None
    classifier: nn.Linear | None

    def __init__(self, student: Model, phi: Reprogram | None = None, *, classifier: nn.Linear | None = None,
                 beside: Mapping[str, nn.Module] | None = None, stages: Stages | None = None) -> None:
        super().__init__()
        self.student = student
        self.phi = phi
        self.classifier = classifier
        for name, module in (beside or {}).items():
            self.add_module(name, module)
        self.__dict__["stages"] = stages  # pieces of the student, no modules beside it
        self.stages: Stages | None
        self.__dict__["keeping"] = None  # what holds the student to its earlier answers: no part of what is trained, either
        self.keeping: Keeping | None

    @property
    def reprogramming(self) -> tuple[str, ...]:
        """Names of the modules that reprogram the teacher."""
        return tuple(name for name, module in self.named_children() if getattr(module, "reprograms", False))

    def taught_logits(self, features: Tensor) -> Tensor:
        """The teacher branch's logits of reprogrammed features (B, d): by the shared classifier unless it has its own."""
        student = self.student
        return student.logits(features) if self.classifier is None else class_scores(self.classifier(features), student.spec.task)


@dataclass(frozen=True)
class Weights:
    """Weights and temperature of the parts of a loss."""

    teacher: float = 1.0
    kd: float = 1.0
    cka: float = 1.0
    hint: float = 1.0
    temperature: float = 4.0
    debiased: bool = True
    focal_gamma: float = 2.0
    balance: float = 1e-3
    raw: bool = False  # CKA with the teacher's own features, not the reprogrammed ones
    probed: bool = False  # RD distils the logits of the teacher's probe, not of the teacher branch


@dataclass(frozen=True)
class Step:
    """One step as a method's losses see it; the student's features, maps and logits are computed when first asked for."""

    branches: Branches
    batch: Batch
    weights: Weights
    class_weights: Tensor | None = None

    @property
    def student(self) -> Model:
        """The student."""
        return self.branches.student

    @cached_property
    def _seen(self) -> tuple[list[Tensor], Tensor]:
        if self.branches.stages is None:
            return [], self.student.features(self.batch.pixels, self.batch.mask)
        return self.branches.stages.maps(self.batch.pixels)

    @property
    def maps(self) -> list[Tensor]:
        """The student's maps at the ends of its stages, where a method cut it into some."""
        return self._seen[0]

    @property
    def features(self) -> Tensor:
        """The student's pooled features (B, d)."""
        return self._seen[1]

    @cached_property
    def logits(self) -> Tensor:
        """The student's logits (B, C)."""
        return self.student.logits(self.features)

    def on_labels(self, logits: Tensor) -> Tensor:
        """The task loss of logits (B, C); hidden labels do not count, of mixed images each label counts by its share."""
        batch = self.batch

        def loss(labels: Tensor) -> Tensor:
            return task_loss(logits, labels, self.student.spec.task, class_weights=self.class_weights, focal_gamma=self.weights.focal_gamma)

        if batch.share is None or batch.other_labels is None:
            return loss(batch.labels)
        return batch.share * loss(batch.labels) + (1 - batch.share) * loss(batch.other_labels)

    def teacher_features(self) -> Tensor:
        """The teacher's features (B, D) of the clean images, of volumes the mean of their slices."""
        return mean_of_slices(required(self.batch.clean), self.batch.taught_mask)


def required(tensor: Tensor | None) -> Tensor:
    """A part of the batch that a method relies on: its row in the table asked for it."""
    assert tensor is not None, "the batch lacks what the method's row asks for"
    return tensor
