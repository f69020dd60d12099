"""How much harder one term pulls than the others."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ...diagnostics.histogram_distance import distances_by_layer
from ...diagnostics.statistics import RATIOS
from ..records import Event, Record, ScalarTable
from ..schedules import Clock, Schedule
from ..snapshot import Snapshot
from .base import Reads, often

# The schedule of the instrument has looked at the time already.
_TIME_NO_MATTER = Clock(training=math.inf, measuring=0.0, next_cost=0.0)

# Pieces of names that people give to the term which the others are compared with.
_REFERENCES = ("resid", "pde", "physic", "interior", "colloc")


@dataclass(eq=False)
class Imbalance:
    """The paper's ratio max|g_ref| / mean|g_i| and others, of every term, by layer and in all.

    Gradients are compared as they stand, unweighted: a report that knows the weights can divide.

    Args:
        schedule: when.
        reference: the term that the others are compared with. By default one whose name says that
            it is a residual; else the one that pulls hardest at the first measurement.
        distances: at which of these steps the distance between distributions is measured as well,
            from the histograms of the step.

    Records: scalars `max_to_mean`, `norm_ratio`, `std_ratio` and `kurtosis_ratio`, as in
    `MagnitudeRatios`; `magnitude_distance`, in powers of ten, as in `distances_by_layer`.
    """

    schedule: Schedule = field(default_factory=often)
    reference: str | None = None
    distances: Schedule = field(default_factory=often)
    name: str = "imbalance"
    reads: Reads = "gradients"
    _chosen: list[str] = field(default_factory=list)  # by their names: parts may get others

    def measure(self, snapshot: Snapshot) -> Iterator[Record]:
        """Yields the ratios; nothing for a single term."""
        if len(snapshot.gradients) < 2:
            return
        reference = next((each for each in self._chosen if each in snapshot.terms), None)
        if reference is None:
            reference = self.reference or self._choose(snapshot)
            if reference not in self._chosen:
                self._chosen.append(reference)
                yield Event("reference", f"Terms are compared with {reference}.", self.name)
        found = snapshot.statistics.ratios(reference)
        others = [row for row, term in enumerate(found.terms) if term != reference]
        terms = tuple(found.terms[row] for row in others)
        yield ScalarTable(RATIOS, found.values[:, others], terms, found.layers)
        if self.distances.due(snapshot.step, _TIME_NO_MATTER):
            distances = distances_by_layer(snapshot.histograms, reference)
            is_measured = snapshot.statistics.not_finite == 0
            distances[~(is_measured & is_measured[found.terms.index(reference)])] = np.nan
            yield ScalarTable(("magnitude_distance",), distances[None, others], terms, found.layers)

    def _choose(self, snapshot: Snapshot) -> str:
        for term in snapshot.terms:
            if any(piece in term.lower() for piece in _REFERENCES):
                return term
        norms = np.nan_to_num(snapshot.statistics.norm[:, -1], nan=-1.0)
        return snapshot.terms[int(norms.argmax())]
