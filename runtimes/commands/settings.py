"""A command's settings as a list: each with its flag, type, default, explanation and group, read off its frozen dataclass.

Owns: `settings_of`, `Setting`, what may annotate a setting (`Expert`, `Help`). Does not own: reading flags and files (flags.py), what
--help prints (usage.py), any setting. The dataclasses that settings inherit are their groups; flags and values stay flat.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from typing import Annotated, Any, get_args, get_origin, get_type_hints

FURTHER = "Further: of this command alone"


class Expert:
    """Marks a setting that --help leaves to --help-all: `lr: Annotated[float, Expert] = 1e-3`."""


@dataclasses.dataclass(frozen=True)
class Help:
    """What --help says of a setting where it is made of other things than its docstring: `Annotated[int, Help(text)]`."""

    text: str


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting: `hint` is its type with what annotates it, `group` what its group says of itself, "" where there are none."""

    name: str
    hint: Any
    default: Any
    explanation: str
    group: str = ""

    @property
    def flag(self) -> str:
        """The setting as it is typed."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def expert(self) -> bool:
        """Whether --help leaves it to --help-all."""
        return Expert in _marks(self.hint)

    @property
    def positional(self) -> bool:
        """Whether it is typed without its flag."""
        return "Positional" in str(_marks(self.hint))


def settings_of(kind: type[Any]) -> list[Setting]:
    """Every setting of a command, group by group as they are inherited, last those of no group."""
    hints, explanations = get_type_hints(kind, include_extras=True), _explanations(kind)
    groups = [base for base in reversed(kind.__bases__) if dataclasses.is_dataclass(base) and dataclasses.fields(base)]
    titles = {field.name: (inspect.getdoc(group) or group.__name__).splitlines()[0]
              for group in reversed(groups) for field in dataclasses.fields(group)}
    settings = []
    for field in dataclasses.fields(kind):
        text = next((mark.text for mark in _marks(hints[field.name]) if isinstance(mark, Help)), explanations.get(field.name, ""))
        settings.append(Setting(field.name, hints[field.name], _default(field), text,
                                titles.get(field.name, FURTHER if groups else "")))
    order = list(dict.fromkeys([*reversed(list(dict.fromkeys(titles.values()))), FURTHER, ""]))
    return sorted(settings, key=lambda setting: order.index(setting.group))


def _marks(hint: Any) -> tuple[Any, ...]:
    """What annotates a type."""
    return get_args(hint)[1:] if get_origin(hint) is Annotated else ()


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def _explanations(kind: type[Any]) -> dict[str, str]:
    """The text below each field, which Python itself does not keep, of a class and those it inherits; the nearest class wins."""
    texts: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0] if dataclasses.is_dataclass(owner) else None
        except (OSError, TypeError, SyntaxError):  # its source is not at hand
            continue
        for above, below in zip(body.body, body.body[1:], strict=False) if isinstance(body, ast.ClassDef) else ():
            if (isinstance(above, ast.AnnAssign) and isinstance(above.target, ast.Name) and isinstance(below, ast.Expr)
                    and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)):
                texts[above.target.id] = " ".join(below.value.value.split())
    return texts
