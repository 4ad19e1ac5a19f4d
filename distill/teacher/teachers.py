"""Frozen teachers by name: timm networks, folders, .pt2 and .onnx files, transformers' vision encoders.

Owns: which kind a name is of, loading those that are no networks of timm, what a user states in place of what files say. Does not own:
networks of timm (timm_network.py), what a teacher is (teacher.py).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from distill.networks.checkpoint import Checkpoint, read_config
from distill.networks.encoder_folder import check_encoder, local_folder
from distill.networks.encoders import TokenPooling, TransformersNet
from distill.networks.models import Model, weights_hash
from distill.networks.nets import pool_otherwise, pooling_of
from distill.networks.own import IMAGENET_MEAN, IMAGENET_STD
from distill.networks.programs import image_sides, load_program
from distill.networks.students import SHORT_NAMES, check_weights, timm_name
from distill.networks.tasks import load_task, tasks_named
from distill.teacher import dinov2_small
from distill.teacher.bank import bank_views_of
from distill.teacher.hf_folder import from_encoder
from distill.teacher.onnx_graph import load_graph
from distill.teacher.peft_folder import check_peft, merge_peft
from distill.teacher.recipe_teachers import XRV, check_recipe, from_recipe
from distill.teacher.recipes import RECIPES
from distill.teacher.teacher import ASSUMED, POOLED, Grey, Teacher, TeacherInput, Tokens, frozen, hash_with
from distill.teacher.timm_folder import described, is_timm_folder
from distill.teacher.timm_network import PooledNet, from_dinov2_small, from_timm, from_timm_folder
from distill.teacher.volume_teachers import check_volume_teacher, from_volume_teacher, is_volume_teacher
from runtimes.errors import USAGE, UserError
from runtimes.files.folder import MANIFEST, read_manifest, sha256_file
from runtimes.images.spec import ImageSpec
from runtimes.scores import TASKS

A_STATE = "weights alone; name its network, and the file as --teacher-weights"
# What else a file of a network may be, and what to do with it.
WAYS_OUT = {
    **dict.fromkeys((".safetensors", ".pth", ".bin", ".ckpt"), A_STATE),
    ".pt": f"TorchScript, which runs code when it is read, or of {A_STATE}; in Python a network is saved as .pt2 with torch.export.save",
    ".ts": "TorchScript, which runs code when it is read; load it where you trust it and save it with torch.export.save to a .pt2 file",
    **dict.fromkeys((".h5", ".keras", ".tflite"), "another library; bring its weights into a timm network's, --teacher-weights")}


@dataclass(frozen=True)
class Asked:
    """A teacher as a user asks for it; flag: what messages call its name; task: of a folder that holds several."""

    name: str
    weights: str | None = None
    stated: TeacherInput = field(default_factory=TeacherInput)
    flag: str = "--teacher"
    task: str | None = None

    @property
    def path(self) -> Path:
        """The name as a file or folder."""
        return Path(self.name)

    @property
    def source(self) -> str:
        """The name behind its prefix."""
        return self.name.partition(":")[2]


@dataclass(frozen=True)
class Kind:
    """A kind of teacher: which names are of it, what is checked before any work, how it is loaded.

    brings_weights: its name says where they are. adaptable: adapters can be merged into it.
    """

    takes: Callable[[Asked], bool]
    check: Callable[[Asked], object]
    load: Callable[[Asked], Teacher]
    brings_weights: bool = True
    adaptable: bool = False


def load_teacher(name: str, *, size: int | None = None, weights: str | None = None, adapter: Path | None = None,
                 stated: TeacherInput | None = None, task: str | None = None) -> Teacher:
    """Load and freeze a teacher: eval mode, no gradients, hash of its weights taken.

    name: of any kind (KINDS). adapter: a PEFT folder to merge into a timm network or an `hf:` encoder. stated: what a user says of its
    images and features; size is short for that of it. task: of a folder that holds several, the newest when not given. Raises UserError
    naming what to install or where to put a missing file.
    """
    stated = stated or TeacherInput(size)
    asked = Asked(name, weights, stated, task=task)
    teacher = _checked(asked, adapter).load(asked)
    if adapter is not None:
        teacher = _with_adapter(teacher, adapter)
    teacher = _as_stated(teacher, stated)
    return frozen(teacher, "another --teacher-size", name, stated.size if weights != "random" else None)


def check_teacher(name: str, *, weights: str | None = None, adapter: Path | None = None, flag: str = "--teacher",
                  task: str | None = None, stated: TeacherInput | None = None) -> None:
    """UserError where a teacher's name, folder, weights or adapter is not there, or asks for what is refused; no weights are loaded.

    name: also `bank:FOLDER`. flag: what the message calls it. An ID of the hub has its configs fetched, and timm's hub its weights.
    """
    _checked(Asked(name, weights, stated or TeacherInput(), flag, task), adapter)


def sees_volumes(name: str) -> bool:
    """Whether a teacher sees whole volumes, by its name, its folder's config or its bank's key."""
    if name.startswith("bank:"):
        views = bank_views_of(Path(name.partition(":")[2]))
        return bool(views.get("solid"))
    if is_volume_teacher(name):
        return True
    return (Path(name) / MANIFEST).is_file() and read_config(Path(name))[0].solid


def _checked(asked: Asked, adapter: Path | None) -> Kind:
    """The kind that a name is of, checked; whatever is of no other is a network of timm."""
    kind = next(kind for kind in KINDS if kind.takes(asked))
    if asked.weights and kind.brings_weights:
        raise UserError(f"--teacher-weights {asked.weights}: teacher {asked.name} brings its own weights; leave it out", USAGE)
    kind.check(asked)  # first: what is not there is no folder of anybody's
    if asked.task is not None and kind.check is not _check_ours:
        raise UserError(f"--task {asked.task}: teacher {asked.name} is no folder of rd-adapt, and these alone hold tasks; leave it out "
                        f"(kinds of labels are {', '.join(TASKS)})", USAGE)
    if adapter is not None:
        if not kind.adaptable:
            raise _takes_no_adapter(asked.name, adapter)
        check_peft(adapter)
    return kind


def _check_hub(asked: Asked) -> None:
    if importlib.util.find_spec("transformers") is None:
        raise UserError(f"{asked.flag} {asked.name} needs transformers; pip install 'rd-distill[teachers]'")
    check_encoder(local_folder(asked.source, weights=False), asked.source, weights=Path(asked.source).is_dir())


def _check_file(asked: Asked) -> None:
    if not asked.path.is_file():
        written_as = "of ONNX" if asked.name.endswith(".onnx") else "of torch.export.save"
        raise UserError(f"teacher {asked.name} not found; expected a file {written_as}")


def _check_ours(asked: Asked) -> None:
    read_manifest(asked.path, "student", "teacher")
    spec = read_config(asked.path)[1]
    if asked.task is not None:
        spec = tasks_named(asked.path, asked.task).checkpoint(asked.task).image_spec
    _check_size(asked, spec)


def _check_size(asked: Asked, spec: ImageSpec) -> None:
    """UserError where a folder's teacher is asked for images of another size than its own."""
    if (size := asked.stated.size) and size != spec.height:
        raise UserError(f"{asked.flag}-size {size}: teacher {asked.path} was trained at {spec.height}x{spec.width}; leave it out", USAGE)


