"""Published models in miniature: the files that their authors write, with few layers and random weights, and the forward pass they write.

Owns: FORMATS, each a writer of files and the authors' own path from a picture to features. Does not own: what our loader makes of them
(teachers.py here, and tests). Preparation and forward pass here are the authors' libraries' or written by hand: none of our code.
"""

from __future__ import annotations

import argparse
import json
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from timm.layers.mlp import SwiGLUPacked
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torchvision.transforms import v2
from transformers import AutoImageProcessor, AutoModel

from distill.teacher.teacher import TeacherInput

Authors = Callable[[Image.Image], Tensor]  # a picture to features (1, D)
HALF = (0.5, 0.5, 0.5)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
TINY: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32,
                        "patch_size": 8}
TEXT: dict[str, Any] = {"hidden_size": 24, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
SQUASH: dict[str, Any] = {"size": {"height": 32, "width": 32}}
CROP: dict[str, Any] = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}


@dataclass(frozen=True)
class StandIn:
    """What a user types for the files of a format, and the authors' features of a picture."""

    teacher: str
    authors: Authors
    weights: str | None = None
    stated: TeacherInput | None = None


@dataclass(frozen=True)
class Format:
    """A way to publish a network: `write` puts its files into an empty folder."""

    kind: str
    write: Callable[[Path], StandIn]


