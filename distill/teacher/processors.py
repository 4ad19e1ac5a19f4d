"""An image processor of transformers as an ImageSpec: the authors' own size, resize, crop and normalisation.

Owns: image_spec_of, a pure function of the processor's settings. Does not own: reading the file (hf_folder.py), doing any of it
(runtimes/images/spec.py). What ImageSpec cannot do as the processor does is a UserError that names the setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.networks.architectures import SIDES
from distill.networks.json_values import is_count, is_number, shown
from distill.networks.own import IMAGENET_MEAN, IMAGENET_STD
from runtimes.errors import USAGE, UserError
from runtimes.images.spec import Filter, Fit, ImageSpec

FILTERS: dict[Any, Filter] = {None: "bilinear", 2: "bilinear", 3: "bicubic", 1: "bicubic"}  # Pillow's numbers; Lanczos is nearest bicubic
CONVNEXT_WHOLE = 384  # from this size on ConvNextImageProcessor squashes, below it crops


def image_spec_of(settings: Mapping[str, Any], source: str, *, image_size: Any = None, asked: int | None = None,
                  channels: int = 3) -> ImageSpec:
    """How a network's authors bring an image to it, for three channels of levels 0 to 255.

    settings: a processor's `to_dict()`. image_size: what the network's config says, taken where the processor says nothing.
    asked: --teacher-size; a crop keeps its share of the image. channels: of the network, one mean and std each or one for all.
    """
    kind = str(settings.get("image_processor_type") or "").removesuffix("Fast")
    resizes = settings.get("do_resize", True) is not False
    size = settings.get("size") if resizes else None
    crops = bool(settings.get("do_center_crop")) and settings.get("crop_size") is not None
    shortest = _shortest(size, source)
    edge: int | None
    if kind in ("ConvNextImageProcessor", "PoolFormerImageProcessor") and shortest is not None:
        side, share = shortest, settings.get("crop_pct") or 224 / 256
        edge = None if kind == "ConvNextImageProcessor" and side >= CONVNEXT_WHOLE else int(side / share)
    elif crops:
        side = _side(settings["crop_size"], source)
        edge = shortest if shortest is not None else _side(size, source) if size is not None else side
        if kind == "LevitImageProcessor":
            edge = int(256 / 224 * edge)
    else:
        side = shortest if shortest is not None else _side(size, source) if size is not None else _side(image_size, source)
        edge = shortest
    if not side and not asked:
        raise UserError(f"{source} does not say how large its images are; say it with --teacher-size", USAGE)
    if settings.get("do_flip_channel_order"):
        raise UserError(f"{source} takes colours as blue, green, red (do_flip_channel_order), which is not read; export it with "
                        "torch.export.save to a .pt2 file that turns them itself")
    if asked and side:
        edge, side = (None if edge is None else round(edge * asked / side)), asked
    side = side or asked or 0
    mean, std = _levels(settings, source, channels)
    fit: Fit = "crop" if edge is not None and shortest is not None else "squash"
    return ImageSpec(side, side, 3, mean=mean, std=std, fit=fit, edge=None if edge is None or edge <= side else edge,
                     interpolation=FILTERS.get(settings.get("resample"), "bilinear"))


def _shortest(size: Any, source: str) -> int | None:
    """The shortest side that a processor resizes to, where it says it so."""
    if isinstance(size, Mapping) and size.get("shortest_edge") is not None:
        return _counted(size["shortest_edge"], source)
    return None


def _side(value: Any, source: str) -> int:
    """The side of a square by a config's size: a number, several, or an object; 0 where there is none."""
    if isinstance(value, Mapping):
        sides = [value[key] for key in ("height", "width", "shortest_edge", "longest_edge") if value.get(key) is not None]
    else:
        sides = list(value) if isinstance(value, list | tuple) else [value] if value is not None else []
    if not sides:
        return 0
    first = _counted(sides[0], source)
    if len(sides) > 1 and _counted(sides[1], source) != first:
        raise UserError(f"{source} takes images of {shown(value)} pixels, expected as high as wide; say one side with --teacher-size",
                        USAGE)
    return first


def _counted(side: Any, source: str) -> int:
    if not is_count(side, *SIDES):
        raise UserError(f"{source} takes images of {shown(side)} pixels, expected sides from {SIDES[0]} to {SIDES[1]}")
    return int(side)


def _levels(settings: Mapping[str, Any], source: str, channels: int) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and std for levels scaled to 0 to 1, whatever the processor scales them by."""
    factor = settings.get("rescale_factor")
    factor = 1 / 255 if factor is None else factor
    if not is_number(factor, 1e-6, 1e3):
        raise UserError(f"{source}: rescale_factor {shown(factor)}, expected a number such as 1/255")
    scale = 255.0 * factor if settings.get("do_rescale", True) is not False else 255.0
    mean: tuple[float, ...] = (0.0,) * 3
    std: tuple[float, ...] = (1.0,) * 3
    if settings.get("do_normalize", True) is not False:
        mean, std = (three_numbers(settings.get(key) or usual, f"{source}: {key}", channels=channels)
                     for key, usual in zip(("image_mean", "image_std"), (IMAGENET_MEAN, IMAGENET_STD), strict=True))
    if settings.get("include_top") and settings.get("do_normalize", True) is not False:  # EfficientNet's divides by std once more
        std = tuple(value * value for value in std)
    shift = 1.0 if settings.get("rescale_offset") or (settings.get("offset") and scale != 255.0) else 0.0  # x * factor - 1
    means, stds = [(value + shift) / scale for value in mean], [value / scale for value in std]
    return (means[0], means[1], means[2]), (stds[0], stds[1], stds[2])


def three_numbers(value: Any, source: str, most: float = 1e6, channels: int = 3) -> tuple[float, float, float]:
    """A mean or std of colours as a file says it, a single one for all of them; UserError for anything but numbers up to `most`."""
    if isinstance(value, list | tuple) and len(value) == 1 and channels == 1:
        value = [value[0]] * 3
    if not isinstance(value, list | tuple) or len(value) != 3 or not all(is_number(level, -most, most) for level in value):
        raise UserError(f"{source} is {shown(value)}, expected three numbers")
    return float(value[0]), float(value[1]), float(value[2])
