"""Encoders of transformers at sizes and precisions that are not their own; every family as its authors use it: test_formats.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from benchmarks.robustness.stand_ins import AS_LOADED, write_encoder
from distill.teacher.teachers import load_teacher


@pytest.fixture(autouse=True)
def quiet() -> None:
    transformers.logging.set_verbosity_error()


def test_weights_in_half_precision_are_computed_in_fp32(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "encoder", "DINOv2, as RAD-DINO")
    path = folder / "model.safetensors"
    save_file({name: value.to(torch.bfloat16) for name, value in load_file(path).items()}, path, {"format": "pt"})
    teacher = load_teacher(f"hf:{folder}")
    assert {parameter.dtype for parameter in teacher.net.parameters()} == {torch.float32}
    assert teacher.features(torch.zeros(1, 3, 32, 32)).dtype == torch.float32


@pytest.mark.parametrize("family", ["ViT without pooler, as Phikon", "DINOv2, as RAD-DINO", "CLIP", "MAE"])
def test_images_of_another_size_reach_an_encoder_by_resampled_positions(tmp_path: Path, family: str) -> None:
    folder = write_encoder(tmp_path / "encoder", family)
    teacher = load_teacher(f"hf:{folder}", size=48)
    assert (teacher.image_spec.height, teacher.image_spec.edge) == (48, 60 if family.startswith("DINOv2") else None)
    model = AS_LOADED.get(family, AutoModel.from_pretrained)(folder).eval()
    pixels = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        if family == "CLIP":
            theirs = model.vision_model(pixel_values=pixels, interpolate_pos_encoding=True).pooler_output
        elif family.startswith("DINOv2"):
            theirs = model(pixel_values=pixels).pooler_output
        else:
            theirs = model(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state[:, 0]
    torch.testing.assert_close(teacher.features(pixels), theirs, rtol=1e-4, atol=1e-4)
