"""Tiny encoders of every family that a teacher may be: of transformers as folders, of timm as registered networks; weights that all matter.

Owns: NETWORKS. Does not own: encoders of transformers (those of the study: benchmarks/robustness/stand_ins.py), the images that they are
fed (tiny.py, drawn.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file

from benchmarks.robustness.stand_ins import random_weights

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
