"""What all groups of settings share: how one is cut out of a command's settings, and the checks of numbers.

Owns: Group, `part`, the refusal of numbers out of range. Does not own: any setting.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from runtimes.errors import USAGE, UserError
from runtimes.files.schema import check, object_of, of_type

Kind = TypeVar("Kind", bound="Group")


def flag(name: str) -> str:
    """A setting's name as it is typed."""
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True)
class Group:
    """Settings that belong together; UserError (exit 2) where one is out of its range."""

    def __post_init__(self) -> None:
        for name, value in ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self)):
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{flag(name)} {value} must be a finite number", USAGE)
        self.check()

    def check(self) -> None:
        """Refuse values out of range; a group that inherits others checks them, too."""

    def part(self, group: type[Kind]) -> Kind:
        """Only this group's settings, as a value of its own: all that anything below a command gets to see of them."""
        return group(**{field.name: getattr(self, field.name) for field in dataclasses.fields(group)})

    def above_zero(self, *names: str) -> None:
        """Refuse a number of these that is 0 or less; None is no number."""
        self._refuse(names, lambda value: value <= 0, "must be above 0")

    def not_negative(self, *names: str) -> None:
        """Refuse a number of these that is below 0."""
        self._refuse(names, lambda value: value < 0, "must not be negative")

    def shares(self, *names: str) -> None:
        """Refuse a number of these that is no share of a whole, from 0 to below 1."""
        self._refuse(names, lambda value: not 0 <= value < 1, "must be at least 0 and below 1")

    def seeds(self, *names: str) -> None:
        """Refuse a number of these that NumPy takes for no seed."""
        self.not_negative(*names)
        self._refuse(names, lambda value: value >= 2**32, "must be below 2**32")

    def pixels(self, *names: str) -> None:
        """Refuse a side of an image that is no size a network takes."""
        self._refuse(names, lambda value: not 16 <= value <= 1024, "must be between 16 and 1024 pixels")

    def _refuse(self, names: tuple[str, ...], wrong: Any, expected: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and wrong(value):
                raise UserError(f"{flag(name)} {value} {expected}", USAGE)


def from_record(group: type[Kind], record: Mapping[str, Any], where: str = "manifest.json", key: str = "settings",
                todo: str = "make the folder again") -> Kind:
    """A group as flat settings give it: what it does not know is left alone, what is missing has its default.

    where, key, todo: what an error calls the record and the place of the settings in it, and the way out; those of a manifest by default.
    """
    hints = get_type_hints(group)
    entries = {name: record[name] for name in hints if name in record}
    rule = object_of({}, {name: of_type(hint) for name, hint in hints.items()})
    check(entries, lambda value, _: rule(value, key), where, todo)
    return group(**{name: _typed(hints[name], value) for name, value in entries.items()})


def _typed(hint: Any, value: Any) -> Any:
    """A JSON value as the type of a setting: paths and tuples are texts and lists there."""
    if value is not None and Path in (hint, *get_args(hint)):
        return Path(value)
    return tuple(value) if isinstance(value, list) else value
