"""A teacher of the user's own: a network in memory, and what it must be fed.

Owns: TeacherNetwork, and how one becomes a Teacher with a hash of its own. Does not own: teachers by name (teachers.py), taking and
pooling features (networks/own.py).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import nn

from distill.networks.json_values import is_count
from distill.networks.models import weights_hash
from distill.networks.own import FeatureNet, Pool, PoolWord, copied, levels_of, name_of, up_to
from distill.teacher.teacher import Grey, Teacher, frozen
from runtimes.errors import UserError
from runtimes.images.spec import ImageSpec

ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # in the text of a module: another one in every process
SIDES = (16, 1024)  # pixels, as --teacher-size takes


@dataclass(frozen=True)
class TeacherNetwork:
    """A teacher of your own: `net`, and what it must be fed to say what it knows.

    mean, std: what pixels from 0 to 1 are normalised with, a number a colour. size: side of its images in pixels, or (height, width).
    pool: how one vector an image comes of what it answers: auto (vectors as they are, maps and tokens averaged, pooled outputs of
    transformers, features of timm networks before their classifier), cls (the first token), mean (of tokens or maps), or a function of
    the answer. features: the name of a module inside `net` to take the answer of. channels: 1 for a network of grey images, which sees
    the mean of colours. `net` is copied, never changed.
    """

    net: nn.Module
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: int | tuple[int, int]
    pool: Pool = "auto"
    features: str | None = None
    name: str | None = None
    licence: str = "unknown"
    channels: int = 3


def own_teacher(network: TeacherNetwork) -> Teacher:
    """A TeacherNetwork as a frozen Teacher; UserError says what does not fit."""
    name = name_of(network.net, network.name, "TeacherNetwork")
    who = f"teacher {name}"
    if not callable(network.pool) and network.pool not in get_args(PoolWord):
        raise UserError(f"TeacherNetwork(pool={network.pool!r}) is unknown; expected {', '.join(get_args(PoolWord))}, or a function of "
                        "what it answers")
    sides = network.size if isinstance(network.size, tuple | list) else (network.size, network.size)
    if len(sides) != 2 or not all(is_count(side, *SIDES) for side in sides):
        raise UserError(f"TeacherNetwork(size={network.size!r}) is no size; expected pixels from {SIDES[0]} to {SIDES[1]}, or "
                        "(height, width)")
    if not isinstance(network.licence, str):
        raise UserError(f"TeacherNetwork(licence={network.licence!r}) is no text; expected the name of a licence")
    spec = ImageSpec(*sides, 3, mean=levels_of(network.mean, "TeacherNetwork(mean=...)"),
                     std=levels_of(network.std, "TeacherNetwork(std=...)", positive=True))
    net = copied(network.net, who) if network.features is None else up_to(network.net, network.features, who)
    if network.channels not in (1, 3):
        raise UserError(f"TeacherNetwork(channels={network.channels!r}) cannot be; expected 1 or 3")
    body = FeatureNet(net, network.pool, who).eval()
    teacher = frozen(Teacher(name, Grey(body) if network.channels == 1 else body, spec, own_hash(body), network.licence,
                             channels=network.channels), "another size or channels of TeacherNetwork")
    answer = teacher.features(torch.zeros(2, 3, spec.height, spec.width))
    if answer.shape[0] != 2 or not answer.shape[1] or not bool(torch.isfinite(answer).all()):
        raise UserError(f"{who} answers features of shape {tuple(answer.shape)} for 2 images of zeros, expected 2 vectors of finite "
                        "numbers; see its weights, and how it is pooled")
    return teacher


def own_hash(body: FeatureNet) -> str:
    """A hash of weights, structure and pooling: of two teachers that differ in one of these, neither takes the other's bank."""
    parts = [weights_hash(body), ADDRESS.sub("", repr(body.net)), _pool_text(body.pool)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _pool_text(pool: Any) -> str:
    """What tells one way of pooling from another: its word, or a function's name and code."""
    if isinstance(pool, str):
        return pool
    code = getattr(pool, "__code__", None)
    body = "" if code is None else f"{code.co_code.hex()} {code.co_names} {ADDRESS.sub('', repr(code.co_consts))}"
    return f"{getattr(pool, '__module__', '')}.{getattr(pool, '__qualname__', type(pool).__qualname__)} {body}"