def random_weights(model: Any, spread: float = 0.2) -> Any:
    """The model with weights that all matter: a fresh one has layer scales and biases near zero."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * spread + (1.0 if parameter.ndim == 1 else 0.0)
    return model.eval()


# Encoders of transformers: the model as its authors save it, its processor, the forward pass that they write.
Forward = Callable[[Any, Tensor], Tensor]


def pooler(model: Any, pixels: Tensor) -> Tensor:
    """What the model pools itself."""
    return model(pixel_values=pixels).pooler_output.flatten(1)  # type: ignore[no-any-return]


def class_token(model: Any, pixels: Tensor) -> Tensor:
    """The first token."""
    return model(pixel_values=pixels).last_hidden_state[:, 0]  # type: ignore[no-any-return]


def mean_token(model: Any, pixels: Tensor) -> Tensor:
    """The mean of all tokens."""
    return model(pixel_values=pixels).last_hidden_state.mean(1)  # type: ignore[no-any-return]


def vision(model: Any, pixels: Tensor) -> Tensor:
    """What the part that sees images pools."""
    return model.vision_model(pixel_values=pixels).pooler_output  # type: ignore[no-any-return]


def tower(model: Any, pixels: Tensor) -> Tensor:
    """The mean of the tokens of a tower without a head."""
    return model.vision_tower(pixel_values=pixels).last_hidden_state.mean(1)  # type: ignore[no-any-return]


def _clip() -> Any:
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=TEXT, vision_config=TINY, projection_dim=8))


def _gemma(hidden: int = 24) -> Any:
    seeing = {**TINY, "hidden_size": hidden, "model_type": "siglip_vision_model", "vision_use_head": False}
    speaking = {**TEXT, "num_key_value_heads": 1, "head_dim": 8}
    return transformers.Gemma3ForConditionalGeneration(transformers.Gemma3Config(text_config=speaking, vision_config=seeing,
                                                                                 mm_tokens_per_image=4))


def _mae() -> Any:
    return transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(
        **TINY, decoder_hidden_size=16, decoder_num_attention_heads=2, decoder_num_hidden_layers=1, decoder_intermediate_size=16))


def _hiera() -> Any:
    return transformers.HieraModel(transformers.HieraConfig(
        image_size=[32, 32], patch_stride=[4, 4], patch_size=[7, 7], patch_padding=[3, 3], embed_dim=8, depths=[1, 1], num_heads=[1, 2],
        masked_unit_size=[4, 4], query_stride=[2, 2], num_query_pool=1, masked_unit_attention=[True, False]))


def _dinov3_processor() -> Any:
    name = "DINOv3ViTImageProcessor"  # called Fast while there was a slow one
    return (getattr(transformers, name, None) or getattr(transformers, f"{name}Fast"))(**SQUASH)


def _swins(version: str) -> Any:
    config = getattr(transformers, f"Swin{version}Config")(image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2],
                                                           window_size=4)
    return getattr(transformers, f"Swin{version}ForImageClassification")(config)


def _convnexts(version: str) -> Any:
    config = getattr(transformers, f"ConvNext{version}Config")(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)
    return getattr(transformers, f"ConvNext{version}ForImageClassification")(config)


def _vit(**more: Any) -> Any:
    return transformers.ViTImageProcessor(**SQUASH, **more)


def _bit(**more: Any) -> Any:
    return transformers.BitImageProcessor(**CROP, resample=3, **more)


def _shrunk() -> Any:
    return transformers.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875)


def _clipped() -> Any:
    return transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


ENCODERS: dict[str, tuple[Callable[[], Any], Callable[[], Any], Forward]] = {
    "ViT with its pooler": (lambda: transformers.ViTModel(transformers.ViTConfig(**TINY)), _vit, pooler),
    "ViT without pooler, as Phikon": (lambda: transformers.ViTModel(transformers.ViTConfig(**TINY), add_pooling_layer=False), _vit,
                                      class_token),
    "ViT fine-tuned, not normalised": (lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**TINY)),
                                       lambda: _vit(do_normalize=False), class_token),
    "DeiT": (lambda: transformers.DeiTForImageClassification(transformers.DeiTConfig(**TINY)),
             lambda: transformers.DeiTImageProcessor(size={"height": 40, "width": 40}, crop_size={"height": 32, "width": 32}), class_token),
    "DINOv2, as RAD-DINO": (lambda: transformers.Dinov2Model(transformers.Dinov2Config(**TINY)), _bit, pooler),
    "DINOv2 with registers": (lambda: transformers.Dinov2WithRegistersModel(transformers.Dinov2WithRegistersConfig(**TINY)), _bit, pooler),
    "DINOv2, gated": (lambda: transformers.Dinov2Model(transformers.Dinov2Config(**TINY, use_swiglu_ffn=True)), _bit, pooler),
    "DINOv3 ViT": (lambda: transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**TINY, num_register_tokens=2, use_gated_mlp=True)),
                   _dinov3_processor, pooler),
    "DINOv3 ConvNeXt": (lambda: transformers.DINOv3ConvNextModel(transformers.DINOv3ConvNextConfig(
        hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], image_size=32)), _dinov3_processor, pooler),
    "Swin": (lambda: _swins(""), lambda: _vit(resample=3), pooler),
    "Swin v2": (lambda: _swins("v2"), _vit, pooler),
    "BEiT": (lambda: transformers.BeitForImageClassification(transformers.BeitConfig(**TINY)),
             lambda: transformers.BeitImageProcessor(**SQUASH), pooler),
    "ConvNeXt": (lambda: _convnexts(""), _shrunk, pooler),
    "ConvNeXt v2": (lambda: _convnexts("V2"), _shrunk, pooler),
    "Hiera": (_hiera, _bit, pooler),
    "Data2Vec": (lambda: transformers.Data2VecVisionModel(transformers.Data2VecVisionConfig(**TINY)),
                 lambda: transformers.BeitImageProcessor(**SQUASH), class_token),
    "PVT": (lambda: transformers.PvtModel(transformers.PvtConfig(
        image_size=32, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 2],
        sequence_reduction_ratios=[4, 2, 1, 1])), _vit, mean_token),
    "PVT v2": (lambda: transformers.PvtV2Model(transformers.PvtV2Config(
        image_size={"height": 32, "width": 32}, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2])), _vit,
        lambda model, pixels: model(pixel_values=pixels).last_hidden_state.mean((2, 3))),
    "ResNet": (lambda: transformers.ResNetModel(transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1],
                                                                          layer_type="basic")), _shrunk, pooler),
    "I-JEPA, without a class token": (lambda: transformers.IJepaModel(transformers.IJepaConfig(**TINY)), _vit, mean_token),
    "CLIP": (_clip, _clipped, vision),
    "SigLIP, as MedSigLIP": (lambda: transformers.SiglipModel(transformers.SiglipConfig(text_config=TEXT, vision_config=TINY)),
                             lambda: transformers.SiglipImageProcessor(**SQUASH), vision),
    "Gemma 3, as MedGemma": (_gemma, lambda: transformers.Gemma3ImageProcessor(**SQUASH), tower),
    "MAE": (_mae, _vit, class_token),
}
AS_LOADED: dict[str, Callable[[Path], Any]] = {
    "MAE": lambda folder: AutoModel.from_pretrained(folder, mask_ratio=0.0)}


def write_encoder(folder: Path, name: str) -> Path:
    """The folder of an encoder of transformers as its authors save it."""
    build, processor, _ = ENCODERS[name]
    torch.manual_seed(0)
    random_weights(build()).save_pretrained(folder)
    processor().save_pretrained(folder)
    return folder


def encoder_of(name: str, change: Callable[[Path], None] = lambda folder: None) -> Callable[[Path], StandIn]:
    """A writer of an encoder's folder; change: what is done to it once its authors' features can be had."""
    def write(folder: Path) -> StandIn:
        write_encoder(folder, name)
        model = AS_LOADED.get(name, AutoModel.from_pretrained)(folder).eval()
        processor = AutoImageProcessor.from_pretrained(folder)
        change(folder)
        return StandIn(f"hf:{folder}", lambda image: ENCODERS[name][2](model, processor(images=image, return_tensors="pt")["pixel_values"]))

    return write


def as_pickle(folder: Path) -> None:
    """Weights as older versions of transformers wrote them."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def as_bfloat16(folder: Path) -> None:
    """Weights in half precision; those of the stand-ins survive it exactly where they were rounded before."""
    state = load_file(folder / "model.safetensors")
    save_file({name: value.to(torch.bfloat16) for name, value in state.items()}, folder / "model.safetensors", {"format": "pt"})