def _check_timm(asked: Asked) -> None:
    import timm

    try:
        arch = timm_name(asked.name)
    except UserError as error:
        if asked.name in SHORT_NAMES or timm.is_model(asked.name):  # the network is known, but not with such weights
            raise
        raise UserError(f"{asked.flag} {asked.name} is no folder, no .pt2 or .onnx file and no network: {error}", USAGE) from None
    if asked.weights != "random":
        check_weights(arch, asked.weights or "pretrained")


def _refuse(asked: Asked) -> NoReturn:
    raise UserError(f"{asked.flag} {asked.name} is a file of {WAYS_OUT[asked.path.suffix.lower()]}", USAGE)


def _no_network(asked: Asked) -> NoReturn:
    raise UserError(f"{asked.flag} {asked.name} holds features alone, and no network", USAGE)


def _as_stated(teacher: Teacher, stated: TeacherInput) -> Teacher:
    """The teacher with the images and features that a user states; UserError for a pooling that it cannot have."""
    spec = teacher.image_spec
    if stated.resize != "auto" and stated.resize != spec.fit:
        spec = replace(spec, fit=stated.resize, edge=spec.edge if stated.resize == "crop" else None)
    spec = replace(spec, mean=stated.mean or spec.mean, std=stated.std or spec.std)
    teacher = replace(teacher, image_spec=spec, assumed="" if stated.mean and stated.std else teacher.assumed)
    if stated.channels not in (None, teacher.channels):
        raise UserError(f"--teacher-channels {stated.channels}: teacher {teacher.name} takes {teacher.channels}; leave it out", USAGE)
    if stated.features is not None and not teacher.name.endswith(".onnx"):
        raise UserError(f"--teacher-features {stated.features} is for ONNX graphs; leave it out for teacher {teacher.name}", USAGE)
    if stated.pool == "auto" or isinstance(teacher.net, TransformersNet):
        return teacher
    if teacher.name.endswith((".onnx", ".pt2")):
        return _of_tokens(teacher, stated.pool)
    if not isinstance(teacher.net, PooledNet):
        raise UserError(f"--teacher-pool {stated.pool}: teacher {teacher.name} pools as it was made; leave it out", USAGE)
    pool_otherwise(teacher.net.net, stated.pool, f"teacher {teacher.name}")
    return replace(teacher, hash=hash_with(teacher.hash, stated.pool), pooling=POOLED[stated.pool])


