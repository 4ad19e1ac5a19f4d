"""What a result keeps of settings where names of files are hidden, and the list beside it that says what each hidden name stands for.

Owns: `kept_settings`, `kept_command`, `<out>.names.csv`: written, read, put back. Does not own: whether names are hidden, and the keys of
images (data/hiding.py), what is written of a run (report/outcome.py). The list is no part of any result: it stays where the images are.
"""

from __future__ import annotations

import csv
import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from distill.settings.adapt import AdaptSettings
from distill.settings.distill import DistillSettings
from distill.settings.group import flag
from runtimes.commands.flags import record
from runtimes.errors import USAGE, UserError
from runtimes.files.folder import write_atomic
from runtimes.files.spreadsheet import as_csv, bare, read_table

HEADER = ("key", "path")
SOURCES = ("data", "unlabelled")  # where the images lie: only the list knows
# Other places that a user names: what stands above them may be named like the images are.
PLACES = ("out", "config", "bank", "latency_table", "teacher", "second_teacher", "teacher_weights", "teacher_adapter", "student_weights")


def sign(name: str) -> str:
    """What stands in a result in the place of a setting."""
    return f"<{name}>"


def kept_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a result keeps them: a sign for where the images lie, of other paths the last part."""
    return {name: sign(name) if name in SOURCES and value is not None else _last(value) if name in PLACES else value
            for name, value in settings.items()}


def _last(value: Any) -> Any:
    """The last part of a path; names of networks and public models, which may have a slash too, stay."""
    if not isinstance(value, str) or not ("/" in value or os.sep in value):
        return value
    scheme = next((start for start in ("hf:", "bank:", "xrv:") if value.startswith(start)), "")
    path = Path(value.removeprefix(scheme)).expanduser()
    public = scheme == "hf:" and value.count("/") == 1 and not os.path.lexists(path)
    return value if public else f"{scheme}{path.name}"


def kept_command(settings: Mapping[str, Any], command: str) -> str:
    """The command that these settings are of, from what is kept of them: nothing of it was typed by a user."""
    kind = DistillSettings if "student" in settings else AdaptSettings
    usual = record(kind())
    changed = {name: value for name, value in kept_settings(settings).items() if name not in usual or usual[name] != value}
    if command.startswith("distil("):  # from Python
        return f"distil({', '.join(f'{name}={value!r}' for name, value in changed.items() if name not in ('out', 'overwrite'))})"
    words = ["rd-distill" if kind is DistillSettings else "rd-adapt"]
    for name, value in changed.items():
        if isinstance(value, bool):
            words.append(flag(name) if value else flag(f"no_{name}"))
        elif value is not None:
            words += [flag(name), *(map(str, value) if isinstance(value, list) else [str(value)])]
    return shlex.join(words)


def names_file(out: Path) -> Path:
    """The list beside a result, links resolved."""
    place = Path(os.path.realpath(out))
    return place.with_name(f"{place.name}.names.csv")


def check_names_file(out: Path) -> None:
    """Refuse (exit 2), before any work, a place for the list that holds what is no list of ours."""
    path = names_file(out)
    if not os.path.lexists(path):
        return
    begins = b""
    if path.is_file() and not path.is_symlink():
        with path.open("rb") as file:
            begins = file.readline(100)
    if begins.rstrip() != b"key,path":
        raise UserError(f"{path} is where this run lists what hidden names stand for, and is no such list; move it away, name another "
                        "--out, or give --hide-names never", USAGE)


def write_names(out: Path, settings: Mapping[str, Any], names: Iterable[tuple[str, str]]) -> Path:
    """Write the list: the signs of settings, then each image's key and file. Only its owner may read it."""
    check_names_file(out)
    path = names_file(out)
    signs = [(sign(name), str(settings[name])) for name in SOURCES if settings.get(name) is not None]
    write_atomic(path, as_csv(HEADER, (dict(zip(HEADER, row, strict=True)) for row in (*signs, *names))).encode("utf-8"))
    path.chmod(0o600)
    return path


def true_settings(settings: Mapping[str, Any], out: Path | None) -> dict[str, Any]:
    """Settings of a result with what the list beside it says of signs put back; as they are where nothing is hidden.

    UserError where there is no list: the result was moved without it.
    """
    missing = [name for name in SOURCES if settings.get(name) == sign(name)]
    if not missing:
        return dict(settings)
    path = None if out is None else names_file(out)
    if path is None or not path.is_file():
        raise UserError(f"where these images lie is hidden, and {path or 'the list'}, which says it, is not there; put it back beside the "
                        "folder")
    try:
        listed = {bare(row["key"]): row["path"] for row in read_table(path)}
    except (OSError, ValueError, KeyError, csv.Error):
        raise UserError(f"{path} is no list of hidden names; put back the one that was written with the folder") from None
    if unknown := [name for name in missing if sign(name) not in listed]:
        raise UserError(f"{path} does not say what {sign(unknown[0])} stands for; put back the list that was written with the folder")
    return {**settings, **{name: listed[sign(name)] for name in missing}}
