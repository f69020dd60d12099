"""Reductions over the rows of a (terms, params) matrix: in double precision, without large copies.

Gradients of two terms may lie thirty powers of ten apart, and the square of a float32 1e-30 is
zero. So each row is divided by its own largest magnitude before anything is squared or added up,
sums run in float64, and results are multiplied back. Only a block of columns is ever converted, so
that the copy stays small however many parameters there are. Infinities and NaNs come out as NaN.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from .errors import ArgumentError, LayoutError
from .gradients import TermGradients
from .layout import ParameterLayout

ALL = "all"  # the name under which all entries that count stand beside the layers

BLOCK = 1 << 18  # columns converted at a time: 2 MB a term

# The squares of all entries that count in a row whose norm is between these are normal numbers.
_LEAST_NORM, _LARGEST_NORM = 1e-120, 1e120

Entries = tuple[slice, ...]
"""Disjoint slices of the flat parameter vector, in order."""


def check_gradients(gradients: Tensor, layout: ParameterLayout | None = None) -> Tensor:
    """Returns the matrix as a plain tensor without a graph.

    Raises:
        ArgumentError: it is not a matrix of real floating-point numbers.
        LayoutError: its columns are not those of the layout.
    """
    if gradients.ndim != 2 or not gradients.is_floating_point():
        raise ArgumentError(
            f"Gradients of shape {tuple(gradients.shape)} and dtype {gradients.dtype} were given; "
            "a matrix of real numbers is needed, one row a term and one column a parameter."
        )
    if layout is not None and gradients.shape[1] != layout.size:
        raise LayoutError(
            f"Gradients with {gradients.shape[1]} columns were given to a layout of {layout.size} "
            "parameters."
        )
    return gradients.detach()


def names_of_terms(gradients: Tensor) -> tuple[str, ...]:
    """Returns the name of each row; of a plain tensor, whose rows have none, their numbers."""
    if isinstance(gradients, TermGradients):
        return gradients.terms
    return tuple(map(str, range(len(gradients))))


def entries_by_layer(
    layout: ParameterLayout,
    *,
    matrices_only: bool = False,
    layers: Collection[str] | None = None,
    leave_out: Collection[str] = (),
) -> dict[str, Entries]:
    """Returns which entries of the flat vector count, for each layer that has any; maybe none.

    Args:
        layout: where each parameter stands.
        matrices_only: whether biases and other parameters of fewer than two dimensions are left
            out.
        layers: the only layers that count; None for all.
        leave_out: full names of single parameters that do not count.

    Raises:
        LayoutError: there is no layer of a name given.
    """
    for name in layers or ():
        layout.layer(name)  # raises where there is none of that name
    entries: dict[str, Entries] = {}
    for slot in layout.slots:
        counts = slot.is_matrix or not matrices_only
        counts = counts and (layers is None or slot.layer in layers)
        if counts and slot.name not in leave_out:
            entries[slot.layer] = join((*entries.get(slot.layer, ()), slot.slice))
    return entries


def join(entries: Entries) -> Entries:
    """Returns the same entries with neighbouring slices made one."""
    joined: list[slice] = []
    for piece in entries:
        if joined and joined[-1].stop == piece.start:
            piece = slice(joined.pop().start, piece.stop)
        joined.append(piece)
    return tuple(joined)


def count(entries: Entries) -> int:
    """Returns the number of entries."""
    return sum(piece.stop - piece.start for piece in entries)


def magnitude_maximum(
    rows: Float[Tensor, "terms params"], entries: Entries
) -> Float[Tensor, " terms"]:
    """Returns max|g| of each row, float64; NaN where an entry is NaN or infinite."""
    largest = torch.stack(
        [torch.linalg.vector_norm(rows[:, piece], ord=torch.inf, dim=1) for piece in entries]
    )
    largest = as_double(largest).amax(0)
    return torch.where(largest.isfinite(), largest, torch.nan)


def magnitude_mean(
    rows: Float[Tensor, "terms params"], entries: Entries
) -> Float[Tensor, " terms"]:
    """Returns mean|g| of each row, float64."""
    scale = magnitude_maximum(rows, entries)
    total = sum_of_blocks(block.abs().sum(1) for block in scaled_blocks(rows, entries, scale))
    return scale * total / count(entries)


def norm(rows: Float[Tensor, "terms params"], entries: Entries) -> Float[Tensor, " terms"]:
    """Returns the Euclidean norm of each row, float64."""
    scale = magnitude_maximum(rows, entries)
    total = sum_of_blocks(block.square().sum(1) for block in scaled_blocks(rows, entries, scale))
    return scale * total.sqrt()


@dataclass(frozen=True, eq=False)
class Spread:
    """How the entries of each row scatter around their mean (float64)."""

    deviation: Float[Tensor, " terms"]  # standard deviation over the entries
    kurtosis: Float[Tensor, " terms"]  # fourth standardised moment: 3 for a normal distribution


def spread(rows: Float[Tensor, "terms params"], entries: Entries) -> Spread:
    """Returns standard deviation and kurtosis of each row's entries, about their own mean.

    The kurtosis of a row whose entries are all equal is undefined: NaN.
    """
    scale = magnitude_maximum(rows, entries)
    number = count(entries)
    mean = sum_of_blocks(block.sum(1) for block in scaled_blocks(rows, entries, scale)) / number
    # Centred in a second pass: moments about zero would cancel where the mean is far from zero.
    second = torch.zeros_like(mean)
    fourth = torch.zeros_like(mean)
    for block in scaled_blocks(rows, entries, scale):
        squares = (block - mean[:, None]).square()
        second += squares.sum(1) / number
        fourth += squares.square().sum(1) / number
    # Equal entries are all 1 (or all -1) after scaling, and their mean is exact: 0 / 0 is NaN.
    return Spread(scale * second.sqrt(), fourth / second.square())


@dataclass(frozen=True, eq=False)
class Gramian:
    """Lengths of and angles between the rows (float64)."""

    norms: Float[Tensor, "*groups terms"]
    cosines: Float[Tensor, "*groups terms terms"]  # NaN in the rows and columns of a zero row


def gramian(rows: Float[Tensor, "terms params"], entries: Entries) -> Gramian:
    """Returns norms and cosines of the rows, which together are the matrix of inner products."""
    only = gramians(rows, [entries])
    return Gramian(only.norms[0], only.cosines[0])


def gramians(rows: Float[Tensor, "terms params"], groups: Collection[Entries]) -> Gramian:
    """Returns norms and cosines of the rows over each of several groups of entries."""
    if rows.is_cpu and rows.shape[1] <= BLOCK:
        return _gramians_of_few(rows, groups)
    each = [_gramian_of_blocks(rows, entries) for entries in groups]
    norms, cosines = [one.norms for one in each], [one.cosines for one in each]
    return Gramian(torch.stack(norms), torch.stack(cosines))


def _gramians_of_few(rows: Tensor, groups: Collection[Entries]) -> Gramian:
    """Computes small products with numpy, whose calls take no longer than the products do."""
    double = as_numpy(rows)
    products = np.zeros((len(groups), len(rows), len(rows)))
    with np.errstate(all="ignore"):
        for total, entries in zip(products, groups, strict=True):
            for piece in entries:
                total += double[:, piece] @ double[:, piece].T
        norms = np.sqrt(products.diagonal(axis1=1, axis2=2))
        np.putmask(norms, norms == np.inf, np.nan)
        products /= norms[:, :, None]
        products /= norms[:, None]
    np.maximum(np.minimum(products, 1.0, out=products), -1.0, out=products)
    found = Gramian(torch.from_numpy(norms), torch.from_numpy(products))
    if rows.dtype == torch.float64:  # the one dtype with numbers whose squares it cannot hold
        fits = (norms > _LEAST_NORM) & (norms < _LARGEST_NORM)
        for index, entries in enumerate(groups):
            if not fits[index].all():
                exact = _gramian_of_blocks(rows, entries)
                found.norms[index], found.cosines[index] = exact.norms, exact.cosines
    return found


def _gramian_of_blocks(rows: Tensor, entries: Entries) -> Gramian:
    scale = magnitude_maximum(rows, entries)
    products = sum_of_blocks(block @ block.T for block in scaled_blocks(rows, entries, scale))
    lengths = products.diagonal().sqrt()
    cosines = (products / lengths[:, None] / lengths).clamp(-1.0, 1.0)
    return Gramian(scale * lengths, cosines)


def scaled_blocks(
    rows: Float[Tensor, "terms params"], entries: Entries, scale: Float[Tensor, " terms"]
) -> Iterator[Float[Tensor, "terms block"]]:
    """Yields the entries of all rows, divided by each row's scale, a block of columns at a time."""
    divisor = torch.where(scale == 0, 1.0, scale)[:, None]
    for piece in entries:
        for start in range(piece.start, piece.stop, BLOCK):
            yield as_double(rows[:, start : min(start + BLOCK, piece.stop)]) / divisor


def sum_of_blocks(parts: Iterator[Tensor]) -> Tensor:
    """Returns the sum of at least one tensor."""
    total = next(parts)
    for part in parts:
        total = total + part
    return total


def as_double(values: Tensor) -> Tensor:
    """Returns the values as float64, where they are if that is possible."""
    # Apple's GPUs know no float64.
    device = "cpu" if values.device.type == "mps" else values.device
    return values.to(device, torch.float64)


def as_numpy(rows: Tensor) -> NDArray[np.float64]:
    """Returns a matrix on the CPU as float64, for reading only: it may be the same memory."""
    if rows.dtype == torch.bfloat16:  # which numpy does not know
        rows = rows.float()
    return rows.resolve_neg().numpy().astype(np.float64, copy=False)
