"""The folder of a run beside its result: which run it holds, what it reads, and whether --resume may go on with it.

Owns: `<out>.partial`, the settings that decide a run, which settings name inputs. Does not own: the training state inside (state.py),
where a command may write (runtimes/files/outputs.py).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.settings.hidden import SOURCES, kept_settings, sign, true_settings
from distill.settings.training import RunOptions
from runtimes.errors import USAGE, UserError
from runtimes.files.folder import MANIFEST, read_json, write_json
from runtimes.files.outputs import check_apart, check_out, check_place, claimed, remove_ours

NOTE = "settings.json"  # in the run's folder: what it was started with
OWN = re.compile(r"\.?(settings\.json|pixels\.(u8|json)|state\.json|state-[01]\.safetensors|choice\.json|students\.json|cut\.json|"
                 r"cut-\d+\.safetensors)(\.\d+-\d+\.tmp)?")  # files of a run; anything else in its folder is somebody's own
BEGUN = re.compile(r"\.settings\.json\.\d+-\d+\.tmp")  # all that a run killed before its note can have left
OWN_FOLDERS = re.compile(r"auto-[a-z]+-\d+|proxy-\d+|round-\d+|pretrain|teacher|old-\d+")  # trainings inside a run
SCHEMES = ("bank:", "hf:")
INPUTS = ("data", "unlabelled", "teacher", "second_teacher", "teacher_weights", "teacher_adapter", "student_weights", "latency_table",
          "config")


def check_outputs(settings: dict[str, Any], *, drawn: bool, more: dict[str, Path]) -> None:
    """Refuse (exit 2) a run whose outputs and inputs do not lie apart.

    settings: a command's, by name; drawn: whether --data names images that are drawn; more: further outputs, by what they are.
    """
    out = Path(settings["out"])
    check_place(out)
    inputs = {f"--{name.replace('_', '-')}": _path(settings.get(name)) for name in INPUTS if not (drawn and name == "data")}
    outputs = {"--out": out, "the run's folder": Path(f"{out}.partial"), "--bank": settings.get("bank"), **more}
    check_apart(outputs, inputs)


def _path(value: Any) -> Path | None:
    """A setting that may name a file or folder as a path, its scheme taken off; None where nothing was named."""
    if value is None:
        return None
    text = str(value)
    return Path(next((text.removeprefix(scheme) for scheme in SCHEMES if text.startswith(scheme)), text))


@dataclass(frozen=True)
class Run:
    """A run that may begin or go on: its own folder, the settings that decide it, whether it replaces what --out holds."""

    folder: Path
    settings: dict[str, Any]
    overwrite: bool


@contextmanager
def opened_run(options: RunOptions, values: dict[str, Any], kind: str, *, drawn: bool, more: dict[str, Path]) -> Iterator[Run | None]:
    """Hold --out for a run and yield it, or None where --resume finds its result finished; what it kept goes once it has ended well.

    values: the settings by name; kind: of the result's folder; drawn, more: as in check_outputs. UserError (exit 2) where a run may not
    write, another one writes there already, or --resume would go on with other options.
    """
    check_outputs(values, drawn=drawn, more=more)
    with claimed(options.out) as place:
        plain = Path(os.path.normpath(options.out))
        folder = (plain if plain.absolute() == place else place).with_name(f"{place.name}.partial")  # as the user named it, but for links
        settings = what_decides(values)
        note = _interrupted(folder, settings, resume=options.resume, overwrite=options.overwrite)
        if options.resume and finished(place, settings, kind):
            yield None  # killed between the folder's last rename and the end
        else:
            overwrite = options.overwrite or (note is not None and bool(note["replaces"]))
            check_out(options.out, overwrite=overwrite)
            yield Run(folder, settings, overwrite)
        remove_run(folder)


def _interrupted(folder: Path, settings: dict[str, Any], *, resume: bool, overwrite: bool) -> dict[str, Any] | None:
    """What an interrupted run was started with, which goes on now; None where a new one begins, in a folder that is its own."""
    note = _note(folder)
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder} is in the way of this run's own folder; move it away, or name another --out", USAGE)
    if note is None and folder.is_dir():
        left = sorted(path.name for path in folder.iterdir() if not BEGUN.fullmatch(path.name))
        if left:
            raise UserError(f"{folder} is where this run would keep its state, and holds what none of our commands wrote ({left[0]}); "
                            "move it away, or name another --out", USAGE)
    if overwrite:
        remove_run(folder)
        return None
    if note is not None and not resume:
        raise UserError(f"{folder} holds an interrupted run; --resume goes on with it, --overwrite starts anew", USAGE)
    if note is not None:
        changed = [f"--{key.replace('_', '-')} was {_value_text(note['settings'].get(key))}, now {_value_text(value)}"
                   for key, value in settings.items() if note["settings"].get(key) != value]
        if changed:
            raise UserError(f"--resume: {folder} was started with other settings ({'; '.join(changed)}); "
                            "repeat them, or start anew with --overwrite", USAGE)
    return note


def start_run(run: Run, parents: dict[str, Any]) -> None:
    """Note in a run's folder what it was started with; refuse to go on where its images or teacher are no longer those."""
    run.folder.mkdir(parents=True, exist_ok=True)
    check_parents(run.folder, parents)
    write_json(run.folder / NOTE, {"settings": run.settings, "replaces": run.overwrite, "parents": parents})


