"""How far apart two gradients are distributed, from their histograms.

`imbalance` sorts the magnitudes to find the Wasserstein-1 distance between their logarithms. Where
there are histograms anyway, they tell it without another look at the gradients: the distance is the
area between the two cumulative distributions, and those are sums of counts. Every entry is taken to
stand in the middle of its bin, on a logarithmic scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from .errors import ArgumentError
from .histogram_bins import INFINITY_BIN, PER_OCTAVE
from .histograms import GradientHistogram

Array = NDArray[np.float64]

# How far a distance may be off, in decades (0.026): the width of the widest bin. The middle of a
# bin is half of that or less from each of its entries, for either of the distributions.
DISTANCE_ERROR = float(np.log10(1 + 1 / PER_OCTAVE))


def magnitude_distance(first: GradientHistogram, second: GradientHistogram) -> float:
    """Returns how far apart the magnitudes of two gradients are distributed, in powers of ten.

    It is the Wasserstein-1 distance between log10|g| over the entries that are finite and not zero:
    how many decades an entry has to move on average, to turn one distribution into the other. A
    factor of 10 between the gradients alone makes it 1, whatever their shape.

    Returns:
        The distance, off by at most `DISTANCE_ERROR`, 0.026, and mostly by far less; NaN where
        either histogram has no such entry.

    Example:
        >>> g = torch.linspace(-1, 1, 5000)
        >>> distance = magnitude_distance(GradientHistogram.of(g), GradientHistogram.of(g / 1000))
        >>> round(distance, 1)
        3.0
    """
    counts, widths = _counts_by_magnitude([first, second])
    return float(_distances(counts, 0, widths)[1])


def distances_by_layer(
    histograms: Mapping[tuple[int | str, str], GradientHistogram], reference: int | str
) -> Float[Array, "terms layers"]:
    """Returns `magnitude_distance` between a reference term and every term, in every layer.

    Args:
        histograms: of every term in every layer, from `histograms_by_layer`.
        reference: the term to compare with, as it is called in the histograms.

    Returns:
        One row a term, one column a layer in the order in which they come, and last a column for
        all layers together.

    Raises:
        ArgumentError: a term lacks the histogram of a layer, or the reference has none.

    Example:
        >>> layout = ParameterLayout.of(torch.nn.Linear(1, 2))
        >>> g = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.1, 0.2, 0.3, 0.4]])
        >>> distances_by_layer(histograms_by_layer(g, layout), reference=0).round(1)
        array([[0., 0.],
               [1., 1.]])
    """
    terms = list(dict.fromkeys(term for term, _ in histograms))
    layers = list(dict.fromkeys(layer for _, layer in histograms))
    if reference not in terms or len(histograms) != len(terms) * len(layers):
        raise ArgumentError(
            f"Distances from {reference!r} need histograms of that term, and of every term in "
            f"every layer; there are {len(histograms)} of terms {terms} in {len(layers)} layers."
        )
    each = [histograms[term, layer] for term in terms for layer in layers]
    counts, widths = _counts_by_magnitude(each)
    by_layer = counts.reshape(len(terms), len(layers), -1)
    counts = np.concatenate([by_layer, by_layer.sum(axis=1, keepdims=True)], axis=1)
    return _distances(counts, terms.index(reference), widths)


def _counts_by_magnitude(
    histograms: Sequence[GradientHistogram],
) -> tuple[Float[Array, "histograms bins"], Float[Array, " bins"]]:
    """Returns what each counts in a range of bins of magnitudes, and how far these are apart.

    The range is what all histograms together need; the distances are in decades.
    """
    magnitudes = np.abs(np.concatenate([histogram.bins for histogram in histograms]))
    counts = np.concatenate([histogram.counts for histogram in histograms])
    owners = np.repeat(np.arange(len(histograms)), [len(one.bins) for one in histograms])
    has_decade = (magnitudes > 0) & (magnitudes < INFINITY_BIN)
    if not has_decade.all():
        magnitudes, counts, owners = magnitudes[has_decade], counts[has_decade], owners[has_decade]
    if not len(magnitudes):
        return np.zeros((len(histograms), 1)), np.zeros(1)
    least, most = int(magnitudes.min()), int(magnitudes.max())
    number = most - least + 1
    places = owners * number + (magnitudes - least)
    dense: Array = np.asarray(
        np.bincount(places, weights=counts, minlength=len(histograms) * number), dtype=np.float64
    )
    return dense.reshape(-1, number), _bin_distances()[least : most + 1]


def _distances(
    counts: Float[Array, "terms ... bins"], reference: int, widths: Float[Array, " bins"]
) -> Float[Array, "terms ..."]:
    """Returns the area between the cumulative distributions and those of the reference."""
    below = counts.cumsum(axis=-1)
    with np.errstate(invalid="ignore"):  # of a gradient that is zero
        below /= below[..., -1:]
    below -= below[reference].copy()
    # At the last bin, all is below: the difference is zero, or NaN where there is nothing at all.
    distances: Array = np.abs(below, out=below) @ widths
    return distances


@cache
def _bin_distances() -> Float[Array, " bins"]:
    """Returns how far the middle of each bin of magnitudes is from that of the next, in decades."""
    numbers = np.arange(INFINITY_BIN + 2) - 1  # bin m + 1 begins at 2^octave (1 + leading / 16)
    octave, leading = np.divmod(numbers, PER_OCTAVE)
    edges = (octave + np.log2(1 + leading / PER_OCTAVE)) * np.log10(2)
    distances: Array = (edges[2:] - edges[:-2]) / 2
    return distances
