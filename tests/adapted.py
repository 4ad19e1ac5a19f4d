"""Tiny runs of rd-adapt, one task after another, for tests: a run, the next one, a refusal, a folder that somebody edited.

Owns: TINY, METHODS, run, later, refused, edited, damaged. Does not own: pictures in folders (drawn.py), runs of rd-distill (runs.py).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill.adaptation.adapt import adapt
from distill.networks.tasks import INDEX
from distill.settings.adapt import AdaptSettings
from runtimes.errors import UserError
from runtimes.files.folder import read_json, write_json, write_manifest

TINY: dict[str, Any] = {
    "teacher": "test_vit", "teacher_size": 64, "teacher_weights": "random", "phantom_images": (16, 12, 12), "phantom_size": 32,
    "epochs": 1, "min_steps": 0, "batch": 8, "bootstrap": 5, "device": "cpu", "bank_runtime": "torch", "bank_views": 1,
    "keep_experts": "last"}  # on a few images the guard would keep the probe
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora", "rank": 2}, "moe": {"method": "moe"}, "spectral": {"method": "spectral"}, "molre": {"method": "molre"},
    "linear": {"method": "linear"}}


def run(**changes: Any) -> int:
    return adapt(AdaptSettings(**(TINY | changes)), "rd-adapt --test")


def later(folder: Path | str, split: int, **changes: Any) -> int:
    """The next task: another drawing of the phantom, from a folder."""
    return run(teacher=str(folder), teacher_size=None, teacher_weights=None, split_seed=split, seed=split, **changes)


def refused(exit_code: int, call: Any, **changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        call(**changes)
    assert caught.value.exit_code == exit_code
    return str(caught.value)


def edited(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """A change of a JSON file: of its content, in place."""
    def change(path: Path) -> None:
        content = read_json(path)
        edit(content)
        write_json(path, content)
    return change


def damaged(folder: Path, place: Path, change: Callable[[Path], object], file: str = INDEX) -> Path:
    """A copy of a folder, below a place, with one file changed, and a manifest that agrees with it."""
    copy = Path(shutil.copytree(folder, place / "damaged"))
    change(copy / file)
    manifest = read_json(copy / "manifest.json")
    write_manifest(copy, "teacher", {key: value for key, value in manifest.items() if key not in ("kind", "format", "files")})
    return copy
