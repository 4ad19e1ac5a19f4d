"""Budgets: numbers as people write them, the largest cut within them, exit 4 with the nearest miss."""

from __future__ import annotations

import re
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_model

from distill.networks.models import Model
from distill.pruning.budget import Budget, Cost, cost_of, read_count, shrink
from distill.pruning.prune import open_pruner
from distill.pruning.shrinking import importance_of, part_of, rounds_of
from distill.pruning.timing import latency_ms
from distill.settings.student import BudgetOptions
from runtimes.errors import BUDGET, USAGE, UserError


@settings(max_examples=50, deadline=None)
@given(count=st.integers(1, 10**12))
def test_a_count_is_read_as_it_is_written(count: int) -> None:
    assert read_count(str(count), "--max-params") == count
    assert read_count(f"{count:,}", "--max-params") == count
    assert read_count(f"{count}k", "--max-params") == count * 1000
    assert read_count(f" {count}M ", "--max-params") == count * 10**6


def test_fractions_and_exponents_of_a_count() -> None:
    assert [read_count(text, "-") for text in ("0.5M", "1.2G", "3e6", "2.5e3", ".5k", "30m")] == [
        500_000, 1_200_000_000, 3_000_000, 2500, 500, 30_000_000]


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=8).filter(lambda text: not re.match(r"\s*[,_]*\.?\d", text)))
def test_anything_else_is_a_usage_error(text: str) -> None:
    with pytest.raises(UserError, match="--max-macs") as caught:
        read_count(text, "--max-macs")
    assert caught.value.exit_code == USAGE


class Narrower:
    """Stands for a pruner: takes a channel in ten from the head's input and the convolution before it."""

    def __init__(self, model: Model, steps: int = 40) -> None:
        self.inner, self.left = open_pruner(model, unit=4), steps

    def step(self) -> bool:
        self.left -= 1
        return self.left >= 0 and self.inner.step()


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model(arch="mobilenetv3_small_050", size=32)


@pytest.mark.parametrize("share", [0.8, 0.4])
def test_a_cut_student_is_within_every_limit_and_not_far_below(model: Model, share: float) -> None:
    whole = cost_of(model)
    budget = Budget(params=round(whole.params * share), macs=round(whole.macs * share))
    found, cost = shrink(model, budget, Narrower)
    assert not budget.over(cost)
    assert cost == cost_of(found)
    assert max(cost.params / whole.params, cost.macs / whole.macs) > share * 0.8
    assert found.spec.cuts
    assert cost_of(model) == whole  # the one handed in is as it was
    assert not model.spec.cuts


def test_a_student_that_fits_is_left_alone(model: Model) -> None:
    found, _ = shrink(model, Budget(params=10**9), Narrower)
    assert found is model


def test_a_budget_that_nothing_fits_is_exit_code_four_and_names_the_nearest_miss(model: Model) -> None:
    with pytest.raises(UserError, match=r"does not fit 0\.001 M parameters: the smallest cut has") as caught:
        shrink(model, Budget(params=1000), Narrower)
    assert caught.value.exit_code == BUDGET


def test_latency_is_brought_down_step_by_step_and_a_cut_that_does_not_help_is_taken_back(model: Model) -> None:
    whole = cost_of(model)
    said: list[str] = []

    def staircase(one: Model) -> float:  # latency falls in stairs, as on hardware that computes in tiles
        share = cost_of(one).macs / whole.macs
        return 10.0 if share > 0.7 else 6.0 if share > 0.5 else 3.0

    found, cost = shrink(model, Budget(latency_ms=5.0), Narrower, measure=staircase, tell=said.append)
    assert cost.latency_ms == 3.0
    assert staircase(found) == 3.0
    assert cost.macs / whole.macs > 0.3
    assert any("taken back" in line for line in said)
    with pytest.raises(UserError) as caught:
        shrink(model, Budget(latency_ms=1.0), Narrower, measure=staircase)
    assert caught.value.exit_code == BUDGET
    assert "3 ms" in str(caught.value)


def test_rounds_come_down_by_equal_factors_and_end_at_the_budget() -> None:
    whole, budget = Cost(8000, 10**6, 8.0), Budget(params=1000, latency_ms=1.0)
    parts = [part_of(budget, whole, number, 3) for number in range(3)]
    assert [one.params for one in parts] == [4000, 2000, 1000]
    assert [one.latency_ms for one in parts] == pytest.approx([4.0, 2.0, 1.0])
    assert parts[-1] == budget
    assert part_of(Budget(params=9000), whole, 0, 3) == Budget(params=9000)  # it fits already


def test_given_weights_are_pruned_by_what_their_loss_needs_and_once_for_every_halving_random_ones_by_size_and_at_once() -> None:
    whole = Cost(4_000_000, 10**8, 8.0)
    options = BudgetOptions()
    given, random = partial(rounds_of, options, given_weights=True), partial(rounds_of, options, given_weights=False)
    assert [importance_of(options, given_weights=known) for known in (True, False)] == ["taylor", "magnitude"]
    budgets = {0.9: 1, 0.5: 1, 0.25: 2, 0.12: 3, 0.06: 4}
    assert {share: given(Budget(macs=round(10**8 * share)), whole) for share in budgets} == budgets
    assert given(Budget(params=3_900_000, latency_ms=1.0), whole) == 3  # the limit that asks for most
    assert given(Budget(params=5_000_000), whole) == 1
    assert random(Budget(macs=10**6), whole) == 1
    assert given(Budget(macs=10**6), whole, chosen_after=True) == 1
    asked = BudgetOptions(importance="magnitude", prune_rounds=2, max_macs="1M")
    assert importance_of(asked, given_weights=True) == "magnitude"
    assert rounds_of(asked, Budget(macs=10**6), whole, given_weights=True) == 2


def test_a_student_is_timed_on_onnxruntime_and_left_as_it_was(model: Model) -> None:
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert 0 < latency_ms(model) < 1000
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_network_that_does_not_export_is_said_with_the_way_out(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no such operator\nand a long trace")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(UserError, match=r"no such operator\); give --max-macs"):
        latency_ms(model)


def test_openvino_that_is_not_installed_is_said(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match="needs openvino") as caught:
        latency_ms(model, "openvino")
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("text", ["0", "0.4", "1..2M", "-3M", "5 Mb", "M", "1e", "NaN", "inf", "0x10"])
def test_near_misses_of_a_count_are_usage_errors(text: str) -> None:
    with pytest.raises(UserError, match="--max-params"):
        read_count(text, "--max-params")
