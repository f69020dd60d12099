"""How much harder one term pulls than the others."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...diagnostics.histogram_distance import distances_by_layer
from ...diagnostics.statistics import RATIOS, LayerStatistics
from ..records import Event, Record, ScalarTable
from ..schedules import Clock, Schedule, earliest
from ..snapshot import Snapshot
from ..stretch import Stretch
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
    _idle: range = range(0)  # steps at which no distances are due

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
        yield _ratios(snapshot.statistics, reference)
        if self.distances.due(snapshot.step, _TIME_NO_MATTER):
            yield _distances(snapshot, reference)

    def joins(self, step: int, terms: Collection[str]) -> bool:
        """Whether a step can be measured in a stretch: distances are for single steps alone."""
        if len(terms) < 2:
            return True
        if not any(each in terms for each in self._chosen):
            return False
        if step not in self._idle:
            self._idle = range(step, earliest(self.distances, step))
        return step in self._idle or not self.distances.due(step, _TIME_NO_MATTER)

    def measure_stretch(self, stretch: Stretch) -> Iterator[ScalarTable]:
        """Yields the ratios of all its steps; nothing for a single term."""
        if len(stretch.terms) < 2:
            return
        reference = next(each for each in self._chosen if each in stretch.terms)
        yield _ratios(stretch.statistics, reference)

    @property
    def settings(self) -> dict[str, Any]:
        """What `measure_stretch` needs to know, for a run that has to be completed later."""
        return {"chosen": list(self._chosen)}

    @classmethod
    def with_settings(cls, settings: Mapping[str, Any]) -> Imbalance:
        """Returns the instrument that goes on with them."""
        return cls(_chosen=list(settings["chosen"]))

    def _choose(self, snapshot: Snapshot) -> str:
        for term in snapshot.terms:
            if any(piece in term.lower() for piece in _REFERENCES):
                return term
        norms = np.nan_to_num(snapshot.statistics.norm[:, -1], nan=-1.0)
        return snapshot.terms[int(norms.argmax())]


def _ratios(found: LayerStatistics, reference: str) -> ScalarTable:
    ratios = found.ratios(reference)
    others, terms = _others(found.terms, reference)
    return ScalarTable(RATIOS, ratios.values[..., others, :], terms, found.layers)


def _distances(snapshot: Snapshot, reference: str) -> ScalarTable:
    found = snapshot.statistics
    others, terms = _others(found.terms, reference)
    distances = distances_by_layer(snapshot.histograms, reference)
    is_measured = found.not_finite == 0
    distances[~(is_measured & is_measured[found.terms.index(reference)])] = np.nan
    return ScalarTable(("magnitude_distance",), distances[None, others], terms, found.layers)


def _others(terms: tuple[str, ...], reference: str) -> tuple[list[int], tuple[str, ...]]:
    """Returns the rows and the names of all other terms."""
    others = [row for row, term in enumerate(terms) if term != reference]
    return others, tuple(terms[row] for row in others)
