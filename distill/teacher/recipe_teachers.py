"""Published models by name, from the file or folder that a user puts on the machine: used as their authors use them, or refused.

Owns: which file a recipe takes, whether it holds what the recipe says. Does not own: the facts (recipes.py), reading files and folders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.networks.encoder_folder import check_encoder
from distill.networks.json_values import shown
from distill.networks.models import weights_hash
from distill.networks.nets import build_net, pool_otherwise
from distill.networks.weight_files import read_state, without_prefix
from distill.teacher.hf_folder import from_encoder
from distill.teacher.recipes import RECIPES, Recipe
from distill.teacher.teacher import POOLED, Teacher, TeacherInput, hash_with
from distill.teacher.timm_folder import WEIGHTS, described
from distill.teacher.timm_network import PooledNet, from_timm_folder, net_with
from runtimes.errors import USAGE, UserError
from runtimes.images.spec import ImageSpec

XRV = "xrv:"  # before a file of TorchXRayVision, whichever of its two networks
XRV_KINDS = ("xrv-densenet121", "xrv-resnet50")
XRV_SIGN = "denseblock1"  # in the names of its DenseNet's tensors


def check_recipe(name: str, weights: str | None, flag: str) -> None:
    """UserError where a recipe's file or folder is not named or not there; no weights are loaded. flag: what the message calls it."""
    if name.startswith(XRV):
        if weights is not None:
            raise UserError(f"--teacher-weights {weights}: teacher {name} names its file itself; leave it out", USAGE)
        if not Path(name.removeprefix(XRV)).is_file():
            raise UserError(f"teacher {name} not found; expected {' or '.join(RECIPES[kind].weights for kind in XRV_KINDS)}")
        return
    recipe = RECIPES[name]
    if weights is None:
        way = ("name them with --teacher-weights" if flag == "--teacher" else
               f"name it first: --teacher {name} --teacher-weights ..., and the other teacher with {flag}")
        raise UserError(f"{flag} {name} needs its weights: {recipe.weights} (licence {recipe.licence}); put them on this machine and {way}",
                        USAGE)
    if recipe.kind == "timm":
        if weights != "random":
            weights_in(Path(weights), name)
    elif not Path(weights).is_dir():
        raise UserError(f"--teacher-weights {weights} is no folder; {name} takes {recipe.weights}")
    elif recipe.kind == "hf":
        check_encoder(Path(weights), weights)
    else:
        described(Path(weights))


def weights_in(path: Path, name: str) -> Path:
    """The file of weights that a path names, itself or inside a folder; UserError where there is none."""
    if path.is_file():
        return path
    file = next((path / known for known in WEIGHTS if (path / known).is_file()), None)
    if file is None:
        raise UserError(f"--teacher-weights {path} is no file of weights, and no folder with one of {', '.join(WEIGHTS)}; {name} takes "
                        f"{RECIPES[name].weights}")
    return file


def from_recipe(name: str, weights: str | None, stated: TeacherInput) -> Teacher:
    """A published model as its authors use it; UserError where the weights are another model's."""
    if name.startswith(XRV):
        path = Path(name.removeprefix(XRV))
        state = read_state(path)
        kind = XRV_KINDS[0] if any(XRV_SIGN in key for key in state) else XRV_KINDS[1]
        return _from_weights(f"{XRV}{path.name}", RECIPES[kind], state, path.name, stated)
    recipe = RECIPES[name]
    assert weights is not None  # check_recipe
    if recipe.kind == "timm":
        if weights == "random":
            return _from_weights(name, recipe, None, weights, stated)
        file = weights_in(Path(weights), name)
        return _from_weights(name, recipe, read_state(file), file.name, stated)
    teacher = _from_folder(name, recipe, weights, stated)
    _check(teacher, recipe, name, weights, resized=stated.size is not None)
    return replace(teacher, licence=recipe.licence)


def _from_weights(name: str, recipe: Recipe, state: Mapping[str, Tensor] | None, source: str, stated: TeacherInput) -> Teacher:
    side = stated.size or recipe.side
    torch.manual_seed(0)  # what `random` means, the same in every run
    if state is None:
        net, channels = build_net(recipe.arch, side, side, 0, **recipe.arguments), recipe.channels
    else:
        tensors = dict(state)
        if recipe.plain_norm:
            tensors = _with_plain_norm(tensors, recipe.width)
        net, _, channels = net_with(recipe.arch, side, side, 0, tensors, source, recipe.arguments, called=name)
    if channels != recipe.channels:
        raise UserError(f"{source} takes {channels} channels, {name} {recipe.channels}: it is another model's; expected {recipe.weights}")
    if recipe.pool != "auto":
        pool_otherwise(net, recipe.pool, f"teacher {name}")
    body = PooledNet(net).eval()
    spec = ImageSpec(side, side, 3, mean=recipe.mean, std=recipe.std, fit=recipe.fit, interpolation=recipe.interpolation,
                     edge=None if recipe.edge is None else round(recipe.edge * side / recipe.side))
    return Teacher(name, body, spec, hash_with(weights_hash(body), recipe.pool), recipe.licence, dict(recipe.arguments),
                   POOLED[recipe.pool], recipe.arch, channels)


def _with_plain_norm(state: dict[str, Tensor], width: int) -> dict[str, Tensor]:
    """RETFound's weights without the norm that its forward pass never calls, and with the one that it calls, plain where none is there."""
    own = without_prefix(state, dict.fromkeys(("cls_token", "pos_embed", "norm.weight", "norm.bias", "fc_norm.weight")))
    if "fc_norm.weight" in own:
        return state
    return {**{name: value for name, value in own.items() if not name.startswith("norm.")},
            "fc_norm.weight": torch.ones(width), "fc_norm.bias": torch.zeros(width)}


def _from_folder(name: str, recipe: Recipe, folder: str, stated: TeacherInput) -> Teacher:
    """The network in a folder, under the recipe's name; UserError where it is not of the recipe's type."""
    if recipe.kind == "folder":
        return replace(from_timm_folder(Path(folder), stated.size), name=name)
    teacher = from_encoder(name, folder, stated.size, recipe.pool if stated.pool == "auto" else stated.pool)
    kind = getattr(teacher.net.encoder.config, "model_type", "")  # type: ignore[union-attr]
    if kind != recipe.arch:
        raise UserError(f"{folder} holds a network of type {shown(kind)}, {name} is {recipe.arch}; {name} takes {recipe.weights}")
    return teacher


def _check(teacher: Teacher, recipe: Recipe, name: str, source: str, *, resized: bool) -> None:
    """UserError where a folder's own description is not that of the recipe: it is another model's, or was changed."""
    spec = teacher.image_spec
    width = teacher.features(torch.zeros(1, 3, spec.height, spec.width)).shape[1]
    facts: dict[str, tuple[Any, Any]] = {"width": (width, recipe.width), "mean": (spec.mean, recipe.mean), "std": (spec.std, recipe.std),
                                         **({} if resized else {"side": (spec.height, recipe.side)})}
    for fact, (actual, expected) in facts.items():
        if not np.allclose(actual, expected, atol=1e-3):
            raise UserError(f"{source} says {fact} {actual}, {name} has {expected}: it is another model's, or was changed; name it without "
                            "the recipe to use it as it says")
