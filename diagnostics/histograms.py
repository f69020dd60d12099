"""Histograms of gradients that need no range: counts over fixed, signed, logarithmic bins.

Gradients span many powers of ten, change by orders of magnitude while a network trains, and come in
one tensor a layer and loss term. A histogram over equal bins between minimum and maximum shows one
spike and cannot be compared with the next one. `GradientHistogram` takes its bins from the bits of
the floating-point numbers instead (see `histogram_bins`): 16 bins between any power of two and the
next, the same for every dtype, layer, step and process. So one pass over the entries makes it,
histograms add up exactly, and every quantile is known to within 1/16 of its value.

Reading histograms needs no torch, which takes longer to load than a report to read its run: what
counts the entries of tensors is imported where it is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from jaxtyping import Float, Int32, Int64
from numpy.typing import NDArray

from .errors import ArgumentError
from .histogram_bins import (
    INFINITY_BIN,
    NAN_BIN,
    Bins,
    Counts,
    Values,
    combine,
    contiguous,
    entries_below,
    order_statistics,
    quantiles,
    ranges,
)
from .histogram_bytes import decode, encode

if TYPE_CHECKING:
    from torch import Tensor

    from .layout import ParameterLayout

Numbers = Sequence[float] | NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False, repr=False)
class GradientHistogram:
    """How many entries of a tensor lie in each signed logarithmic bin.

    Make one with `GradientHistogram.of`. Histograms are values: equal where all counts are equal,
    usable as dictionary keys, and added with `+` or `sum`. Statistics are over all entries that are
    not NaN, infinities included, and NaN where there is none; they are exact to within the width of
    a bin, which is at most 1/16 of the value (the entries of a bin are taken to be spread evenly).

    Attributes:
        bins: occupied bins in ascending order, numbered as `histogram_bins` says; read-only.
        counts: how many entries each of them has; read-only.

    Example:
        >>> first = GradientHistogram.of(torch.tensor([[-2.0, 0.0], [1e-3, float("nan")]]))
        >>> first.count, first.zeros, first.nans
        (4, 1, 1)
        >>> both = first + GradientHistogram.of(torch.full((97,), 1e-3, dtype=torch.float16))
        >>> both
        GradientHistogram(count=101, zeros=1, nans=1, infs=0, median=0.00101, largest=2.06)
        >>> round(both.fraction_below(0.1), 3)
        0.99
        >>> GradientHistogram.from_bytes(both.to_bytes()) == both
        True
    """

    bins: Int32[NDArray[np.int32], " bins"]
    counts: Int64[NDArray[np.int64], " bins"]

    def __post_init__(self) -> None:
        self.bins.setflags(write=False)
        self.counts.setflags(write=False)

    @classmethod
    def of(cls, tensor: Float[Tensor, "*shape"]) -> GradientHistogram:
        """Returns the histogram of all entries of a tensor.

        The entries are read once, in chunks, by as many threads as torch uses; no copy of the
        tensor's size is made.

        Args:
            tensor: float16, bfloat16, float32 or float64; of any shape, also an empty one, and on
                any device.

        Raises:
            ArgumentError: the tensor has another dtype, or is sparse.
        """
        from .histogram_counting import count_entries

        return cls(*count_entries(tensor))

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> GradientHistogram:
        """Returns the histogram that `to_bytes` wrote.

        Raises:
            ArgumentError: the bytes are something else, damaged, or of a later version.
        """
        return cls(*decode(data))

    def to_bytes(self) -> bytes:
        """Returns the histogram as bytes: about 230 for a layer of 2,500 normal entries."""
        return encode([(self.bins, self.counts)])[0]

    @staticmethod
    def all_to_bytes(histograms: Iterable[GradientHistogram]) -> list[bytes]:
        """Returns the bytes of each, which takes half the time of asking one by one."""
        return encode([(histogram.bins, histogram.counts) for histogram in histograms])

    @property
    def count(self) -> int:
        """The number of all entries, NaNs included."""
        return int(self.counts.sum())

    @property
    def zeros(self) -> int:
        """The number of exact zeros, of either sign."""
        return self._count_in(0)

    @property
    def nans(self) -> int:
        """The number of entries that are not a number."""
        return self._count_in(NAN_BIN)

    @property
    def infs(self) -> int:
        """The number of infinite entries."""
        return self.positive_infs + self.negative_infs

    @property
    def positive_infs(self) -> int:
        """The number of entries that are plus infinity."""
        return self._count_in(INFINITY_BIN)

    @property
    def negative_infs(self) -> int:
        """The number of entries that are minus infinity."""
        return self._count_in(-INFINITY_BIN)

    @overload
    def quantile(self, q: float) -> float: ...
    @overload
    def quantile(self, q: Numbers) -> Values: ...
    def quantile(self, q: float | Numbers) -> float | Values:
        """Returns what `numpy.quantile` would of the entries, to within the width of a bin.

        Args:
            q: one probability from 0 to 1, or an array of them.

        Raises:
            ArgumentError: a probability is outside of [0, 1].
        """
        return _quantile(*self._numbers, q)

    @overload
    def magnitude_quantile(self, q: float) -> float: ...
    @overload
    def magnitude_quantile(self, q: Numbers) -> Values: ...
    def magnitude_quantile(self, q: float | Numbers) -> float | Values:
        """Returns quantiles of the magnitudes of the entries (see `quantile`)."""
        return _quantile(*self._magnitudes, q)

    @overload
    def fraction_below(self, threshold: float) -> float: ...
    @overload
    def fraction_below(self, threshold: Numbers) -> Values: ...
    def fraction_below(self, threshold: float | Numbers) -> float | Values:
        """Returns the share of entries with magnitudes below a threshold, zeros among them.

        Exact for a threshold between two bins, such as a power of two; else the bin that holds it
        is divided in proportion.

        Args:
            threshold: one magnitude, or an array of them.

        Raises:
            ArgumentError: a threshold is NaN.
        """
        thresholds = np.asarray(threshold, dtype=np.float64)
        if np.isnan(thresholds).any():
            raise ArgumentError("A threshold is NaN; give magnitudes to count the entries below.")
        bins, counts = self._magnitudes
        if not len(bins):
            return _like(thresholds, np.full(thresholds.shape, np.nan))
        return _like(thresholds, entries_below(bins, counts, thresholds) / counts.sum())

    @property
    def mean_magnitude(self) -> float:
        """The mean magnitude of the entries; infinite where one of them is."""
        bins, counts = self._magnitudes
        if not len(bins):
            return float("nan")
        smallest, largest = ranges(bins)
        with np.errstate(invalid="ignore"):  # infinity minus itself
            centres = smallest + np.where(bins == INFINITY_BIN, 0.0, largest - smallest) / 2
        return float(centres @ (counts / counts.sum()))

    @property
    def max_magnitude(self) -> float:
        """The largest magnitude, to within the width of its bin; infinite where an entry is."""
        return self.magnitude_quantile(1.0)

    def density(self, edges: Float[NDArray[Any], " edges"]) -> Float[NDArray[Any], " edges-1"]:
        """Returns the share of entries per unit of x between given edges, for plotting.

        It integrates to the share of all entries that are finite and within the edges. Like in
        `numpy.histogram`, an entry at an edge counts above it, at the last one below.

        Args:
            edges: strictly ascending, finite; on whatever scale (see `signed_log_edges`).

        Raises:
            ArgumentError: the edges are not strictly ascending, or fewer than two.
        """
        edges = np.asarray(edges, dtype=np.float64)
        if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all():
            raise ArgumentError("Edges must be two or more finite numbers in ascending order.")
        if not self.count:
            return np.full(len(edges) - 1, np.nan)
        limits = np.append(edges[:-1], np.nextafter(edges[-1], np.inf))
        within = np.diff(entries_below(*self._finite, limits))
        return within / self.count / np.diff(edges)

    def signed_log_range(self, decades: int = 6) -> tuple[float, float]:
        """Returns powers of ten (linear_below, limit) that suit a signed logarithmic axis.

        All finite entries up to 1e308 are within the limit, and 99 % of those that are not zero are
        outside the linear part, unless that would make the axis longer than so many decades on
        either side. For several histograms on one axis, take the range of their sum.
        """
        bins, counts = self._magnitudes
        occupied = (bins > 0) & (bins < INFINITY_BIN)
        if not occupied.any():
            return 0.1, 1.0
        bins, counts = bins[occupied], counts[occupied]
        ranks = np.array([(counts.sum() - 1) // 100, counts.sum() - 1])
        low, high = np.log10(order_statistics(bins, counts, ranks))
        top = min(max(int(np.ceil(high)), -306), 308)  # 10^top and 10^bottom are normal numbers
        bottom = min(max(int(np.floor(low)), top - decades, -307), top - 1)
        return 10.0**bottom, 10.0**top

    def to_numpy(
        self, max_bins: int = 512
    ) -> tuple[Int64[NDArray[Any], " bins"], Float[NDArray[Any], " bins+1"]]:
        """Returns counts and edges in the format of `numpy.histogram`, for finite entries.

        TensorBoard takes the upper edges; Weights & Biases and trackio take at most 512 bins. Where
        there are more, neighbours are merged, first those that blur least: with few entries, and
        narrow on a logarithmic scale. No entry is lost, and `numpy.histogram(entries, edges)`
        would count the same.

        Raises:
            ArgumentError: max_bins is less than 1.
        """
        if max_bins < 1:
            raise ArgumentError(f"At most {max_bins} bins were asked for; at least 1 is needed.")
        return contiguous(*self._finite, max_bins)

    def __add__(self, other: GradientHistogram) -> GradientHistogram:
        if not isinstance(other, GradientHistogram):
            return NotImplemented
        bins = np.concatenate([self.bins, other.bins])
        return GradientHistogram(*combine(bins, np.concatenate([self.counts, other.counts])))

    def __radd__(self, other: int) -> GradientHistogram:
        """Makes `sum` work, which starts with 0."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GradientHistogram):
            return NotImplemented
        return np.array_equal(self.bins, other.bins) and np.array_equal(self.counts, other.counts)

    def __hash__(self) -> int:
        return hash((self.bins.tobytes(), self.counts.tobytes()))

    def __repr__(self) -> str:
        return (
            f"GradientHistogram(count={self.count}, zeros={self.zeros}, nans={self.nans}, "
            f"infs={self.infs}, median={self.quantile(0.5):.3g}, largest={self.max_magnitude:.3g})"
        )

    def _count_in(self, number: int) -> int:
        at = np.searchsorted(self.bins, number)
        return int(self.counts[at]) if at < len(self.bins) and self.bins[at] == number else 0

    @property
    def _numbers(self) -> tuple[Bins, Counts]:
        """All that is not NaN, whose bin is the last one."""
        stop = len(self.bins) - (self.nans > 0)
        return self.bins[:stop], self.counts[:stop]

    @property
    def _finite(self) -> tuple[Bins, Counts]:
        finite = np.abs(self.bins) < INFINITY_BIN
        return self.bins[finite], self.counts[finite]

    @cached_property
    def _magnitudes(self) -> tuple[Bins, Counts]:
        bins, counts = self._numbers
        return combine(np.abs(bins), counts)


