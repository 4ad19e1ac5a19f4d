"""Encoders of transformers as their authors use them: every family, its own processor, square and other images; nothing drawn at random."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from drawn import smooth_picture
from families import AS_LOADED, ENCODERS, write_encoder
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModel

from distill.teacher.teachers import load_teacher
from runtimes.errors import UserError
from runtimes.files.folder import read_json, write_json


@pytest.fixture(autouse=True)
def quiet() -> None:
    transformers.logging.set_verbosity_error()


def cosine(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(ours, theirs).min())


@pytest.mark.parametrize("family", ENCODERS)
def test_features_are_those_of_the_authors_own_processor_and_forward_pass(tmp_path: Path, family: str) -> None:
    folder = write_encoder(tmp_path / "encoder", family)
    teacher, again = load_teacher(f"hf:{folder}"), load_teacher(f"hf:{folder}")
    assert teacher.hash == again.hash
    model = AS_LOADED.get(family, AutoModel.from_pretrained)(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    ours, theirs = [], []
    for seed in range(6):
        for shape in ((300, 300), (400, 230)):
            raw = smooth_picture(*shape, seed)
            spec = teacher.image_spec
            ours.append(teacher.features(torch.from_numpy(spec.normalised(spec.stored(raw)))[None]))
            with torch.no_grad():
                theirs.append(ENCODERS[family][2](model, processor(images=Image.fromarray(raw), return_tensors="pt")["pixel_values"]))
    mine, own = torch.cat(ours), torch.cat(theirs)
    assert cosine(mine, own) >= 0.999
    assert cosine(mine - own.mean(0), own - own.mean(0)) >= 0.99


def damaged(folder: Path, change: str) -> Path:
    """The folder of an encoder, spoilt in one way."""
    path = folder / "model.safetensors"
    if change == "a layer missing":
        state = load_file(path)
        save_file({name: value for name, value in state.items() if "layer.1." not in name}, path, {"format": "pt"})
    elif change == "no processor":
        (folder / "preprocessor_config.json").unlink()
    elif change == "half precision":
        save_file({name: value.to(torch.bfloat16) for name, value in load_file(path).items()}, path, {"format": "pt"})
    elif change == "blue first":
        settings = read_json(folder / "preprocessor_config.json")
        write_json(folder / "preprocessor_config.json", {**settings, "do_flip_channel_order": True})
    return folder


@pytest.mark.parametrize(("change", "words"), [
    ("a layer missing", "which would be drawn at random"), ("no processor", "put the authors' own file there"),
    ("blue first", "blue, green, red")])
def test_what_would_be_read_wrongly_is_refused_in_a_sentence(tmp_path: Path, change: str, words: str) -> None:
    folder = damaged(write_encoder(tmp_path / "encoder", "dinov2, as RAD-DINO"), change)
    with pytest.raises(UserError, match=words):
        load_teacher(f"hf:{folder}")


def test_weights_in_half_precision_are_computed_in_fp32(tmp_path: Path) -> None:
    folder = damaged(write_encoder(tmp_path / "encoder", "dinov2, as RAD-DINO"), "half precision")
    teacher = load_teacher(f"hf:{folder}")
    assert {parameter.dtype for parameter in teacher.net.parameters()} == {torch.float32}
    assert teacher.features(torch.zeros(1, 3, 32, 32)).dtype == torch.float32


@pytest.mark.parametrize("family", ["vit without pooler, as Phikon", "dinov2, as RAD-DINO", "clip", "mae"])
def test_images_of_another_size_reach_an_encoder_by_resampled_positions(tmp_path: Path, family: str) -> None:
    folder = write_encoder(tmp_path / "encoder", family)
    teacher = load_teacher(f"hf:{folder}", size=48)
    assert (teacher.image_spec.height, teacher.image_spec.edge) == (48, 60 if family.startswith("dinov2") else None)
    model = AS_LOADED.get(family, AutoModel.from_pretrained)(folder).eval()
    pixels = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        if family == "clip":
            theirs = model.vision_model(pixel_values=pixels, interpolate_pos_encoding=True).pooler_output
        elif family.startswith("dinov2"):
            theirs = model(pixel_values=pixels).pooler_output
        else:
            theirs = model(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state[:, 0]
    torch.testing.assert_close(teacher.features(pixels), theirs, rtol=1e-4, atol=1e-4)
