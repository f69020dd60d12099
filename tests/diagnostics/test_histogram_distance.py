"""Distances from histograms against those of the entries themselves."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, strategies as st
from scipy.stats import wasserstein_distance

from gradpath.diagnostics import (
    DISTANCE_ERROR,
    ArgumentError,
    GradientHistogram,
    ParameterLayout,
    TermGradients,
    distances_by_layer,
    histograms_by_layer,
    imbalance,
    magnitude_distance,
)

LAYOUT = ParameterLayout.of(torch.nn.Sequential(torch.nn.Linear(2, 30), torch.nn.Linear(30, 5)))
TERMS = ("residual", "boundary", "initial")

NUMBERS = st.lists(
    st.one_of(
        st.floats(-10, 10),
        st.floats(-300, 300).map(lambda decade: 10.0**decade),
        st.sampled_from([0.0, 5e-324, 1.7e308, float("inf"), float("nan")]),
    ),
    max_size=30,
)


def decades(values: list[float]) -> np.ndarray:
    magnitudes = np.abs(values)
    return np.log10(magnitudes[(magnitudes > 0) & (magnitudes < np.inf)])


def of(values: list[float]) -> GradientHistogram:
    return GradientHistogram.of(torch.tensor(values, dtype=torch.float64))


@given(NUMBERS, NUMBERS)
def test_the_distance_is_that_of_the_entries_to_within_its_error(
    first: list[float], second: list[float]
) -> None:
    assume(len(decades(first)) and len(decades(second)))
    exact = wasserstein_distance(decades(first), decades(second))
    found = magnitude_distance(of(first), of(second))
    assert found == pytest.approx(exact, abs=DISTANCE_ERROR * (1 + 1e-9))
    assert magnitude_distance(of(second), of(first)) == pytest.approx(found)
    assert magnitude_distance(of(first), of(first)) == 0


def test_the_error_is_reached_by_entries_at_the_ends_of_their_bins() -> None:
    """Two entries of 1, in the widest bin there is, and two that almost belong to the next."""
    first, second = [1.0, 1.0], [1.0624999, 1.0625]
    exact = wasserstein_distance(decades(first), decades(second))
    found = magnitude_distance(of(first), of(second))
    assert abs(found - exact) == pytest.approx(DISTANCE_ERROR / 2, rel=0.05)


@pytest.mark.parametrize("factor", [1e-3, 10.0, 1e6])
def test_a_factor_is_its_decades(factor: float) -> None:
    g = torch.randn(3000, dtype=torch.float64) ** 3
    found = magnitude_distance(GradientHistogram.of(g), GradientHistogram.of(factor * g))
    assert found == pytest.approx(abs(np.log10(factor)), abs=2e-3)


def test_distances_by_layer_are_those_of_imbalance() -> None:
    values = torch.randn(3, LAYOUT.size, dtype=torch.float64)
    values[1] = 1e-3 * values[1] ** 3
    values[2, ::3] = 0
    grads = TermGradients.of(values, TERMS)
    histograms = histograms_by_layer(grads, LAYOUT)
    found = distances_by_layer(histograms, "boundary")
    exact = imbalance(grads, LAYOUT, "boundary").distance
    np.testing.assert_allclose(found, exact, atol=DISTANCE_ERROR)
    for row, term in enumerate(TERMS):
        for column, layer in enumerate(LAYOUT.layers):
            pair = magnitude_distance(histograms["boundary", layer], histograms[term, layer])
            assert found[row, column] == pytest.approx(pair)
        first, second = (
            GradientHistogram.of(values[TERMS.index(wanted)]) for wanted in ("boundary", term)
        )
        assert found[row, -1] == pytest.approx(magnitude_distance(first, second))
    # The order of the mapping is that of the rows.
    turned = dict(reversed(histograms.items()))
    np.testing.assert_allclose(distances_by_layer(turned, "boundary")[::-1, -2::-1], found[:, :-1])


def test_a_gradient_that_is_zero_has_no_distance() -> None:
    grads = torch.randn(3, LAYOUT.size)
    grads[1, LAYOUT.slices["1"]] = 0
    grads[2] = 0
    found = distances_by_layer(histograms_by_layer(grads, LAYOUT), 0)
    assert np.isnan(found).tolist() == [[False] * 3, [False, True, False], [True] * 3]
    assert np.isnan(distances_by_layer(histograms_by_layer(grads, LAYOUT), 2)).all()
    nothing = GradientHistogram.of(torch.zeros(3))
    assert np.isnan(magnitude_distance(nothing, nothing))
    assert np.isnan(magnitude_distance(nothing, GradientHistogram.of(torch.ones(3))))


def test_histograms_that_cannot_be_compared_are_refused() -> None:
    histograms = histograms_by_layer(torch.randn(2, LAYOUT.size), LAYOUT)
    with pytest.raises(ArgumentError, match=r"Distances from 'residual' need histograms"):
        distances_by_layer(histograms, "residual")
    del histograms[1, "0"]
    with pytest.raises(ArgumentError, match="every term in every layer"):
        distances_by_layer(histograms, 0)
