"""How unequally the terms of a loss pull, and whether they pull against each other.

Everything here is a function of the (terms, params) matrix of gradients. `imbalance` compares
magnitudes, term by term and layer by layer: a loss whose residual term has gradients a hundred
times larger than its boundary term trains the residual alone. `cosine_matrix`, `alignment`,
`conflict` and `cancellation` compare directions. Which gradients are compared is the caller's
choice: those of the terms as they stand, or multiplied by their weights, as the paper plots them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import overload

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from .errors import ArgumentError
from .layout import ParameterLayout
from .reductions import (
    ALL as ALL,
    Entries,
    check_gradients,
    entries_by_layer,
    gramians,
    join,
    magnitude_maximum,
    names_of_terms,
    scaled_blocks,
)
from .statistics import LayerStatistics, alignment_scores, gradient_statistics

# More magnitudes than this are thinned out before two distributions are compared: sorting all of
# 1e8 entries would take longer than a training step, and a random million of them fix the share
# below any magnitude to 5e-4.
_MOST_SORTED = 1 << 20

Decades = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Imbalance:
    """How much larger the gradient of a reference term is than that of each term, by layer.

    Every ratio is the reference over the term, so that large numbers mean "the reference drowns
    this term". All are float64 on the CPU; the last column stands for all entries that count. A
    term without any gradient in a layer has infinite ratios there (NaN where the reference has none
    either); a NaN or an infinity in the gradients of either makes the comparison NaN.

    Attributes:
        terms: names of the rows ("0", "1", ... where the gradients had none).
        layers: names of the columns, the last one "all".
        reference: name of the reference term.
        max_to_mean: max|g_ref| / mean|g_i|, the ratio that learning-rate annealing takes for its
            weights.
        norm_ratio: ||g_ref|| / ||g_i||.
        std_ratio: ratio of the standard deviations over the entries.
        kurtosis_ratio: ratio of the kurtoses; below 1 where the gradients of the term are more
            sharply peaked around zero, with heavier tails, than those of the reference. NaN where
            all entries of either are equal.
        distance: how far apart the magnitudes are distributed, in powers of ten: the Wasserstein-1
            distance between log10|g_ref| and log10|g_i| over the entries that are not zero. A
            factor of 10 between the two gradients alone makes it 1, whatever their shape. NaN where
            either has no such entry.
    """

    terms: tuple[str, ...]
    layers: tuple[str, ...]
    reference: str
    max_to_mean: Float[Tensor, "terms layers"]
    norm_ratio: Float[Tensor, "terms layers"]
    std_ratio: Float[Tensor, "terms layers"]
    kurtosis_ratio: Float[Tensor, "terms layers"]
    distance: Float[Tensor, "terms layers"]

    def to_frame(self) -> pd.DataFrame:
        """Returns a long table (term, layer, quantity, value), one row a number."""
        quantities = ("max_to_mean", "norm_ratio", "std_ratio", "kurtosis_ratio", "distance")
        values = torch.stack([getattr(self, quantity) for quantity in quantities], dim=-1)
        frame = pd.DataFrame(
            product(self.terms, self.layers, quantities), columns=["term", "layer", "quantity"]
        )
        return frame.assign(value=values.reshape(-1).numpy())


def imbalance(
    grads: Float[Tensor, "terms params"],
    layout: ParameterLayout,
    reference: str | int = "residual",
    *,
    matrices_only: bool = False,
) -> Imbalance:
    """Returns how much larger the gradient of a reference term is than that of each term, by layer.

    The ratio max|g_ref| / mean|g_i| is eq. 40 of Wang, Teng, Perdikaris (arXiv 2001.04536v1), the
    ratios of standard deviations and kurtoses are those of inverse Dirichlet (arXiv 2107.00940) and
    dual-balanced weights (arXiv 2505.11117). The distance is exact for up to 2^20 entries a layer,
    computed from the sorted magnitudes; of more, it compares 2^20 drawn at random, with a generator
    of its own.

    Args:
        grads: one row a term, one column a parameter.
        layout: where each layer stands in the columns.
        reference: name of the term to compare with, or the number of its row.
        matrices_only: whether only weight matrices count, as in the paper's own code; layers
            without any are left out.

    Raises:
        ArgumentError: the reference is not among the terms, or the layout has no weight matrix and
            only those should count.
        LayoutError: the columns are not those of the layout.

    Example:
        >>> layout = ParameterLayout.of(torch.nn.Linear(2, 2))
        >>> g = torch.tensor([[8.0, -4, 4, 4, 0, 0], [0.5, 0.25, 0.25, 0.5, 0, 0]])
        >>> g = TermGradients.of(g, ("residual", "boundary"))
        >>> found = imbalance(g, layout)
        >>> found.max_to_mean[1, -1].item()  # 8 / 0.25
        32.0
        >>> imbalance(g, layout, matrices_only=True).max_to_mean[1, -1].item()  # 8 / 0.375
        21.333333333333332
    """
    every = gradient_statistics(grads, layout)
    statistics: LayerStatistics = every.matrices if matrices_only else every
    found = statistics.ratios(reference)
    groups = entries_by_layer(layout, matrices_only=matrices_only)
    if not groups:
        raise ArgumentError(
            "The model has no weight matrix: compare all its parameters with matrices_only=False."
        )
    everything = join(tuple(piece for entries in groups.values() for piece in entries))
    rows, row = grads.detach(), found.terms.index(found.reference)
    columns = [_distances(rows, row, entries) for entries in (*groups.values(), everything)]
    is_measured = torch.from_numpy(statistics.not_finite == 0)
    distance = torch.where(is_measured & is_measured[row], torch.stack(columns, dim=-1), torch.nan)
    max_to_mean, norm_ratio, std_ratio, kurtosis_ratio = torch.from_numpy(found.values)
    return Imbalance(
        found.terms,
        found.layers,
        found.reference,
        max_to_mean,
        norm_ratio,
        std_ratio,
        kurtosis_ratio,
        distance,
    )


def _distances(
    rows: Float[Tensor, "terms params"], reference: int, entries: Entries
) -> Float[Tensor, " terms"]:
    decades = [_sorted_decades(row, entries) for row in rows]
    found = [_wasserstein(decades[reference], others) for others in decades]
    return torch.tensor(found, dtype=torch.float64, device="cpu")


def _sorted_decades(row: Float[Tensor, " params"], entries: Entries) -> Decades:
    """Returns log10 of the magnitudes that are not zero, in ascending order."""
    values = row[entries[0]] if len(entries) == 1 else torch.cat([row[piece] for piece in entries])
    if len(values) > _MOST_SORTED:
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randint(len(values), (_MOST_SORTED,), generator=generator, device="cpu")
        values = values[chosen.to(values.device)]
    magnitudes = np.abs(values.cpu().double().numpy())
    usable = magnitudes[(magnitudes > 0) & (magnitudes < np.inf)]
    return np.sort(np.log10(usable))  # numpy sorts several times faster than torch


def _wasserstein(first: Decades, second: Decades) -> float:
    """Returns the integral of |F - G| over the cumulative distributions of two sorted samples."""
    if len(first) == 0 or len(second) == 0:
        return math.nan
    if len(first) == len(second):
        # The same integral over quantiles, where those of both samples jump at the same levels.
        return float(np.abs(first - second).mean())
    points = np.sort(np.concatenate([first, second]), kind="stable")  # merges what is sorted
    left, widths = points[:-1], np.diff(points)
    below_first = np.searchsorted(first, left, side="right") / len(first)
    below_second = np.searchsorted(second, left, side="right") / len(second)
    return float((np.abs(below_first - below_second) * widths).sum())


def cosine_matrix(
    grads: Float[Tensor, "terms params"], layout: ParameterLayout | None = None
) -> Float[Tensor, "*layers terms terms"]:
    """Returns the cosines of the angles between the gradients of all pairs of terms.

    The cosine with a gradient that is zero, or that holds a NaN or an infinity, is NaN.

    Args:
        grads: one row a term, one column a parameter.
        layout: with it, one matrix a layer, stacked in the order of `layout.layers`.

    Returns:
        In the dtype of the gradients (float32 at least) on their device; computed in float64.

    Raises:
        ArgumentError: the gradients are not a matrix of real numbers.
        LayoutError: the columns are not those of the layout.

    Example:
        >>> cosine_matrix(torch.tensor([[3.0, 0, 0], [1e-30, 0, 0], [-2, 0, 2]]))
        tensor([[ 1.0000,  1.0000, -0.7071],
                [ 1.0000,  1.0000, -0.7071],
                [-0.7071, -0.7071,  1.0000]])
    """
    rows = check_gradients(grads, layout)
    cosines = gramians(rows, _groups(rows, layout).values()).cosines
    cosines = cosines.to(rows.device, torch.promote_types(rows.dtype, torch.float32))
    return cosines[0] if layout is None else cosines


@overload
def alignment(grads: Float[Tensor, "terms params"]) -> float: ...
@overload
def alignment(
    grads: Float[Tensor, "terms params"], layout: ParameterLayout
) -> Float[Tensor, " layers"]: ...
def alignment(
    grads: Float[Tensor, "terms params"], layout: ParameterLayout | None = None
) -> float | Float[Tensor, " layers"]:
    """Returns the alignment score of the gradients, from 1 (all the same way) to -1 (cancelling).

    A(g_1, ..., g_n) = 2 ||(1/n) sum g_i / ||g_i|| ||^2 - 1 (Wang et al., arXiv 2502.00604), which
    for two terms is the cosine. Only directions count: multiplying a gradient by a weight does not
    change it. n gradients at right angles to each other score 2/n - 1.

    Args:
        grads: one row a term, one column a parameter.
        layout: with it, one score a layer, in the order of `layout.layers` (float64).

    Returns:
        The score; NaN where a term has no gradient or one with a NaN or an infinity in it.

    Raises:
        ArgumentError: the gradients are not a matrix of real numbers.
        LayoutError: the columns are not those of the layout.

    Example:
        >>> alignment(torch.tensor([[1.0, 0.0], [0.0, 100.0]]))
        0.0
    """
    rows = check_gradients(grads, layout)
    cosines = gramians(rows, _groups(rows, layout).values()).cosines
    scores = alignment_scores(cosines.cpu().numpy())
    return float(scores[0]) if layout is None else torch.from_numpy(scores).to(cosines.device)


@dataclass(frozen=True)
class ConflictingPair:
    """Two terms of which a small step down either raises the other, as far as it is linear."""

    layer: str  # "all" for the whole parameter vector
    first: str
    second: str
    cosine: float  # of the angle between their gradients, below 0


def conflict(
    grads: Float[Tensor, "terms params"], layout: ParameterLayout | None = None
) -> tuple[ConflictingPair, ...]:
    """Returns the pairs of terms whose gradients pull against each other, the most opposed first.

    Args:
        grads: one row a term, one column a parameter; terms without names are called by the number
            of their row.
        layout: with it, the pairs of each layer as well as those of the whole vector. Terms that
            agree overall may well fight over single layers.

    Raises:
        ArgumentError: the gradients are not a matrix of real numbers.
        LayoutError: the columns are not those of the layout.

    Example:
        >>> conflict(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]))
        (ConflictingPair(layer='all', first='0', second='1', cosine=-1.0),)
    """
    rows = check_gradients(grads, layout)
    terms = names_of_terms(grads)
    groups = _groups(rows, None) | ({} if layout is None else _groups(rows, layout))
    pairs = []
    matrices = gramians(rows, groups.values()).cosines.tolist()
    for layer, cosines in zip(groups, matrices, strict=True):
        for i, j in combinations(range(len(rows)), 2):
            if cosines[i][j] < 0:
                pairs.append(ConflictingPair(layer, terms[i], terms[j], cosines[i][j]))
    return tuple(sorted(pairs, key=lambda pair: pair.cosine))


def cancellation(
    grads: Float[Tensor, "terms params"], weights: Sequence[float] | Float[Tensor, " terms"]
) -> float:
    """Returns how much of the weighted gradients is left after adding them: 1 all, 0 nothing.

    ||sum w_i g_i|| / sum ||w_i g_i||. Near 0 training stands still though no term is solved.

    Args:
        grads: unweighted, one row a term, one column a parameter.
        weights: the weight of each term, in the order of the rows.

    Returns:
        The ratio; NaN where all weighted gradients are zero, or one holds a NaN or an infinity.

    Raises:
        ArgumentError: there is not one weight a term.

    Example:
        >>> cancellation(torch.tensor([[1.0, 0.0], [-3.0, 0.0]]), [3.0, 1.0])
        0.0
    """
    rows = check_gradients(grads)
    factors = torch.as_tensor(weights, dtype=torch.float64)
    if factors.shape != (len(rows),):
        raise ArgumentError(
            f"Weights of shape {tuple(factors.shape)} were given for {len(rows)} terms; one number "
            "a term is needed, in the order of the rows."
        )
    entries = (slice(0, rows.shape[1]),)
    scale = magnitude_maximum(rows, entries)
    factors = factors.to(scale.device) * scale
    factors = factors / factors.abs().max()
    total = torch.zeros_like(scale[0])
    parts = torch.zeros_like(scale)
    for block in scaled_blocks(rows, entries, scale):
        total += (factors @ block).square().sum()
        parts += block.square().sum(1)
    return (total.sqrt() / (factors.abs() * parts.sqrt()).sum()).item()


def _groups(rows: Tensor, layout: ParameterLayout | None) -> dict[str, Entries]:
    if layout is None:
        return {ALL: (slice(0, rows.shape[1]),)}
    return {layer: (entries,) for layer, entries in layout.slices.items()}
