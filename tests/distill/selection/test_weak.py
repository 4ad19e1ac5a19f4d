"""A teacher that knows less than the student is left out: where it is asked, what judges, what is trained then, the same after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import class_folders, killed_in_epoch, run, tree
from tiny import tiny_images

from distill.selection.trials import Trials
from distill.selection.weak import is_doubted, judge_teacher
from distill.settings.method import MethodOptions, SelectionOptions
from runtimes.files.folder import read_json

LONG_ENOUGH: dict[str, Any] = {"auto_steps": 4, "min_steps": 8}
pytestmark = pytest.mark.usefixtures("in_empty_folder")


class Rehearsed:
    """Trials whose losses are known beforehand."""

    def __init__(self, alone: np.ndarray, probe: np.ndarray, *, by_validation: bool) -> None:
        self.alone, self.probe, self.by_validation, self.steps = alone, probe, by_validation, 400
        self.performed: list[tuple[str, int]] = []

    @property
    def groups(self) -> np.ndarray:
        return np.arange(len(self.alone) * (1 if self.by_validation else 3))  # of further folds, too

    def perform(self, method: str, number: int) -> None:
        self.performed.append((method, number))

    def losses(self, method: str, count: int) -> list[np.ndarray]:
        assert (method, count) == ("vanilla", 1)
        return [self.alone]

    def probe_losses(self, number: int) -> np.ndarray:
        assert number == 0
        return self.probe


@given(moved=st.floats(0.01, 1) | st.floats(-1, -0.01), by_validation=st.booleans())
def test_it_is_left_out_where_its_loss_is_greater_than_that_of_the_student_alone(moved: float, by_validation: bool) -> None:
    random = np.random.default_rng(0)
    alone, noise = random.normal(0.6, 0.1, 40), random.normal(0, 0.1, 40)
    gaps = moved + noise - noise.mean()
    trials: Any = Rehearsed(alone, alone + gaps, by_validation=by_validation)
    doubt = judge_teacher(trials)
    assert doubt.left is (moved > 0)
    assert doubt.evidence.gain == pytest.approx(-moved, abs=1e-9)
    assert doubt.evidence.error == pytest.approx(gaps.std(ddof=1) / np.sqrt(40))
    assert trials.performed == [("vanilla", 0)], "one training judges"


@pytest.mark.parametrize(("method", "selection", "unlabelled", "steps", "doubted"), [
    ({}, {}, 0, 800, True), ({}, {}, 0, 799, False), ({}, {}, 1, 1200, False), ({}, {"weak_teacher": "keep"}, 0, 1200, False),
    ({"method": "kd"}, {}, 0, 1200, True), ({"method": "vanilla"}, {}, 0, 1200, False), ({"method": "auto"}, {}, 0, 1200, False),
    ({"pretrain": "on"}, {}, 0, 1200, False), ({}, {"auto_steps": 601}, 0, 1200, False)])
def test_it_is_asked_where_labels_alone_could_teach_and_the_trial_is_short_beside_the_run(
        method: dict[str, Any], selection: dict[str, Any], unlabelled: int, steps: int, doubted: bool) -> None:
    images = tiny_images(unlabelled=unlabelled)
    assert is_doubted(MethodOptions(**method), SelectionOptions(**selection), images, steps) is doubted


@pytest.mark.parametrize("counts", [(24, 9, 9), (24, 24, 9)])
def test_what_is_left_out_leaves_the_student_that_labels_alone_make_also_after_a_kill(
        monkeypatch: pytest.MonkeyPatch, counts: tuple[int, int, int], capsys: pytest.CaptureFixture[str]) -> None:
    own = {"data": str(class_folders(Path("images"), tiny_images(counts=counts)))} | LONG_ENOUGH
    known = Trials.probe_losses
    monkeypatch.setattr(Trials, "probe_losses", lambda trials, number: known(trials, number) + 10)
    assert run(**own, out=Path("taught")) == 0
    said = capsys.readouterr().out
    assert "teacher   left out: its probe has " in said
    assert "--weak-teacher keep" in said
    assert read_json(Path("taught/metrics.json"))["weak_teacher"]["left"] is True
    assert run(**own, method="vanilla", out=Path("alone")) == 0
    assert tree(Path("taught"))["model.safetensors"] == tree(Path("alone"))["model.safetensors"]
    killed_in_epoch(monkeypatch, 3, **own, out=Path("killed"))  # the trial judges once, then each epoch
    assert run(**own, out=Path("killed"), resume=True) == 0
    assert tree(Path("killed"))["model.safetensors"] == tree(Path("alone"))["model.safetensors"]


def test_what_is_kept_teaches_as_if_nobody_had_asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    own = {"data": str(class_folders(Path("images"), tiny_images(counts=(24, 9, 9))))} | LONG_ENOUGH
    known = Trials.probe_losses
    monkeypatch.setattr(Trials, "probe_losses", lambda trials, number: known(trials, number) * 0)
    assert run(**own, out=Path("asked")) == 0
    assert "teacher   kept: its probe has " in capsys.readouterr().out
    assert run(**own, weak_teacher="keep", out=Path("kept")) == 0
    assert "its probe has" not in capsys.readouterr().out
    assert tree(Path("asked"))["model.safetensors"] == tree(Path("kept"))["model.safetensors"]
