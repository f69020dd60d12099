"""Moments of many groups of columns of a matrix at once, for each row.

The columns are cut into pieces, and every group (a layer, its weight matrices, the whole network)
is made of some of them. The moments of a piece are taken about its own mean, and put together to
those of a group by the shift of the means (Pebay, Formulas for robust, one-pass parallel
computation of covariances and arbitrary-order statistical moments, SAND2008-6212, 2008, eq. 1.6).
So nothing cancels where a mean is large beside the spread, every entry is read once however many
groups it belongs to, and a further group costs next to nothing.

A small matrix is reduced by numpy, all pieces of all rows in one call a sum, which takes as long
as torch needs for a few pieces of one row. A large one, or one on another device, is reduced where
it is, a block of columns at a time. The matrices of several training steps are reduced together:
calls of numpy take as long as their work on a small one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from . import reductions

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

QUANTITIES = (
    *("count", "max_magnitude", "mean_magnitude", "std_magnitude", "std", "norm", "kurtosis"),
    *("zeros", "near_zeros", "not_finite"),
)

# What a piece is described by: the mean of its entries and of their magnitudes, the sums of powers
# of the distance from the mean, how many are zero, nearly zero, or not finite, and from
# `_PRODUCTS` on the sums of products of each row with the rows after it.
_MEAN, _MAGNITUDE, _SECOND, _THIRD, _FOURTH, _ZEROS, _NEAR_ZEROS, _NOT_FINITE, _PRODUCTS = range(9)

# Fourth powers of magnitudes between these, and sums of them, are normal numbers of float64. Of all
# dtypes, float64 alone has magnitudes beyond.
_LEAST, _MOST = 1e-70, 1e70

# 2^1000 and its inverse are normal numbers, and bring every float64 to where its fourth power is
# one, or nearly so: 2^-1074 becomes 2^-74.
_LARGEST_EXPONENT = 1000

# The mean of equal numbers may be off by some units in its last place. A spread that is no larger
# is rounding, and the entries count as equal.
_ROUNDING = 32 * float(np.finfo(np.float64).eps)

_CACHED = 1 << 16  # columns at a time on the CPU: a few float64 of each stay in its cache
_CACHED_ENTRIES = 1 << 15  # likewise, of the matrices of several steps

_SMALLEST_NORMAL = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, eq=False)
class Partition:
    """Groups of columns, and the pieces that they are made of.

    The pieces are neighbours and together all columns; each may belong to any number of groups.
    """

    starts: Int[Indices, " pieces"]  # the first column of each piece
    widths: Int[Indices, " pieces"]
    members: Int[Indices, " members"]  # the pieces of the first group, then of the second, ...
    firsts: Int[Indices, " groups"]  # where in `members` each group begins
    _limits_in_rows: dict[int, Indices] = field(default_factory=dict)

    @classmethod
    def of(cls, pieces: Sequence[slice], groups: Sequence[Sequence[int]]) -> Partition:
        """Returns the partition into pieces, with groups given by the numbers of theirs."""
        sizes = [len(group) for group in groups]
        return cls(
            np.array([piece.start for piece in pieces], dtype=np.intp),
            np.array([piece.stop - piece.start for piece in pieces], dtype=np.intp),
            np.fromiter(chain.from_iterable(groups), dtype=np.intp),
            np.cumsum([0, *sizes[:-1]], dtype=np.intp),
        )

    @cached_property
    def sizes(self) -> Int[Indices, " groups"]:
        """How many pieces each group has."""
        return np.diff(self.firsts, append=len(self.members))

    @cached_property
    def member_widths(self) -> Float[Array, " members"]:
        """How many columns each piece of each group has."""
        return self.widths[self.members].astype(np.float64)

    @cached_property
    def counts(self) -> Float[Array, " groups"]:
        """How many columns each group has."""
        return np.add.reduceat(self.member_widths, self.firsts)

    def limits_in_rows(self, rows: int) -> Int[Indices, " rows*pieces+1"]:
        """Returns where the pieces of so many rows, laid end to end, start, and where they end."""
        if rows not in self._limits_in_rows:
            columns = int(self.starts[-1] + self.widths[-1])
            starts = columns * np.arange(rows)[:, None] + self.starts
            self._limits_in_rows[rows] = np.append(starts, columns * rows)
        return self._limits_in_rows[rows]

    def cut(self, longest: int) -> Partition:
        """Returns the same groups of pieces that are no longer than that."""
        pieces: list[slice] = []
        parts: list[range] = []
        for start, width in zip(self.starts.tolist(), self.widths.tolist(), strict=True):
            limits = [*range(start, start + width, longest), start + width]
            parts.append(range(len(pieces), len(pieces) + len(limits) - 1))
            pieces += map(slice, limits[:-1], limits[1:])
        groups = [group.tolist() for group in np.split(self.members, self.firsts[1:])]
        return Partition.of(
            pieces, [[part for piece in group for part in parts[piece]] for group in groups]
        )


@dataclass(frozen=True, eq=False)
class Moments:
    """What the entries of each row are like in each group, and how the rows lie to each other."""

    values: Float[Array, "quantities *steps rows groups"]  # in the order of QUANTITIES
    cosines: Float[Array, "*steps groups rows rows"]  # of the angles between rows


@dataclass(frozen=True, eq=False)
class _Pieces:
    """What describes each piece; without the exponents, if there are any.

    The entries of a piece, where their fourth powers would not fit into float64, were divided by
    2^exponent first: that does not round.
    """

    largest: Float[Array, "steps*rows pieces"]  # magnitude; not divided
    sums: Float[Array, "8+rows steps*rows pieces"]
    exponents: Int[NDArray[Any], "steps*rows pieces"] | None = None

    @classmethod
    def of_all(cls, parts: Sequence[_Pieces]) -> _Pieces:
        """Returns the pieces of several steps as one."""
        if len(parts) == 1:
            return parts[0]
        largest = np.concatenate([part.largest for part in parts])
        sums = np.concatenate([part.sums for part in parts], axis=1)
        if all(part.exponents is None for part in parts):
            return cls(largest, sums)
        as_they_are = [np.zeros_like(part.largest, dtype=np.int32) for part in parts]
        known = [
            zeros if part.exponents is None else part.exponents
            for part, zeros in zip(parts, as_they_are, strict=True)
        ]
        return cls(largest, sums, np.concatenate(known))


def moments(
    rows: Float[Tensor, "*steps rows columns"], partition: Partition, near_zero: float
) -> Moments:
    """Returns the moments of all groups, computed in float64 whatever the dtype of the rows.

    A group with an entry that is NaN or infinite has NaN for all that is not a number of entries.

    Args:
        rows: on any device; of one step, or of several side by side, with the same result.
        partition: of the columns.
        near_zero: an entry below this share of its row's largest finite magnitude is nearly zero.
    """
    *some, of_each, columns = rows.shape
    number = some[0] if some else 1
    # What is not finite, and a spread or an angle that there is not, leads to NaN on purpose.
    with np.errstate(all="ignore"):
        if rows.is_cpu and columns <= reductions.BLOCK:
            each = rows if some else rows[None]
            at_once = max(1, _CACHED_ENTRIES // max(1, of_each * columns))
            parts = [
                _small(each[first : first + at_once], partition, near_zero)
                for first in range(0, number, at_once)
            ]
        else:
            longest = min(reductions.BLOCK, _CACHED) if rows.is_cpu else reductions.BLOCK
            partition = partition.cut(longest)
            parts = [_large(step, partition, near_zero) for step in (rows if some else rows[None])]
        values, cosines = _joined(_Pieces.of_all(parts), partition, number)
    if not some:
        return Moments(values, cosines[0])
    return Moments(values.reshape(len(values), number, of_each, values.shape[-1]), cosines)


def _small(
    steps: Float[Tensor, "steps rows columns"], partition: Partition, near_zero: float
) -> _Pieces:
    number, of_each, columns = steps.shape
    entries = reductions.as_numpy(steps).reshape(number * of_each, columns)
    shape = (len(entries), len(partition.starts))
    # numpy reduces one long row in half the time that several rows of the same length take.
    flat = entries.reshape(-1)
    limits = partition.limits_in_rows(len(entries))
    starts = limits[:-1]
    magnitudes = np.abs(flat)
    largest = np.maximum.reduceat(magnitudes, starts).reshape(shape)
    sums: Array = np.zeros((_PRODUCTS + of_each, len(entries) * shape[1]))
    tops = largest.max(axis=1)
    if not (tops < np.inf).all():
        is_finite = np.isfinite(flat)
        sums[_NOT_FINITE] = _between(limits, np.flatnonzero(~is_finite))
        tops = np.where(is_finite, magnitudes, 0.0).reshape(entries.shape).max(axis=1)
    highest = np.maximum(near_zero * tops, _SMALLEST_NORMAL)[:, None]
    near = np.flatnonzero(magnitudes.reshape(entries.shape) < highest)
    if len(near):
        sums[_NEAR_ZEROS] = _between(limits, near)
        sums[_ZEROS] = _between(limits, near[flat[near] == 0])
    exponents = _exponents(largest) if steps.dtype == torch.float64 else None
    if exponents is not None:
        factors = np.repeat(np.ldexp(1.0, -exponents), partition.widths, axis=1).reshape(-1)
        flat, magnitudes = flat * factors, magnitudes * factors
    np.add.reduceat(flat, starts, out=sums[_MEAN])
    np.add.reduceat(magnitudes, starts, out=sums[_MAGNITUDE])
    means = sums[:_SECOND].reshape(2, *shape)
    means /= partition.widths
    distances = flat - np.repeat(means[_MEAN], partition.widths, axis=1).reshape(-1)
    powers = np.multiply(distances, distances, out=magnitudes)
    np.add.reduceat(powers, starts, out=sums[_SECOND])
    distances *= powers
    np.add.reduceat(distances, starts, out=sums[_THIRD])
    powers *= powers
    np.add.reduceat(powers, starts, out=sums[_FOURTH])
    sums = sums.reshape(len(sums), *shape)
    by_step = flat.reshape(steps.shape)
    for row in range(of_each - 1):
        products = by_step[:, row + 1 :] * by_step[:, row, None]
        starts = partition.limits_in_rows(number * (of_each - row - 1))[:-1]
        added = np.add.reduceat(products.reshape(-1), starts)
        of_row: Array = sums[_PRODUCTS + row].reshape(number, of_each, shape[1])
        of_row[:, row + 1 :] = added.reshape(number, of_each - row - 1, shape[1])
    return _Pieces(largest, sums, exponents)


def _between(limits: Indices, indices: Indices) -> Indices:
    """Returns how many of some ascending indices lie between each limit and the next."""
    positions = indices.searchsorted(limits)
    return positions[1:] - positions[:-1]


def _exponents(largest: Float[Array, ...]) -> Int[NDArray[Any], ...] | None:
    """Returns the exponent of the largest magnitude of each piece; None where all fit as they are.

    A piece of zeros has the least one, so that it does not speak for its group.
    """
    fits = (largest >= _LEAST) & (largest <= _MOST)
    if (fits | (largest == 0)).all():
        return None
    exponents = np.where(np.isfinite(largest) & (largest > 0), np.frexp(largest)[1], -(1 << 20))
    return np.clip(exponents, -_LARGEST_EXPONENT, _LARGEST_EXPONENT)


def _large(rows: Tensor, partition: Partition, near_zero: float) -> _Pieces:
    columns = [
        slice(start, start + width)
        for start, width in zip(partition.starts.tolist(), partition.widths.tolist(), strict=True)
    ]
    tops = torch.zeros_like(reductions.as_double(rows[:, 0]))
    for piece in columns:
        torch.maximum(tops, _largest_finite(rows[:, piece]), out=tops)
    limits = (near_zero * tops).clamp_(min=_SMALLEST_NORMAL)
    # Results kept one by one, between the large tensors that come and go, would keep the allocator
    # from giving the same room to the next ones.
    found = tops.new_empty(len(columns), 2 + _PRODUCTS + len(rows), len(rows))
    for place, piece in zip(found, columns, strict=True):
        _describe(rows[:, piece], limits, place)
    # On another device, this is where it is waited for.
    numbers = np.moveaxis(found.cpu().numpy(), 0, -1)
    exponents = numbers[1].astype(np.int32) if rows.dtype == torch.float64 else None
    return _Pieces(numbers[0], numbers[2:], exponents)


def _largest_finite(entries: Float[Tensor, "rows columns"]) -> Float[Tensor, " rows"]:
    magnitudes = entries.abs()
    magnitudes = torch.where(magnitudes.isfinite(), magnitudes, 0.0)
    return reductions.as_double(magnitudes.amax(1))


def _describe(
    entries: Float[Tensor, "rows columns"],
    limits: Float[Tensor, " rows"],
    out: Float[Tensor, "10+rows rows"],
) -> None:
    """Writes largest magnitudes, exponents and sums of one piece."""
    sums = out[2:]
    block = reductions.as_double(entries)
    magnitudes = block.abs()
    torch.amax(magnitudes, 1, out=out[0])
    for place, is_true in (
        (_ZEROS, block == 0),
        (_NEAR_ZEROS, magnitudes < limits[:, None]),
        (_NOT_FINITE, ~block.isfinite()),
    ):
        sums[place] = is_true.sum(1)
    if entries.dtype == torch.float64:
        exponents = out[0].frexp().exponent.clamp_(-_LARGEST_EXPONENT, _LARGEST_EXPONENT)
        exponents = torch.where(out[0] > 0, exponents, -_LARGEST_EXPONENT)
        factors = torch.ldexp(torch.ones_like(limits), -exponents)[:, None]
        block, magnitudes = block * factors, magnitudes * factors
        out[1] = exponents
    mean = block.mean(1)
    sums[_MEAN] = mean
    sums[_MAGNITUDE] = magnitudes.mean(1)
    sums[_PRODUCTS:] = (block @ block.T).triu_(1)
    distances = block - mean[:, None]
    powers = torch.square(distances, out=magnitudes)
    sums[_SECOND] = powers.sum(1)
    sums[_THIRD] = distances.mul_(powers).sum(1)
    sums[_FOURTH] = powers.square_().sum(1)


def _joined(pieces: _Pieces, partition: Partition, steps: int) -> tuple[Array, Array]:
    """Returns the moments of the groups, from those of their pieces, and the cosines."""
    members, firsts, counts = partition.members, partition.firsts, partition.counts
    sums = pieces.sums.take(members, axis=2)
    if pieces.exponents is not None:
        exponents = pieces.exponents.take(members, axis=1)
        raised = np.maximum.reduceat(exponents, firsts, axis=1)
        # What is so much smaller than the rest of its group that this makes it zero, is nothing
        # beside it.
        shrink = np.ldexp(1.0, exponents - np.repeat(raised, partition.sizes, axis=1))
        sums[:_SECOND] *= shrink
        for order, power in enumerate((_SECOND, _THIRD, _FOURTH), start=2):
            sums[power] *= shrink**order
        each = shrink.reshape(steps, len(sums) - _PRODUCTS, len(members))
        both = np.moveaxis(each, 1, 0)[:, :, None] * each
        sums[_PRODUCTS:] *= both.reshape(len(both), *shrink.shape)
    means = np.add.reduceat(sums[:_SECOND] * partition.member_widths, firsts, axis=2)
    means /= counts
    # The sums of (x - mean)^2 and (x - mean)^4, with x - mean = (x - mean of the piece) + shift.
    shift = sums[_MEAN] - np.repeat(means[_MEAN], partition.sizes, axis=1)
    squared_shift = shift * shift * partition.member_widths
    second, third, fourth = sums[_SECOND : _FOURTH + 1]
    fourth += shift * (4 * third + shift * (6 * second + squared_shift))
    second += squared_shift
    sums = np.add.reduceat(sums, firsts, axis=2)
    sums[_SECOND : _FOURTH + 1] /= counts
    variance, fourth = sums[_SECOND], sums[_FOURTH]
    squared_mean, squared_mean_magnitude = means * means
    are_equal = variance <= _ROUNDING**2 * squared_mean
    np.putmask(variance, are_equal, 0.0)
    values = np.empty((len(QUANTITIES), *variance.shape))
    values[0] = counts
    np.maximum.reduceat(pieces.largest.take(members, axis=1), firsts, axis=1, out=values[1])
    values[2] = means[_MAGNITUDE]
    # Of the magnitudes. Where all signs are the same, the squares are, and nothing cancels.
    values[3] = variance + (squared_mean - squared_mean_magnitude)
    values[4] = variance
    values[5] = (variance + squared_mean) * counts
    roots = np.sqrt(np.maximum(values[3:6], 0.0, out=values[3:6]), out=values[3:6])
    np.divide(fourth, variance * variance, out=values[6])
    np.putmask(values[6], are_equal, np.nan)
    cosines = _cosines(sums[_PRODUCTS:], roots[2], steps)
    if pieces.exponents is not None:
        values[2:6] = np.ldexp(values[2:6], raised)
    values[7:] = sums[_ZEROS:_PRODUCTS]
    if pieces.sums[_NOT_FINITE].any():
        values[1:7, values[9] > 0] = np.nan
    return values, cosines


def _cosines(
    products: Float[Array, "rows steps*rows groups"],
    norms: Float[Array, "steps*rows groups"],
    steps: int,
) -> Float[Array, "steps groups rows rows"]:
    rows, groups = len(products), norms.shape[1]
    norms = norms.reshape(steps, rows, groups)
    scales = norms[:, :, None] * norms[:, None]
    products = products.reshape(rows, *norms.shape).transpose(1, 0, 2, 3)
    # Each pair is there once.
    products = products + products.transpose(0, 2, 1, 3)
    with_itself = slice(None, None, rows + 1)
    products.reshape(steps, rows * rows, groups)[:, with_itself] = norms * norms
    products /= scales
    np.minimum(products, 1.0, out=products)
    return np.maximum(products, -1.0, out=products).transpose(0, 3, 1, 2)