def histograms_by_layer(
    gradients: Float[Tensor, "terms params"], layout: ParameterLayout
) -> dict[tuple[int | str, str], GradientHistogram]:
    """Returns the histogram of every term in every layer, weights and biases of a layer together.

    Args:
        gradients: one row a term, one column a parameter, from `term_gradients`.
        layout: where each layer stands in the columns.

    Returns:
        histograms by (term, layer). A term is the name of its row, or where the gradients are a
        plain tensor without names, its number.

    Raises:
        ArgumentError: the gradients are no matrix, or of a dtype that `GradientHistogram.of` does
            not take.
        LayoutError: the columns are not those of the layout.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 50), torch.nn.Linear(50, 1))
        >>> layout = ParameterLayout.of(net)
        >>> gradients = torch.ones(2, layout.size)
        >>> gradients[1] = 0  # the boundary term is satisfied
        >>> gradients = TermGradients.of(gradients, ("residual", "boundary"))
        >>> histograms = histograms_by_layer(gradients, layout)
        >>> histograms["residual", "0"].count, histograms["boundary", "1"].zeros
        (150, 51)
    """
    from .gradients import TermGradients
    from .histogram_counting import count_cells
    from .reductions import check_gradients

    rows = check_gradients(gradients, layout)
    terms = gradients.terms if isinstance(gradients, TermGradients) else range(len(rows))
    widths = [layer.stop - layer.start for layer in layout.slices.values()]
    cells = ((term, layer) for term in terms for layer in layout.layers)
    counted = count_cells(rows, widths)
    return {
        cell: GradientHistogram(bins, counts)
        for cell, (bins, counts) in zip(cells, counted, strict=True)
    }


