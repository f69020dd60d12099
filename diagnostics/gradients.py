"""The gradient of every loss term as one matrix, terms x parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import ArgumentError
from .layout import ParameterLayout
from .live_graph import differentiate, differentiate_each
from .survey import Survey
from .terms import Term, Terms, as_terms

# The comparison is made in float64 on so many entries at a time, never on a long copy.
_PIECE = 1 << 20

# Entries up to which all gradients are put together in one operation, for which they are all there.
_MOST_AT_ONCE = 1 << 18


class TermGradients(Tensor):
    """A (terms, params) matrix that knows what its rows are.

    It is an ordinary tensor in every respect; what is computed from it is a plain `Tensor`.

    Attributes:
        terms: the name of each row's term.
        unreached: for each term, the names of the parameters that it does not reach at all; their
            entries are zero by absence, not by measurement.
    """

    terms: tuple[str, ...]
    unreached: Mapping[str, tuple[str, ...]]

    # What is computed from the matrix has other rows: names must not travel along.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def of(
        cls,
        matrix: Tensor,
        terms: tuple[str, ...],
        unreached: Mapping[str, tuple[str, ...]] | None = None,
    ) -> TermGradients:
        """Returns the matrix with names to its rows; memory is shared.

        Raises:
            ArgumentError: the number of names is not the number of rows.
        """
        if matrix.ndim != 2 or matrix.shape[0] != len(terms):
            raise ArgumentError(
                f"{len(terms)} term names were given for a matrix of shape {tuple(matrix.shape)}."
            )
        named = matrix.as_subclass(cls)
        named.terms = tuple(terms)
        named.unreached = dict(unreached or {})
        return named

    def __deepcopy__(self, memo: dict[int, Any]) -> TermGradients:
        return TermGradients.of(self.clone(), self.terms, self.unreached)


def term_gradients(
    terms: Sequence[Term] | Mapping[str, Tensor],
    layout: ParameterLayout,
    *,
    retain_graph: bool = True,
    survey: Survey | None = None,
) -> TermGradients:
    """Returns the unweighted gradient of each term, one row a term, in the layout's dtype.

    Nothing of the user's is touched: the graph stays alive for `backward()`, `.grad` is not
    written, hooks do not run.

    Args:
        terms: what `find_terms` returned, or losses with a graph by name (scalars, or tensors of
            one value a point, which count by their mean).
        layout: the parameters; their places are the columns.
        retain_graph: whether the graph stays alive; without, the last term uses it up.
        survey: of the graphs of all terms, where somebody has made it already.

    Returns:
        A (terms, params) matrix with the names of its rows in `.terms`. A parameter that a term
        does not reach is zero there and listed in `.unreached`.

    Raises:
        GraphError: the graph has been freed or changed in place.
        ArgumentError: what was given are no terms.

    Example:
        >>> net = torch.nn.Linear(2, 1)
        >>> layout = ParameterLayout.of(net)
        >>> losses = {"data": net(torch.ones(3, 2)).mean(), "decay": net.weight.square().sum()}
        >>> gradients = term_gradients(losses, layout)
        >>> gradients.shape, gradients.terms, gradients.unreached["decay"]
        (torch.Size([2, 3]), ('data', 'decay'), ('Linear.bias',))
    """
    # Neither a tensor class of the user's nor a mode that is active shall see what is done here.
    with torch._C.DisableTorchFunction():
        named = as_terms(terms) if isinstance(terms, Mapping) else _only_terms(terms)
        unreached: dict[str, tuple[str, ...]] = {}
        taken: list[Sequence[Tensor | None]] = []
        matrix = None
        if layout.size * len(named) > _MOST_AT_ONCE:
            with torch.inference_mode(False):  # it is filled outside of the caller's modes
                shape = len(named), layout.size
                matrix = torch.empty(shape, dtype=layout.dtype, device=layout.device)

        def take(row: int, grads: Sequence[Tensor | None]) -> None:
            if matrix is None:
                taken.append(grads)
            else:
                layout.flatten_into(matrix[row], grads)
            unreached[named[row].name] = tuple(
                slot.name for slot, grad in zip(layout.slots, grads, strict=True) if grad is None
            )

        losses = [(term.edges, term.seeds) for term in named]
        differentiate_each(
            losses, layout.parameters, take, retain_graph=retain_graph, survey=survey
        )
        if matrix is None:
            with torch.inference_mode(False):
                matrix = layout.flatten_rows(taken)
        return TermGradients.of(matrix, tuple(term.name for term in named), unreached)


def _only_terms(terms: Sequence[Term]) -> Sequence[Term]:
    for term in [terms] if isinstance(terms, Tensor) else terms:
        if not isinstance(term, Term):
            raise ArgumentError(
                f"A {type(term).__name__} is no term: give what find_terms returned, or a mapping "
                "from names to losses."
            )
    return terms


def gradient_mismatch(terms: Terms, gradients: Tensor, layout: ParameterLayout) -> float:
    """Returns |sum_k weight_k g_k - g| / max(|g|, |weight_k g_k|), g being the loss's gradient.

    This is the check that nothing of the loss was left out. The part of the gradient that belongs
    to learnable weights themselves, (d loss / d weight) (d weight / d params), counts as well. The
    terms' own gradients are in the scale because they cancel near a minimum, where rounding is not
    small beside |g|. NaN where a gradient is not finite; 0 where all are zero.

    Args:
        terms: the terms of one loss, its graph alive.
        gradients: (terms, params), what `term_gradients` returned for them.
        layout: the parameters.

    Raises:
        ArgumentError: the gradients are not of that shape.
        GraphError: the graph has been freed or changed in place.
    """
    with torch._C.DisableTorchFunction():
        if gradients.shape != (len(terms), layout.size):
            raise ArgumentError(
                f"Gradients of shape {tuple(gradients.shape)} were given for {len(terms)} terms "
                f"and {layout.size} parameters."
            )
        total = layout.flatten(differentiate([terms.root], layout.parameters, [terms.seed]))
        own = None
        if terms.factors:
            own = layout.flatten(
                differentiate(terms.factors, layout.parameters, terms.factor_seeds)
            )
        return mismatch(gradients, [term.weight for term in terms], total, own)


def mismatch(
    gradients: Tensor, weights: Sequence[float], total: Tensor, own: Tensor | None = None
) -> float:
    """Returns |sum_k weight_k g_k + own - total| / max(|total|, |weight_k g_k|).

    Args:
        gradients: (terms, params), one row a term.
        weights: one a row.
        total: (params,), what the weighted rows should add up to.
        own: (params,), what belongs to the weights themselves, where they are learnable.
    """
    if gradients.numel() <= _PIECE and gradients.device.type == "cpu":
        return _small_mismatch(gradients, weights, total, own)
    rows = [(1.0, total), *zip((-w for w in weights), gradients, strict=True)]
    if own is not None:
        rows.append((-1.0, own))
    squares = torch.zeros(len(rows), dtype=torch.float64, device="cpu")
    rest = 0.0
    for start in range(0, len(total), _PIECE):
        piece = [factor * _double(row[start : start + _PIECE]) for factor, row in rows]
        parts = torch.stack(piece)
        squares += parts.square().sum(dim=1)
        rest += float(parts.sum(dim=0).square().sum())
    scale = float(squares[: len(weights) + 1].max())
    return sqrt(rest / scale) if scale > 0 else sqrt(rest)


def _small_mismatch(
    gradients: Tensor, weights: Sequence[float], total: Tensor, own: Tensor | None
) -> float:
    """The same in a few operations, for what fits into one piece."""
    # Nearly equal numbers are subtracted without an error, so only the sum of the rows is rounded.
    wide = np.float64 if gradients.dtype == torch.float64 else np.float32
    rows, sought = _numbers(gradients, wide), _numbers(total, wide)
    with np.errstate(all="ignore"):  # what is not finite makes the result so
        # Row by row: a matrix product may wake the threads of BLAS, which takes far longer.
        sums = np.zeros_like(sought) if own is None else _numbers(own, wide).copy()
        for weight, row in zip(weights, rows, strict=True):
            sums += wide(weight) * row
        norms = [abs(w) * _norm(row) for w, row in zip(weights, rows, strict=True)]
        # numpy's max, since Python's would lose a NaN.
        scale = float(np.max([_norm(sought), *norms]))
        rest = _norm(sought - sums)
    return rest / scale if scale > 0 else rest


def _numbers(tensor: Tensor, kind: type[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    tensor = tensor.detach()
    half = tensor.dtype in (torch.float16, torch.bfloat16)  # numpy has no bfloat16
    numbers: NDArray[np.floating[Any]] = (tensor.float() if half else tensor).numpy(force=True)
    return numbers.astype(kind, copy=False)


def _norm(vector: NDArray[np.floating[Any]]) -> float:
    double = vector.astype(np.float64, copy=False)
    return sqrt(double @ double)


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()  # Apple's GPUs have no double precision
