"""Statistics of few numbers, against scipy and by hand."""

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, strategies as st

from gradpath.reports.comparison import paired_ratio, power_law, ranks, spread

positive = st.floats(1e-12, 1e12)


def test_median_and_quartiles_are_those_of_a_sorted_list() -> None:
    found = spread([5.0, 1.0, math.nan, 4.0, 2.0, 3.0])
    assert (found.count, found.least, found.lower, found.median) == (5, 1.0, 2.0, 3.0)
    assert (found.upper, found.most) == (4.0, 5.0)


def test_an_infinite_number_is_the_largest_and_no_number_is_left_out() -> None:
    assert spread([1.0, 2.0, math.inf]).median == 2.0
    assert spread([math.inf, 2.0, math.nan]).most == math.inf
    assert spread([math.nan]).count == 0
    assert math.isnan(spread([]).median)


@pytest.mark.parametrize("count", [3, 4, 5])
def test_the_interval_is_that_of_all_samples_that_can_be_drawn(count: int) -> None:
    logs = np.sort(np.random.default_rng(count).normal(size=count))
    medians = [np.median(logs[list(each)]) for each in product(range(count), repeat=count)]
    lower, upper = np.exp(np.quantile(medians, (0.025, 0.975)))
    found = paired_ratio(dict(enumerate(np.exp(logs))), dict.fromkeys(range(count), 1.0))
    assert (found.lower, found.upper) == pytest.approx((lower, upper))


def test_the_interval_is_that_of_scipys_percentile_bootstrap() -> None:
    ours, theirs = np.exp(np.random.default_rng(0).normal(size=(2, 41)))
    found = paired_ratio(dict(enumerate(ours)), dict(enumerate(theirs)))
    expected = scipy.stats.bootstrap(
        (np.log(ours / theirs),), np.median, method="percentile", n_resamples=20_000
    ).confidence_interval
    assert np.log(found.lower) == pytest.approx(expected.low, abs=0.03)
    assert np.log(found.upper) == pytest.approx(expected.high, abs=0.03)
    assert found.median == pytest.approx(float(np.exp(np.median(np.log(ours / theirs)))))


def test_of_three_pairs_the_interval_is_their_range() -> None:
    found = paired_ratio({0: 2.0, 1: 3.0, 2: 8.0}, {0: 1.0, 1: 1.0, 2: 2.0})
    assert (found.median, found.lower, found.upper) == (3.0, 2.0, 4.0)
    assert (found.below, found.above, found.direction) == (0, 3, 1)


def test_only_pairs_of_positive_finite_numbers_count() -> None:
    ours = {0: 2.0, 1: 0.0, 2: math.nan, 3: -1.0, 4: math.inf, 5: 3.0}
    found = paired_ratio(ours, dict.fromkeys(range(5), 1.0))
    assert (found.pairs, found.median, found.direction) == (1, 2.0, 0)
    assert math.isnan(found.lower)
    assert paired_ratio({}, {0: 1.0}).pairs == 0


@given(st.lists(st.tuples(positive, positive), min_size=2, max_size=8))
def test_turned_round_a_ratio_is_its_inverse(pairs: list[tuple[float, float]]) -> None:
    ours = {place: one for place, (one, _) in enumerate(pairs)}
    theirs = {place: other for place, (_, other) in enumerate(pairs)}
    found, turned = paired_ratio(ours, theirs), paired_ratio(theirs, ours)
    assert found.median == pytest.approx(1 / turned.median, rel=1e-6)
    assert found.direction in (-turned.direction, 0) or turned.direction == 0
    assert found.below == turned.above


def test_equal_numbers_show_no_difference() -> None:
    same = {place: 0.1 * place + 0.3 for place in range(6)}
    found = paired_ratio(same, same)
    assert (found.median, found.lower, found.upper, found.direction) == (1.0, 1.0, 1.0, 0)


@given(st.lists(st.one_of(st.integers(0, 5).map(float), st.just(math.nan)), max_size=8))
def test_ranks_are_scipys_average_ranks(numbers: list[float]) -> None:
    expected: Any = scipy.stats.rankdata(numbers, nan_policy="omit") if numbers else []
    np.testing.assert_array_equal(ranks(numbers), expected)


@pytest.mark.parametrize(("exponent", "factor"), [(4.0, 1e-3), (-0.5, 7.0), (0.0, 2.0)])
def test_an_exact_power_law_is_found(exponent: float, factor: float) -> None:
    x = [1.0, 2.0, 4.0, 8.0, 16.0]
    law = power_law(x, [factor * each**exponent for each in x])
    assert law is not None
    assert law.exponent == pytest.approx(exponent, abs=1e-12)
    assert law.factor == pytest.approx(factor)
    assert law.upper - law.lower < 1e-9
    np.testing.assert_allclose(law.at(np.array(x)), factor * np.array(x) ** exponent)


def test_the_interval_of_an_exponent_is_that_of_a_linear_regression() -> None:
    random = np.random.default_rng(3)
    x = np.repeat([1.0, 2.0, 3.0, 4.0], 3)
    y = x**2 * np.exp(0.3 * random.normal(size=12))
    law = power_law(x.tolist(), y.tolist())
    assert law is not None
    line = scipy.stats.linregress(np.log(x), np.log(y))
    margin = scipy.stats.t.ppf(0.975, 10) * line.stderr
    assert law.exponent == pytest.approx(line.slope)
    assert (law.lower, law.upper) == pytest.approx((line.slope - margin, line.slope + margin))


def test_a_power_law_needs_two_values_and_an_interval_three_points() -> None:
    assert power_law([2.0, 2.0], [1.0, 3.0]) is None
    assert power_law([1.0, -1.0, 0.0], [1.0, 3.0, 2.0]) is None
    law = power_law([1.0, 2.0], [1.0, 4.0])
    assert law is not None
    assert law.exponent == pytest.approx(2.0)
    assert math.isnan(law.lower)
    assert not law.is_shown
