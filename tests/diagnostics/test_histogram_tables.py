"""Tables of histograms: what is read is what was written, and damage is named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from gradpath.diagnostics.errors import ArgumentError
from gradpath.diagnostics.histogram_bins import INFINITY_BIN, NAN_BIN
from gradpath.diagnostics.histogram_counting import count_cells
from gradpath.diagnostics.histogram_tables import decode_table, encode_tables
from gradpath.diagnostics.histograms_of_steps import tables_of_steps

counted = st.dictionaries(
    st.integers(-INFINITY_BIN, NAN_BIN),
    st.one_of(st.integers(1, 40), st.integers(200, 300), st.integers(1, 2**62)),
    max_size=30,
).map(
    lambda counts: (
        np.array(sorted(counts), dtype=np.int32),
        np.array([counts[bin_] for bin_ in sorted(counts)], dtype=np.int64),
    )
)


@given(st.data(), st.integers(1, 4), st.integers(0, 4))
def test_what_is_read_is_what_was_written(data: st.DataObject, size: int, tables: int) -> None:
    number = size * tables
    histograms = data.draw(st.lists(counted, min_size=number, max_size=number))
    encoded = encode_tables(histograms, size)
    assert len(encoded) == tables
    found = [each for table in encoded for each in decode_table(table)]
    for (bins, counts), (expected_bins, expected_counts) in zip(found, histograms, strict=True):
        assert bins.dtype == np.int32
        np.testing.assert_array_equal(bins, expected_bins)
        np.testing.assert_array_equal(counts, expected_counts)


def test_gradients_take_less_than_a_byte_a_bin() -> None:
    numbers = torch.Generator().manual_seed(0)
    counted = count_cells(torch.randn(8, 2500, generator=numbers), [2500])
    (data,) = encode_tables(counted, 8)
    assert len(data) < 1.1 * sum(len(bins) for bins, _ in counted)


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_what_is_cut_short_is_named(cut: int) -> None:
    (data,) = encode_tables(count_cells(torch.arange(100.0)[None], [60, 40]), 2)
    for damaged in (data[:-cut], data + bytes(cut), b"?" + data):
        with pytest.raises(ArgumentError, match="no table of histograms, or a damaged one"):
            decode_table(damaged)


SPECIAL = [0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e-45, -1e-40, 6e-8, 1e-300, 3e38]


@st.composite
def steps(draw: st.DrawFn) -> tuple[Tensor, list[int]]:
    """Gradients of some steps, and how wide the layers are."""
    number, terms, layers = (draw(st.integers(1, most)) for most in (7, 3, 5))
    widths = draw(st.lists(st.integers(1, 40), min_size=layers, max_size=layers))
    dtype = draw(st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    shape = number, terms, sum(widths)
    spread = draw(st.sampled_from([0.0, 1.0, 10.0, 60.0]))
    exponents = spread * torch.randn(shape, generator=random, dtype=torch.float64)
    entries = torch.randn(shape, generator=random, dtype=torch.float64) * exponents.exp()
    flat = entries.reshape(-1)
    for value in draw(st.lists(st.sampled_from(SPECIAL), max_size=4)):
        places = torch.rand(len(flat), generator=random) < draw(st.sampled_from([0.02, 0.5, 1.0]))
        flat[places] = value
    return entries.to(dtype), widths


def assert_as_counted(gradients: Tensor, widths: list[int]) -> None:
    expected = count_cells(gradients.flatten(0, 1), widths)
    found = [each for table in tables_of_steps(gradients, widths) for each in decode_table(table)]
    assert len(found) == len(expected)
    for (bins, counts), (expected_bins, expected_counts) in zip(found, expected, strict=True):
        assert bins.dtype == np.int32
        assert counts.dtype == np.int64
        np.testing.assert_array_equal(bins, expected_bins)
        np.testing.assert_array_equal(counts, expected_counts)


@settings(max_examples=200, deadline=None)
@given(steps())
def test_steps_are_read_as_they_were_counted(given_steps: tuple[Tensor, list[int]]) -> None:
    assert_as_counted(*given_steps)


@pytest.mark.parametrize("number", [15, 16, 270, 271, 272, 70_000])
def test_a_place_has_as_many_entries_as_it_may(number: int) -> None:
    ones = torch.cat([torch.ones(number), torch.zeros(3), torch.tensor([2.0])])
    assert_as_counted(torch.stack([ones, -ones]).expand(3, 2, -1), [number, 4])


def test_many_layers_and_large_ones_are_read_as_well() -> None:
    numbers = torch.Generator().manual_seed(0)
    assert_as_counted(torch.randn(2, 3, 200, generator=numbers), [2] * 100)
    assert_as_counted(torch.randn(2, 1, 300_000, generator=numbers), [100_000, 200_000])
    assert_as_counted(torch.randn(5, 4, 60, generator=numbers).transpose(0, 1), [50, 10])


def test_places_take_little_more_than_a_byte_a_bin() -> None:
    gradients = torch.randn(2, 2, 2500, generator=torch.Generator().manual_seed(0))
    occupied = sum(len(bins) for bins, _ in count_cells(gradients[0], [2000, 500]))
    first, _ = tables_of_steps(gradients, [2000, 500])
    assert len(first) < 1.2 * occupied


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_places_that_are_cut_short_are_named(cut: int) -> None:
    (data,) = tables_of_steps(torch.arange(100.0).reshape(1, 1, -1), [60, 40])
    for damaged in (data[:-cut], data + bytes(cut), data[:3] + b"?" + data[4:]):
        with pytest.raises(ArgumentError, match="no table of histograms, or a damaged one"):
            decode_table(damaged)
