"""Budgets through the command: cut, trained, resumed to the same weights; exit 4 where nothing fits."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from runs import killed_in_epoch, refused, run, settings, tree

from distill.networks.checkpoint import load_checkpoint
from runtimes.errors import BUDGET, USAGE, UserError
from runtimes.files.folder import read_json

pytestmark = pytest.mark.usefixtures("in_empty_folder")


def test_a_student_is_cut_to_its_budget_trained_and_resumed_to_the_same_weights(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    cut: dict[str, Any] = {"student": "mobilenetv3_small_050", "max_params": "0.3M", "importance": "taylor", "prune_rounds": 2,
                           "prune_steps": 2, "method": "vanilla"}
    assert run(**cut, out=Path("whole")) == 0
    said = capsys.readouterr().out
    assert "by taylor, the same share of every layer, in 2 rounds, 2 steps of training between them" in said
    assert "round 2 of 2" in said
    metrics = read_json(Path("whole/metrics.json"))
    assert metrics["params"] <= 300_000
    checkpoint = load_checkpoint(Path("whole"))
    assert checkpoint.spec.cuts
    card = Path("whole/README.md").read_text(encoding="utf-8")
    assert "multiply-accumulates, pruned" in card
    assert "load_checkpoint" in card
    assert metrics["params"] == sum(one.numel() for one in checkpoint.model.parameters())
    for epoch in (1, 2, 3):  # between the rounds, after the second, in training
        shutil.rmtree("other.partial", ignore_errors=True)
        killed_in_epoch(monkeypatch, epoch, **cut, out=Path("other"), overwrite=True)
        assert run(**cut, out=Path("other"), resume=True) == 0
        assert tree(Path("other"))["model.safetensors"] == tree(Path("whole"))["model.safetensors"]


def test_a_budget_that_nothing_fits_ends_with_exit_code_four_and_a_number_that_is_none_with_two() -> None:
    assert "does not fit 0.0001 M parameters" in refused(BUDGET, max_params="100", method="vanilla")
    assert "--max-macs 3 apples is no number" in refused(USAGE, max_macs="3 apples")


@pytest.mark.parametrize(("asked", "named"), [({"importance": "bn-scale"}, "--importance bn-scale"),
                                              ({"prune_scope": "network"}, "--prune-scope network"),
                                              ({"prune_rounds": 2}, "--prune-rounds 2"), ({"prune_rounds": 1}, "--prune-rounds 1")])
def test_how_to_prune_is_refused_where_nothing_is_pruned(asked: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=f"{named} says how a student is pruned to a budget"):
        settings(**asked)
    with pytest.raises(UserError, match=f"leave {named} out, or name a student to prune"):
        settings(**asked, student="auto", max_params="1M")
    assert settings(**asked, max_params="1M").max_params == "1M"
