"""The bins of gradient histograms, read off the bits of floating-point numbers; numpy alone.

A float is sign, exponent and mantissa. Sign, exponent and the 4 leading mantissa bits fix one of 16
equally wide bins between a power of two and the next: no bin is wider than 1/16 of its values, and
there is no range to choose. The bins are the same for every dtype, and are numbered so that sorting
the numbers sorts the values:

    0                   exact zeros (of either sign)
    m + 1, m >= 0       2^e (1 + k/16) <= x < 2^e (1 + (k + 1)/16),    m = 16 (e + 1075) + k
    -(m + 1)            the negatives of those
    +-INFINITY_BIN      infinities
    NAN_BIN             everything that is not a number

A histogram is two arrays of equal length: the occupied bins in ascending order, and how many
entries each has.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bins = NDArray[np.int32]
Counts = NDArray[np.int64]
Bits = NDArray[np.unsignedinteger[Any]]
Codes = NDArray[np.int32]
Values = NDArray[np.float64]

LEADING_BITS = 4
PER_OCTAVE = 1 << LEADING_BITS
_LOWEST_OCTAVE = -1075  # one below that of the smallest float64, 2^-1074
INFINITY_BIN = (1024 - _LOWEST_OCTAVE) * PER_OCTAVE + 1
NAN_BIN = INFINITY_BIN + 1


@dataclass(frozen=True)
class FloatFormat:
    """How a floating-point dtype is laid out, and how its bits lead to bins.

    Counting takes two steps. The leading bits of an entry alone, its *code*, tell the bin of a
    normal number, and there are few enough codes to count in an array. Entries whose exponent is
    outside the normal range of float32 are rare; their codes only say so, and `count_outside` has
    a closer look at those: zeros, subnormal numbers, infinities, NaNs, and float64 beyond float32.
    """

    bits: type[np.unsignedinteger[Any]]  # the unsigned integer of the same width
    exponent_bits: int
    mantissa_bits: int

    @property
    def shift(self) -> int:
        """How many trailing bits the bin does not depend on."""
        return self.mantissa_bits - LEADING_BITS

    @property
    def bias(self) -> int:
        """The stored exponent of the number 1."""
        return (1 << (self.exponent_bits - 1)) - 1

    @cached_property
    def direct_exponents(self) -> range:
        """The stored exponents whose codes lead to bins: normal ones, within those of float32."""
        return range(max(1, self.bias - 126), min(2 * self.bias, self.bias + 127) + 1)

    @cached_property
    def exponents_per_sign(self) -> int:
        """How many exponents the codes tell apart: the direct ones, "below" and "above"."""
        return len(self.direct_exponents) + 2

    @cached_property
    def number_of_codes(self) -> int:
        """How many codes there are: 8192, but 1024 in float16."""
        return 2 * self.exponents_per_sign * PER_OCTAVE

    @cached_property
    def direct_magnitudes(self) -> range:
        """The codes of positive numbers that lead to bins, one after the other."""
        return range(PER_OCTAVE, self.number_of_codes // 2 - PER_OCTAVE)

    @cached_property
    def bins(self) -> Bins:
        """The bin of each code; 0 for the codes that do not lead to one."""
        codes = np.arange(self.number_of_codes, dtype=np.int64).reshape(2, -1)
        first = (self.direct_exponents.start - 1) << LEADING_BITS
        leading = codes[:1] + first  # exponent and leading mantissa bits, sign left out
        sign = np.array([[0], [1]]) << (self.exponent_bits + LEADING_BITS)
        bins = self.bins_of(((leading | sign) << self.shift).astype(self.bits))
        self.outside(bins)[...] = 0
        return bins.reshape(-1)

    @cached_property
    def narrowed(self) -> Codes | None:
        """The code of each pattern of leading bits, where they are not the same thing (float64)."""
        per_sign = 1 << (self.exponent_bits + LEADING_BITS)
        if 2 * per_sign == self.number_of_codes:
            return None
        first = (self.direct_exponents.start - 1) << LEADING_BITS
        half = self.number_of_codes // 2
        codes = np.clip(np.arange(per_sign) - first, 0, half - 1)
        return np.concatenate([codes, codes + half]).astype(np.int32)

    def codes(self, bits: Bits, out: Codes | None = None) -> Codes:
        """Returns the code of each entry, in `out` if given."""
        out = np.empty(bits.shape, dtype=np.int32) if out is None else out
        shift = self.bits(self.shift)
        if self.narrowed is not None:
            # "wrap" has nothing to wrap; "raise" would make a copy of `out` first.
            self.narrowed.take((bits >> shift).view(np.int64), out=out, mode="wrap")
        else:
            # numpy is quickest where it needs to convert nothing.
            np.right_shift(bits, shift, out=out.view(np.uint32) if bits.itemsize == 4 else out)
        return out

    def outside(self, by_code: NDArray[Any]) -> NDArray[Any]:
        """Returns the part, a view, of counts by code that `count_outside` has to tell apart."""
        shape = (-1, 2, self.exponents_per_sign, PER_OCTAVE)
        return by_code.reshape(shape)[:, :, :: self.exponents_per_sign - 1]

    def count_outside(self, bits: Bits, expected: int) -> tuple[Bins, Counts]:
        """Returns bins and counts of the entries outside the direct range, which are `expected`."""
        nonzero = bits << self.bits(1)  # without the sign, which -0.0 has
        zeros = bits.size - np.count_nonzero(nonzero)
        bins, counts = np.zeros(1, dtype=np.int32), np.full(1, zeros, dtype=np.int64)
        if zeros < expected:
            exponents = self._exponents(bits)
            low, high = self.direct_exponents[0], self.direct_exponents[-1]
            others = bits[((exponents < low) | (exponents > high)) & (nonzero != 0)]
            patterns, repeats = np.unique(others, return_counts=True)  # float16 has few of them
            bins = np.append(bins, self.bins_of(patterns))
            counts = np.append(counts, repeats)
        return combine(bins[counts > 0], counts[counts > 0])

    def bins_of(self, bits: Bits) -> Bins:
        """Returns the bin of each entry, whatever it is."""
        exponent = self._exponents(bits).astype(np.int64)
        mantissa = bits & self.bits((1 << self.mantissa_bits) - 1)
        # |x| = significand * 2^power with an integer below 2^53, which float64 holds exactly. It
        # is a normal number even where x is subnormal, so no flush-to-zero mode can touch it.
        significand = mantissa.astype(np.float64) + np.where(exponent, 2.0**self.mantissa_bits, 0.0)
        power = np.maximum(exponent, 1) - self.bias - self.mantissa_bits
        fraction, raised = np.frexp(significand)  # 1/2 <= fraction < 1, except for zero
        octave = power + raised - 1 - _LOWEST_OCTAVE
        leading = np.floor(fraction * (2 * PER_OCTAVE)).astype(np.int64) - PER_OCTAVE
        bins = np.where(significand == 0, 0, octave * PER_OCTAVE + leading + 1)
        topmost = exponent == (1 << self.exponent_bits) - 1
        bins = np.where(topmost, INFINITY_BIN, bins)
        negative = bits >> self.bits(self.exponent_bits + self.mantissa_bits) != 0
        bins = np.where(negative, -bins, bins)
        return np.where(topmost & (mantissa != 0), NAN_BIN, bins).astype(np.int32)

    def _exponents(self, bits: Bits) -> Bits:
        mask = self.bits((1 << self.exponent_bits) - 1)
        exponents: Bits = (bits >> self.bits(self.mantissa_bits)) & mask
        return exponents


def combine(bins: Bins, counts: Counts) -> tuple[Bins, Counts]:
    """Returns bins in ascending order, each once, with the counts of equal ones added up."""
    order = np.argsort(bins, kind="stable")  # timsort: what comes is a few sorted runs
    bins, counts = bins[order], counts[order]
    is_first = np.empty(len(bins), dtype=bool)
    is_first[:1] = True
    np.not_equal(bins[1:], bins[:-1], out=is_first[1:])
    if is_first.all():
        return bins, counts
    starts = np.flatnonzero(is_first)
    return bins[starts], np.add.reduceat(counts, starts)


def ranges(bins: Bins) -> tuple[Values, Values]:
    """Returns the smallest and the largest float64 of each bin (not for `NAN_BIN`)."""
    magnitude = np.abs(bins).astype(np.int64)
    near = np.where(magnitude == 0, 0.0, _lower_edges(magnitude))
    far = np.nextafter(_lower_edges(magnitude + 1), 0.0)
    far = np.where(magnitude == INFINITY_BIN, np.inf, far)
    negative = bins < 0
    return np.where(negative, -far, near), np.where(negative, -near, far)


def _lower_edges(magnitude_bins: NDArray[np.int64]) -> Values:
    """Returns the smallest float64 at or above the lower edge of each bin of magnitudes."""
    octave, leading = np.divmod(magnitude_bins - 1, PER_OCTAVE)
    exponent = octave + _LOWEST_OCTAVE - LEADING_BITS  # edge = (16 + leading) 2^exponent
    # Between the smallest subnormal numbers, multiples of 2^-1074, an edge may fall where there is
    # no number: the first one above it bounds the same bin.
    too_low = np.minimum(exponent + 1074, 0)
    units = np.ceil(np.ldexp((PER_OCTAVE + leading).astype(np.float64), too_low))
    with np.errstate(over="ignore"):  # the upper edge of the topmost bin is 2^1024
        edges: Values = np.ldexp(units, exponent - too_low)
    return edges


def quantiles(bins: Bins, counts: Counts, probabilities: Values) -> Values:
    """Returns quantiles as `numpy.quantile` defines them, between neighbouring order statistics."""
    if not len(bins):
        return np.full(probabilities.shape, np.nan)
    last = counts.sum() - 1
    position = probabilities * last
    rank = np.minimum(position.astype(np.int64), last)
    neighbours = np.stack([rank, np.minimum(rank + 1, last)])
    lower, upper = order_statistics(bins, counts, neighbours)
    share = position - rank
    with np.errstate(invalid="ignore"):  # zero times infinity
        between = np.clip(lower * (1 - share) + upper * share, lower, upper)
    nearer = np.where(share < 0.5, lower, upper)  # there is nothing halfway to infinity
    found: Values = np.where(np.isinf(lower) | np.isinf(upper), nearer, between)
    return found


def order_statistics(bins: Bins, counts: Counts, ranks: Counts) -> Values:
    """Returns where the entries of given ranks (0 = the smallest) stand, each inside its bin.

    The entries of a bin are taken to be spread evenly over it.
    """
    after = np.cumsum(counts)
    at = np.searchsorted(after, ranks, side="right")
    smallest, largest = ranges(bins[at])
    share = (ranks - (after[at] - counts[at]) + 0.5) / counts[at]
    return np.minimum(smallest + share * _widths(smallest, largest), largest)


def entries_below(bins: Bins, counts: Counts, values: Values) -> Values:
    """Returns how many entries lie below each value, those of its own bin spread evenly over it."""
    if not len(bins):
        return np.zeros_like(values)
    smallest, largest = ranges(bins)
    at = np.searchsorted(smallest, values, side="right") - 1  # -1: below all
    width = _widths(smallest, largest)[at]
    with np.errstate(over="ignore", invalid="ignore"):  # infinite values and bins
        within = (values - smallest[at]) / np.where(width > 0, width, 1.0)
    within = np.where(width > 0, np.clip(within, 0.0, 1.0), values > smallest[at])
    before = np.cumsum(counts) - counts
    return np.where(at < 0, 0.0, before[at] + counts[at] * within)


def _widths(smallest: Values, largest: Values) -> Values:
    """Returns the widths of bins; that of an infinity is zero, as it has no other value."""
    with np.errstate(invalid="ignore"):
        widths: Values = np.where(smallest == largest, 0.0, largest - smallest)
    return widths


def contiguous(bins: Bins, counts: Counts, at_most: int) -> tuple[Counts, Values]:
    """Returns finite bins in the format of `numpy.histogram`, neighbours merged to `at_most` bins.

    Gaps between occupied bins become bins without entries. What is merged first is what blurs
    least: few entries, narrow bins. `numpy.histogram(values, edges)` counts the same.
    """
    if not len(bins):
        return np.zeros(1, dtype=np.int64), np.array([0.0, 1.0])
    if len(bins) == 1 and bins[0] == 0:
        return counts, np.array([-0.5, 0.5])
    smallest, largest = ranges(bins)
    with np.errstate(over="ignore"):  # beyond the largest number there is but infinity
        ends = np.minimum(np.nextafter(largest, np.inf), np.finfo(np.float64).max)
    # A bin reaches from the number `bin` to the number `bin + 1`: a logarithmic scale, on which
    # the width that merging adds is judged.
    numbers, next_numbers = bins.astype(np.float64), bins + 1.0
    zero = np.searchsorted(bins, 0)
    if zero < len(bins) and bins[zero] == 0:  # zeros have all the room to their neighbours
        if zero > 0:
            smallest[zero], numbers[zero] = ends[zero - 1], next_numbers[zero - 1]
        if zero + 1 < len(bins):
            ends[zero], next_numbers[zero] = smallest[zero + 1], numbers[zero + 1]
    edges, first = np.unique(np.concatenate([smallest, ends]), return_index=True)
    positions = np.concatenate([numbers, next_numbers])[first]
    filled = np.zeros(len(edges) - 1, dtype=np.int64)
    filled[np.searchsorted(edges, smallest)] = counts
    return _merge_neighbours(filled, edges, positions, at_most)


def _merge_neighbours(
    counts: Counts, edges: Values, positions: Values, at_most: int
) -> tuple[Counts, Values]:
    while len(counts) > at_most:
        widths = np.diff(positions)
        # Entries times the width that they are spread over in addition, for each inner edge.
        blur = counts[:-1] * widths[1:] + counts[1:] * widths[:-1]
        before, after = np.append(np.inf, blur[:-1]), np.append(blur[1:], np.inf)
        candidates = np.flatnonzero((blur < before) & (blur <= after))  # no two are neighbours
        number = min(len(counts) - at_most, max(1, len(counts) // 8))
        removed = candidates[np.argsort(blur[candidates], kind="stable")[:number]]
        counts[removed] += counts[removed + 1]
        counts = np.delete(counts, removed + 1)
        edges, positions = np.delete(edges, removed + 1), np.delete(positions, removed + 1)
    return counts, edges
