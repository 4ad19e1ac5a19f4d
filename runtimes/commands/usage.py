"""What a command prints about itself: usage with examples when typed alone, --help, --help-all, --version.

Owns: those pages, made without the library that reads flags, which takes longer to come in than they take to print. Does not own: which
settings there are (settings.py), reading them (flags.py), a command's examples (its cli.py).
"""

from __future__ import annotations

import platform
import shutil
import textwrap
import types
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from runtimes.commands.settings import Setting, settings_of

Examples = Sequence[tuple[str, str]]  # what is typed, and what it is for
WIDEST = 120
COLUMN = 26  # where explanations begin
NAMES = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}


def version_line(version_of: Callable[[str], str] = version) -> str:
    """Version of this software, of Python, and of torch where it is installed; torch is not loaded for it."""
    def installed(package: str) -> str:
        try:
            return version_of(package)
        except PackageNotFoundError:
            return ""

    torch = installed("torch")
    return (f"rd-distill {installed('rd-distill') or '(not installed as a package)'} (Python {platform.python_version()}"
            + (f", torch {torch})" if torch else ")"))


def usage(prog: str, description: str, examples: Examples) -> str:
    """What a command typed alone prints: what it does, examples, where the flags are listed."""
    return "\n".join([*_opening(prog, description, examples), "", f"{prog} --help lists its flags; {prog} --version says which it is."])


def help_page(kind: type[Any], prog: str, description: str, examples: Examples, *, every: bool) -> str:
    """The flags of a command by group, with their defaults; every: also those that only experts need."""
    settings = settings_of(kind)
    shown = [setting for setting in settings if every or not setting.expert]
    typed = [_metavar(setting.hint) + f" [{setting.name}]" for setting in shown if setting.positional]
    lines = [*_opening(prog, description, examples), "", " ".join(["usage:", prog, *typed, "[flags]"])]
    for group in dict.fromkeys(setting.group for setting in shown):  # what stands between groups belongs to none, and stands together
        lines += ["", f"{group.rstrip('.:') or 'Flags'}:"]
        lines += [line for setting in shown if setting.group == group for line in _entry(setting)]
    hidden = len(settings) - len(shown)
    more = f"{hidden} more flags, for experts: {prog} --help-all. " if hidden else ""
    return "\n".join([*lines, "", f"{more}--version says which version this is; --config run.yaml holds any flags."])


def _opening(prog: str, description: str, examples: Examples) -> list[str]:
    wide = max((len(typed) for typed, _ in examples), default=0)
    return [f"{prog}: {description}", *([""] if examples else []), *[f"  {typed:<{wide}}   # {purpose}" for typed, purpose in examples]]


def _entry(setting: Setting) -> list[str]:
    """A setting as the lines of --help: its flag and type, then its explanation and default, wrapped."""
    switch = _plain(setting.hint) is bool
    metavar = "" if switch else _metavar(setting.hint)
    head = f"  {metavar} [{setting.name}]" if setting.positional else f"  {setting.flag} {metavar}".rstrip()
    if switch and setting.default is True:
        head = f"  --[no-]{setting.flag[2:]}"
    text = " ".join(part for part in (setting.explanation, _default(setting)) if part)
    width = max(50, min(WIDEST, shutil.get_terminal_size().columns)) - COLUMN
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    if len(head) < COLUMN - 1 and lines:
        return [f"{head:<{COLUMN}}{lines[0]}", *(" " * COLUMN + line for line in lines[1:])]
    return [head, *(" " * COLUMN + line for line in lines)]


def _default(setting: Setting) -> str:
    value = setting.default
    if value is None or value is False or value == ():
        return ""
    if value is True:
        return "(on by default)"
    return f"(default: {' '.join(map(str, value)) if isinstance(value, tuple) else value})"


def _plain(hint: Any) -> Any:
    """A type without what annotates it, and without None."""
    if get_origin(hint) is Annotated:
        return _plain(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        inner = [part for part in get_args(hint) if part is not type(None)]
        return _plain(inner[0]) if len(inner) == 1 else hint
    return hint


def _metavar(hint: Any) -> str:
    """What to type behind a flag, by its type."""
    plain = _plain(hint)
    inner = get_args(plain)
    if get_origin(plain) is Literal:
        return "|".join(map(str, inner))
    if get_origin(plain) is tuple:
        return f"{_metavar(inner[0])} ..." if inner[-1] is ... else " ".join(map(_metavar, inner))
    if get_origin(plain) in (Union, types.UnionType):
        return "|".join(_metavar(part) for part in inner if part is not type(None))
    return NAMES.get(plain, getattr(plain, "__name__", "VALUE").upper())
