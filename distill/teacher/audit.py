"""Whether a bank may be used: made from what this run needs, and by the teacher it names.

Owns: refusing a stale bank by its key, recomputing a share of its rows live. Does not own: the bank's files (bank.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from distill.data.image_set import ImageSet
from distill.data.views import ViewSpec, bank_views, view_pixels
from distill.teacher.bank import FeatureBank
from distill.teacher.banking import Forward, image_levels
from runtimes.errors import UserError
from runtimes.images.spec import ImageSpec


def check_key(bank: FeatureBank, key: dict[str, Any]) -> None:
    """Refuse a stale bank, naming what differs: teacher, preprocessing, views or seed."""
    wrong = [f"{name} is {bank.key.get(name)!r}, this run needs {value!r}" for name, value in key.items()
             if bank.key.get(name) != value and name != "teacher"]
    if wrong:
        raise UserError(f"bank {bank.folder} is stale: {'; '.join(wrong)}; name another --bank folder or remove this one")


def audit(bank: FeatureBank, images: ImageSet, spec: ImageSpec, forward: Forward, *, views: ViewSpec, seed: int,
          share: float, limit: float = 0.999) -> float:
    """Recompute a share of the bank's rows live and return the smallest cosine; below `limit` the bank is refused."""
    indices = bank.indices(images.hashes)
    available = bank.views(indices)
    count = max(1, round(share * int((available + 1).sum())))
    generator = np.random.default_rng([seed, 7])
    chosen = generator.choice(len(images), size=min(count, len(images)), replace=False)
    worst = 1.0
    for start in range(0, len(chosen), 32):
        rows = chosen[start:start + 32]
        picks = generator.integers(0, available[rows] + 1)
        levels = [image_levels(images.raw(int(row), spec.volume), spec) for row in rows]
        matrices = np.stack([bank_views(views, seed, images.hashes[row], int(pick))[pick] for row, pick in zip(rows, picks, strict=True)])
        banked = torch.from_numpy(bank.features(indices[rows], picks)).double()
        clean = picks == 0
        if spec.masked:
            counts = [len(stack) for stack in levels]
            levels = [plane for stack in levels for plane in stack]
            matrices, clean = np.repeat(matrices, counts, 0), np.repeat(clean, counts)
            banked = banked[torch.from_numpy(bank.features(indices[rows], picks, "mask")) > 0]
        live = forward(view_pixels(levels, matrices, clean, spec))["pooled"].double()
        worst = min(worst, float(torch.nn.functional.cosine_similarity(live.cpu(), banked, dim=1).min()))
    if worst < limit:
        raise UserError(f"bank {bank.folder} does not match its teacher: smallest cosine {worst:.5f} of {len(chosen)} rows "
                        f"recomputed, expected at least {limit}; remove it and build it again")
    return worst
