"""Encoders of transformers as their authors use them: every family, its own processor, square and other images; nothing drawn at random."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from drawn import smooth_picture
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModel

from distill.adaptation import adapt as adapt_module
from distill.networks.checkpoint import load_checkpoint
from distill.report.outcome import write_result
from distill.settings.adapt import AdaptSettings
from distill.teacher.teachers import load_teacher
from runtimes.errors import UserError
from runtimes.files.folder import read_json, write_json

TINY: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32,
                        "patch_size": 8}
TEXT: dict[str, Any] = {"hidden_size": 24, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
SQUASH: dict[str, Any] = {"size": {"height": 32, "width": 32}}
CROP: dict[str, Any] = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}


def random_weights(model: torch.nn.Module) -> torch.nn.Module:
    """The model with weights that all matter: a fresh one has layer scales and biases near zero."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2 + (1.0 if parameter.ndim == 1 else 0.0)
    return model.eval()


def pooled(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    return model(pixel_values=pixels).pooler_output.flatten(1)


def class_token(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    return model(pixel_values=pixels).last_hidden_state[:, 0]


def mean_token(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    return model(pixel_values=pixels).last_hidden_state.mean(1)


def vision(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    return model.vision_model(pixel_values=pixels).pooler_output


Forward = Callable[[Any, torch.Tensor], torch.Tensor]
# Name: the model as its authors save it, its processor, and the forward pass that they write.
FAMILIES: dict[str, tuple[Callable[[], Any], Callable[[], Any], Forward]] = {
    "vit with its pooler": (lambda: transformers.ViTModel(transformers.ViTConfig(**TINY)),
                            lambda: transformers.ViTImageProcessor(**SQUASH), pooled),
    "vit without pooler, as Phikon": (lambda: transformers.ViTModel(transformers.ViTConfig(**TINY), add_pooling_layer=False),
                                      lambda: transformers.ViTImageProcessor(**SQUASH), class_token),
    "a fine-tuned vit": (lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**TINY)),
                         lambda: transformers.ViTImageProcessor(**SQUASH, do_normalize=False), class_token),
    "deit": (lambda: transformers.DeiTForImageClassification(transformers.DeiTConfig(**TINY)),
             lambda: transformers.DeiTImageProcessor(size={"height": 40, "width": 40}, crop_size={"height": 32, "width": 32}), class_token),
    "dinov2, as RAD-DINO": (lambda: transformers.Dinov2Model(transformers.Dinov2Config(**TINY)),
                            lambda: transformers.BitImageProcessor(**CROP, resample=3), pooled),
    "dinov2 with registers": (lambda: transformers.Dinov2WithRegistersModel(transformers.Dinov2WithRegistersConfig(**TINY)),
                              lambda: transformers.BitImageProcessor(**CROP, resample=3), pooled),
    "swin": (lambda: transformers.SwinForImageClassification(transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4)),
        lambda: transformers.ViTImageProcessor(**SQUASH, resample=3), pooled),
    "beit": (lambda: transformers.BeitForImageClassification(transformers.BeitConfig(**TINY)),
             lambda: transformers.BeitImageProcessor(**SQUASH), pooled),
    "convnext": (lambda: transformers.ConvNextForImageClassification(transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1],
                                                                                                 num_stages=2)),
                 lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875), pooled),
    "clip": (lambda: transformers.CLIPModel(transformers.CLIPConfig(text_config=TEXT, vision_config=TINY, projection_dim=8)),
             lambda: transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}), vision),
    "siglip, as MedSigLIP": (lambda: transformers.SiglipModel(transformers.SiglipConfig(text_config=TEXT, vision_config=TINY)),
                             lambda: transformers.SiglipImageProcessor(**SQUASH), vision),
    "mae": (lambda: transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(
        **TINY, decoder_hidden_size=16, decoder_num_attention_heads=2, decoder_num_hidden_layers=1, decoder_intermediate_size=16)),
        lambda: transformers.ViTImageProcessor(**SQUASH), class_token),
}
AS_LOADED = {"mae": lambda folder: AutoModel.from_pretrained(folder, mask_ratio=0.0)}


def write(folder: Path, family: str) -> Path:
    build, processor, _ = FAMILIES[family]
    torch.manual_seed(0)
    random_weights(build()).save_pretrained(folder)
    processor().save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def quiet() -> None:
    transformers.logging.set_verbosity_error()


def cosine(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(ours, theirs).min())


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_those_of_the_authors_own_processor_and_forward_pass(tmp_path: Path, family: str) -> None:
    folder = write(tmp_path / "encoder", family)
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
                theirs.append(FAMILIES[family][2](model, processor(images=Image.fromarray(raw), return_tensors="pt")["pixel_values"]))
    mine, own = torch.cat(ours), torch.cat(theirs)
    assert cosine(mine, own) >= 0.999
    assert cosine(mine - own.mean(0), own - own.mean(0)) >= 0.99


@pytest.mark.parametrize("family", ["vit without pooler, as Phikon", "dinov2, as RAD-DINO", "clip", "convnext", "mae"])
@pytest.mark.parametrize("method", ["lora", "linear"])
def test_the_teacher_that_rd_adapt_ships_is_the_one_that_it_trained(tmp_path: Path, in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch,
                                                                    family: str, method: str) -> None:
    folder = write(tmp_path / "encoder", family)
    kept: dict[str, torch.Tensor] = {}
    pixels = torch.randn(4, 3, 32, 32)

    def write_and_keep(out: Path, result: Any, **more: Any) -> None:
        kept["logits"] = result.model.to("cpu").eval()(pixels).detach()
        write_result(out, result, **more)

    monkeypatch.setattr(adapt_module, "write_result", write_and_keep)
    settings = AdaptSettings(method=method, rank=1, teacher=f"hf:{folder}", phantom_images=(16, 12, 12), phantom_size=32,  # type: ignore[arg-type]
                             epochs=1, min_steps=0, batch=8, bootstrap=5, device="cpu", bank_runtime="torch", bank_views=1)
    assert adapt_module.adapt(settings, "rd-adapt --test") == 0
    torch.testing.assert_close(load_checkpoint(Path("teacher")).model(pixels), kept["logits"])
    assert load_teacher("teacher").hash == load_teacher("teacher").hash


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
    folder = damaged(write(tmp_path / "encoder", "dinov2, as RAD-DINO"), change)
    with pytest.raises(UserError, match=words):
        load_teacher(f"hf:{folder}")


def test_weights_in_half_precision_are_computed_in_fp32(tmp_path: Path) -> None:
    folder = damaged(write(tmp_path / "encoder", "dinov2, as RAD-DINO"), "half precision")
    teacher = load_teacher(f"hf:{folder}")
    assert {parameter.dtype for parameter in teacher.net.parameters()} == {torch.float32}
    assert teacher.features(torch.zeros(1, 3, 32, 32)).dtype == torch.float32


@pytest.mark.parametrize("family", ["vit without pooler, as Phikon", "dinov2, as RAD-DINO", "clip", "mae"])
def test_images_of_another_size_reach_an_encoder_by_resampled_positions(tmp_path: Path, family: str) -> None:
    folder = write(tmp_path / "encoder", family)
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
