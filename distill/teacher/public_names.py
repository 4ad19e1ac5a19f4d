"""Names that may leave the house: those that anybody can look up, of teachers and of data sets. All others may name a ward or a patient.

Owns: which names those are, what stands in place of the others. Does not own: loading anything by name (teachers.py, named.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from distill.networks.students import SHORT_NAMES
from distill.teacher import dinov2_small
from distill.teacher.recipes import RECIPES

OWN_TEACHER = "own teacher"
OWN_DATA = "own images"
NO_TEACHER = ("none", "no teacher")
FORMS = ("medmnist", "phantom", "phantom-volumes")  # data that is known by name; all else was named by a path


def public_teacher(name: str, *, hub: bool = False) -> str:
    """A teacher's name as it may leave: of networks and pip packages, none of files and folders; several stay apart by ` + `.

    hub: whether `hf:` names are known to be of the hub, not folders here.
    """
    return " + ".join(_public(part, hub) for part in name.split(" + "))


def _public(name: str, hub: bool) -> str:
    bare, adapter, _ = name.partition(" with ")
    if bare in NO_TEACHER:
        return bare
    known = bare in (*SHORT_NAMES, dinov2_small.NAME, *RECIPES) or bare in _networks()
    public = known or (hub and re.fullmatch(r"hf:[\w.-]+(/[\w.-]+)?", bare))
    return (bare if public else OWN_TEACHER) + (" with an adapter" if adapter else "")


@cache
def _networks() -> frozenset[str]:
    import timm

    return frozenset([*timm.list_models(), *timm.list_pretrained()])  # is_model takes any word behind a dot


def public_data(manifest: Mapping[str, Any]) -> str:
    """What a student's images are called outside: the name of a public or drawn set, else that they are one's own."""
    data = manifest.get("data") or {}
    return str(data.get("data")) if data.get("form") in FORMS else OWN_DATA
