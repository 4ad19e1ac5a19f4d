"""Running the trained branches over images: the student, the teacher branch and the probe.

Owns: predict. Does not own: Predictions and what is judged by them (predict.py).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.data.pixels import PixelStore
from distill.evaluation.losses import cka
from distill.evaluation.predict import Predictions
from distill.methods.step import Branches
from distill.networks.models import Model
from distill.networks.slices import mean_of_slices
from distill.teacher.bank import FeatureBank
from distill.teacher.probe import Probe
from runtimes.images.spec import ImageSpec

CKA_IMAGES = 2000  # more adds nothing to the estimate and a Gram matrix grows with the square


def predict(branches: Branches, pixels: PixelStore, spec: ImageSpec, rows: NDArray[np.int64], *, device: str,
            bank: FeatureBank | None, bank_rows: NDArray[np.int64] | None, probe: Probe | None, banked_only: bool = False,
            batch: int = 64) -> Predictions:
    """Run the student on clean images and, where there is a bank, the teacher branch and the probe on their features.

    banked_only: the student is an adapter of pooled features and takes them from the bank.
    """
    student = branches.student
    batch = max(1, batch // max(student.spec.slices, 1))
    logits: list[Tensor] = []
    features: list[Tensor] = []
    taught: list[Tensor] = []
    probed: list[Tensor] = []
    attention: list[Tensor] = []
    training = branches.training
    branches.eval()
    with torch.no_grad():
        for start in range(0, len(rows), batch):
            own = rows[start:start + batch]
            mask = pixels.mask(own)
            mask = None if mask is None else mask.to(device)
            clean = taught_mask = None
            if bank is not None and bank_rows is not None:
                clean = torch.from_numpy(bank.features(bank_rows[own])).to(device)
                taught_mask = torch.from_numpy(bank.features(bank_rows[own], 0, "mask")).to(device) if bank.masked else None
            mask = taught_mask if banked_only else mask
            unpooled = clean_features(student, pixels.inputs(own, spec), device) if not banked_only else student.adapted(clean)  # type: ignore[arg-type]
            if mask is not None:
                attention.append(student.slice_pool.weights(unpooled, mask).cpu())
            features.append(student.pool(unpooled, mask).float())
            logits.append(student.logits(features[-1]).float().cpu())
            if clean is not None and branches.phi is not None:
                taught.append(student.pool(branches.phi.target(clean), taught_mask))
            if clean is not None and probe is not None:
                probed.append(probe.logits(mean_of_slices(clean, taught_mask).cpu()))
        similarity = None
        if len(taught) and len(rows) >= 4:
            similarity = float(cka(torch.cat(taught)[:CKA_IMAGES].double(), torch.cat(features)[:CKA_IMAGES].double()))
        teacher = torch.cat([branches.taught_logits(part).float().cpu() for part in taught]).numpy() if taught else None
    branches.train(training)
    return Predictions(rows, torch.cat(logits).numpy(), teacher, torch.cat(probed).numpy() if probed else None, similarity,
                       torch.cat(attention).numpy() if attention else None)


def clean_features(student: Model, inputs: tuple[Tensor, ...], device: str) -> Tensor:
    """Features (B, D) of images, or (B, S, D) of the slices of volumes, in float32."""
    if student.spec.solid:
        return student.features(inputs[0].to(device)).float()
    if student.spec.bag:
        return student.slice_features(inputs[0].to(device)).float()
    return student.features(inputs[0].to(device, memory_format=torch.channels_last)).float()