def grey_encoder(folder: Path) -> StandIn:
    """An encoder of one channel, whose processor is given grey pictures."""
    model = random_weights(transformers.ViTModel(transformers.ViTConfig(**TINY, num_channels=1)))
    model.save_pretrained(folder)
    _vit(image_mean=[0.4], image_std=[0.2]).save_pretrained(folder)
    transform = v2.Compose([v2.Resize((32, 32), v2.InterpolationMode.BILINEAR), *_tensor((0.4,), (0.2,))])
    return StandIn(f"hf:{folder}", lambda image: model(pixel_values=transform(_mean_of_colours(image))[None]).pooler_output)


# Networks of timm: their authors build them by timm's name and prepare pictures with torchvision.
DEPTH = 2


@contextmanager
def shallow() -> Iterator[None]:
    """timm's transformers with two blocks instead of dozens, whoever makes them."""
    create = timm.create_model

    def few(name: str, *positional: Any, **more: Any) -> Any:
        return create(name, *positional, **({**more, "depth": DEPTH} if name.startswith("vit_") else more))

    timm.create_model = few  # type: ignore[assignment]
    try:
        yield
    finally:
        timm.create_model = create


def _tensor(mean: tuple[float, ...], std: tuple[float, ...]) -> list[Any]:
    return [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]


def _cropped(edge: int, side: int, levels: Any = IMAGENET, mode: Any = v2.InterpolationMode.BICUBIC) -> Any:
    return v2.Compose([v2.Resize(edge, mode), v2.CenterCrop(side), *_tensor(*levels)])


def _squashed(side: int, levels: Any, mode: Any = v2.InterpolationMode.BILINEAR) -> Any:
    return v2.Compose([v2.Resize((side, side), mode), *_tensor(*levels)])


def _mean_of_colours(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.rint(np.asarray(image, dtype=np.float32).mean(2)).astype(np.uint8))


