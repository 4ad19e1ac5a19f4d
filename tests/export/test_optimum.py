"""Optimum runs an exported folder: `--input tensor` and ORTModelForImageClassification against the PyTorch student.

Needs the optimum extra, which cannot stand beside every version of transformers; skips, and says so, where it is not installed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Case

from distill.networks.checkpoint import load_checkpoint

pytest.importorskip("optimum.onnxruntime", reason="the optimum extra is not installed: pip install 'rd-distill[optimum]'")


CASE = Case(input="tensor", channels=3)


@pytest.mark.filterwarnings("default")  # optimum's and transformers' own deprecations are not ours
def test_optimum_loads_the_folder_and_gives_the_logits_of_pytorch(exported: Callable[[Case], Path]) -> None:
    from optimum.onnxruntime import ORTModelForImageClassification

    session = ORTModelForImageClassification.from_pretrained(exported(CASE))
    model = load_checkpoint(exported(CASE).parent / "student").model
    pixels = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32))
    logits = session(pixel_values=pixels).logits
    with torch.no_grad():
        assert torch.allclose(logits, model(pixels), atol=1e-4)
    assert [session.config.id2label[index] for index in range(logits.shape[1])] == list(model.spec.classes)


@pytest.mark.filterwarnings("default")
def test_the_image_processor_of_transformers_prepares_pixels_as_the_image_spec_does(exported: Callable[[Case], Path]) -> None:
    from transformers import ViTImageProcessor

    processor = ViTImageProcessor.from_pretrained(exported(CASE))
    image = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    values = np.asarray(processor(image, return_tensors="np")["pixel_values"])
    spec = load_checkpoint(exported(CASE).parent / "student").image_spec
    assert np.abs(values - spec.normalised(image[None])).max() < 1e-5