def signed_log_edges(
    *, linear_below: float, limit: float, per_decade: int = 16
) -> Float[NDArray[Any], " edges"]:
    """Returns edges from -limit to limit that look equally spaced on a symlog axis.

    They are equally spaced within +-linear_below, where matplotlib's symlog scale with
    `linthresh=linear_below` is linear, and logarithmically beyond. Zero is in the middle of a bin.

    Args:
        linear_below: end of the linear part, above zero (`GradientHistogram.signed_log_range`).
        limit: the last edge, above `linear_below`.
        per_decade: how many bins there are for a factor of ten.

    Raises:
        ArgumentError: not 0 < linear_below < limit, or no bin per decade.

    Example:
        >>> signed_log_edges(linear_below=1.0, limit=100.0, per_decade=1)
        array([-100.,  -10.,   -1.,    1.,   10.,  100.])
    """
    if not (0 < linear_below < limit < np.inf and per_decade >= 1):
        raise ArgumentError(
            "Edges on a signed logarithmic axis need 0 < linear_below < limit and per_decade >= 1, "
            f"not linear_below={linear_below:g}, limit={limit:g} and per_decade={per_decade}."
        )
    number = max(1, round(np.log10(limit / linear_below) * per_decade))
    outer = np.geomspace(linear_below, limit, number + 1)[1:]
    # From 0 to linear_below is as long on the axis as a decade. An even number of edges has none
    # at zero.
    inner = np.linspace(-linear_below, linear_below, 2 * per_decade)
    return np.concatenate([-outer[::-1], inner, outer])


def _quantile(bins: Bins, counts: Counts, q: float | Numbers) -> float | Values:
    probabilities = np.asarray(q, dtype=np.float64)
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ArgumentError(f"Quantiles are for probabilities from 0 to 1, not for {q}.")
    return _like(probabilities, quantiles(bins, counts, probabilities))


def _like(asked: Values, found: Values) -> float | Values:
    """Returns a number where one was asked for, else the array."""
    return found if asked.ndim else float(found)
