"""JSON that two readers could read as two things is refused, with the reason; every other document is read as Python reads it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.files.strict_json import MAX_DEPTH, strict_json

FINITE = st.recursive(st.one_of(st.none(), st.booleans(), st.integers(-(2**64), 2**64), st.floats(allow_nan=False, allow_infinity=False),
                                st.text(st.characters(exclude_categories=["Cs"]), max_size=9)),
                      lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(
                          st.characters(exclude_categories=["Cs"]), max_size=5), inner, max_size=4)), max_leaves=12)


@given(FINITE, st.booleans())
def test_what_was_written_is_read(value: object, ascii_only: bool) -> None:
    assert strict_json(json.dumps(value, ensure_ascii=ascii_only)) == value


@pytest.mark.parametrize(("text", "word"), [
    ('{"a": 1, "b": 2, "a": 3}', "'a' stands twice"), ('{"x": {"a": 1, "a": 1}}', "'a' stands twice"), ('{"t": NaN}', "t is nan"),
    ('{"t": [1, {"u": -Infinity}]}', r"t\[1\].u is -inf"), ('{"t": 1e999}', "t is inf"), ('["\\ud800"]', "surrogate"),
    ('{"\\udfff": 1}', "surrogate"), ("[" * 200_000, "deep"),
    ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "deep"), ("9" * 5000, "5000 digits"),
    ("[1" + "0" * 60 + "]", "61 digits"), ("", "Expecting value"), ("{} {}", "Extra data"), ("\ufeff{}", "BOM"),
    ("{'a': 1}", "property name")])
def test_what_can_be_misread_is_refused(text: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        strict_json(text)


def test_pairs_of_surrogates_depth_within_the_limit_and_long_hashes_are_read() -> None:
    assert strict_json('"\\ud83d\\ude00"') == "\N{GRINNING FACE}"
    assert strict_json("[" * MAX_DEPTH + "]" * MAX_DEPTH) is not None
    assert strict_json('{"hash": "' + "7" * 64 + '", "seed": 18446744073709551615}')["seed"] == 2**64 - 1
    assert strict_json("[NaN]", finite=False)[0] != 0


@given(st.text(max_size=60))
def test_any_text_is_a_value_or_a_value_error(text: str) -> None:
    try:
        json.dumps(strict_json(text), ensure_ascii=False).encode()
    except ValueError:
        return
