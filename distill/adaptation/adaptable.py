"""A teacher opened up for training: its network as a Model with a fresh head for the data's task.

Owns: which teachers can be adapted and how each becomes a Model. Does not own: loading them (teachers.py), adapters.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distill.adapters.insert import SLICES
from distill.data.image_set import ImageSet
from distill.networks.checkpoint import read_config
from distill.networks.encoders import PREFIX, TransformersNet
from distill.networks.models import Model, ModelSpec, build_model
from distill.networks.nets import pooling_of, renew_classifier
from distill.networks.own import PREFIX as OWN
from distill.networks.slices import Pooling
from distill.networks.solid import SolidNet
from distill.teacher.teacher import Teacher, fed
from distill.teacher.teachers import FolderNet
from runtimes.errors import USAGE, UserError
from runtimes.files.folder import MANIFEST
from runtimes.images.spec import ImageSpec


def check_adaptable(name: str) -> None:
    """UserError (exit 2) for a teacher that shows no layers (a `.pt2` file, a bank), or that was pruned."""
    if name.endswith((".pt2", ".onnx")) or name.startswith("bank:"):
        raise UserError(f"--teacher {name} shows no layers to put adapters beside; name a timm network, hf:ID or a folder", USAGE)
    spec = read_config(Path(name))[0] if (Path(name) / MANIFEST).is_file() else None
    if spec is not None and spec.arch.startswith(OWN):
        raise UserError(f"--teacher {name} holds {spec.arch}, a program that shows no layers to put adapters beside; distil from it as it "
                        "is, or adapt a timm network or hf:ID", USAGE)
    if spec is not None and spec.cuts:
        raise UserError(f"--teacher {name} was pruned, and adapters are for whole networks; adapt the network that it was cut from, or "
                        "distil from it as it is", USAGE)


def pooled_as(net: nn.Module) -> dict[str, Any]:
    """How a network is pooled, as its spec keeps it; nothing where it pools as it always did."""
    unpooled = isinstance(net, TransformersNet) and net.unpooled
    return {**({"pooling": pooling_of(net)} if pooling_of(net) != "auto" else {}), **({"pooler": False} if unpooled else {})}


def adaptable(name: str, teacher: Teacher, images: ImageSet, *, seed: int, pooling: Pooling = "attention") -> tuple[Model, ImageSpec]:
    """A teacher as a model with a head drawn from the seed for the data's classes, and how the data's images reach it.

    name: what the teacher was loaded by, except what shows no layers (`.pt2`, `bank:`), which is a UserError (exit 2). Its network is
    copied: the teacher stays as it is. pooling: of volumes; fresh, whatever the teacher was adapted to before.
    """
    check_adaptable(name)
    teacher = replace(teacher, net=copy.deepcopy(teacher.net))
    spec = fed(teacher.image_spec, images)
    if isinstance(teacher.net, FolderNet):
        parent = teacher.net.model
        model_spec = ModelSpec(parent.spec.arch, spec.height, spec.width, images.task, images.classes, parent.spec.arguments,
                               parent.spec.adapters)
        net = build_model(parent.spec).net  # whose adapters learn, unlike the teacher's, which are frozen
        net.load_state_dict(parent.net.state_dict(), strict=True)
    elif isinstance(teacher.net, TransformersNet):
        encoder: Any = teacher.net.encoder
        width = teacher.features(torch.zeros(1, 3, spec.height, spec.width)).shape[1]
        config = encoder.config.to_dict()
        model_spec = ModelSpec(f"{PREFIX}{encoder.config.model_type}", spec.height, spec.width, images.task, images.classes,
                               {"config": config, "features": width, **pooled_as(teacher.net)})
        net = TransformersNet(encoder, pooling=teacher.net.pooling)
    elif isinstance(teacher.net, SolidNet):
        net = teacher.net
        model_spec = ModelSpec(teacher.arch, spec.height, spec.width, images.task, images.classes, teacher.arguments)
    else:
        net = teacher.net.net  # type: ignore[assignment]
        model_spec = ModelSpec(teacher.arch, spec.height, spec.width, images.task, images.classes, {**teacher.arguments, **pooled_as(net)})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if isinstance(net, TransformersNet):
            net.classifier = nn.Linear(int(model_spec.arguments["features"]), model_spec.outputs)
        else:
            renew_classifier(net, model_spec.outputs)
        if images.volume is not None:
            model_spec = replace(model_spec, slices=spec.slices, pooling=pooling)
        if hasattr(net, SLICES):
            delattr(net, SLICES)
        model = Model(model_spec, net)
        model.head.reset_parameters()  # timm's own start is huge for a few classes
    return model, spec
