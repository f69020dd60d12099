"""Numbers that say what a gradient is like: how large, how scattered, how much of it is zero."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ...diagnostics.statistics import (
    QUANTITIES,
    GradientStatistics as Statistics,
    LayerStatistics,
)
from ..records import Record, ScalarTable
from ..schedules import Schedule
from ..snapshot import Snapshot
from ..stretch import Stretch
from .base import Reads, often

# What is recorded of them, under which name.
_NAMES = {
    "gradient_max": "max_magnitude",
    "gradient_mean": "mean_magnitude",
    "gradient_std": "std_magnitude",
    "gradient_norm": "norm",
    "gradient_zeros": "zeros",
    "gradient_near_zeros": "near_zeros",
    "gradient_not_finite": "not_finite",
}
_PLACES = [QUANTITIES.index(quantity) for quantity in _NAMES.values()]


@dataclass(eq=False)
class GradientStatistics:
    """Statistics of every term's unweighted gradient, by layer and in all.

    Records: scalars `gradient_max`, `gradient_mean` and `gradient_std` of the magnitudes,
    `gradient_norm`, and the numbers of entries that are `gradient_zeros`, `gradient_near_zeros` and
    `gradient_not_finite`; each also with `_weights` and `_biases` at its end, for weight matrices
    and for all other parameters alone.
    """

    schedule: Schedule = field(default_factory=often)
    name: str = "gradient_statistics"
    reads: Reads = "gradients"

    def measure(self, snapshot: Snapshot) -> Iterator[Record]:
        """Yields three tables."""
        yield from _tables(snapshot.statistics)

    def measure_stretch(self, stretch: Stretch) -> Iterator[ScalarTable]:
        """Yields the same of all its steps."""
        yield from _tables(stretch.statistics)


def _tables(found: Statistics) -> Iterator[ScalarTable]:
    yield _table(found, "")
    for part, suffix in ((found.matrices, "_weights"), (found.vectors, "_biases")):
        if part.layers:
            yield _table(part, suffix)


def _table(found: LayerStatistics, suffix: str) -> ScalarTable:
    names = tuple(name + suffix for name in _NAMES)
    return ScalarTable(names, found.values[_PLACES], found.terms, found.layers)
