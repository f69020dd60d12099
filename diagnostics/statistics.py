"""What the gradients of the terms are like in every layer, as numbers.

`gradient_statistics` takes all that one asks of a (terms, params) matrix at every step in one go:
how large the entries are, how they scatter, how many are zero or not finite, and the angles between
the terms. The ratios between a reference term and the others, and the alignment, follow from that
without another look at the gradients. Several steps can be taken side by side, which for a small
network takes half the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from .errors import ArgumentError
from .layout import ParameterLayout, ParameterSlot
from .moments import QUANTITIES as QUANTITIES, Partition, moments
from .reductions import ALL, check_gradients, names_of_terms

Array = NDArray[np.float64]

# Below this share of the largest magnitude that a term has in the whole network, an entry is nearly
# zero. The gradient of a float32 network is made of sums with rounding errors of some 1e-7 of what
# is added up, so that such an entry hardly has a digit to rely on; and gradient descent moves its
# parameter a million times less than the one that it moves most.
NEAR_ZERO = 1e-6

RATIOS = ("max_to_mean", "norm_ratio", "std_ratio", "kurtosis_ratio")

# What each of these is divided by.
_SCALES = [QUANTITIES.index(name) for name in ("mean_magnitude", "norm", "std", "kurtosis")]


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """Statistics of the entries of every term's gradient in every layer, float64.

    Where an entry is NaN or infinite, all of its layer and of "all" is NaN but for the numbers of
    entries. An attribute for each of `QUANTITIES` has its slice of `values`, (terms, layers). Of
    several steps, all arrays have an axis more, before those of terms and layers.

    Attributes:
        terms: names of the rows ("0", "1", ... where the gradients had none).
        layers: names of the columns, the last one "all", for all entries that count; empty where
            none does.
        values: all numbers, quantity by quantity.
        cosines: of the angles between the gradients of all pairs of terms, a matrix a layer; NaN
            with a gradient that is zero.
    """

    terms: tuple[str, ...]
    layers: tuple[str, ...]
    values: Float[Array, "quantities *steps terms layers"]
    cosines: Float[Array, "*steps layers terms terms"]

    @property
    def count(self) -> Float[Array, "*steps terms layers"]:
        """The number of entries, the same for all terms."""
        return self._of("count")

    @property
    def max_magnitude(self) -> Float[Array, "*steps terms layers"]:
        """max|g|."""
        return self._of("max_magnitude")

    @property
    def mean_magnitude(self) -> Float[Array, "*steps terms layers"]:
        """mean|g|."""
        return self._of("mean_magnitude")

    @property
    def std_magnitude(self) -> Float[Array, "*steps terms layers"]:
        """Standard deviation of |g|, to within 1e-7 of the root mean square of g."""
        return self._of("std_magnitude")

    @property
    def std(self) -> Float[Array, "*steps terms layers"]:
        """Standard deviation of g, whose square is the mean over all entries (not one fewer)."""
        return self._of("std")

    @property
    def norm(self) -> Float[Array, "*steps terms layers"]:
        """Euclidean norm."""
        return self._of("norm")

    @property
    def kurtosis(self) -> Float[Array, "*steps terms layers"]:
        """Fourth standardised moment of g: 3 for a normal distribution; NaN for equal entries."""
        return self._of("kurtosis")

    @property
    def zeros(self) -> Float[Array, "*steps terms layers"]:
        """The number of entries that are exactly zero."""
        return self._of("zeros")

    @property
    def near_zeros(self) -> Float[Array, "*steps terms layers"]:
        """The number of those below `NEAR_ZERO` of the term's largest finite one, zeros included.

        The largest is that of the whole network, also where only some of its entries count.
        """
        return self._of("near_zeros")

    @property
    def not_finite(self) -> Float[Array, "*steps terms layers"]:
        """The number of entries that are NaN or infinite."""
        return self._of("not_finite")

    @property
    def alignment(self) -> Float[Array, "*steps layers"]:
        """The alignment score of the terms, as in `alignment`."""
        return alignment_scores(self.cosines)

    def cancellation(
        self, weights: Sequence[float] | Float[Array, "*steps terms"]
    ) -> Float[Array, "*steps layers"]:
        """Returns how much of the weighted gradients is left after adding them, in every layer.

        ||sum w_i g_i|| / sum ||w_i g_i||, as in `cancellation`, but from norms and angles: off by
        less than 1e-7, which where all cancels is all there is. NaN where all gradients are zero.

        Args:
            weights: the weight of each term.

        Raises:
            ArgumentError: there is not one weight a term.
        """
        factors = np.asarray(weights, dtype=np.float64)
        if factors.shape != self.values.shape[1:-1]:
            raise ArgumentError(
                f"Weights of shape {factors.shape} were given for {len(self.terms)} terms; one "
                "number a term is needed, in the order of the rows."
            )
        lengths = (factors[..., None] * self.norm).swapaxes(-1, -2)
        with np.errstate(all="ignore"):
            lengths = lengths / np.abs(lengths).max(axis=-1, keepdims=True)
            products = lengths[..., None] * self.cosines * lengths[..., None, :]
            # A gradient that is zero has no angle to the others, and no part in the sum.
            is_zero = lengths == 0
            products[is_zero[..., None] | is_zero[..., None, :]] = 0.0
            left = np.sqrt(np.maximum(products.sum(axis=(-2, -1)), 0.0))
            share: Array = left / np.abs(lengths).sum(axis=-1)
        return share

    def ratios(self, reference: str | int) -> MagnitudeRatios:
        """Returns how much larger the gradient of a reference term is than that of each term.

        Args:
            reference: name of the term to compare with, or the number of its row.

        Raises:
            ArgumentError: it is not among the terms.
        """
        row = row_of(reference, self.terms)
        scales = self.values[_SCALES]
        compared = scales[..., row, None, :].copy()
        compared[0] = self.max_magnitude[..., row, None, :]
        with np.errstate(all="ignore"):
            ratios = compared / scales
        return MagnitudeRatios(self.terms, self.layers, self.terms[row], ratios)

    def _of(self, quantity: str) -> Float[Array, "*steps terms layers"]:
        values: Array = self.values[QUANTITIES.index(quantity)]
        return values


@dataclass(frozen=True, eq=False)
class GradientStatistics(LayerStatistics):
    """`LayerStatistics` of all entries, and of two parts of them alone.

    Attributes:
        matrices: of weight matrices and kernels (parameters of two or more dimensions).
        vectors: of biases, scales and all others.
    """

    matrices: LayerStatistics
    vectors: LayerStatistics


@dataclass(frozen=True, eq=False)
class MagnitudeRatios:
    """How much larger the gradient of a reference term is than that of each term, by layer.

    Every ratio is the reference over the term: large where "the reference drowns this term",
    infinite where the term has no gradient and NaN where neither has one. An attribute for each of
    `RATIOS` has its slice of `values`, (terms, layers).

    Attributes:
        terms: names of the rows.
        layers: names of the columns, the last one "all".
        reference: name of the reference term.
        values: all numbers, ratio by ratio.
    """

    terms: tuple[str, ...]
    layers: tuple[str, ...]
    reference: str
    values: Float[Array, "ratios *steps terms layers"]

    @property
    def max_to_mean(self) -> Float[Array, "*steps terms layers"]:
        """max|g_ref| / mean|g_i|, the ratio that learning-rate annealing takes for its weights."""
        return self._of("max_to_mean")

    @property
    def norm_ratio(self) -> Float[Array, "*steps terms layers"]:
        """||g_ref|| / ||g_i||."""
        return self._of("norm_ratio")

    @property
    def std_ratio(self) -> Float[Array, "*steps terms layers"]:
        """Ratio of the standard deviations over the entries."""
        return self._of("std_ratio")

    @property
    def kurtosis_ratio(self) -> Float[Array, "*steps terms layers"]:
        """Ratio of the kurtoses."""
        return self._of("kurtosis_ratio")

    def _of(self, ratio: str) -> Float[Array, "*steps terms layers"]:
        values: Array = self.values[RATIOS.index(ratio)]
        return values


def gradient_statistics(
    grads: Float[Tensor, "terms params"], layout: ParameterLayout
) -> GradientStatistics:
    """Returns the statistics of every term's gradient in every layer, and the angles between them.

    The gradients are read once (large ones once more for their largest magnitude), in double
    precision and without a copy that grows with them; no magnitude that their dtype can hold is too
    large or too small.

    Args:
        grads: one row a term, one column a parameter, from `term_gradients`.
        layout: where each layer stands in the columns.

    Raises:
        ArgumentError: the gradients are not a matrix of real numbers.
        LayoutError: the columns are not those of the layout.

    Example:
        >>> layout = ParameterLayout.of(torch.nn.Linear(2, 2))
        >>> g = torch.tensor([[8.0, -4, 4, 4, 0, 0], [0.5, 0.25, 0.25, 0.5, 0, 0]])
        >>> g = TermGradients.of(g, ("residual", "boundary"))
        >>> found = gradient_statistics(g, layout)
        >>> found.layers, found.max_magnitude[:, -1], found.zeros[:, -1]
        (('Linear', 'all'), array([8. , 0.5]), array([2., 2.]))
        >>> found.matrices.ratios("residual").max_to_mean[1, -1].item()  # 8 / 0.375
        21.333333333333332
    """
    return statistics_of_steps(check_gradients(grads, layout), names_of_terms(grads), layout)


def statistics_of_steps(
    rows: Float[Tensor, "*steps terms params"], terms: tuple[str, ...], layout: ParameterLayout
) -> GradientStatistics:
    """Returns `gradient_statistics` of several steps side by side, which all have the same terms.

    Args:
        rows: the gradients.
        terms: the name of each row.
        layout: where each layer stands in the columns.
    """
    groups = _groups_of(layout)
    found = moments(rows, groups.partition, NEAR_ZERO)
    whole, matrices, vectors = (
        (terms, names, found.values[..., columns], found.cosines[..., columns, :, :])
        for names, columns in groups.columns
    )
    return GradientStatistics(*whole, LayerStatistics(*matrices), LayerStatistics(*vectors))


@dataclass(frozen=True, eq=False)
class _Groups:
    """The groups of entries that count together, those of a part being neighbours."""

    partition: Partition
    columns: tuple[tuple[tuple[str, ...], slice], ...]  # layers of each part, and where they are


_PARTS: tuple[Callable[[ParameterSlot], bool], ...] = (
    lambda slot: True,
    lambda slot: slot.is_matrix,
    lambda slot: not slot.is_matrix,
)

# Finding them takes longer than all sums over a small network. A layout that nobody else holds on
# to takes its groups with it.
_groups: WeakKeyDictionary[ParameterLayout, _Groups] = WeakKeyDictionary()


def _groups_of(layout: ParameterLayout) -> _Groups:
    found = _groups.get(layout)
    if found is None:
        found = _groups[layout] = _find_groups(layout)
    return found


def _find_groups(layout: ParameterLayout) -> _Groups:
    members: list[list[int]] = []
    columns = []
    for counts in _PARTS:
        by_layer: dict[str, list[int]] = {}
        for number, slot in enumerate(layout.slots):
            if counts(slot):
                by_layer.setdefault(slot.layer, []).append(number)
        groups = list(by_layer.values())
        names = tuple(by_layer)
        if groups:
            groups.append([number for group in groups for number in group])
            names = (*names, ALL)
        columns.append((names, slice(len(members), len(members) + len(groups))))
        members += groups
    return _Groups(Partition.of([slot.slice for slot in layout.slots], members), tuple(columns))


def alignment_scores(
    cosines: Float[Array, "*groups terms terms"],
) -> Float[Array, "*groups"]:
    """Returns 2 ||(1/n) sum u_i||^2 - 1 of the directions u_i between which the angles are."""
    number = np.float64(cosines.shape[-1])
    with np.errstate(invalid="ignore"):  # of no terms at all
        # ||sum u_i||^2 is the sum of all cosines.
        mean = cosines.sum(axis=(-2, -1)) / number**2
    scores: Array = np.minimum(np.maximum(2 * mean - 1, -1.0), 1.0)
    return scores


def row_of(reference: str | int, terms: tuple[str, ...]) -> int:
    """Returns the row of a term that is given by its name or by the number of its row.

    Raises:
        ArgumentError: there is none.
    """
    if isinstance(reference, int):
        if not 0 <= reference < len(terms):
            raise ArgumentError(
                f"There is no row {reference}; the gradients have rows 0 to {len(terms) - 1}."
            )
        return reference
    if reference not in terms:
        raise ArgumentError(
            f"There is no term {reference!r} to compare with; the terms are "
            f"{', '.join(map(repr, terms))}. Of gradients that are a plain tensor, give the "
            "number of its row, or TermGradients.of(gradients, names)."
        )
    return terms.index(reference)
