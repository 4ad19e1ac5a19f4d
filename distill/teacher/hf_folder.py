"""A vision encoder of transformers as its authors use it: no weight drawn at random, images brought to it by their own processor's rule.

Owns: load_encoder (which weights are there, how features are pooled, what images must look like), from_encoder. Does not own: what a
folder may ask for (networks/encoder_folder.py), its processor's settings (processors.py), the network's form (networks/encoders.py).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from distill.networks.encoder_folder import CONFIG, PROCESSORS, check_config, local_folder, staged
from distill.networks.encoders import TokenPooling, TransformersNet
from distill.networks.models import weights_hash
from distill.networks.weight_files import first_line, of_colours, prefix_of
from distill.teacher.processors import image_spec_of
from distill.teacher.teacher import POOLED, Teacher, hash_with
from runtimes.errors import USAGE, UserError
from runtimes.images.spec import ImageSpec

HARMLESS = ("mask_token", "position_ids", "relative_position_index")  # what no clean image reaches, or what is counted, not learnt
LEAST_COSINE = 0.995  # of an image as the processor and as our rule bring it to the network, both about their means


@dataclass(frozen=True)
class HfEncoder:
    """An encoder with its pooling, how images are brought to it, and the channels that it was trained on."""

    net: TransformersNet
    image_spec: ImageSpec
    channels: int = 3


def load_encoder(source: str, *, size: int | None = None, pooling: TokenPooling | None = None) -> HfEncoder:
    """Load what lies behind hf:SOURCE; UserError where weights are missing, or where its images cannot be brought to it as they must.

    size: --teacher-size. pooling: --teacher-pool; by default what the model itself pools; where the weights of that are missing, as in
    encoders that were published without them, its class token, or the mean of its tokens if it has none.
    """
    import transformers

    with staged(local_folder(source, weights=True), source) as folder:
        try:
            config: Any = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            check_config(config.to_dict(), f"{source}/{CONFIG}")  # with what it takes where the file says nothing
            tower = _tower_of(config)
            model, missing = _loaded(folder, config) if tower is None else _loaded_tower(folder, tower)
            processor: Any = (transformers.AutoImageProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
                              if any((folder / name).is_file() for name in PROCESSORS) else None)
        except UserError:
            raise
        except Exception as error:  # JSON, weight and version errors in many types; the way out is the same
            raise UserError(f"{source} cannot be loaded ({type(error).__name__}: "
                            f"{first_line(error).replace(str(folder), source)[:160]}); expected a folder that transformers' "
                            "save_pretrained wrote: --teacher hf:FOLDER") from None
    encoder: Any = getattr(model, "vision_model", model)
    given = inspect.signature(encoder.forward).parameters
    if "pixel_values" not in given:
        raise UserError(f"{source} holds {type(encoder).__name__}, which takes no images; expected a vision encoder")
    more = [name for name, value in given.items() if name != "pixel_values" and value.default is inspect.Parameter.empty
            and value.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    if more:
        raise UserError(f"{source} holds {type(encoder).__name__}, which takes {' and '.join(more)} beside pixels; expected an encoder of "
                        "images of one size: export it with torch.export.save to a .pt2 file that takes pixels alone")
    encoder.config._name_or_path = ""  # else a place on this machine, which goes into what is made of the teacher
    if encoder is not model:
        missing = [name.removeprefix("vision_model.") for name in missing if name.startswith("vision_model.")]
    channels = _widen(encoder, source)
    net = TransformersNet(encoder).eval()
    net.pooling = _pooling_of(net, missing, pooling, source)
    return HfEncoder(net, _image_spec(encoder, processor, source, size, channels), channels)


def from_encoder(name: str, source: str, size: int | None, pool: TokenPooling) -> Teacher:
    """An encoder of transformers as a teacher of this name; size, pool: as a user or a recipe states them."""
    encoder = load_encoder(source, size=size, pooling=None if pool == "auto" else pool)
    pooling = encoder.net.pooling
    return Teacher(name, encoder.net, encoder.image_spec, hash_with(weights_hash(encoder.net), pooling), pooling=POOLED[pooling],
                   channels=encoder.channels)


def _loaded(folder: Path, config: Any) -> tuple[nn.Module, list[str]]:
    """The model in fp32, and the names of weights that its files do not hold; a pooler without weights is left out."""
    import transformers

    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # its report of missing weights: what is missing is decided here
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.disable_progress_bar()
    try:
        more: dict[str, Any] = {}
        loader: Any = transformers.AutoModel
        if config.model_type == "vit_mae":  # which masks patches at random; its encoder is a plain ViT, from its class token on
            usual = transformers.ViTConfig().to_dict()
            config = transformers.ViTConfig(**{key: value for key, value in config.to_dict().items()
                                               if key in usual and key not in ("model_type", "architectures")})
            loader, more = transformers.ViTModel, {"add_pooling_layer": False}
        while True:
            model, report = loader.from_pretrained(
                folder, config=config, use_safetensors=True, trust_remote_code=False, local_files_only=True, output_loading_info=True,
                dtype=torch.float32, **more)
            missing = [name for name in sorted({*report["missing_keys"], *(name for name, *_ in report.get("mismatched_keys", ()))})
                       if name.split(".")[-1] not in HARMLESS]
            if more or not any("pooler" in name for name in missing) or "add_pooling_layer" not in _arguments(model):
                return model, missing
            more = {"add_pooling_layer": False}
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()


def _tower_of(config: Any) -> Any:
    """The config of the part of a model of images and words that sees images, where it can stand alone; None for other models."""
    import transformers

    part = getattr(config, "vision_config", None)
    return part if part is not None and type(part) in transformers.MODEL_MAPPING else None


def _loaded_tower(folder: Path, config: Any) -> tuple[nn.Module, list[str]]:
    """The part of a model that sees images, in fp32, and the names of its weights that are not there; nothing else is read."""
    import transformers
    from safetensors import safe_open

    model: Any = transformers.AutoModel.from_config(config, trust_remote_code=False)
    encoder = getattr(model, "vision_model", model)
    names = encoder.state_dict()
    files: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as content:
            files |= dict.fromkeys(content.keys(), path)
    prefix = prefix_of(files, names)
    state: dict[str, torch.Tensor] = {}
    for path in set(files.values()):
        with safe_open(path, "pt") as content:
            state |= {name: content.get_tensor(prefix + name).float() for name, value in names.items()
                      if files.get(prefix + name) == path and tuple(content.get_slice(prefix + name).get_shape()) == value.shape}
    missing = [name for name in names if name not in state and name.split(".")[-1] not in HARMLESS]
    encoder.load_state_dict(state, strict=False)
    return encoder.float(), missing


def _widen(encoder: nn.Module, source: str) -> int:
    """Let an encoder of one channel see the mean of three, in its first layer; how many it was trained on."""
    config: Any = encoder.config
    channels = getattr(config, "num_channels", 3)
    if channels == 3:
        return 3
    first = next((module for module in encoder.modules() if isinstance(module, nn.Conv2d) and module.in_channels == channels), None)
    if channels != 1 or first is None:
        raise UserError(f"{source} takes {channels} channels, expected 1 or 3; export it to a .pt2 file that takes three")
    first.weight = nn.Parameter(of_colours(first.weight.detach(), torch.Size((len(first.weight), 3, *first.weight.shape[2:]))))
    first.in_channels = config.num_channels = 3
    for module in encoder.modules():
        if getattr(module, "num_channels", None) == 1:
            module.num_channels = 3  # type: ignore[assignment]
    return 1


def _arguments(model: nn.Module) -> Sequence[str]:
    return list(inspect.signature(type(model).__init__).parameters)


def _pooling_of(net: TransformersNet, missing: list[str], asked: TokenPooling | None, source: str) -> TokenPooling:
    """How features are pooled; UserError where a weight that it needs is not there."""
    if missing:
        raise UserError(f"{source} lacks {len(missing)} weights of {type(net.encoder).__name__} ({', '.join(missing[:3])}), which would be "
                        "drawn at random; copy the whole folder, or save the model again with save_pretrained")
    if asked == "pooler" and net.unpooled:
        raise UserError(f"--teacher-pool pooler: {source} holds no weights of a pooler; take cls or mean", USAGE)
    if asked in ("cls", "cls+mean") and not net.has_class_token:
        raise UserError(f"--teacher-pool {asked}: {type(net.encoder).__name__} of {source} has no class token; take mean, or leave it out",
                        USAGE)
    return asked or ("auto" if not net.unpooled else "cls" if net.has_class_token else "mean")


def _image_spec(encoder: Any, processor: Any, source: str, size: int | None, channels: int) -> ImageSpec:
    """How images are brought to the encoder: as its processor does, which is tried on an image of another shape."""
    if processor is None:
        raise UserError(f"{source} has none of {', '.join(PROCESSORS)}, which say how large its images are and how they are normalised; "
                        "put the authors' own file there")
    settings = {**processor.to_dict(), "image_processor_type": type(processor).__name__}
    spec = image_spec_of(settings, source, image_size=getattr(encoder.config, "image_size", None), asked=size,
                         channels=channels)
    if size is None:
        _check_processor(processor, spec, source, channels)
    return spec


def _check_processor(processor: Any, spec: ImageSpec, source: str, channels: int) -> None:
    """UserError where the processor makes of a smooth picture of 300x200 pixels what our rule does not; a grey one for one channel."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (10, 7, 3)).astype(np.uint8)
    raw = ImageSpec(300, 200, 3, interpolation="bicubic").stored(coarse)
    if channels == 1:
        raw = np.repeat(raw[..., :1], 3, axis=-1)
    try:
        given = raw if channels == 3 else Image.fromarray(raw[..., 0])
        theirs = np.asarray(processor(images=given, return_tensors="np")["pixel_values"][0], dtype=np.float64)
    except Exception as error:  # a processor may ask for anything
        raise UserError(f"the image processor of {source} fails on a picture ({type(error).__name__}: {first_line(error)[:120]}); export "
                        "the encoder with torch.export.save to a .pt2 file") from None
    ours = spec.normalised(spec.stored(raw)).astype(np.float64)[:channels]
    same = theirs.shape == ours.shape
    apart = float(np.abs(theirs - ours).mean() / max(float(theirs.std()), 1e-9)) if same else float("inf")
    centred = [image - image.mean() for image in (theirs, ours)]
    cosine = float((centred[0] * centred[1]).sum() / np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum())) if same else 0.0
    if cosine < LEAST_COSINE or apart > 0.1:
        raise UserError(f"{type(processor).__name__} of {source} brings an image to the network in a way that is not known here (shape "
                        f"{theirs.shape}, expected {ours.shape}; agreement {cosine:.3f}); say the side with --teacher-size to have it done "
                        "our way, or export the encoder with its preparation to a .pt2 file")
