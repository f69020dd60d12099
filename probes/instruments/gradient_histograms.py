"""Gradient histograms per layer and term."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ..records import HistogramRecord, HistogramTable, Record
from ..schedules import Schedule
from ..snapshot import Snapshot
from ..stretch import Stretch
from .base import Reads, often


@dataclass(eq=False)
class GradientHistograms:
    """The histogram of every term's unweighted gradient in every layer.

    Where PyTorch gives no gradient but that of the total, it is that of "total".

    Records: histograms `gradient`.
    """

    schedule: Schedule = field(default_factory=often)
    name: str = "gradient_histograms"
    reads: Reads = "gradients"

    def measure(self, snapshot: Snapshot) -> Iterator[Record]:
        """Yields one histogram a term and layer."""
        for (term, layer), histogram in snapshot.histograms.items():
            yield HistogramRecord(histogram, str(term), layer)

    def measure_stretch(self, stretch: Stretch) -> Iterator[HistogramTable]:
        """Yields those of all its steps."""
        yield HistogramTable(stretch.histograms, stretch.terms, stretch.layout.layers)
