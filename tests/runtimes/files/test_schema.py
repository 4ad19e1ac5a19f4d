"""Rules answer with the key, its value and what was expected; the rule of a type takes what settings are recorded as."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_type_hints

import pytest
from hypothesis import given
from json_leaves import VALUES

from distill.settings.distill import DistillSettings
from runtimes.commands.flags import record
from runtimes.errors import UserError
from runtimes.files.schema import check, list_of, mapping_of, maybe, number, object_of, of_type, one_of, text, truth, whole

RULES = (whole(0, 9), number(0, 1, above=True), text(5, least=1), one_of("a", 1), truth, maybe(whole(1, 2)), list_of(number(0, 1), 1, 2),
         mapping_of(truth), object_of({"a": truth}, {"b": text()}))
GOOD = ((0, 9), (0.5, 1, 1e-300), ("x", "xxxxx"), ("a", 1), (True, False), (None, 1), ([0.5], (0, 1)), ({}, {"x": True}), ({"a": True}, ))
BAD: tuple[tuple[Any, ...], ...] = (
    (-1, 10, 1.0, True, "1", None, 10**400), (0, -1, 1.1, float("nan"), float("inf"), True, "0.5", 10**400), ("", "xxxxxx", 5, None),
    ("b", True, 1.0, ["a"]), (1, 0, "true", None), (0, "", []), ([], [1, 1, 1], [2], "01", {"a": 1}), ([], {"x": 1}),
    ({}, {"a": True, "c": 1}, {"a": 1}, {"a": True, "b": 2}, None))


@pytest.mark.parametrize(("rule", "good", "bad"), list(zip(RULES, GOOD, BAD, strict=True)))
def test_a_rule_takes_what_fits_and_names_what_does_not(rule: Any, good: tuple[Any, ...], bad: tuple[Any, ...]) -> None:
    assert [value for value in good if rule(value, "key")] == []
    assert [value for value in bad if "key" not in rule(value, "key")] == []


@given(VALUES)
def test_any_value_is_answered_in_one_line(value: Any) -> None:
    for rule in RULES:
        assert len(rule(value, "key").splitlines()) <= 1


def test_the_place_is_named_to_the_leaf() -> None:
    rule = object_of({"rows": list_of(object_of({"p": number(0, 1)}))})
    with pytest.raises(UserError, match=r"^file: rows\[1\]\.p is 5, expected a number from 0 to 1; do it again$"):
        check({"rows": [{"p": 1}, {"p": 5}]}, rule, "file", "do it again")
    assert rule({"rows": [{}]}, "") == "rows[0].p is missing"


@pytest.mark.parametrize(("hint", "good", "bad"), [
    (bool, True, 1), (int, 3, 3.0), (int, 3, True), (float, 3, "3"), (float, 3.5, float("nan")), (str, "a", 1), (Path, "a/b", 1),
    (Literal["a", "b"], "a", "c"), (Literal["a"] | None, None, "b"), (tuple[int, int], [1, 2], [1]), (tuple[int, ...], [], [1.5]),
    (tuple[float, float] | None, [1, 2.5], [1, "2"]), (int | Literal["auto"], "auto", "other")])
def test_a_type_is_a_rule(hint: Any, good: Any, bad: Any) -> None:
    assert of_type(hint)(good, "key") == ""
    assert "key" in of_type(hint)(bad, "key")


def test_the_settings_that_a_folder_records_fit_their_own_types() -> None:
    rule = object_of({}, {key: of_type(hint) for key, hint in get_type_hints(DistillSettings).items()})
    for settings in (DistillSettings(), DistillSettings(volume_window=(0, 80), phantom_images=(9, 9, 9), bank=Path("b"), max_latency_ms=3)):
        assert rule(json.loads(json.dumps(record(settings))), "settings") == ""