def timm_net(arch: str, spread: float = 0.05, **arguments: Any) -> Any:
    """A network of timm, its parameters moved so that all matter."""
    torch.manual_seed(0)
    net = timm.create_model(arch, **{"num_classes": 0, **arguments})
    for parameter in net.parameters():
        parameter.data += spread * torch.randn_like(parameter)
    return net.eval()


# spread: of random weights; wide networks with much of it say more of the last bit of a picture than of how it was read.
def _recipe(name: str, arch: str, transform: Any, forward: Callable[[Any, Tensor], Tensor] = lambda net, pixels: net(pixels), *,
            wrap: Callable[[Any], Any] = lambda net: net.state_dict(), file: str = "weights.pth", spread: float = 0.05,
            **arguments: Any) -> Callable[[Path], StandIn]:
    """A file of weights that a recipe names, and the authors' way to features."""
    def write(folder: Path) -> StandIn:
        folder.mkdir(exist_ok=True)
        with shallow():
            net = timm_net(arch, spread, **arguments)
        content = wrap(net)
        if file.endswith(".safetensors"):
            save_file(content, folder / file)
        else:
            torch.save(content, folder / file)
        return StandIn(name, lambda image: forward(net, transform(image)[None]), str(folder / file))

    return write


def _patches_then_plain_norm(net: Any, pixels: Tensor) -> Tensor:
    """rmaphoh/RETFound_MAE models_vit.py: the mean of patches of the last block, then a norm that no published file holds."""
    tokens = net.patch_embed(pixels)
    tokens = torch.cat((net.cls_token.expand(len(tokens), -1, -1), tokens), dim=1) + net.pos_embed
    for block in net.blocks:
        tokens = block(tokens)
    return nn.functional.layer_norm(tokens[:, 1:].mean(1), (tokens.shape[2],), eps=1e-6)


def _patches(before: int) -> Callable[[Any, Tensor], Tensor]:
    return lambda net, pixels: net.forward_features(pixels)[:, before:].mean(1)  # type: ignore[no-any-return]


def _both(before: int) -> Callable[[Any, Tensor], Tensor]:
    def forward(net: Any, pixels: Tensor) -> Tensor:
        tokens = net.forward_features(pixels)
        return torch.cat((tokens[:, 0], tokens[:, before:].mean(1)), dim=1)

    return forward


def _pretrained_mae(net: Any) -> Any:
    decoder = {"mask_token": torch.zeros(1, 1, 8), "decoder_pos_embed": torch.zeros(1, 5, 8),
               "decoder_blocks.0.norm1.weight": torch.ones(8), "decoder_pred.weight": torch.zeros(4, 8)}
    return {"model": {**net.state_dict(), **decoder}, "optimizer": {"state": {}}, "epoch": 799, "args": argparse.Namespace(lr=0.1)}


def _self_supervised(net: Any) -> Any:
    state = {f"module.backbone.{name}": value for name, value in net.state_dict().items()}
    return {"student": {name: value + 1 for name, value in state.items()},
            "teacher": {**state, "module.head.last_layer.weight": torch.zeros(3, 3)}}


def _lightning(net: Any) -> Any:
    return {"state_dict": {f"net.model.{name}": value for name, value in net.state_dict().items()}, "hyper_parameters": {"lr": 0.1},
            "pytorch-lightning_version": "2.0"}


GIANT: dict[str, Any] = {"img_size": 224, "patch_size": 14, "num_heads": 24, "init_values": 1e-5, "embed_dim": 1536,
                         "mlp_ratio": 2.66667 * 2, "no_embed_class": True, "mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU,
                         "reg_tokens": 8}
HUGE: dict[str, Any] = {"img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.3375, "mlp_layer": SwiGLUPacked,
                        "act_layer": nn.SiLU}
BIOPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))