def _of_tokens(teacher: Teacher, pool: TokenPooling) -> Teacher:
    """A program or graph whose tokens are pooled as a user states; UserError where it answers none."""
    spec = teacher.image_spec
    answer = teacher.net(torch.zeros(1, 3, spec.height, spec.width))
    if pool == "pooler" or not isinstance(answer, Tensor) or answer.ndim != 3:
        shape = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise UserError(f"--teacher-pool {pool}: teacher {teacher.name} answers {shape}, expected tokens (batch, tokens, width); leave it "
                        "out", USAGE)
    return replace(teacher, net=Tokens(teacher.net, pool), hash=hash_with(teacher.hash, pool), pooling=POOLED[pool])


def _takes_no_adapter(name: str, adapter: Path) -> UserError:
    return UserError(f"--teacher-adapter {adapter}: teacher {name} takes none; name the timm network or hf:ID it was made for", USAGE)


def _with_adapter(teacher: Teacher, folder: Path) -> Teacher:
    net = teacher.net.net if isinstance(teacher.net, PooledNet) else teacher.net
    if not isinstance(teacher.net, PooledNet | TransformersNet):
        raise _takes_no_adapter(teacher.name, folder)
    merge_peft(net, folder, weights_hash(teacher.net), teacher.hash)  # earlier folders name the hash with the pooling
    return replace(teacher, name=f"{teacher.name} with {folder.name}", hash=hash_with(weights_hash(teacher.net), pooling_of(net)))


def _from_folder(asked: Asked) -> Teacher:
    folder = asked.path
    checkpoint = load_task(folder, asked.task)
    _check_size(asked, checkpoint.image_spec)
    return of_checkpoint(checkpoint, folder.name if asked.task is None else f"{folder.name}, task {asked.task}")


class FolderNet(nn.Module):
    """A checkpoint's network up to its pooled features; of a teacher of volumes those of a slice."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, h, w) to features (B, D)."""
        return self.model.adapted(self.model.trunk(pixels))


def of_checkpoint(checkpoint: Checkpoint, name: str) -> Teacher:
    """A checkpoint as a teacher of this name."""
    spec, net = checkpoint.image_spec, FolderNet(checkpoint.model).eval()
    usual = ImageSpec(spec.height, spec.width)  # channels, levels and volumes are those of the images at hand, all else is as it was
    if spec.volume is not None and spec.volume.solid:
        wide = spec
    else:
        wide = replace(spec, channels=3, dtype=usual.dtype, window=usual.window, windows=(), volume=None)
    return Teacher(name, net, wide, weights_hash(net), str(checkpoint.manifest.get("licence", "unknown")),
                   pooling=POOLED[pooling_of(checkpoint.model.net)])


