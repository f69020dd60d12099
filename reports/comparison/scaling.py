"""How a quantity grows along the columns of a comparison: points of a row, and their power law."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .members import Key
from .statistics import PowerLaw, power_law

if TYPE_CHECKING:
    from .comparing import Comparison

# Through two values there is always a line.
FEWEST_VALUES = 3


def points_of(comparison: Comparison, quantity: str, row: Key) -> list[tuple[float, float]]:
    """Returns (column, number) of every run of a row that counts, where the column is a number.

    What is not positive and finite has no place on logarithmic axes, and is left out.
    """
    return [
        (float(column), value)
        for column in comparison.column_values
        if isinstance(column, int | float) and not isinstance(column, bool) and column > 0
        for value in comparison.numbers(quantity, row, column).values()
        if 0 < value < float("inf")
    ]


def growth(comparison: Comparison, quantity: str, row: Key) -> PowerLaw | None:
    """Returns the power law of a quantity over the columns; None with fewer than three of them."""
    points = points_of(comparison, quantity, row)
    if len({x for x, _ in points}) < FEWEST_VALUES:
        return None
    return power_law([x for x, _ in points], [y for _, y in points])
