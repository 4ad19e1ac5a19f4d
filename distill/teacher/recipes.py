"""Foundation models that people use, by name: network, images, statistics, pooling, licence, where their weights come from.

Owns: RECIPES, facts alone, each with its source in a comment. Does not own: loading them (teachers.py). Nothing is fetched: whoever
accepted a licence puts the file or folder on the machine and names it with --teacher-weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from distill.networks.encoders import TokenPooling
from distill.networks.own import IMAGENET_MEAN, IMAGENET_STD
from runtimes.images.spec import Filter, Fit

Levels = tuple[float, float, float]
HALF: Levels = (0.5, 0.5, 0.5)
CLIP_MEAN: Levels = (0.48145466, 0.4578275, 0.40821073)  # openai/CLIP clip/clip.py, open_clip's OPENAI_DATASET_MEAN
CLIP_STD: Levels = (0.26862954, 0.26130258, 0.27577711)
NON_COMMERCIAL = "CC BY-NC-ND 4.0"


@dataclass(frozen=True)
class Recipe:
    """How a published model is used as its authors use it.

    kind: `timm`, a file of weights for `arch`; `hf`, a folder of transformers whose vision part has model_type `arch`; `folder`, one that
    names timm's `arch` itself. width: of one token, by which weights of another model are found out. edge, fit, interpolation: how images
    are resized; folders say it themselves. plain_norm: patches are averaged before the last norm, behind them comes one without weights.
    weights: where they come from, in words.
    """

    kind: Literal["timm", "hf", "folder"]
    arch: str
    width: int
    licence: str
    weights: str
    side: int = 224
    mean: Levels = IMAGENET_MEAN
    std: Levels = IMAGENET_STD
    pool: TokenPooling = "auto"
    fit: Fit = "squash"
    edge: int | None = None
    interpolation: Filter = "bilinear"
    channels: int = 3
    arguments: Mapping[str, Any] = field(default_factory=dict)
    plain_norm: bool = False


# UNI2-h: mahmoodlab/UNI, README.md and uni/get_encoder/get_encoder.py.
UNI2 = {"patch_size": 14, "depth": 24, "num_heads": 24, "init_values": 1e-5, "embed_dim": 1536, "mlp_ratio": 2.66667 * 2,
        "no_embed_class": True, "mlp_layer": "SwiGLUPacked", "act_layer": "silu", "reg_tokens": 8}
# Virchow: paige-ai's model cards; mlp_layer and act_layer stand in the card alone, not in config.json.
VIRCHOW = {"init_values": 1e-5, "mlp_ratio": 5.3375, "mlp_layer": "SwiGLUPacked", "act_layer": "silu"}
CROPPED: dict[str, Any] = {"fit": "crop", "edge": 256, "interpolation": "bicubic"}  # 256 by the shortest side, the middle 224 of it
XRV: dict[str, Any] = {"mean": HALF, "std": (0.5 / 1024,) * 3, "channels": 1, "fit": "crop"}  # (2 x - 1) * 1024, of one channel

RECIPES: Mapping[str, Recipe] = {
    # rmaphoh/RETFound_MAE models_vit.py: the mean of patches of the last block, then fc_norm; norm is deleted. Published files hold no
    # fc_norm (README: missing keys head and fc_norm), so it is a plain one. util/datasets.py: 256 bicubic, centre crop 224, ImageNet.
    "retfound": Recipe("timm", "vit_large_patch16_224", 1024, "CC BY-NC 4.0",
                       "RETFound_mae_natureCFP.pth or RETFound_mae_natureOCT.pth from YukunZhou's pages on the Hugging Face hub",
                       arguments={"global_pool": "avg"}, plain_norm=True, **CROPPED),
    # justinengelmann/RETFound_Green README.md: 392 px, mean and std 0.5, global_pool avg with the trained norm kept.
    "retfound-green": Recipe("timm", "vit_small_patch14_reg4_dinov2", 384, "CNCRL (non-commercial)",
                             "retfoundgreen_statedict.pth, release 0.1 of justinengelmann/RETFound_Green on GitHub",
                             side=392, mean=HALF, std=HALF, pool="mean"),
    # microsoft/rad-dino, model card and preprocessor_config.json: 518 by the shortest side, 0.5307 and 0.2583, class token.
    "rad-dino": Recipe("hf", "dinov2", 768, "MIT (older cards: MSRLA), research", "the folder microsoft/rad-dino of the Hugging Face hub",
                       side=518, mean=(0.5307,) * 3, std=(0.2583,) * 3),
    # google/medsiglip-448, model card; transformers' SiglipModel: get_image_features is the map head.
    "medsiglip": Recipe("hf", "siglip_vision_model", 1152, "Health AI Developer Foundations terms",
                        "the folder google/medsiglip-448 of the Hugging Face hub", side=448, mean=HALF, std=HALF),
    # Gemma 3's config.json (4b): siglip_vision_model of 27 layers at 896 px without a head; its authors pool no single vector of it.
    "medgemma": Recipe("hf", "siglip_vision_model", 1152, "Health AI Developer Foundations terms",
                       "the folder google/medgemma-4b-it of the Hugging Face hub", side=896, mean=HALF, std=HALF, pool="mean"),
    # microsoft/BiomedCLIP..., open_clip_config.json; open_clip src/open_clip/transform.py: bicubic, shortest side, centre crop.
    "biomedclip": Recipe("folder", "vit_base_patch16_224", 768, "MIT",
                         "the folder microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224 of the Hugging Face hub",
                         mean=CLIP_MEAN, std=CLIP_STD, fit="crop", interpolation="bicubic"),
    # mahmoodlab/UNI README.md: Resize(224), CenterCrop(224), ImageNet, class token.
    "uni": Recipe("timm", "vit_large_patch16_224", 1024, NON_COMMERCIAL, "pytorch_model.bin of MahmoodLab/UNI on the Hugging Face hub",
                  fit="crop", arguments={"init_values": 1e-5}),
    "uni2-h": Recipe("timm", "vit_giant_patch14_224", 1536, NON_COMMERCIAL,
                     "pytorch_model.bin of MahmoodLab/UNI2-h on the Hugging Face hub", fit="crop", arguments=UNI2),
    # owkin/HistoSSLscaling ibot_vit.py: ImageNet, class token; owkin/phikon and phikon-v2, model cards.
    "phikon": Recipe("hf", "vit", 768, "Owkin non-commercial", "the folder owkin/phikon of the Hugging Face hub", pool="cls"),
    "phikon-v2": Recipe("hf", "dinov2", 1024, "Owkin non-commercial", "the folder owkin/phikon-v2 of the Hugging Face hub", pool="cls"),
    # paige-ai/Virchow2, model card: class token beside the mean of patches, 2,560 wide; registers are left out.
    "virchow": Recipe("timm", "vit_huge_patch14_224", 1280, "Apache-2.0", "pytorch_model.bin of paige-ai/Virchow on the Hugging Face hub",
                      pool="cls+mean", fit="crop", interpolation="bicubic", arguments=VIRCHOW),
    "virchow2": Recipe("timm", "vit_huge_patch14_224", 1280, NON_COMMERCIAL,
                       "pytorch_model.bin of paige-ai/Virchow2 on the Hugging Face hub",
                       pool="cls+mean", fit="crop", interpolation="bicubic", arguments={**VIRCHOW, "reg_tokens": 4}),
    # bioptimus/releases models/h-optimus/v0/README.md: statistics of its own, class token.
    "h-optimus-0": Recipe("timm", "vit_giant_patch14_reg4_dinov2", 1536, "Apache-2.0",
                          "pytorch_model.bin of bioptimus/H-optimus-0 on the Hugging Face hub",
                          mean=(0.707223, 0.578729, 0.703617), std=(0.211883, 0.230117, 0.177517), fit="crop"),
    # prov-gigapath README.md and gigapath/pipeline.py: 256 bicubic, centre crop 224, ImageNet, class token.
    "gigapath": Recipe("timm", "vit_giant_patch14_dinov2", 1536, "Prov-GigaPath licence (non-commercial research)",
                       "pytorch_model.bin of prov-gigapath/prov-gigapath on the Hugging Face hub", arguments={"patch_size": 16}, **CROPPED),
    # facebookresearch/dinov2 dinov2/data/transforms.py: 256 bicubic, centre crop 224, ImageNet.
    **{f"dinov2-{size}": Recipe("timm", f"vit_{size}_patch14_dinov2", width, "Apache-2.0",
                                f"dinov2_vit{size[0]}14_pretrain.pth, linked by facebookresearch/dinov2", **CROPPED)
       for size, width in (("base", 768), ("large", 1024), ("giant", 1536))},
    # facebookresearch/dinov3 README.md: pooler_output, the class token; images as the folder's own processor says, 224 px.
    **{f"dinov3-{size}": Recipe("hf", "dinov3_vit", width, "DINOv3 License",
                                f"the folder facebook/dinov3-vit{size[0]}16-pretrain-lvd1689m of the Hugging Face hub")
       for size, width in (("small", 384), ("base", 768), ("large", 1024))},
    # mlmed/torchxrayvision models.py (features2), utils.py (normalize): one channel from -1024 to 1024; README.md: centre crop, resize.
    "xrv-densenet121": Recipe("timm", "densenet121", 1024, "Apache-2.0", "a -best.pt file of release v1 of mlmed/torchxrayvision on GitHub",
                              **XRV),
    "xrv-resnet50": Recipe("timm", "resnet50", 2048, "Apache-2.0",
                           "pc-nih-rsna-siim-vin-resnet50-test512-e400-state.pt, release v1 of mlmed/torchxrayvision on GitHub",
                           side=512, **XRV),
}
