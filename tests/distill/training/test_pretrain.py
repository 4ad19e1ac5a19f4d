"""The stage before the labels: it reads none, resumes bit for bit, and its teacher is named in the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import Killed, class_folders, killed_in_epoch, refused, run, settings, tree
from scipy.spatial.distance import cosine
from tiny import tiny_bank, tiny_images, tiny_model, tiny_step

from distill.methods import trunk
from distill.methods.step import Branches, Step, Weights
from distill.teacher.bank import FeatureBank
from distill.training import pretrain as module
from distill.training import student as training
from runtimes.errors import USAGE, UserError
from runtimes.files.folder import read_json

pytestmark = pytest.mark.usefixtures("in_empty_folder")


def test_its_loss_is_one_minus_the_cosine_to_each_teachers_standardised_features() -> None:
    student, batch = tiny_model().eval(), tiny_step()
    widths = (100, 156)
    mean, sd = torch.linspace(-1, 1, 256), torch.linspace(0.5, 2, 256)

    class Bank:
        pass

    bank: Any = Bank()
    bank.widths = widths
    signals: Any = Bank()
    signals.bank, signals.mean, signals.sd = bank, mean, sd
    branches = trunk.build(student, signals)
    found = float(trunk.losses(Step(branches, batch, Weights()))["features"].detach())
    assert batch.clean is not None
    features = student.features(batch.pixels).detach()
    expected = []
    for number, (start, stop) in enumerate(((0, 100), (100, 256))):
        projected = branches.get_submodule(f"hint{number}").project(features).detach().double().numpy()  # type: ignore[operator]
        taught = ((batch.clean - mean) / sd)[:, start:stop].double().numpy()
        expected.append(np.mean([cosine(one, other) for one, other in zip(projected, taught, strict=True)]))
    assert found == pytest.approx(np.mean(expected), rel=1e-4)


def test_no_label_is_read_before_the_second_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two data sets that differ in the labels of training images alone have the same student after the first stage."""
    weights: list[dict[str, torch.Tensor]] = []
    real = module.fit

    def fit(branches: Branches, *arguments: Any, **named: Any) -> Any:
        history = real(branches, *arguments, **named)
        weights.append({name: value.clone() for name, value in branches.student.state_dict().items()})
        return history

    monkeypatch.setattr(module, "fit", fit)
    folder = class_folders(Path("one"), tiny_images())
    assert run(data=str(folder), pretrain="on", epochs=1, out=Path("first"), bank=Path("bank-one"), keep_together="none") == 0
    assert run(data=str(folder), pretrain="on", epochs=1, out=Path("second"), bank=Path("bank-two"), keep_together="none", focal_gamma=0.0,
               method="vanilla") == 0
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    noted = read_json(Path("second/metrics.json"))["pretrain"]
    assert noted["epochs"] == 1
    assert "test_resnet" in read_json(Path("second/manifest.json"))["teacher"]  # a student of labels alone would have none


@pytest.mark.parametrize("stage", ["pretrain", "train"])
def test_a_run_killed_in_either_stage_resumes_to_the_same_weights(monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    two: dict[str, Any] = {"pretrain": "on", "mixup": 0.4, "epochs": 2}
    assert run(**two, out=Path("whole")) == 0
    owner, name = (module, "distance_on") if stage == "pretrain" else (training, "judge")
    real, calls = getattr(owner, name), 0

    def dies(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Killed
        return real(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dies)
        with pytest.raises(Killed):
            run(**two, out=Path("other"))
    assert run(**two, out=Path("other"), resume=True) == 0
    assert tree(Path("other"))["model.safetensors"] == tree(Path("whole"))["model.safetensors"]
    assert not Path("other.partial").exists()


def test_a_live_teacher_resumes_to_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    live: dict[str, Any] = {"bank_views": "live", "epochs": 2}
    assert run(**live, out=Path("whole")) == 0
    killed_in_epoch(monkeypatch, 2, **live, out=Path("other"))
    assert run(**live, out=Path("other"), resume=True) == 0
    assert tree(Path("other"))["model.safetensors"] == tree(Path("whole"))["model.safetensors"]
    assert not Path("other.partial").exists()


@pytest.mark.parametrize(("wrong", "words"), [
    ({"bank_views": "live", "method": "vanilla"}, "--method vanilla has none"),
    ({"bank_views": "live", "teacher": "bank:x"}, "looks at every step"),
    ({"bank_views": "live", "views": "tied"}, "leave --views tied out"), ({"bank_views": "live", "method": "drd"}, "maps of stages"),
    ({"mixup": 0.4, "method": "dkd"}, "use kd or dist"), ({"mixup": -0.1}, "must not be negative"),
    ({"bank_views": -1}, "must not be negative")])
def test_what_cannot_be_is_refused_in_words(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        settings(**wrong)


def test_volumes_are_neither_mixed_nor_taught_live() -> None:
    volumes: dict[str, Any] = {"data": "phantom-volumes", "slices": 4}
    assert "leave it out" in refused(USAGE, **volumes, mixup=0.4)
    assert "a number of views" in refused(USAGE, **volumes, bank_views="live")


def test_a_bank_says_how_wide_each_of_its_teachers_is(tmp_path: Path) -> None:
    images = tiny_images()
    one, other = tiny_bank(tmp_path / "one", images), tiny_bank(tmp_path / "other", images)
    both: FeatureBank = one.joined(other)
    assert both.widths == (one.width, other.width)
    assert both.width == both.features(both.indices(images.hashes)).shape[1]
