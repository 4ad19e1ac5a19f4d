"""Tiny runs of rd-distill for tests: settings, a run, a refusal, a kill in an epoch.

Owns: TINY, settings, run, refused, killed_in_epoch, tree, class_folders. Does not own: pictures in folders (drawn.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from distill.commands import distill
from distill.data.image_set import ImageSet
from distill.settings.distill import DistillSettings
from distill.training import student as training
from runtimes.errors import UserError

TINY: dict[str, Any] = {
    "student": "test_efficientnet", "teacher": "test_resnet", "teacher_size": 32, "teacher_weights": "random", "size": 32,
    "bank_runtime": "torch", "bank_views": 1, "epochs": 2, "min_steps": 0, "batch": 8, "bootstrap": 5, "device": "cpu",
    "phantom_images": (16, 12, 12), "phantom_size": 32}


def settings(**changes: Any) -> DistillSettings:
    return DistillSettings(**(TINY | changes))


def run(**changes: Any) -> int:
    return distill(settings(**changes), "rd-distill --test")


def refused(exit_code: int, **changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        run(**changes)
    assert caught.value.exit_code == exit_code
    return str(caught.value)


class Killed(BaseException):
    """Stands for a kill."""


def killed_in_epoch(monkeypatch: pytest.MonkeyPatch, epoch: int, **changes: Any) -> None:
    """A run that dies when it judges its epoch number `epoch`."""
    real, calls = training.judge, 0

    def judge(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == epoch:
            raise Killed
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "judge", judge)
        with pytest.raises(Killed):
            run(**changes)


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def class_folders(root: Path, images: ImageSet) -> Path:
    for row, image in enumerate(images.images):
        folder = root / images.classes[images.labels[row]]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(folder / images.keys[row])
    return root
