"""Optimum runs an exported folder, whatever the student, and exports a student folder itself, against the PyTorch student.

Needs the optimum extra, which cannot stand beside every version of transformers; skips, and says so, where it is not installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import Case, tiny_model, write_student

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


@pytest.mark.filterwarnings("default")
def test_an_ordinal_student_s_graph_answers_by_class_where_the_student_names_thresholds(exported: Callable[[Case], Path]) -> None:
    from optimum.onnxruntime import ORTModelForImageClassification

    folder = exported(Case(task="ordinal", input="tensor", channels=3))
    session = ORTModelForImageClassification.from_pretrained(folder)
    model = load_checkpoint(folder.parent / "student").model
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(session(pixel_values=pixels).logits, model(pixels), atol=1e-4)
    assert [session.config.id2label[index] for index in range(4)] == list(model.spec.classes)


@pytest.mark.parametrize("arch", ["resnet18", "test_vit"])
def test_optimum_exports_a_student_folder_without_the_network_to_the_same_logits(tmp_path: Path, arch: str) -> None:
    """It has no rule for transformers' wrapper and takes the folder for a name of the hub unless `--library transformers` is given."""
    case = Case(channels=3, arch=arch)
    write_student(tmp_path / "student", case)
    line = [str(Path(sys.executable).parent / "optimum-cli"), "export", "onnx", "--model", "student", "--library", "transformers",
            "--task", "image-classification", "exported"]
    done = subprocess.run(line, cwd=tmp_path, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    session = onnxruntime.InferenceSession(tmp_path / "exported" / "model.onnx")
    model = tiny_model(case)
    for count in (1, 5):
        pixels = torch.randn(count, 3, 32, 32)
        with torch.no_grad():
            logits = torch.from_numpy(session.run(["logits"], {"pixel_values": pixels.numpy()})[0])
            torch.testing.assert_close(logits, model(pixels), atol=1e-4, rtol=1e-4)
