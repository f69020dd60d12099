"""Where the entries of a cell of a small matrix are counted, which has more bins than entries.

To look through all codes of a dtype (see `FloatFormat`) would take longer than counting. So each
cell has *places* in ascending order of value, one for each code within some octaves of the largest
magnitude in its row, and in their middle one for all others, zeros above all.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from .histogram_bins import PER_OCTAVE, Bins, FloatFormat

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


def bins_of_places(
    places: Int[NDArray[np.intp], " n"], middle: int, nearest: Int[NDArray[np.int32], " n"]
) -> Bins:
    """Returns the bins of places, with `nearest` of the cell of each."""
    from_middle = places - middle
    return (from_middle + np.sign(from_middle) * nearest).astype(np.int32)


@lru_cache(maxsize=64)
def places_of_codes(form: FloatFormat, lowest: int) -> NDArray[np.int32]:
    """Returns the place of each code in a cell where that is the lowest magnitude with a place."""
    places = np.full(form.number_of_codes, MIDDLE, dtype=np.int32)
    magnitudes = np.arange(lowest, min(lowest + MIDDLE, form.direct_magnitudes.stop))
    places[magnitudes] = MIDDLE + 1 + (magnitudes - lowest)
    places[form.number_of_codes // 2 + magnitudes] = MIDDLE - 1 - (magnitudes - lowest)
    return places
