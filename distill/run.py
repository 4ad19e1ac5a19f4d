"""The folder of a run beside its result: which run it holds, and whether --resume may go on with it.

Owns: `<out>.partial`, the settings that decide a run. Does not own: the training state inside (state.py).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Protocol

from runtimes.errors import USAGE, UserError
from runtimes.flags import record
from runtimes.folder import MANIFEST, read_json
from runtimes.schema import anything, check, mapping_of, object_of, truth

NOTE = "settings.json"  # in the run's folder: what it was started with
STARTED = object_of({}, {"settings": mapping_of(anything), "parents": mapping_of(anything), "replaces": truth}, others=True)


class RunSettings(Protocol):
    """What a command's settings must say for its run to be found again."""

    @property
    def out(self) -> Path:
        """The result's folder."""
        ...

    @property
    def overwrite(self) -> bool:
        """Whether to replace what is there."""
        ...

    @property
    def resume(self) -> bool:
        """Whether to go on with what is there."""
        ...


def find_run(settings: RunSettings) -> tuple[Path, dict[str, Any]]:
    """The folder of the run beside --out and the settings that make it: none there, or --resume and the same settings."""
    run = settings.out.with_name(f"{settings.out.name}.partial")
    wanted = what_decides(record(settings))
    if run.exists() and settings.overwrite:
        shutil.rmtree(run)
    if (run / NOTE).is_file() and not settings.resume:
        raise UserError(f"{run} holds an interrupted run; --resume goes on with it, --overwrite starts anew", USAGE)
    if (run / NOTE).is_file():
        held = read_note(run).get("settings", {})
        changed = [f"--{key.replace('_', '-')} was {_said(held.get(key))}, now {_said(value)}" for key, value in wanted.items()
                   if held.get(key) != value]
        if changed:
            raise UserError(f"--resume: {run} was started with other settings ({'; '.join(changed)}); "
                            "repeat them, or start anew with --overwrite", USAGE)
    return run, wanted


def _said(value: Any) -> str:
    return "not given" if value is None else repr(value)


def read_note(run: Path) -> dict[str, Any]:
    """What a run was started with, by the note in its folder; empty where there is none."""
    if not (run / NOTE).is_file():
        return {}
    note = read_json(run / NOTE)
    check(note, STARTED, str(run / NOTE), "start anew with --overwrite")
    return note


def check_parents(run: Path, parents: dict[str, Any]) -> None:
    """Refuse to go on with a run whose images or teacher are no longer those it was started with."""
    held = read_note(run).get("parents", {})
    changed = [name for name, value in held.items() if parents.get(name) != value]
    if changed:
        raise UserError(f"--resume: the {' and the '.join(changed)} of {run} are no longer those it was started with; "
                        "bring them back, or start anew with --overwrite", USAGE)


def what_decides(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide what a run trains."""
    aside = ("resume", "overwrite", "config", "bootstrap", "audit", "merge", "max_fold_error", "peft")
    return {key: value for key, value in settings.items() if key not in aside}


def finished(out: Path, wanted: dict[str, Any], kind: str = "student") -> bool:
    """Whether a folder is the finished result of these settings."""
    if not (out / MANIFEST).is_file():
        return False
    manifest = read_json(out / MANIFEST)
    held = manifest.get("settings")
    return manifest.get("kind") == kind and isinstance(held, dict) and what_decides(held) == wanted
