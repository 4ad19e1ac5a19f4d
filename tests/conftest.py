"""Tiny students with random weights, their images, and artifacts exported once per session and shared between tests."""

from __future__ import annotations

import builtins
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch comes in: its threads only slow tiny networks down

import hypothesis
import numpy as np
import pytest

from distill.data.image_set import ImageSet
from runtimes.files.folder import write_manifest
from runtimes.images.spec import ImageSpec

hypothesis.settings.register_profile("shared machine", deadline=None)  # a busy minute is no fault of an example
hypothesis.settings.load_profile("shared machine")

CLASSES = {"binary": ("absent", "present"), "multiclass": ("a", "b", "c"), "multilabel": ("x", "y", "z"), "ordinal": ("0", "1", "2", "3")}
# ResNet-18 cut to one narrow block a stage: every mechanism of a real student, and an export in a second.
TINY = {"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32]}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests first, so that no worker is left alone with them at the end."""
    items.sort(key=lambda item: "test_pages_run" not in item.nodeid)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what was left out, and how to run it."""
    if config.option.markexpr == "not embed":
        terminalreporter.write_line("left out: the artifact's listings in Node, a browser and C++; to run them: make embed")


@dataclass(frozen=True)
class Case:
    """One export to be shared: what the student is and how it leaves."""

    task: str = "multiclass"
    channels: int = 1
    dtype: str = "uint8"
    window: tuple[float, float] = (0.0, 255.0)
    input: str = "image"
    input_size: str | None = None
    opset: int = 18
    arch: str = "resnet18"
    target: str = "onnx"
    precision: str = "fp32"
    fit: str = "squash"


def tiny_model(case: Case, seed: int = 0) -> Any:
    """A model with random weights, its batch-norm statistics and biases random too, so that every weight matters."""
    import torch

    from distill.networks.models import ModelSpec, build_model

    arguments = TINY if case.arch == "resnet18" else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(ModelSpec(case.arch, 32, 32, case.task, CLASSES[case.task], arguments))  # type: ignore[arg-type]
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        model.head.weight.data.normal_(0, 0.3)
        model.head.bias.data.normal_(0, 0.3)
    return model.eval()


def image_spec(case: Case) -> ImageSpec:
    """The spec of a case: model size 32x32."""
    return ImageSpec(32, 32, case.channels, case.dtype, case.window, fit=case.fit)  # type: ignore[arg-type]


def random_images(case: Case, count: int, sizes: tuple[tuple[int, int], ...] = ((32, 32),), seed: int = 0) -> list[np.ndarray]:
    """Raw images (H, W, C) with structure at several scales, over the whole range of their dtype."""
    random = np.random.default_rng(seed)
    top = np.iinfo(case.dtype).max if case.dtype == "uint8" else 4000
    images = []
    for index in range(count):
        height, width = sizes[index % len(sizes)]
        coarse = random.uniform(0, top, (height // 8 + 1, width // 8 + 1, case.channels))
        fine = random.uniform(0.5, 1.0, (height, width, case.channels))
        images.append((coarse.repeat(8, 0).repeat(8, 1)[:height, :width] * fine).astype(case.dtype))
    return images


def image_set(case: Case, count: int = 24, sizes: tuple[tuple[int, int], ...] = ((32, 32), (40, 56)), train: int = 0) -> ImageSet:
    """An in-memory ImageSet, all of it validation but the last `train` images."""
    random = np.random.default_rng(1)
    classes = CLASSES[case.task]
    if case.task == "multilabel":
        labels: np.ndarray = random.integers(0, 2, (count, len(classes))).astype(np.float32)
    else:
        labels = random.permutation(np.arange(count) % len(classes)).astype(np.int64)
    return ImageSet(random_images(case, count, sizes), tuple(f"image{index}" for index in range(count)), labels, classes,
                    case.task, np.asarray(["val"] * (count - train) + ["train"] * train, dtype=object))  # type: ignore[arg-type]


def write_student(folder: Path, case: Case, seed: int = 0) -> None:
    """A student folder as rd-distill leaves it, as far as export reads it."""
    from distill.networks.checkpoint import Calibration, save_checkpoint

    multilabel = case.task == "multilabel"
    calibration = Calibration((0.8, 1.0, 1.7), (0.3, 0.5, 0.6)) if multilabel else Calibration((1.5,))
    folder.mkdir(parents=True)
    save_checkpoint(folder, tiny_model(case, seed), image_spec(case), calibration, {"teacher": "none"})
    write_manifest(folder, "student", {"settings": {"data": "memory", "teacher": "none"}, "parents": {}, "teacher": "none"})


@pytest.fixture
def nothing_reached(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Any connection, look-up of an address or question to the user fails the test."""
    reached: list[str] = []

    def fail(*arguments: Any, **_: Any) -> Any:
        reached.append(str(arguments[:2]))
        raise OSError("no network in this test")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, fail)
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, fail)
    monkeypatch.setattr(builtins, "input", fail)
    yield
    assert reached == []


@pytest.fixture
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that the test stands in: what a command writes beside it is seen."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Path]:
    """Artifact folder of a case, made by `export.commands.export` on first use; its student lies in `student` beside it."""
    from export.commands import export
    from export.config import ExportSettings

    @cache
    def make(case: Case) -> Path:
        root = tmp_path_factory.mktemp("export")
        write_student(root / "student", case)
        settings = ExportSettings(student_dir=root / "student", out=root / "artifact", input=case.input, input_size=case.input_size,
                                  opset=case.opset, samples=5, parity_pictures=20,
                                  target=(case.target,), precision=case.precision, keep_slower=True,
                                  keep_upcast=True, max_flips="10%", max_auc_drop=0.1, gpu=("sm86",) if case.target == "trt" else ())  # type: ignore[arg-type]
        lower = case.precision == "int8"
        assert export(settings, "rd-export", lambda checkpoint: image_set(case, 40 if lower else 24, train=16 if lower else 0)) == 0
        return root / "artifact"

    return make
