"""Which precision is advised: int8 only where it beats the best floating one clearly, fp32 where nothing does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.precision.advice import HALF_MARGIN, INT8_MARGIN, advise

TIMES = st.dictionaries(st.sampled_from(["fp16", "bf16", "int8"]), st.floats(0.05, 5.0), min_size=1)


@pytest.mark.parametrize(("times", "ship"), [
    ({"int8": 0.5}, "int8"), ({"int8": 0.9}, "fp32"), ({"int8": 0.5, "bf16": 0.45}, "bf16"), ({"int8": 0.3, "bf16": 0.45}, "int8"),
    ({"fp16": 1.02}, "fp32"), ({"bf16": 0.97}, "fp32"), ({"fp16": 0.6, "bf16": 0.7}, "fp16"), ({"int8": 1.3, "bf16": 1.4}, "fp32"),
])
def test_the_precision_that_ships_is_the_one_nothing_beats_clearly(times: dict[str, float], ship: str) -> None:
    found = advise(times)
    assert found.ship == ship
    assert all(f"{name} takes {value:.2f}" in found.reason for name, value in times.items())


@given(TIMES)
def test_int8_ships_only_by_its_margin_and_nothing_slower_than_fp32_ever_does(times: dict[str, float]) -> None:
    ship = advise(times).ship
    floating = min([1.0, *(value for name, value in times.items() if name != "int8")])
    if ship == "int8":
        assert times["int8"] * INT8_MARGIN <= floating * HALF_MARGIN
    assert ship == "fp32" or times[ship] < 1.0
