"""The gradient histograms of many training steps, counted and made to bytes together."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from .histogram_counting import count_cells, count_places
from .histogram_tables import encode_places, encode_tables

# Cells and entries of a step up to which all its places fit into the cache.
_MOST_AT_ONCE, _MOST_ENTRIES = 64, 1 << 18


def tables_of_steps(
    gradients: Float[Tensor, "steps terms params"], widths: Sequence[int]
) -> list[bytes]:
    """Returns the histograms of the gradients of some steps as bytes, a table each.

    Args:
        gradients: side by side.
        widths: how many parameters each layer has.

    Raises:
        ArgumentError: they are no dense tensor of a dtype whose bits are known here.
    """
    size = gradients.shape[1] * len(widths)
    if size > _MOST_AT_ONCE or gradients[:1].numel() > _MOST_ENTRIES:
        return encode_tables(count_cells(gradients.flatten(0, 1), widths), size)
    tables: list[bytes] = []
    for counted, number in count_places(gradients, widths):
        if counted.has_others:
            some = gradients[len(tables) : len(tables) + number]
            tables += encode_tables(count_cells(some.flatten(0, 1), widths), size)
        else:
            tables += encode_places(counted, number)
    return tables
