"""Statistics of latencies against references: scipy's binomial, brute force, and data whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom

from runtimes.measure.figures import (
    FEWEST_SAMPLES,
    binomial_cdf,
    block_spread,
    early_stopping,
    fewest_samples,
    misses,
    percentiles_ms,
    ratio_interval,
    steady,
)


@given(st.integers(1, 3000), st.floats(0.0005, 0.9995), st.data())
def test_the_binomial_is_scipy_s(count: int, chance: float, data: st.DataObject) -> None:
    most = data.draw(st.integers(-1, min(count, 300)))
    assert binomial_cdf(most, count, chance) == pytest.approx(float(binom.cdf(most, count, chance)), rel=1e-6, abs=1e-12)


def test_the_fewest_samples_are_those_of_mlperf() -> None:
    assert {percent: fewest_samples(percent) for percent in (90, 95, 99, 99.9)} == {
        percent: FEWEST_SAMPLES[percent] for percent in (90, 95, 99, 99.9)}


@pytest.mark.parametrize("percent", [90, 95, 99])
def test_a_percentile_appears_with_its_last_missing_sample(percent: int) -> None:
    few = FEWEST_SAMPLES[percent]
    assert f"p{percent}_ms" not in percentiles_ms(range(1, few))
    assert f"p{percent}_ms" in percentiles_ms(range(1, few + 1))
    assert early_stopping(range(1, few), percent) is None
    assert early_stopping(range(1, few + 1), percent) == few  # the largest alone is sure enough


def test_early_stopping_covers_the_true_percentile_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    bounds = [early_stopping(random.uniform(0, 1, 400), 90) for _ in range(400)]
    assert np.mean([bound >= 0.9 for bound in bounds if bound is not None]) >= 0.98
    assert np.median(bounds) < 0.95  # and it is no wild guess either


def test_no_sample_is_clipped_away() -> None:
    values = np.full(1000, 1_000_000)
    values[7] = 90_000_000
    shown = percentiles_ms(values)
    assert shown["max_ms"] == 90
    assert shown["p50_ms"] == shown["min_ms"] == 1
    assert shown["mean_ms"] == pytest.approx(1.089)


@given(st.integers(1, 400), st.data())
def test_the_share_of_misses_has_the_bound_of_clopper_and_pearson(count: int, data: st.DataObject) -> None:
    late = data.draw(st.integers(0, count))
    found = misses([2e6] * late + [1e6] * (count - late), 1.5)
    assert (found["missed"], found["samples"]) == (late, count)
    expected = 1.0 if late == count else float(beta.ppf(0.95, late + 1, count - late))
    assert found["share_at_most"] == pytest.approx(expected, abs=1e-6)


def test_steady_means_two_windows_alike() -> None:
    assert not steady([100] * 49)
    assert steady([500] * 10 + [100] * 50)
    assert not steady([*range(200, 100, -1)])


def test_an_interval_of_a_ratio_holds_the_truth_and_narrows() -> None:
    random = np.random.default_rng(0)

    def blocks(scale: float, count: int) -> list[np.ndarray]:
        return [random.lognormal(0, 0.1, 100) * scale * random.normal(1, 0.01) for _ in range(count)]

    held = 0
    for seed in range(60):
        ratio, low, high = ratio_interval(blocks(1, 8), blocks(1.1, 8), rounds=300, seed=seed)
        assert low <= ratio <= high
        held += low <= 1.1 <= high
    assert held >= 51  # 95 % but for the few blocks
    wide, narrow = (np.ptp(ratio_interval(blocks(1, count), blocks(1, count))[1:]) for count in (4, 40))
    assert narrow < wide
    ratio, low, high = ratio_interval(blocks(1, 8), blocks(1.5, 8))
    assert low > 1.3


def test_blocks_that_differ_are_seen_to() -> None:
    assert block_spread([[100] * 9] * 5) == 0
    assert block_spread([[100], [100], [150], [150], [200]]) == pytest.approx(50 / 150)
