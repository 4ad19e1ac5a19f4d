"""How every command reads its settings: defaults, then --config, then flags; and how they are kept in a record.

Owns: `parse`, YAML files as flags, `record`. Does not own: any setting. tyro and yaml are imported by those who call.
"""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from runtimes.errors import MISSING, USAGE, UserError

Settings = TypeVar("Settings")


def parse(kind: type[Settings], arguments: Sequence[str], prog: str, description: str | None = None, *,
          writes: bool = True) -> Settings:
    """Read settings from defaults, then the YAML file of --config, then flags; a wrong key or value is exit code 2.

    description: above the flags in --help; the docstring of the settings when not given. writes: whether the command writes files,
    in which names that are not UTF-8 cannot stand.
    """
    import tyro

    if writes and (strange := next((argument for argument in arguments if not _is_utf8(argument)), None)):
        raise UserError(f"{strange!r} is not UTF-8, and what is typed is written into files; rename it, or set PYTHONUTF8=1 where it is",
                        USAGE)
    path = config_path(arguments)
    begins_with_its_own = bool(arguments) and not arguments[0].startswith("-")
    given = [*yaml_flags(kind, path, positionals=not begins_with_its_own), *arguments] if path else list(arguments)
    return tyro.cli(kind, prog=prog, description=description, args=given, config=(tyro.conf.AvoidSubcommands,))


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def config_path(arguments: Sequence[str]) -> Path | None:
    """The file named by --config, if any."""
    for index, argument in enumerate(arguments):
        if argument == "--config" and index + 1 < len(arguments):
            return Path(arguments[index + 1])
        if argument.startswith("--config="):
            return Path(argument.partition("=")[2])
    return None


def yaml_flags(kind: type[Any], path: Path, positionals: bool = True) -> list[str]:
    """A YAML file's settings as flags, so that they are checked exactly as typed ones; unknown keys name the nearest.

    positionals: False where the command line begins with its own, which win.
    """
    try:
        import yaml
    except ImportError:
        raise UserError("--config needs PyYAML, which a device's base install does not bring; pip install pyyaml, or give flags",
                        MISSING) from None
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--config {path} cannot be read: {str(error).splitlines()[0]}", USAGE) from None
    if content is None:
        return []
    if not isinstance(content, dict):
        raise UserError(f"--config {path} holds {type(content).__name__}, expected `key: value` lines", USAGE)
    names = [one.name for one in dataclasses.fields(kind) if one.name != "config"]
    positional = {one.name for one in dataclasses.fields(kind) if "Positional" in str(one.type)}
    flags: list[str] = []
    first: list[str] = []
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            raise UserError(f"--config {path}: unknown setting {key!r}" + (f"; did you mean {near[0]}?" if near else ""), USAGE)
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, dict):
            raise UserError(f"--config {path}: {key} holds a mapping, expected one value or a list", USAGE)
        if name in positional:
            if positionals:
                first += map(str, value if isinstance(value, list) else [value])
        elif isinstance(value, bool):
            flags.append(flag if value else f"--no-{name.replace('_', '-')}")
        elif isinstance(value, list):
            flags += [flag, *map(str, value)]
        elif value is not None:
            flags += [flag, str(value)]
    return [*first, *flags]


def record(settings: Any) -> dict[str, Any]:
    """Settings as JSON values, for the manifest."""
    return {key: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(settings).items()}


def command_line(prog: str) -> str:
    """The command as the user typed it."""
    import shlex

    return shlex.join([prog, *sys.argv[1:]])
