"""The distance of features to those of the network as it was, against its formula in float64; on kept images, and of slices."""

from __future__ import annotations

import copy

import numpy as np
import torch

from distill.methods.keep import LEAST_SPREAD, Keeping
from distill.networks.models import Model, ModelSpec, build_model
from runtimes.images.spec import ImageSpec


def networks() -> tuple[Model, Model]:
    """A network as it was, and the same a little further."""
    torch.manual_seed(0)
    before = build_model(ModelSpec("test_efficientnet", 32, 32, "binary", ("no", "yes"))).eval().requires_grad_(False)
    now = copy.deepcopy(before)
    with torch.no_grad():
        for parameter in now.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return before, now.requires_grad_(True)


def test_the_distance_on_new_images_is_that_of_standardised_features() -> None:
    before, now = networks()
    pixels = torch.randn(5, 3, 32, 32)
    sd = torch.rand(before.head.in_features) + 0.01
    features = now.features(pixels)
    loss = Keeping(before, sd, 3.0).loss(now, pixels, features)
    spread = np.maximum(sd.numpy().astype(np.float64), LEAST_SPREAD * float(sd.double().mean()))
    apart = (features.detach().double().numpy() - before.features(pixels).double().numpy()) / spread
    assert abs(loss.item() - 3.0 * float((apart ** 2).mean())) < 1e-5 * loss.item()
    loss.backward()
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in now.parameters())
    assert all(parameter.grad is None for parameter in before.parameters())
    assert Keeping(before, sd, 3.0).loss(before, pixels, before.features(pixels)).item() == 0.0


def test_missing_slices_of_volumes_weigh_nothing() -> None:
    before, now = networks()
    pixels, mask = torch.randn(2, 3, 3, 32, 32), torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    features = now.features(pixels.flatten(0, 1)).unflatten(0, (2, 3))
    keeping = Keeping(before, torch.ones(before.head.in_features), 1.0)
    there = pixels.flatten(0, 1)[mask.flatten() > 0]
    torch.testing.assert_close(keeping.loss(now, pixels, features, mask), keeping.loss(now, there, now.features(there)))


def test_kept_images_are_what_the_distance_is_taken_on_and_new_ones_do_not_count() -> None:
    before, now = networks()
    levels, spec = np.random.default_rng(0).integers(0, 255, (1, 32, 32, 1)).astype(np.uint8), ImageSpec(32, 32, 1)
    twice = np.concatenate([levels, 255 - levels])
    keeping = Keeping(before, torch.ones(before.head.in_features), 2.0, [(twice, spec)])
    first, second = (keeping.loss(now, pixels, now.features(pixels)) for pixels in (torch.randn(4, 3, 32, 32), torch.zeros(4, 3, 32, 32)))
    with torch.no_grad():
        pixels = keeping.pixels[0]
        apart = ((now.features(pixels) - before.features(pixels)) / keeping.sd).double().square().mean(dim=1)
    for loss in (first, second):  # images drawn with replacement: a mean of the two, however often each was drawn
        assert 2 * float(apart.min()) - 1e-5 <= loss.item() <= 2 * float(apart.max()) + 1e-5
    assert keeping.loss(before, torch.zeros(4, 3, 32, 32), torch.zeros(4, 1)).item() < 1e-9
