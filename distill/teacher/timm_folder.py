"""A folder of somebody's timm network: timm's own form, transformers' wrapper around one, or open_clip's with a timm trunk.

Owns: TimmFolder and described, which read what the authors say: network, image size, resize, statistics, licence, file of weights. Does not
own: our own folders (networks/checkpoint.py), encoders of transformers (hf_folder.py), placing the weights (networks/weight_files.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor
from pathlib import Path
from typing import Any

from distill.networks.architectures import SIDES, check_architecture
from distill.networks.json_values import is_count, is_number, shown
from distill.networks.tasks import INDEX
from distill.teacher.processors import three_numbers
from runtimes.errors import UserError
from runtimes.files.folder import MANIFEST, read_json
from runtimes.images.spec import Filter, Fit, ImageSpec

CONFIG, OPEN_CLIP = "config.json", "open_clip_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
NEUTRAL = ("num_classes", "img_size", "dynamic_img_size", "dynamic_img_pad", "pretrained", "in_chans", "features_only")  # shape no weight
FILTERS: Mapping[Any, Filter] = {"bilinear": "bilinear", "bicubic": "bicubic", None: "bicubic", "random": "bilinear"}


@dataclass(frozen=True)
class TimmFolder:
    """What a folder says of its network: a timm name, arguments beside it, its weights, how images reach it, its licence."""

    arch: str
    arguments: Mapping[str, Any]
    weights: Path
    image_spec: ImageSpec
    licence: str
    channels: int = 3


def is_timm_folder(folder: Path) -> bool:
    """Whether a folder describes a timm network and is none of ours, whole or without its manifest.

    Of ours that is a student, or a teacher of one task, whose network is all timm's; of others timm would take a part for the whole.
    """
    if (folder / MANIFEST).is_file() or (folder / INDEX).is_file():
        return False
    if (folder / OPEN_CLIP).is_file():
        return True
    content = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    arch = content.get("architecture")
    return isinstance(arch, str) and not ("rd" in content and " " in arch)


def described(folder: Path, size: int | None = None) -> TimmFolder:
    """What a folder says; size: --teacher-size, of which a crop keeps its share. UserError where it does not say enough, or too much."""
    file = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise UserError(f"{folder} holds none of {', '.join(WEIGHTS)}; copy the whole folder")
    if (folder / OPEN_CLIP).is_file():
        arch, arguments, preparation = _open_clip(read_json(folder / OPEN_CLIP), f"{folder / OPEN_CLIP}")
    else:
        content = read_json(folder / CONFIG)
        arch, arguments = str(content["architecture"]), _object(content.get("model_args"), f"{folder / CONFIG}: model_args")
        preparation = _object(content.get("pretrained_cfg"), f"{folder / CONFIG}: pretrained_cfg") or content
    channels = arguments.get("in_chans", 3)
    if channels not in (1, 3):
        raise UserError(f"{folder} holds a network of {shown(channels)} channels, expected 1 or 3")
    shaping = {name: value for name, value in arguments.items() if name not in NEUTRAL}
    check_architecture(arch, shaping)
    spec = _image_spec(preparation, str(folder), size, channels)
    return TimmFolder(arch, shaping, file, spec, str(preparation.get("license") or "unknown"), channels)


def _open_clip(content: Mapping[str, Any], source: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The timm trunk of an open_clip model, and its preparation in timm's words."""
    vision = _object(_object(content.get("model_cfg"), f"{source}: model_cfg").get("vision_cfg"), f"{source}: vision_cfg")
    arch = vision.get("timm_model_name")
    if not isinstance(arch, str):
        raise UserError(f"{source} holds no timm trunk (timm_model_name); load the vision tower as transformers has it: "
                        "--teacher hf:FOLDER")
    preparation = _object(content.get("preprocess_cfg"), f"{source}: preprocess_cfg")
    side = preparation.get("size", vision.get("image_size"))
    side = side[0] if isinstance(side, list) and side else side
    mode = {"shortest": "center", "squash": "squash", "longest": "border"}.get(str(preparation.get("resize_mode") or "shortest"), "center")
    usual = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}  # of CLIP, open_clip's default
    return arch, {}, {**usual, **preparation, "input_size": [3, side, side], "crop_pct": 1.0, "crop_mode": mode}


def _image_spec(preparation: Mapping[str, Any], source: str, size: int | None, channels: int) -> ImageSpec:
    """timm's preparation of an image: the shortest side to size / crop_pct, the middle of it; or squashed, or with a border."""
    sides = preparation.get("input_size")
    side = sides[-1] if isinstance(sides, list) and len(sides) == 3 and sides[1] == sides[2] else None  # [channels, side, side]
    if not is_count(side, *SIDES):
        raise UserError(f"{source} says input_size {shown(sides)}, expected [3, side, side] with sides from {SIDES[0]} to {SIDES[1]}")
    share, mode = preparation.get("crop_pct", 0.875), preparation.get("crop_mode") or "center"
    if not is_number(share, 0.1, 1) or mode not in ("center", "squash", "border"):
        raise UserError(f"{source} says crop_pct {shown(share)} and crop_mode {shown(mode)}, expected a share up to 1, and center, squash "
                        "or border")
    fit: Fit = {"center": "crop", "squash": "squash", "border": "pad"}[mode]  # type: ignore[assignment]
    target = size or int(side or 0)
    edge = floor(target / share)
    mean, std = (three_numbers(preparation.get(name), f"{source}: {name}", 1e3, channels) for name in ("mean", "std"))
    if preparation.get("interpolation") not in FILTERS:
        raise UserError(f"{source} says interpolation {shown(preparation.get('interpolation'))}, expected bilinear or bicubic")
    return ImageSpec(target, target, 3, mean=mean, std=std, fit=fit, edge=edge if edge > target and fit != "pad" else None,
                     interpolation=FILTERS[preparation.get("interpolation")])


def _object(value: Any, source: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise UserError(f"{source} is {shown(value)}, expected an object")
    return dict(value or {})