def _xray(side: int) -> Callable[[Image.Image], Tensor]:
    """mlmed/torchxrayvision: one channel from -1024 to 1024, the middle square, resized."""
    def prepare(image: Image.Image) -> Tensor:
        grey = _mean_of_colours(image)
        least = min(grey.size)
        square = v2.functional.center_crop(v2.functional.pil_to_tensor(grey), [least, least])
        level = (2 * (square.float() / 255) - 1) * 1024
        return v2.functional.resize(level, [side, side], v2.InterpolationMode.BILINEAR, antialias=True)

    return prepare


def xray_densenet(folder: Path) -> StandIn:
    """TorchXRayVision's DenseNet as its training saves it: a whole network whose class only its own library has."""
    folder.mkdir(exist_ok=True)
    net = timm_net("densenet121", 0.01, in_chans=1, num_classes=18)
    module = types.ModuleType("torchxrayvision.models")
    theirs = type("DenseNet", (nn.Module,), {"__module__": module.__name__})
    module.DenseNet = theirs  # type: ignore[attr-defined]
    whole: Any = theirs()
    for name, part in net.named_children():
        setattr(whole, name, part)
    whole.op_threshs, whole.pathologies = torch.zeros(18), ["Effusion"] * 18
    library = {"torchxrayvision": types.ModuleType("torchxrayvision"), module.__name__: module}
    sys.modules |= library
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(whole, folder / "densenet-best.pt")
    finally:
        for name in library:
            del sys.modules[name]
    prepare = _xray(224)

    def features(image: Image.Image) -> Tensor:
        maps = net.features(prepare(image)[None]).relu()
        return nn.functional.adaptive_avg_pool2d(maps, 1).flatten(1)

    return StandIn("xrv-densenet121", features, str(folder / "densenet-best.pt"))


def xray_resnet(folder: Path) -> StandIn:
    """TorchXRayVision's ResNet-50, a plain state dict."""
    folder.mkdir(exist_ok=True)
    net = timm_net("resnet50", 0.01, in_chans=1, num_classes=18)
    torch.save(net.state_dict(), folder / "resnet50-state.pt")
    prepare = _xray(512)
    return StandIn(f"xrv:{folder / 'resnet50-state.pt'}", lambda image: net.forward_features(prepare(image)[None]).mean((2, 3)))


def own_grey(folder: Path) -> StandIn:
    """A fine-tuned network of timm with a stem for one channel, its statistics stated."""
    folder.mkdir(exist_ok=True)
    net = timm_net("test_resnet", 0.05, in_chans=1, num_classes=4)
    torch.save({"model_state_dict": net.state_dict()}, folder / "own.pth")
    transform = v2.Compose([v2.Resize((64, 64), v2.InterpolationMode.BILINEAR), *_tensor((0.3,), (0.2,))])
    return StandIn("test_resnet", lambda image: net.forward_head(net.forward_features(transform(_mean_of_colours(image))[None]),
                                                                 pre_logits=True),
                   str(folder / "own.pth"), TeacherInput(64, (0.3,) * 3, (0.2,) * 3, channels=1))


# Folders that name a network of timm themselves.
SMALL = "test_vit"  # 160 px, two blocks
PREPARATION: dict[str, Any] = {"input_size": [3, 160, 160], "mean": [0.1, 0.2, 0.3], "std": [0.3, 0.4, 0.5], "interpolation": "bicubic",
                               "crop_pct": 0.9, "license": "cc-by-nc-4.0", "first_conv": "patch_embed.proj", "classifier": "head"}


def timm_form(folder: Path, **more: Any) -> Any:
    """As timm's push_to_hf_hub writes it, UNI for one; the network."""
    net = timm_net(SMALL)
    folder.mkdir(exist_ok=True)
    save_file(net.state_dict(), folder / "model.safetensors")
    config = {"architecture": SMALL, "num_classes": 0, "pretrained_cfg": PREPARATION | more.pop("preparation", {}),
              "model_args": {"img_size": 160, "num_classes": 0, "dynamic_img_size": True, **more}}
    (folder / "config.json").write_text(json.dumps(config))
    return net


