"""Tables of histograms: what is read is what was written, and damage is named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from gradpath.diagnostics.errors import ArgumentError
from gradpath.diagnostics.histogram_bins import INFINITY_BIN, NAN_BIN
from gradpath.diagnostics.histogram_counting import count_cells
from gradpath.diagnostics.histogram_tables import decode_table, encode_tables

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