def _from_program(asked: Asked) -> Teacher:
    path = asked.path
    program = load_program(path)
    channels, *shape = image_sides(program, path, (1, 3))
    height, width = _sides(shape, asked.stated.size, path)
    net: nn.Module = program.module()
    if channels == 1:
        net = Grey(net)
    spec = ImageSpec(height, width, 3, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return Teacher(path.name, net, spec, sha256_file(path), channels=channels, assumed=ASSUMED)


def _from_graph(asked: Asked) -> Teacher:
    """An ONNX graph, whose statistics must be stated: nothing in it says them, but bytes, which it takes as they are."""
    path, stated = asked.path, asked.stated
    graph = load_graph(path, stated.features)
    given = graph.net.given
    raw = given.dtype is np.uint8
    if not raw and not (stated.mean and stated.std):
        raise UserError(f"{path} does not say how pixels are normalised; say it with --teacher-mean and --teacher-std, numbers for pixels "
                        "from 0 to 1 such as 0.485 0.456 0.406 and 0.229 0.224 0.225 (ImageNet's)", USAGE)
    height, width = _sides((given.height, given.width), stated.size, path)
    channels = given.channels or stated.channels or 3
    mean, std = ((0.0,) * 3, (1 / 255,) * 3) if raw else (stated.mean or IMAGENET_MEAN, stated.std or IMAGENET_STD)
    net = Grey(graph.net) if channels == 1 else graph.net
    doubt = ", a linear layer's answer: if these are class scores, name others with --teacher-features"
    return Teacher(path.name, net.eval(), ImageSpec(height, width, 3, mean=mean, std=std), graph.hash, channels=channels,
                   pooling=f"of its tensor {graph.features}{doubt if graph.linear and not stated.features else ''}",
                   weights=graph.parameters)


def _sides(shape: Sequence[Any], size: int | None, path: Path) -> tuple[int, int]:
    """Height and width of the images for a file that takes `shape`, anything but whole numbers being open."""
    fixed = all(isinstance(side, int) for side in shape)
    if size is None and not fixed:
        raise UserError(f"{path} takes any image size; say which with --teacher-size", USAGE)
    height, width = (size or int(shape[0])), (size or int(shape[1]))
    if fixed and (height, width) != tuple(shape):
        raise UserError(f"--teacher-size {size}: {path} takes {shape[0]}x{shape[1]}; leave it out")
    return height, width


# The first that takes a name has it. A kind more is a row here, and in adaptation/adaptable.py where it has layers.
KINDS: tuple[Kind, ...] = (
    Kind(lambda asked: asked.name.startswith("bank:"), lambda asked: read_manifest(Path(asked.source), "bank"), _no_network),
    Kind(lambda asked: is_volume_teacher(asked.name),
         lambda asked: check_volume_teacher(asked.name, asked.weights, asked.stated.size, asked.flag),
         lambda asked: from_volume_teacher(asked.name, asked.weights, asked.stated), brings_weights=False),
    Kind(lambda asked: asked.name.startswith("hf:"), _check_hub,
         lambda asked: from_encoder(asked.name, asked.source, asked.stated.size, asked.stated.pool), adaptable=True),
    Kind(lambda asked: asked.name.endswith(".pt2"), _check_file, _from_program),
    Kind(lambda asked: asked.name.endswith(".onnx"), _check_file, _from_graph),
    Kind(lambda asked: asked.name == dinov2_small.NAME, lambda asked: dinov2_small.weights_path(),
         lambda asked: from_dinov2_small(asked.stated.size or dinov2_small.SIDE), adaptable=True),
    Kind(lambda asked: asked.name.startswith(XRV) or (asked.name in RECIPES and not (asked.path.is_dir() and asked.weights is None)),
         lambda asked: check_recipe(asked.name, asked.weights, asked.flag),
         lambda asked: from_recipe(asked.name, asked.weights, asked.stated), brings_weights=False, adaptable=True),
    Kind(lambda asked: asked.path.suffix.lower() in WAYS_OUT and asked.path.is_file(), _refuse, _refuse, brings_weights=False),
    Kind(lambda asked: asked.path.is_dir() and is_timm_folder(asked.path), lambda asked: described(asked.path),
         lambda asked: from_timm_folder(asked.path, asked.stated.size)),
    Kind(lambda asked: asked.path.is_dir(), _check_ours, _from_folder),
    Kind(lambda asked: True, _check_timm, lambda asked: from_timm(asked.name, asked.stated.size, asked.weights), brings_weights=False,
         adaptable=True))
