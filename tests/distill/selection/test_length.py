"""How long a run is where most images carry no label: judged by the teacher's probe against the student alone, the same after a kill."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from runs import class_folders, killed_in_epoch, run, tree
from tiny import tiny_bank, tiny_images, tiny_model

from distill.data.image_set import ImageSet
from distill.selection import length as length_module
from distill.selection.length import FEWEST, LONG, choose_length, is_open
from distill.selection.trials import Trials, open_trials
from distill.settings.method import SelectionOptions
from distill.settings.training import TrainingOptions
from distill.teacher.teaching import probe_teacher
from runtimes.files.folder import read_json

SHORTER, LONGER = 12, 24  # steps, in place of those of real runs
pytestmark = pytest.mark.usefixtures("in_empty_folder")


@dataclass
class Rehearsed:
    """Trials whose losses are known beforehand."""

    alone: list[NDArray[np.float64]]
    probe: list[NDArray[np.float64]]
    by_validation: bool = False
    performed: list[tuple[str, int]] = field(default_factory=list)
    seen: str = "60 training images held out"

    @property
    def count(self) -> int:
        return len(self.alone)

    @property
    def groups(self) -> NDArray[Any]:
        return np.arange(len(self.alone[0]) if self.by_validation else sum(map(len, self.alone)))

    def perform(self, method: str, number: int) -> None:
        self.performed.append((method, number))

    def losses(self, method: str, count: int) -> list[NDArray[np.float64]]:
        assert all((method, number) in self.performed for number in range(count)), "losses of a trial that was not made"
        return self.alone[:count]

    def probe_losses(self, number: int) -> NDArray[np.float64]:
        return self.probe[number]


@pytest.mark.parametrize("by_validation", [False, True])
@pytest.mark.parametrize(("moved", "steps"), [(-0.3, LONG), (0.0, FEWEST), (0.3, FEWEST)])
def test_a_run_is_longer_where_the_probe_is_better_than_the_student_alone_beyond_the_error(
        moved: float, steps: int, by_validation: bool, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    alone = [random.normal(0.6, 0.1, 40) for _ in range(3)]
    noise = random.normal(0, 0.1, 40)
    trials: Any = Rehearsed(alone, [own + moved + noise - noise.mean() for own in alone], by_validation)
    length = choose_length(trials)
    assert length.min_steps == steps
    assert length.evidence is not None
    assert length.evidence.gain == pytest.approx(-moved, abs=1e-9)
    assert trials.performed == [("vanilla", number) for number in range(1 if by_validation else 3)], "validation judges one training"
    said = capsys.readouterr().out
    assert f"{steps:,} steps" in said
    assert f"{abs(moved):.4f} +- " in said


def test_with_too_few_labels_to_divide_it_is_the_shorter_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert choose_length(None).as_dict() == {"min_steps": FEWEST, "evidence": None}
    assert "too few labels" in capsys.readouterr().out


@pytest.mark.parametrize(("method", "changes", "unlabelled", "opened"), [
    ("rd", {}, 20, True), ("rd", {}, 16, True), ("rd", {}, 15, False), ("rd", {}, 0, False), ("auto", {}, 20, True),
    ("vanilla", {}, 20, False), ("rd", {"min_steps": 0}, 20, False), ("rd", {"min_steps": 5000}, 20, False),
    ("rd", {"epochs": 1500}, 20, False), ("rd", {"epochs": 1499}, 20, True)])
def test_it_is_a_question_where_a_teacher_speaks_of_at_least_as_many_images_without_a_label_and_a_run_would_be_short(
        method: str, changes: dict[str, Any], unlabelled: int, opened: bool) -> None:
    images = tiny_images(counts=(16 + unlabelled, 6, 6), unlabelled=unlabelled)
    assert is_open(method, TrainingOptions(**changes), images) is opened


def trials_of(images: ImageSet, folder: Path) -> Trials:
    """Trials that are asked for their probes alone."""
    bank = tiny_bank(folder, images)
    signals = probe_teacher(images, bank, {}, tell=False)
    nothing: Any = None
    data: Any = SimpleNamespace(images=images)
    trials = open_trials(nothing, SelectionOptions(), data, tiny_model(), signals, folder, split_seed=0, resume=False)
    assert trials is not None
    return trials


def test_a_folds_probe_does_not_read_the_labels_that_judge_it(tmp_path: Path) -> None:
    images = tiny_images(counts=(48, 12, 6))
    one = trials_of(images, tmp_path / "one")
    assert not one.by_validation
    held = one.sets[0].rows("val")
    labels = images.labels.copy()
    labels[held] = labels[held][::-1]
    other = trials_of(replace(images, labels=labels), tmp_path / "two")
    other = replace(other, sets=tuple(replace(own, labels=labels) for own in one.sets))
    same_penalty = replace(other.signals.probe, strength=one.signals.probe.strength)
    other = replace(other, signals=replace(other.signals, probe=same_penalty))
    for number, same in ((0, True), (1, False)):
        weights = [trials.signals_of(number).probe.weight for trials in (one, other)]
        assert torch.equal(*weights) is same
    assert one.signals_of(0).probe.strength == one.signals.probe.strength, "its penalty is chosen by validation, which judges nothing here"
    assert len(one.groups) == sum(len(one.probe_losses(number)) for number in range(3)) == 48


@pytest.mark.parametrize("counts", [(24, 9, 9), (24, 24, 9)])
def test_a_run_notes_the_evidence_and_resumes_to_the_same_weights(monkeypatch: pytest.MonkeyPatch, counts: tuple[int, int, int],
                                                                 capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(length_module, "FEWEST", SHORTER)
    monkeypatch.setattr(length_module, "LONG", LONGER)
    images = tiny_images(counts=counts)
    for split in ("train", "val", "test"):
        rows = images.rows(split)
        part: Any = SimpleNamespace(images=[images.images[row] for row in rows], labels=images.labels[rows], classes=images.classes,
                                    keys=[images.keys[row] for row in rows])
        class_folders(Path("data") / split, part)
    more = class_folders(Path("more"), tiny_images(counts=(40, 0, 0), seed=5))
    own: dict[str, Any] = {"data": "data", "unlabelled": more, "auto_folds": 2, "auto_steps": 2, "epochs": 2, "min_steps": None}
    assert run(**own, out=Path("whole")) == 0
    judged = "24 validation images" if counts[1] == 24 else "24 training images"
    assert f"less loss than the student alone ({judged} held out)" in capsys.readouterr().out.replace("more loss", "less loss")
    noted = read_json(Path("whole/metrics.json"))["length"]
    assert noted["min_steps"] == (SHORTER if noted["evidence"]["word"] != "helps" else LONGER)
    for epoch in (1, 2):
        killed_in_epoch(monkeypatch, epoch, **own, out=Path(f"other-{epoch}"))
        assert run(**own, out=Path(f"other-{epoch}"), resume=True) == 0
        assert read_json(Path(f"other-{epoch}/metrics.json"))["length"] == noted
        assert tree(Path(f"other-{epoch}"))["model.safetensors"] == tree(Path("whole"))["model.safetensors"]
