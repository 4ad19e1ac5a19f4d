"""Each method through the command: it trains, resumes to the same weights, and says whose logits it distils."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runs import class_folders, killed_in_epoch, refused, run, settings, tree
from tiny import tiny_images

from distill.settings.method import MethodOptions
from distill.training import student as training
from runtimes.errors import USAGE, UserError
from runtimes.files.folder import read_json
from runtimes.images.volumes import VolumeSpec

pytestmark = pytest.mark.usefixtures("in_empty_folder")


@pytest.mark.parametrize("method", ["dkd", "dist", "rkd", "crd"])
def test_every_competitor_trains_a_student_beside_the_probe(method: str) -> None:
    folder = class_folders(Path("data"), tiny_images(counts=(16, 8, 8)))
    assert run(data=str(folder), method=method, epochs=1) == 0
    entry = read_json(Path("student/metrics.json"))["splits"]["test"]
    assert {"student", "probe"} <= set(entry)
    assert "teacher" not in entry


def test_drd_sends_the_teachers_stages_through_the_student_and_resumes_to_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    deep: dict[str, Any] = {"method": "drd", "size": 64, "teacher_size": 64, "stages": 3}
    assert run(**deep, out=Path("whole")) == 0
    metrics = read_json(Path("whole/metrics.json"))
    assert {"student", "teacher", "probe"} <= set(metrics["splits"]["test"])
    header = Path("whole/summary.csv").read_text().splitlines()[0]
    assert all(f"train_loss_{part}" in header for part in ("stage_task", "stage_kd", "stage_cka", "cka"))
    killed_in_epoch(monkeypatch, 2, **deep, out=Path("other"))
    assert run(**deep, out=Path("other"), resume=True) == 0
    assert tree(Path("other"))["model.safetensors"] == tree(Path("whole"))["model.safetensors"]
    assert run(**{**deep, "method": "at"}, views="tied", epochs=1, out=Path("at")) == 0
    assert "train_loss_hint" in Path("at/summary.csv").read_text()
    with pytest.raises(UserError, match="add --views tied"):
        settings(method="at")
    assert "ask for fewer" in refused(USAGE, **{**deep, "stages": 5, "size": 16}, out=Path("third"))
    assert not Path("third.partial").exists()
    with pytest.raises(UserError, match="one stage is --method rd"):
        settings(method="drd", stages=1)


def test_dkd_is_refused_for_images_with_several_findings_before_any_work() -> None:
    assert "use kd or dist" in refused(USAGE, method="dkd")  # the phantom is multi-label
    assert not Path("banks").exists()


def test_a_teacher_branch_with_its_own_classifier_is_judged_by_it() -> None:
    assert run(classifier="own", epochs=1, out=Path("own")) == 0
    assert run(epochs=1, out=Path("shared")) == 0
    own, shared = (read_json(Path(name) / "metrics.json")["splits"]["test"]["teacher"] for name in ("own", "shared"))
    assert own != shared
    with pytest.raises(UserError, match="has none"):
        settings(classifier="own", method="kd")


def test_cka_against_the_teachers_own_features_trains_and_is_refused_where_there_is_no_cka() -> None:
    assert run(cka_against="teacher", epochs=1, out=Path("raw")) == 0
    with pytest.raises(UserError, match="--cka-against teacher is about the CKA of rd and drd"):
        settings(cka_against="teacher", method="fitnet")


def test_rd_distils_the_probes_logits_unless_asked_for_the_branchs(capsys: pytest.CaptureFixture[str]) -> None:
    for kd_from in ("auto", "probe", "branch"):
        assert run(kd_from=kd_from, epochs=1, out=Path(kd_from)) == 0
    auto, probe, branch = (Path(name, "summary.csv").read_text() for name in ("auto", "probe", "branch"))  # losses; one seed for all
    assert auto == probe
    assert auto != branch
    told = capsys.readouterr().out
    assert "rd, taught the logits of the linear probe (--kd-from auto), learning rate 0.005" in told
    assert "rd, taught the logits of the teacher branch (--kd-from branch), learning rate 0.005" in told
    with pytest.raises(UserError, match="--kd-from branch is about the logits that rd and drd distil"):
        settings(kd_from="branch", method="kd")


@pytest.mark.parametrize(("method", "kd_from", "volumes", "unlabelled", "probed"), [
    ("rd", "auto", False, False, True), ("rd", "auto", True, False, False), ("rd", "auto", False, True, False),
    ("drd", "auto", False, False, False), ("rd", "branch", False, False, False), ("rd", "probe", True, True, True),
    ("drd", "probe", False, False, True), ("kd", "auto", False, False, False)])
def test_whose_logits_are_distilled(method: str, kd_from: str, volumes: bool, unlabelled: bool, probed: bool) -> None:
    images = replace(tiny_images(unlabelled=int(unlabelled)), volume=VolumeSpec() if volumes else None)
    assert training.distils_probe(MethodOptions(method=method, kd_from=kd_from), images) is probed  # type: ignore[arg-type]


def test_random_weights_learn_at_a_higher_rate_than_given_ones_unless_it_is_said() -> None:
    assert training.peak_lr(None, given_weights=False) == 5e-3
    assert training.peak_lr(None, given_weights=True) == 2e-3
    assert training.peak_lr(0.01, given_weights=True) == 0.01
    with pytest.raises(UserError, match="must be above 0"):
        settings(lr=0.0)
