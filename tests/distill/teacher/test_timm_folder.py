"""Folders of other people's timm networks: what they must say; that they are read as their authors use them: test_formats.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.robustness.stand_ins import open_clip_form, timm_form
from distill.teacher.teachers import load_teacher
from runtimes.errors import UserError


def test_the_licence_that_a_folder_states_is_the_teachers(tmp_path: Path) -> None:
    timm_form(tmp_path / "uni")
    open_clip_form(tmp_path / "clip")
    assert [load_teacher(str(tmp_path / name)).licence for name in ("uni", "clip")] == ["cc-by-nc-4.0", "unknown"]


@pytest.mark.parametrize(("change", "words"), [
    ({"preparation": {"interpolation": "sharp"}}, "interpolation"), ({"preparation": {"mean": [0.5]}}, "expected three numbers"),
    ({"preparation": {"crop_pct": 3}}, "crop_pct"), ({"preparation": {"input_size": [3, 160, 128]}}, "input_size"),
    ({"in_chans": 1}, "channels"), ({"mlp_layer": "SwiGLU"}, "mlp_layer"), ({"in_chans": 4}, "channels"),
    ({"pretrained_cfg_overlay": {"file": "x"}}, "pretrained_cfg_overlay")])
def test_a_folder_that_says_too_little_or_too_much_is_refused_by_name(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    timm_form(tmp_path / "folder", **change)
    with pytest.raises(UserError, match=words):
        load_teacher(str(tmp_path / "folder"))


def test_a_folder_without_its_weights_is_refused(tmp_path: Path) -> None:
    timm_form(tmp_path / "folder")
    (tmp_path / "folder" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="copy the whole folder"):
        load_teacher(str(tmp_path / "folder"))
