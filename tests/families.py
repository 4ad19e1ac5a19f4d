"""Tiny encoders of every family that a teacher may be: of transformers as folders, of timm as registered networks; weights that all matter.

Owns: ENCODERS and write_encoder, NETWORKS. Does not own: the images that they are fed (tiny.py, drawn.py).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModel

TINY: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32,
                        "patch_size": 8}
TEXT: dict[str, Any] = {"hidden_size": 24, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
SQUASH: dict[str, Any] = {"size": {"height": 32, "width": 32}}
WINDOWS: dict[str, Any] = {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
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
ENCODERS: dict[str, tuple[Callable[[], Any], Callable[[], Any], Forward]] = {
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
    "swin": (lambda: transformers.SwinForImageClassification(transformers.SwinConfig(**WINDOWS)),
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
    "swin v2": (lambda: transformers.Swinv2ForImageClassification(transformers.Swinv2Config(**WINDOWS)),
                lambda: transformers.ViTImageProcessor(**SQUASH), pooled),
    "convnext v2": (lambda: transformers.ConvNextV2Model(transformers.ConvNextV2Config(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)),
                    lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875), pooled),
    "dinov2, gated": (lambda: transformers.Dinov2Model(transformers.Dinov2Config(**TINY, use_swiglu_ffn=True)),
                      lambda: transformers.BitImageProcessor(**CROP, resample=3), pooled),
    "dinov3": (lambda: transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**TINY, num_register_tokens=2, use_gated_mlp=True)),
               lambda: transformers.ViTImageProcessor(**SQUASH), pooled),
    "dinov3 convnext": (lambda: transformers.DINOv3ConvNextModel(transformers.DINOv3ConvNextConfig(
        hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], image_size=32)), lambda: transformers.ViTImageProcessor(**SQUASH), pooled),
    "data2vec": (lambda: transformers.Data2VecVisionModel(transformers.Data2VecVisionConfig(**TINY)),
                 lambda: transformers.BeitImageProcessor(**SQUASH), class_token),
    "hiera": (lambda: transformers.HieraModel(transformers.HieraConfig(
        embed_dim=8, image_size=[32, 32], depths=[1, 1], num_heads=[1, 2], query_stride=[2, 2], masked_unit_size=[2, 2],
        masked_unit_attention=[True, False], num_query_pool=1)), lambda: transformers.ViTImageProcessor(**SQUASH), pooled),
    "pvt": (lambda: transformers.PvtModel(transformers.PvtConfig(
        image_size=32, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 2],
        sequence_reduction_ratios=[4, 2, 1, 1])), lambda: transformers.ViTImageProcessor(**SQUASH), mean_token),
    "i-jepa": (lambda: transformers.IJepaModel(transformers.IJepaConfig(**TINY), add_pooling_layer=False),
               lambda: transformers.ViTImageProcessor(**SQUASH), mean_token),
}
AS_LOADED = {"mae": lambda folder: AutoModel.from_pretrained(folder, mask_ratio=0.0)}


def write_encoder(folder: Path, family: str) -> Path:
    build, processor, _ = ENCODERS[family]
    torch.manual_seed(0)
    random_weights(build()).save_pretrained(folder)
    processor().save_pretrained(folder)
    return folder
