"""Whether the gradients of the terms pull the same way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...diagnostics.statistics import LayerStatistics
from ..records import Record, ScalarTable
from ..schedules import Schedule
from ..snapshot import Snapshot
from ..stretch import Stretch
from .base import Reads, often


@dataclass(eq=False)
class Alignment:
    """The alignment score, the cosines of all pairs of terms, and what cancels in the sum.

    Records: scalars `alignment` in every layer and in all; `cosine:<other term>` of each term with
    those after it, likewise; `cancellation`, ||sum w g|| / sum ||w g||, likewise.
    """

    schedule: Schedule = field(default_factory=often)
    name: str = "alignment"
    reads: Reads = "gradients"

    def measure(self, snapshot: Snapshot) -> Iterator[Record]:
        """Yields scores by layer; nothing for a single term."""
        if len(snapshot.gradients) < 2:
            return
        weights = [snapshot.weights[term] for term in snapshot.statistics.terms]
        yield from _scores(snapshot.statistics, weights)

    def measure_stretch(self, stretch: Stretch) -> Iterator[ScalarTable]:
        """Yields the same of all its steps."""
        if len(stretch.terms) > 1:
            yield from _scores(stretch.statistics, stretch.weights)


def _scores(
    found: LayerStatistics, weights: Sequence[float] | NDArray[np.float64]
) -> Iterator[ScalarTable]:
    scores = np.stack([found.alignment, found.cancellation(weights)])
    yield ScalarTable(("alignment", "cancellation"), scores[..., None, :], layers=found.layers)
    for row, term in enumerate(found.terms[:-1]):
        names = tuple(f"cosine:{other}" for other in found.terms[row + 1 :])
        cosines = np.moveaxis(found.cosines[..., row, row + 1 :], -1, 0)
        yield ScalarTable(names, cosines[..., None, :], (term,), found.layers)