def wrapper_form(folder: Path) -> Any:
    """As transformers' TimmWrapper writes it; the network."""
    net = timm_form(folder)
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "timm_wrapper"}
    (folder / "config.json").write_text(json.dumps(config))
    weights = folder / "model.safetensors"
    save_file({f"timm_model.{name}": value for name, value in load_file(weights).items()}, weights)
    return net


def open_clip_form(folder: Path) -> Any:
    """As open_clip writes it, BiomedCLIP for one; the network of its trunk."""
    net = timm_net(SMALL)
    folder.mkdir(exist_ok=True)
    torch.save({**{f"visual.trunk.{name}": value for name, value in net.state_dict().items()},
                "visual.head.proj.weight": torch.zeros(8, 64), "logit_scale": torch.zeros(()),
                "text.transformer.embeddings.word_embeddings.weight": torch.zeros(4, 4)},
               folder / "open_clip_pytorch_model.bin")
    content = {"model_cfg": {"embed_dim": 8, "vision_cfg": {"timm_model_name": SMALL, "image_size": 160}, "text_cfg": {}},
               "preprocess_cfg": {"mean": PREPARATION["mean"], "std": PREPARATION["std"], "interpolation": "bicubic",
                                  "resize_mode": "shortest"}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    return net


def _folder(form: Callable[[Path], Any], share: float) -> Callable[[Path], StandIn]:
    def write(folder: Path) -> StandIn:
        net = form(folder)
        config = resolve_data_config(PREPARATION | {"crop_pct": share})
        transform = create_transform(**config)
        return StandIn(str(folder), lambda image: net(transform(image)[None]))

    return write


# Programs and graphs.
class Trunk(nn.Module):
    """A small transformer's tokens: a class token, 4 x 4 patches of 8 pixels."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(channels, 24, 8, 8)
        self.layer, self.norm = Block(24, 2), nn.LayerNorm(24)
        self.token = nn.Parameter(torch.randn(1, 1, 24))

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, C, 32, 32) to tokens (B, 17, 24)."""
        patches = self.patches(pixels).flatten(2).transpose(1, 2)
        return self.norm(self.layer(torch.cat((self.token.expand(pixels.shape[0], -1, -1), patches), dim=1)))  # type: ignore[no-any-return]


def program(folder: Path, channels: int = 3) -> StandIn:
    """A .pt2 file of torch.export, its statistics stated."""
    folder.mkdir(exist_ok=True)
    net = Trunk(channels).eval()
    exported = torch.export.export(net, (torch.zeros(2, channels, 32, 32),), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    torch.export.save(exported, folder / "trunk.pt2")
    levels = IMAGENET if channels == 3 else ((0.4,) * 3, (0.2,) * 3)
    transform = _squashed(32, (levels[0][:channels], levels[1][:channels]))
    return StandIn(str(folder / "trunk.pt2"), lambda image: net(transform(image if channels == 3 else _mean_of_colours(image))[None])[:, 0],
                   stated=TeacherInput(mean=levels[0], std=levels[1], pool="cls"))


def graph(folder: Path, inner: bool = True) -> StandIn:
    """An ONNX file with scores as its answer, features inside; or with tokens alone as its answer."""
    folder.mkdir(exist_ok=True)
    net = Trunk().eval()
    full: nn.Module = nn.Sequential(net, nn.Flatten(), nn.Linear(17 * 24, 2)).eval() if inner else net
    path = folder / "trunk.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = torch.onnx.export(full, (torch.zeros(2, 3, 32, 32),), dynamo=True, verbose=False, external_data=False, optimize=True,
                                 output_names=["logits" if inner else "tokens"],
                                 dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    assert made is not None
    made.save(path)
    name = None
    if inner:
        import onnx

        nodes = onnx.load(path).graph.node
        name = [node.output[0] for node in nodes if node.op_type == "LayerNormalization"][-1]
    transform = _squashed(32, IMAGENET)
    return StandIn(str(path), lambda image: net(transform(image)[None])[:, 1:].mean(1),
                   stated=TeacherInput(mean=IMAGENET[0], std=IMAGENET[1], pool="mean", features=name))


FORMATS: dict[str, Format] = {
    **{name: Format("hf:", encoder_of(name)) for name in ENCODERS},
    "ViT, pytorch_model.bin": Format("hf:", encoder_of("ViT with its pooler", as_pickle)),
    "ViT of one channel": Format("hf:", grey_encoder),
    "timm's own folder, as UNI": Format("folder", _folder(timm_form, 0.9)),
    "TimmWrapper's folder": Format("folder", _folder(wrapper_form, 0.9)),
    "open_clip's folder, as BiomedCLIP": Format("folder", _folder(open_clip_form, 1.0)),
    "RETFound, a MAE with its decoder": Format("recipe", _recipe("retfound", "vit_large_patch16_224", _cropped(256, 224),
                                                                 _patches_then_plain_norm, wrap=_pretrained_mae)),
    "RETFound-Green": Format("recipe", _recipe("retfound-green", "vit_small_patch14_reg4_dinov2", _squashed(392, (HALF, HALF)), _patches(5),
                                               img_size=392)),
    "UNI": Format("recipe", _recipe("uni", "vit_large_patch16_224", _cropped(224, 224, mode=v2.InterpolationMode.BILINEAR),
                                    file="pytorch_model.bin", init_values=1e-5)),
    "UNI2-h": Format("recipe", _recipe("uni2-h", "vit_giant_patch14_224", _cropped(224, 224, mode=v2.InterpolationMode.BILINEAR),
                                       file="pytorch_model.bin", spread=0.02, **GIANT)),
    "Virchow2": Format("recipe", _recipe("virchow2", "vit_huge_patch14_224", _cropped(224, 224), _both(5), file="pytorch_model.bin",
                                         spread=0.02, **HUGE, reg_tokens=4)),
    "H-optimus-0": Format("recipe", _recipe("h-optimus-0", "vit_giant_patch14_reg4_dinov2",
                                            _cropped(224, 224, BIOPTIMUS, v2.InterpolationMode.BILINEAR), spread=0.02, img_size=224)),
    "Prov-GigaPath": Format("recipe", _recipe("gigapath", "vit_giant_patch14_dinov2", _cropped(256, 224), spread=0.02, img_size=224,
                                                 patch_size=16)),
    "DINOv2-B, safetensors": Format("recipe", _recipe("dinov2-base", "vit_base_patch14_dinov2", _cropped(256, 224), img_size=224,
                                                      file="model.safetensors")),
    "DINO's teacher and student": Format("recipe", _recipe("uni", "vit_large_patch16_224",
                                                           _cropped(224, 224, mode=v2.InterpolationMode.BILINEAR),
                                                           wrap=_self_supervised, init_values=1e-5)),
    "Lightning's checkpoint": Format("recipe", _recipe("uni", "vit_large_patch16_224",
                                                       _cropped(224, 224, mode=v2.InterpolationMode.BILINEAR), wrap=_lightning,
                                                       file="last.ckpt", init_values=1e-5)),
    "TorchXRayVision's DenseNet, saved whole": Format("recipe", xray_densenet),
    "TorchXRayVision's ResNet-50": Format("xrv:", xray_resnet),
    "an own network of one channel": Format("timm", own_grey),
    "a program": Format(".pt2", program),
    "a program of one channel": Format(".pt2", lambda folder: program(folder, 1)),
    "a graph, a tensor inside": Format(".onnx", graph),
    "a graph, its only answer": Format(".onnx", lambda folder: graph(folder, inner=False)),
}


# What cannot be a teacher, or could only be read wrongly: what is typed, and words of the answer.
@dataclass(frozen=True)
class Refusal:
    """Files that must be refused, and words that the answer holds."""

    words: str
    write: Callable[[Path], StandIn]


def _nobody(image: Image.Image) -> Tensor:
    raise NotImplementedError


def _spoilt(name: str, change: Callable[[Path], Any], **stated: Any) -> Callable[[Path], StandIn]:
    def write(folder: Path) -> StandIn:
        write_encoder(folder, name)
        change(folder)
        return StandIn(f"hf:{folder}", _nobody, stated=TeacherInput(**stated))

    return write


def _changed(name: str, file: str, **values: Any) -> Callable[[Path], StandIn]:
    def change(folder: Path) -> None:
        (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | values))

    return _spoilt(name, change)


def _lacking(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file({name: value for name, value in load_file(path).items() if "layer.1." not in name}, path, {"format": "pt"})


def _text(folder: Path) -> StandIn:
    random_weights(transformers.BertModel(transformers.BertConfig(**TEXT))).save_pretrained(folder)
    return StandIn(f"hf:{folder}", _nobody)


def _of_many_sizes(folder: Path) -> StandIn:
    config = {name: value for name, value in TINY.items() if name != "image_size"}
    random_weights(transformers.Siglip2VisionModel(transformers.Siglip2VisionConfig(**config))).save_pretrained(folder)
    _vit().save_pretrained(folder)
    return StandIn(f"hf:{folder}", _nobody)


def _bytes(name: str) -> Callable[[Path], StandIn]:
    def write(folder: Path) -> StandIn:
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
        return StandIn(str(folder / name), _nobody)

    return write


def _another(name: str, arch: str, **arguments: Any) -> Callable[[Path], StandIn]:
    return lambda folder: _recipe(name, arch, None, **arguments)(folder)


def _graph_alone(folder: Path) -> StandIn:
    return StandIn(graph(folder, inner=False).teacher, _nobody)


def _no_weights(folder: Path) -> StandIn:
    return StandIn("uni", _nobody)


def _not_its_folder(folder: Path) -> StandIn:
    return StandIn("rad-dino", _nobody, str(write_encoder(folder, "DINOv2, as RAD-DINO")))


REFUSALS: dict[str, Refusal] = {
    "weights missing": Refusal("would be drawn at random", _spoilt("DINOv2, as RAD-DINO", _lacking)),
    "no image processor": Refusal("put the authors' own file there", _spoilt(
        "DINOv2, as RAD-DINO", lambda folder: (folder / "preprocessor_config.json").unlink())),
    "a processor of blue, green, red": Refusal("blue, green, red", _changed("ViT with its pooler", "preprocessor_config.json",
                                                                            do_flip_channel_order=True)),
    "a processor with two means": Refusal("expected three numbers", _changed("ViT with its pooler", "preprocessor_config.json",
                                                                             image_mean=[0.5, 0.5])),
    "a text tower": Refusal("takes no images", _text),
    "SigLIP 2 of many sizes": Refusal("beside pixels", _of_many_sizes),
    "a size that the patch does not divide": Refusal("35", _spoilt("DINOv2, as RAD-DINO", lambda folder: None, size=35)),
    "a class token that is not there": Refusal("has no class token", _spoilt("I-JEPA, without a class token", lambda folder: None,
                                                                             pool="cls")),
    "code beside the weights": Refusal("would run Python code", _changed("ViT with its pooler", "config.json",
                                                                         auto_map={"AutoModel": "x.Y"})),
    "a recipe without its weights": Refusal("needs its weights", _no_weights),
    "another network under a recipe's name": Refusal("does not fit", _another("uni", "vit_base_patch16_224", init_values=1e-5)),
    "three channels for a network of one": Refusal("channels", _another("xrv-densenet121", "densenet121")),
    "another folder under a recipe's name": Refusal("it is another model's", _not_its_folder),
    "a graph without statistics": Refusal("--teacher-mean and --teacher-std", _graph_alone),
    "TorchScript": Refusal("runs code when it is read", _bytes("net.ts")),
    "Keras": Refusal("another library", _bytes("net.h5")),
    "weights without a network's name": Refusal("--teacher-weights", _bytes("net.safetensors")),
}
