"""Curves of histograms: the share of entries per decade, and the kernel density of the paper."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ...diagnostics.histograms import GradientHistogram, signed_log_edges
from .measured import Values

PER_DECADE = 5
"""Points of a curve for a factor of ten."""

_MOST_DECADES = 9
_GRID = 200


@dataclass(frozen=True, eq=False)
class WeightedHistogram:
    """The entries of a gradient, multiplied by the weight of its term."""

    histogram: GradientHistogram
    weight: float = 1.0

    @property
    def zeros(self) -> float:
        """The share of entries that are exactly zero; NaN without entries."""
        if self.weight == 0:
            return 1.0
        return self.histogram.zeros / self.histogram.count if self.histogram.count else math.nan

    @property
    def not_finite(self) -> int:
        """The number of entries that are infinite or not a number."""
        return self.histogram.nans + self.histogram.infs

    @property
    def is_empty(self) -> bool:
        """Whether no entry is finite and other than zero."""
        found = self.histogram
        return self.weight == 0 or found.count == found.zeros + self.not_finite

    @property
    def median(self) -> float:
        """The median magnitude, zeros among the entries."""
        return self.quantile(0.5)

    def quantile(self, q: float) -> float:
        """Returns a quantile of the magnitudes of the entries that are finite."""
        found = self.histogram
        finite = found.count - found.nans
        most = (finite - found.infs) / finite if finite else 1.0
        return abs(self.weight) * found.magnitude_quantile(q * most)

    def shares(self, edges: Values) -> Values:
        """Returns the share of all entries between edges, without those that are exactly zero."""
        own = edges / self.weight if self.weight > 0 else edges[::-1] / self.weight
        found = self.histogram.density(own) * np.diff(own)
        middle = int(np.searchsorted(own, 0.0)) - 1
        found[middle] = max(0.0, found[middle] - self.zeros)
        return found if self.weight > 0 else found[::-1]

    @property
    def spread(self) -> float:
        """The standard deviation of the entries that are finite."""
        counts, centres = self._points()
        mean = float(counts @ centres) / counts.sum()
        return abs(self.weight) * math.sqrt(float(counts @ (centres - mean) ** 2) / counts.sum())

    def kernel_density(self, limit: float) -> tuple[Values, Values]:
        """Returns places within +-limit and the density there.

        Of a Gaussian kernel of Scott's bandwidth, n^(-1/5) standard deviations, between three
        bandwidths below the smallest and above the largest entry, as the paper's code draws it.
        """
        counts, centres = self._points()
        centres = centres * self.weight
        width = self.spread * float(counts.sum()) ** -0.2
        if not width > 0:  # all entries are equal
            width = max(abs(float(centres[0])) * 1e-3, 1e-300)
        low, high = centres.min() - 3 * width, centres.max() + 3 * width
        at = np.linspace(max(low, -limit), min(high, limit), _GRID)
        kernel = np.exp(-0.5 * ((at[:, None] - centres) / width) ** 2)
        density = kernel @ counts / (counts.sum() * width * math.sqrt(2 * math.pi))
        return at, density

    def _points(self) -> tuple[Values, Values]:
        counts, edges = self.histogram.to_numpy()
        kept = counts > 0
        return counts[kept].astype(float), ((edges[:-1] + edges[1:]) / 2)[kept]


@dataclass(frozen=True, eq=False)
class SignedDecades:
    """A signed logarithmic axis on which several histograms fit.

    Attributes:
        first: the power of ten below which it is linear.
        last: the power of ten at its ends.
    """

    first: int
    last: int

    @classmethod
    def of(cls, cells: Iterable[WeightedHistogram]) -> SignedDecades:
        """Returns the axis that holds all entries, the lowest 3 % of each in its linear part.

        It is at most nine decades long on either side.
        """
        known = [cell for cell in cells if not cell.is_empty]
        tops = [cell.quantile(1.0) for cell in known]
        last = min(max(math.ceil(math.log10(max(tops, default=1.0))), -300), 307)
        lows = [cell.quantile(cell.zeros + 0.03 * (1 - cell.zeros)) for cell in known]
        first = math.floor(math.log10(max(min(lows, default=0.1), 1e-307)))
        return cls(min(max(first, last - _MOST_DECADES), last - 1), last)

    @property
    def edges(self) -> Values:
        """Edges of bins of equal length on the axis."""
        return signed_log_edges(
            linear_below=10.0**self.first, limit=10.0**self.last, per_decade=PER_DECADE
        )

    @property
    def centres(self) -> Values:
        """The middles of the bins, as the axis shows them."""
        left, right = self.edges[:-1], self.edges[1:]
        is_outer = np.minimum(abs(left), abs(right)) > 0.999 * 10.0**self.first
        geometric = np.sign(left) * np.sqrt(abs(left * right))
        return np.where(is_outer & (left * right > 0), geometric, (left + right) / 2)
