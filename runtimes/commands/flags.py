"""How every command reads its settings: defaults, then --config, then flags; and how they are kept in a record.

Owns: `parse`, YAML files as flags, `record`. Does not own: any setting, what --help prints (usage.py). tyro and yaml are imported
where they are needed, and no page of help needs them.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from runtimes.commands.settings import settings_of
from runtimes.commands.usage import Examples, help_page, usage, version_line
from runtimes.errors import DONE, MISSING, USAGE, UserError
from runtimes.text import is_utf8

Settings = TypeVar("Settings")
MAX_YAML_BYTES = 1 << 16  # all settings of a command are some kilobytes
# A number that YAML 1.1, Python and a reader take for the same: 010 is octal to one of them, 1:30 ninety, .nan no number.
NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9](?:_?\d)*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?")


def parse(kind: type[Settings], arguments: Sequence[str], prog: str, description: str | None = None, *,
          writes: bool = True, examples: Examples = (), spelled: Callable[[Sequence[str]], list[str]] = list) -> Settings:
    """Read settings from defaults, then the YAML file of --config, then flags; a wrong key or value is exit code 2.

    description: above the flags in --help; the docstring of the settings when not given. writes: whether the command writes files,
    in which names that are not UTF-8 cannot stand. examples: what --help begins with; with some, a command typed alone prints them and
    ends with exit code 0, as help and version do. spelled: short forms in the words, those of the file's too, written out.
    """
    if (page := _page(kind, arguments, prog, description or " ".join((kind.__doc__ or "").split()), examples)) is not None:
        print(page)
        raise SystemExit(DONE)
    import tyro

    try:
        Path.cwd()
    except FileNotFoundError:  # PyTorch's own libraries end without a word there
        raise UserError("the folder that this command was started in is gone; cd to one that is there", USAGE) from None
    if writes and (strange := next((argument for argument in arguments if not is_utf8(argument)), None)):
        raise UserError(f"{strange!r} is not UTF-8, and what is typed is written into files; rename it, or set PYTHONUTF8=1 where it is",
                        USAGE)
    path = config_path(arguments)
    begins_with_its_own = bool(arguments) and not arguments[0].startswith("-")
    of_file = spelled(yaml_flags(kind, path, positionals=not begins_with_its_own)) if path else []  # apart: what is typed overrides it
    return tyro.cli(kind, prog=prog, description=description, args=[*of_file, *spelled(arguments)],
                    config=(tyro.conf.AvoidSubcommands,))


def _page(kind: type[Any], arguments: Sequence[str], prog: str, description: str, examples: Examples) -> str | None:
    """What a command prints instead of starting: its version, help, or its usage where it is typed alone; None where it starts."""
    if "--version" in arguments:
        return version_line()
    every = "--help-all" in arguments
    if every or not {"--help", "-h"}.isdisjoint(arguments):
        return help_page(kind, prog, description, examples, every=every)
    return usage(prog, description, examples) if examples and not arguments else None


def config_path(arguments: Sequence[str]) -> Path | None:
    """The file named by --config, if any; of two only one could be read, so that is a usage error."""
    named = [following for argument, following in pairwise(arguments) if argument == "--config"]
    named += [argument.partition("=")[2] for argument in arguments if argument.startswith("--config=")]
    if len(named) > 1:
        raise UserError(f"--config is given {len(named)} times ({', '.join(named)}); name one file", USAGE)
    return Path(named[0]) if named else None


def yaml_flags(kind: type[Any], path: Path, positionals: bool = True) -> list[str]:
    """A YAML file's settings as flags, so that they are checked exactly as typed ones; unknown keys name the nearest.

    positionals: False where the command line begins with its own, which win.
    """
    try:
        import yaml
    except ImportError:
        raise UserError("--config needs PyYAML, which a device's base install does not bring; pip install pyyaml, or give flags",
                        MISSING) from None
    entries = _entries(path, yaml)
    known = {setting.name: setting for setting in settings_of(kind) if setting.name != "config"}
    flags: list[str] = []
    first: list[str] = []
    keys: dict[str, str] = {}
    for key, values in entries:
        name = key.replace("-", "_")
        if name not in known:
            near = difflib.get_close_matches(name, list(known), n=1)
            raise UserError(f"--config {path}: unknown setting {key!r}" + (f"; did you mean {near[0]}?" if near else ""), USAGE)
        if name in keys:
            before = "" if key == keys[name] else f", once as {keys[name]}"
            raise UserError(f"--config {path}: {key} stands twice{before}; say it once", USAGE)
        keys[name] = key
        flag, positional, kinds = known[name].flag, known[name].positional, _kinds(known[name].hint)
        if isinstance(values, list):
            words = [_word(value, key, kinds, path) for value in values]
            (first if positional else flags).extend(words if positional else [flag, *words])
        elif values.tag == "null":
            continue
        elif bool in kinds and values.tag == "bool":
            flags.append(flag if values.value.lower() in ("true", "yes", "on", "y") else f"--no-{name.replace('_', '-')}")
        else:
            word = _word(values, key, kinds, path)
            (first if positional else flags).extend([word] if positional else [flag, word])
    return [*(first if positionals else []), *flags]


@dataclasses.dataclass(frozen=True)
class _Scalar:
    """A value as it stands in a YAML file, and the kind that YAML takes it for: str, int, float, bool, null, timestamp."""

    value: str
    tag: str
    quoted: bool


def _entries(path: Path, yaml: Any) -> list[tuple[str, _Scalar | list[_Scalar]]]:
    """Keys and values of a YAML file of settings, flat and unread; UserError (exit 2) for all that such a file has no use for."""
    def refuse(reason: str) -> UserError:
        return UserError(f"--config {path} {reason}", USAGE)

    try:
        if path.is_fifo() and not str(path).startswith("/dev/fd/"):  # a shell's own pipe ends; another may never
            raise refuse("is a pipe; name a YAML file of settings")
        with path.open("rb") as file:
            data = file.read(MAX_YAML_BYTES + 1)
        if len(data) > MAX_YAML_BYTES:
            raise refuse(f"has more than {MAX_YAML_BYTES:,} bytes; expected a few lines of settings")
        content = data.decode("utf-8-sig")
        depth = 0
        for event in yaml.parse(content, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            line = event.start_mark.line + 1
            if getattr(event, "anchor", None) is not None:
                raise refuse(f"line {line} has an anchor or alias ({event.anchor[:40]}); write the value out")
            if depth > 2:
                raise refuse(f"line {line} holds lists or mappings within each other, expected one value or a list")
            if getattr(event, "tag", None) is not None and event.tag != "!":
                raise refuse(f"line {line} has the tag {event.tag[:60]}; write the plain value")
        root = yaml.compose(content, Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, ValueError, yaml.YAMLError) as error:
        raise refuse(f"cannot be read: {str(error).splitlines()[0]}") from None
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode):
        kind = "list" if isinstance(root, yaml.SequenceNode) else root.tag.rpartition(":")[2]
        raise refuse(f"holds {kind}, expected `key: value` lines")

    def scalar(node: Any, key: str) -> _Scalar:
        if not isinstance(node, yaml.ScalarNode):
            raise refuse(f"holds a mapping or a list within a list under {key}, expected one value or a list")
        return _Scalar(node.value, node.tag.rpartition(":")[2], node.style is not None)

    entries: list[tuple[str, _Scalar | list[_Scalar]]] = []
    for key_node, node in root.value:
        key = scalar(key_node, "a key").value
        values = [scalar(item, key) for item in node.value] if isinstance(node, yaml.SequenceNode) else scalar(node, key)
        entries.append((key, values))
    return entries


def _kinds(hint: Any) -> set[Any]:
    """The plain types and literal words that a setting takes, its lists and unions taken apart."""
    if get_origin(hint) is Annotated:
        return _kinds(get_args(hint)[0])
    inner = get_args(hint)
    if get_origin(hint) is Literal:
        return set(inner)
    return set().union(*map(_kinds, inner)) if inner else {hint}


def _word(scalar: _Scalar, key: str, kinds: set[Any], path: Path) -> str:
    """A value as one word of a command line, as it stands in the file; UserError where YAML and a reader would take it for two things."""
    def refuse(reason: str) -> UserError:
        return UserError(f"--config {path}: {key}: {scalar.value[:60]!r} {reason}", USAGE)

    value = scalar.value
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
        raise refuse("holds a control character or a line break; write one line")
    if value.startswith("-") and not NUMBER.fullmatch(value):
        raise refuse("begins with a dash and would be read as a flag; flags stand in lines of their own, as `key: value`")
    if scalar.tag == "null":
        raise refuse("is nothing, expected a value in its place")
    if value in kinds:  # one of the words that the setting knows, whatever YAML takes it for
        return value
    plain = kinds & {str, Path}
    if scalar.tag == "bool":
        raise refuse(f"is read by YAML as true or false; quote it if the text is meant: \"{value}\"" if plain else
                     "is true or false, which this setting is not")
    if bool in kinds:
        raise refuse("is neither true nor false")
    if kinds & {int, float} and not plain:
        if not NUMBER.fullmatch(value):
            raise refuse("is no plain decimal number" + (", and YAML reads another one there than you may" if scalar.tag == "int" else ""))
        return value.replace("_", "")
    return value


def record(settings: Any) -> dict[str, Any]:
    """Settings as JSON values, for the manifest."""
    return {key: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(settings).items()}


def command_line(prog: str) -> str:
    """The command as the user typed it."""
    import shlex

    return shlex.join([prog, *sys.argv[1:]])