def remove_run(run: Path) -> None:
    """Remove a run's folder, but nothing in it that is not of a run."""
    if run.is_dir():
        remove_ours(run, OWN, OWN_FOLDERS)


def _note(run: Path) -> dict[str, Any] | None:
    """What a run's folder says it was started with, or None where no run of ours says anything."""
    if not (run / NOTE).is_file():
        return None
    try:
        note = read_json(run / NOTE)
    except UserError as error:
        raise UserError(f"{str(error).removesuffix('; make it again')}; it says what the interrupted run was started with: move {run} "
                        "away, or name another --out", error.exit_code) from None
    whole = isinstance(note.get("settings"), dict) and isinstance(note.get("parents"), dict) and "replaces" in note
    return note if whole else None


def _value_text(value: Any) -> str:
    return "not given" if value is None else repr(value)


def check_parents(run: Path, parents: dict[str, Any]) -> None:
    """Refuse to go on with a run whose images or teacher are no longer those it was started with."""
    run_parents = (_note(run) or {}).get("parents", {})
    changed = [name for name, value in run_parents.items() if parents.get(name) != value]
    if changed:
        several = changed != ["teacher"]  # images are many
        raise UserError(f"--resume: the {' and the '.join(changed)} of {run} {'are' if several else 'is'} no longer "
                        f"{'those' if several else 'the one'} it was started with; bring {'them' if several else 'it'} back, or start anew "
                        "with --overwrite", USAGE)


def what_decides(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide what a run trains."""
    aside = ("resume", "overwrite", "config", "bootstrap", "audit", "merge", "max_fold_error", "peft", "dry_run", "old_data",
             "accept_forgetting")
    return {key: value for key, value in settings.items() if key not in aside}


def finished(out: Path, settings: dict[str, Any], kind: str = "student") -> bool:
    """Whether a folder is the finished result of these settings."""
    if not (out / MANIFEST).is_file():
        return False
    manifest = read_json(out / MANIFEST)
    manifest_settings = manifest.get("settings")
    if manifest.get("kind") != kind or not isinstance(manifest_settings, dict):
        return False
    if not any(manifest_settings.get(name) == sign(name) for name in SOURCES):
        return what_decides(manifest_settings) == settings
    try:  # of hidden names the list beside it knows what stood there
        known = true_settings(manifest_settings, out)
    except UserError:
        return False
    return what_decides(known) == {**what_decides(kept_settings(settings)), **{name: settings.get(name) for name in SOURCES}}
