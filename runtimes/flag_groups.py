"""A command's settings in groups for --help: the dataclasses that they inherit, each with a box of its own; flags and values stay flat.

Owns: Help, `grouped`, `flattened`, the docstrings of fields. Does not own: reading a command line (flags.py), any setting. tyro is
imported by those who call.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin, get_type_hints


@dataclasses.dataclass(frozen=True)
class Help:
    """What --help says of a setting where it is made of other things than its docstring: `Annotated[int, Help(text)]`."""

    text: str


def groups_of(kind: type[Any]) -> list[type[Any]]:
    """The groups that settings inherit, in the order of --help; none where settings are one group."""
    return [base for base in reversed(kind.__bases__) if dataclasses.is_dataclass(base) and dataclasses.fields(base)]


def grouped(kind: type[Any]) -> type[Any]:
    """The settings as nested dataclasses, which tyro shows a box each; `kind` itself where it inherits no groups."""
    import tyro

    groups = groups_of(kind)
    if not groups:
        return kind
    hints, docs = get_type_hints(kind, include_extras=True), dict(_docs(kind))
    left = [field.name for field in dataclasses.fields(kind)]
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}

    def nested(doc: str, names: list[str]) -> tuple[str, Any, Any]:
        title, _, about = doc.partition(": ")
        title = title.lower()
        fields = []
        for name in names:
            described = next((part.text for part in get_args(hints[name])[1:] if isinstance(part, Help)), docs.get(name, ""))
            plain = get_args(hints[name])[0] if get_origin(hints[name]) is Annotated else hints[name]
            fields.append((name, Annotated[plain, tyro.conf.arg(help=described)], dataclasses.field(default=defaults[name])))
        box = dataclasses.make_dataclass(title, fields, frozen=True)
        box.__doc__ = about
        return title, box, dataclasses.field(default_factory=box)

    boxes = []
    own = [name for name in vars(kind).get("__annotations__", {}) if all(name not in _names(group) for group in groups)]
    for group in groups:
        boxes.append(nested(inspect.getdoc(group) or group.__name__, [name for name in left if name in _names(group)]))
        left = [name for name in left if name not in _names(group)]
    if own:
        boxes.append(nested("Further: of this command alone.", own))
    view = dataclasses.make_dataclass(kind.__name__, boxes, frozen=True)
    view.__doc__ = kind.__doc__
    return view


def flattened(kind: type[Any], view: Any) -> Any:
    """The settings that a parsed view of them says."""
    if isinstance(view, kind):
        return view
    return kind(**{name: value for box in vars(view).values() for name, value in vars(box).items()})


def _names(group: type[Any]) -> set[str]:
    return {field.name for field in dataclasses.fields(group)}


def _docs(kind: type[Any]) -> Iterator[tuple[str, str]]:
    """The text below each field of a dataclass and of those that it inherits; the class nearest to `kind` comes last and wins."""
    for owner in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(owner):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr)
                    and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)):
                yield field.target.id, " ".join(text.value.value.split())
