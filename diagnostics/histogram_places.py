"""Counting the cells of small matrices, many at once, where a cell has more bins than entries.

To look through all codes of a dtype (see `FloatFormat`) would take longer than counting. So each
cell has *places* in ascending order of value, one for each code within some octaves of the largest
magnitude in its row, and in their middle one for all others, zeros above all.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray
from scipy.sparse import csc_array

from .histogram_bins import PER_OCTAVE, Bins, Bits, FloatFormat

# Octaves below the largest magnitude of a row that cells are counted in together: 14 decades, of
# which a gradient rarely needs more than 6.
_OCTAVES = 48
MIDDLE = _OCTAVES * PER_OCTAVE
PLACES = 2 * MIDDLE + 1


class CountedPlaces(NamedTuple):
    """How many entries each place of some cells has.

    Attributes:
        counts: of the places.
        nearest: of each cell, by how much the bins of its places are further from zero than the
            places are from the middle.
        has_others: whether the middle counts more than zeros in some cell.
    """

    counts: Int[NDArray[np.int32], "cells places"]
    nearest: Int[NDArray[np.int32], " cells"]
    has_others: bool


class PlaceCounter:
    """Counts the cells of matrices of one width, row by row.

    The counts are the product of a sparse matrix with the number 1: see `_Counter` in
    `histogram_counting.py`.

    Args:
        form: of their entries.
        rows: the most that a matrix has.
        widths: how many columns each cell of a row has.
    """

    def __init__(self, form: FloatFormat, rows: int, widths: Sequence[int]) -> None:
        self._form = form
        self._cells = len(widths)
        cells, size = rows * len(widths), rows * sum(widths)
        first = np.arange(0, cells * PLACES, PLACES, dtype=np.int32).reshape(rows, -1)
        self._first_places = np.repeat(first, widths, axis=1)
        ones, places = (np.ones(size, dtype=np.int32) for _ in range(2))
        limits = np.array([0, size], dtype=np.int32)
        self._matrix = csc_array((ones, places, limits), shape=(cells * PLACES, 1))

    def count(self, bits: Bits) -> CountedPlaces:
        """Returns the counts of a matrix, given by the bits of its entries."""
        form, rows = self._form, len(bits)
        codes = form.codes(bits)
        direct = form.direct_magnitudes
        magnitudes = codes & (form.number_of_codes // 2 - 1)  # without the sign
        tops = magnitudes.max(axis=1).tolist()
        if max(tops) >= direct.stop:  # infinities, say
            tops = np.where(magnitudes < direct.stop, magnitudes, 0).max(axis=1).tolist()
        lowest = [max(direct.start, (top // PER_OCTAVE + 1) * PER_OCTAVE - MIDDLE) for top in tops]
        matrix = self._matrix
        places = matrix.indices[: bits.size].reshape(bits.shape)
        for row, low in enumerate(lowest):
            # "wrap" has nothing to wrap; "raise" would make a copy first.
            _places_of_codes(form, low).take(codes[row], out=places[row], mode="wrap")
        places += self._first_places[:rows]
        matrix.indptr[1] = bits.size  # the rest of the column is left out
        cells = rows * self._cells
        counts = matrix.dot(_ONE)[: cells * PLACES].reshape(cells, PLACES)
        first_bin = int(form.bins[direct.start]) - direct.start - 1
        nearest = np.repeat(np.array(lowest, dtype=np.int32) + np.int32(first_bin), self._cells)
        in_the_middle = int(counts[:, MIDDLE].sum())
        has_others = in_the_middle > 0 and in_the_middle != bits.size - np.count_nonzero(
            bits << form.bits(1)  # without the sign, which -0.0 has
        )
        return CountedPlaces(counts, nearest, has_others)


def bins_of_places(
    places: Int[NDArray[np.intp], " n"], middle: int, nearest: Int[NDArray[np.int32], " n"]
) -> Bins:
    """Returns the bins of places, with `nearest` of the cell of each."""
    from_middle = places - middle
    return (from_middle + np.sign(from_middle) * nearest).astype(np.int32)


_ONE = np.ones(1, dtype=np.int32)


@lru_cache(maxsize=64)
def _places_of_codes(form: FloatFormat, lowest: int) -> NDArray[np.int32]:
    """Returns the place of each code in a cell where that is the lowest magnitude with a place."""
    places = np.full(form.number_of_codes, MIDDLE, dtype=np.int32)
    magnitudes = np.arange(lowest, min(lowest + MIDDLE, form.direct_magnitudes.stop))
    places[magnitudes] = MIDDLE + 1 + (magnitudes - lowest)
    places[form.number_of_codes // 2 + magnitudes] = MIDDLE - 1 - (magnitudes - lowest)
    return places
