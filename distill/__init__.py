"""The workshop: images and a foundation model in, a student out.

Owns: what a Python user takes from it, loaded when asked for. Does not own: any of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill.networks.checkpoint import load_checkpoint as load_checkpoint
    from distill.networks.own import StudentNetwork as StudentNetwork
    from distill.networks.tasks import load_task as load_task
    from distill.python import Distilled as Distilled
    from distill.python import distil as distil
    from distill.teacher.own import TeacherNetwork as TeacherNetwork

PUBLIC = {"distil": "distill.python", "Distilled": "distill.python", "TeacherNetwork": "distill.teacher.own",
          "StudentNetwork": "distill.networks.own", "load_checkpoint": "distill.networks.checkpoint",
          "load_task": "distill.networks.tasks"}


def __getattr__(name: str) -> Any:
    """Load a public name from the wing that owns it: PyTorch is not imported before."""
    from importlib import import_module

    if name not in PUBLIC:
        raise AttributeError(f"module 'distill' has no attribute {name!r}; it has {', '.join(PUBLIC)}")
    return getattr(import_module(PUBLIC[name]), name)
