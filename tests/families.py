"""Tiny encoders of every family that a teacher may be: of transformers as folders, of timm as registered networks; weights that all matter.

Owns: ENCODERS and write_encoder, NETWORKS. Does not own: the images that they are fed (tiny.py, drawn.py).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from safetensors.torch import save_file
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


VIT: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
SWIN: dict[str, Any] = {"img_size": 32, "window_size": 4, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2)}
# Name: a network of timm, and what makes it tiny.
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny_vit": ("vit_base_patch16_224", VIT),
    "tiny_vit_registers": ("vit_base_patch16_reg4_gap_256", VIT),
    "tiny_vit_map": ("vit_so400m_patch14_siglip_224", VIT),
    "tiny_deit3": ("deit3_base_patch16_224", VIT),
    "tiny_dinov3": ("vit_base_patch16_dinov3", VIT),
    "tiny_dinov2_gated": ("vit_giant_patch14_dinov2", VIT),
    "tiny_eva02": ("eva02_base_patch14_224", VIT),
    "tiny_beit": ("beit_base_patch16_224", VIT),
    "tiny_cait": ("cait_xxs24_224", VIT),
    "tiny_xcit": ("xcit_nano_12_p8_224", VIT),
    "tiny_swin": ("swin_tiny_patch4_window7_224", SWIN),
    "tiny_swinv2": ("swinv2_tiny_window8_256", SWIN),
    "tiny_swinv2_cr": ("swinv2_cr_tiny_224", SWIN),
    "tiny_convnext": ("convnext_tiny", {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}),
    "tiny_convnextv2": ("convnextv2_tiny", {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}),
    "tiny_davit": ("davit_tiny", {"depths": (1, 1), "embed_dims": (8, 16), "num_heads": (1, 2)}),
    "tiny_hiera": ("hiera_tiny_224", {"img_size": (32, 32), "embed_dim": 8, "num_heads": 1, "stages": (1, 1), "q_pool": 1,
                                      "mask_unit_size": (2, 2), "mask_unit_attn": (True, False)}),
    "tiny_relpos": ("vit_relpos_base_patch16_224", VIT),
    "tiny_edgenext": ("edgenext_xx_small", {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16), "heads": (2, 2, 2, 2)}),
    "tiny_maxvit": ("test_maxvit", {"img_size": 64}),
    "tiny_mambaout": ("test_mambaout", {}),
    "tiny_coatnet": ("test_coatnet", {"img_size": 64}),
    "tiny_resnet": ("test_resnet", {}),
    "tiny_efficientnet": ("test_efficientnet", {}),
    "tiny_densenet": ("densenet121", {"block_config": (1, 1), "growth_rate": 8})}
default_cfgs: dict[str, Any] = {}  # where timm looks for what it knows of the networks that a module registers


def side(network: str) -> int:
    """The side of the images of a tiny network, in pixels."""
    return {"tiny_maxvit": 64, "tiny_coatnet": 64}.get(network, 32)


def register(name: str, base: str, arguments: dict[str, Any]) -> None:
    """Make a tiny network known to timm under a name of its own."""
    def build(pretrained: bool = False, **more: Any) -> torch.nn.Module:
        more.pop("pretrained_cfg", None), more.pop("pretrained_cfg_overlay", None), more.pop("cache_dir", None)
        return timm.create_model(base, pretrained=False, **{**arguments, **more})

    build.__name__, build.__module__ = name, __name__
    known: Any = timm.get_pretrained_cfg(base)
    default_cfgs[name] = {"input_size": (3, side(name), side(name)), "fixed_input_size": known.fixed_input_size, "num_classes": 10,
                          "mean": known.mean, "std": known.std}
    timm.models.register_model(build)


for network, (base, arguments) in NETWORKS.items():
    register(network, base, arguments)


def write_weights(folder: Path, network: str) -> Path:
    """A file of weights of a tiny network, for --teacher-weights."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    save_file(random_weights(timm.create_model(network, num_classes=10)).state_dict(), folder / f"{network}.safetensors")
    return folder / f"{network}.safetensors"
