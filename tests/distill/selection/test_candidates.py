"""--student auto: what is screened out and why, which networks compete, what the report shows of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.networks.models import ModelSpec
from distill.pruning.budget import Budget, Cost
from distill.pruning.timing import timed_apart
from distill.report.choices_view import methods_view, students_view
from distill.selection import candidates
from distill.selection.candidates import FAMILIES, Candidate, finalists, screen
from distill.selection.choosing import settled
from runtimes.errors import BUDGET, UserError

LIKE = ModelSpec("auto", 32, 32, "multiclass", ("a", "b", "c"))
TWO = {"efficient": ("test_efficientnet", "mobilenetv3_small_050"), "resnet": ("test_resnet",)}


def fits(arch: str, family: str, macs: int, score: float | None = None) -> Candidate:
    return Candidate(arch, family, Cost(1000, macs), score)


def test_every_network_of_the_list_is_one_that_can_be_asked_for_and_stands_in_it_once() -> None:
    from distill.networks.students import timm_name

    names = [arch for sizes in FAMILIES.values() for arch in sizes]
    assert len(names) == len(set(names)) >= 40
    assert [timm_name(arch) for arch in names] == names


def test_what_is_over_a_limit_is_told_by_how_much_and_what_cannot_be_built_why() -> None:
    families = {**TWO, "none": ("dla34",)}
    found = {one.arch: one for one in screen(LIKE, Budget(params=200_000), "onnx", 1, families=families)}
    assert found["test_efficientnet"].verdict == ""
    small = found["mobilenetv3_small_050"]
    assert small.cost is not None
    assert small.verdict == f"parameters {small.cost.params / 200_000:.2f} times the budget"
    assert "cannot be built: dla34 ends in Conv2d" in found["dla34"].verdict
    assert Candidate.from_row(small.as_row()) == small


def test_nothing_within_the_budget_is_exit_four_with_the_nearest_miss() -> None:
    with pytest.raises(UserError, match="none of 3 students fits 1e-05 M parameters; the nearest is test_efficientnet with") as caught:
        screen(LIKE, Budget(params=10), "onnx", 1, families=TWO)
    assert caught.value.exit_code == BUDGET


def test_only_what_is_within_the_other_limits_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def timed(specs: list[ModelSpec], *_: Any) -> list[float | str]:
        asked.extend(one.arch for one in specs)
        return [3.0, "cannot be exported: for a reason"]

    monkeypatch.setattr(candidates, "timed_apart", timed)
    with pytest.raises(UserError, match=r"nearest is test_efficientnet.*3 ms"):
        screen(LIKE, Budget(params=500_000, latency_ms=2.9), "onnx", 1, families=TWO)
    found = screen(LIKE, Budget(params=500_000, latency_ms=4.0), "onnx", 1, families=TWO)
    assert asked == 2 * ["test_efficientnet", "test_resnet"]
    assert [one.verdict for one in found] == ["", found[1].verdict, "cannot be exported: for a reason"]
    assert found[0].cost is not None
    assert found[0].cost.latency_ms == 3.0


def test_a_latency_table_of_another_device_takes_the_place_of_timing() -> None:
    rows = [{"student": f"net{place}", "height": 32, "width": 32, "params": 1000, "macs": 10**6 * place, "target": "onnx",
             "precision": "fp32", "threads": 1, "p90_ms": 2.0 * place} for place in (1, 2, 3)]
    table = {"machine": {"cpu": "a small board"}, "rows": rows}
    found = screen(LIKE, Budget(latency_ms=1e6), "onnx", 1, families=TWO, table=table)
    for one in found:  # two milliseconds a million MACs, and the margin
        assert one.cost is not None
        assert one.cost.latency_ms == pytest.approx(2e-6 * one.cost.macs * 1.1)
    with pytest.raises(UserError, match="0 networks in fp32 for openvino"):
        screen(LIKE, Budget(latency_ms=1e6), "openvino", 1, families=TWO, table=table)


def test_students_are_exported_by_other_processes_and_timed_on_the_real_runtime() -> None:
    specs = [ModelSpec("test_efficientnet", 32, 32, "multiclass", ("a", "b")), ModelSpec("no_such_network", 32, 32, "binary", ("a", "b"))]
    told: list[int] = []
    small, unknown = timed_apart(specs, progress=lambda done, total, _: told.append(done))
    assert isinstance(small, float)
    assert 0 < small < 1000
    assert "no_such_network" in str(unknown)
    assert told[-1] == 4


@settings(max_examples=100, deadline=None)
@given(sizes=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 10**6), st.booleans()), min_size=1, max_size=40), most=st.integers(1, 12))
def test_finalists_are_largest_of_their_family_within_the_budget_and_not_too_many(sizes: list[tuple[int, int, bool]], most: int) -> None:
    found = [Candidate(f"net{place}", f"family{family}", Cost(1, macs), None, "" if inside else "over")
             for place, (family, macs, inside) in enumerate(sorted(sizes))]
    names = finalists(found, most)
    inside = [one for one in found if not one.verdict]
    families = {one.family for one in inside}
    assert len(names) == len(set(names)) == min(most, len(families))
    for name in names:
        one = next(one for one in found if one.arch == name)
        assert one is [other for other in inside if other.family == one.family][-1]
    if names:
        dearest = max((one for one in inside if one is [other for other in inside if other.family == one.family][-1]),
                      key=lambda one: one.cost.macs if one.cost else 0)
        assert any(one.cost == dearest.cost for one in found if one.arch == names[-1])


def test_the_best_score_is_taken_and_all_others_are_told_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    found = [fits("small", "a", 1), fits("large", "a", 3, 0.9), fits("other", "b", 2, 0.7), fits("third", "c", 5),
             Candidate("huge", "d", Cost(10**9, 10**9), None, "parameters 9.00 times the budget")]
    best, rows = settled(found, ["other", "large"])
    assert best == "large"
    assert [row["verdict"] for row in rows] == [
        "fits, not tried: large, the larger, competes", "taken", "tried, another learnt better", "fits, not among the 2 tried",
        "parameters 9.00 times the budget"]
    assert "large: 0.900" in capsys.readouterr().out
    with pytest.raises(UserError, match="none of the students tried can be trained; of third: cannot be taught: no stages"):
        settled([Candidate("third", "c", Cost(1, 1), None, "cannot be taught: no stages")], ["third"])


def test_the_report_lists_every_candidate_best_first_and_draws_those_tried() -> None:
    rows = [Candidate("cheap", "a", Cost(10**6, 10**6, 1.0), 0.7, "tried, another learnt better").as_row(),
            Candidate("dear", "b", Cost(2 * 10**6, 10**7, 2.5), 0.8, "taken").as_row(),
            Candidate("idle", "c", Cost(10**6, 10**6, 2.0), None, "fits, not among the 2 tried").as_row(),
            Candidate("broken", "d", None, None, "cannot be built: so").as_row()]
    view = students_view({"students": rows})
    assert view is not None
    assert [row["name"] for row in view["rows"]] == ["dear", "cheap", "idle", "broken"]
    assert view["tried"] == 2
    assert "milliseconds" in view["plot"].svg
    assert "dear" in view["plot"].svg
    assert "idle" not in view["plot"].svg
    assert students_view({}) is None
    methods = methods_view({"choice": {"method": "rd", "scores": {"vanilla": [0.5, 0.6], "rd": [0.7, 0.8]}}})
    assert [(row["name"], row["taken"]) for row in methods] == [("rd", True), ("vanilla", False)]
    assert methods_view({}) == []
