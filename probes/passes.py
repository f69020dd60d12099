"""What one backward pass is about: from a live graph, or from losses that the user names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ..diagnostics.errors import ArgumentError, GraphError
from ..diagnostics.gradients import TermGradients
from ..diagnostics.layout import ParameterLayout
from ..diagnostics.live_graph import differentiate
from ..diagnostics.operators import SymmetricOperator
from ..diagnostics.recording import ForwardRecording
from ..diagnostics.term_groups import numbered
from ..diagnostics.terms import Term, Terms, as_terms, find_terms
from .models import Scalers
from .observer import BackwardCall
from .snapshot import Pass

Given = Mapping[str, Any]


def pass_of_call(
    call: BackwardCall,
    recording: ForwardRecording | None,
    scalers: Scalers,
    renamed: Mapping[str, str],
) -> Pass:
    """Returns the pass that a call of `backward` is about to make.

    Raises:
        GraphError: what is differentiated has no live graph, so the call itself will fail, or it is
            an edge of the graph, whose value nobody knows.
    """
    found: list[Terms] = []
    scales = []
    for root, gradient in zip(call.roots, call.gradients, strict=True):
        if not isinstance(root, Tensor):
            raise GraphError(
                "backward() was called on an edge of the graph, from which no terms can be read: "
                "name them with probe.watch({...})."
            )
        found.append(find_terms(root, gradient=gradient, recording=recording))
        scales.append(scalers.scale_of(root))
    scale = scales[0]
    terms = [
        replace(term, weight=term.weight / scale)
        for terms, scale in zip(found, scales, strict=True)
        for term in terms
    ]
    losses = [terms.loss / scale for terms, scale in zip(found, scales, strict=True)]
    if call.through == "autojac":
        # An aggregator combines the gradients in a way of its own: there are no weights.
        terms = [replace(term, weight=math.nan) for term in terms]
        return Pass(_apart(terms, renamed), (), None)
    return Pass(_apart(terms, renamed), tuple(found), math.fsum(losses), scale=scale)


def pass_of_losses(
    losses: Mapping[str, Tensor],
    weights: Mapping[str, float] | None,
    total: Tensor | None,
    scale: float = 1.0,
) -> Pass:
    """Returns the pass of losses that the user has named.

    Args:
        losses: unweighted; scalars or values at points.
        weights: by name; 1 where left out.
        total: what is differentiated, from which the weights are read if they are not given.
        scale: the factor of a `GradScaler` in the total.

    Raises:
        ArgumentError: a loss is none, or weights are given for terms that are not there.
        GraphError: the total has no live graph.
    """
    if weights is not None:
        unknown = [name for name in weights if name not in losses]
        if unknown:
            raise ArgumentError(
                f"A weight was given for {unknown[0]!r}, which is no term of this step; the terms "
                f"are {', '.join(map(repr, losses))}."
            )
    elif total is not None:
        weights = _weights_in(total, losses)
    factors = {name: float(weight) / scale for name, weight in (weights or {}).items()}
    terms = as_terms(losses, factors)
    loss = math.fsum(term.weight * term.value for term in terms if term.value is not None)
    if total is not None:
        loss = float(total.detach().double().sum()) / scale
    points = {name: loss.detach() for name, loss in losses.items() if loss.numel() > 1}
    return Pass(terms, loss=loss, points=points)


def pass_of_values(
    losses: Mapping[str, float | Tensor],
    weights: Mapping[str, float] | None,
    hessians: Mapping[str, SymmetricOperator | Callable[[], SymmetricOperator]],
) -> Pass:
    """Returns the pass of a step that functional code has computed."""
    factors = dict(weights or {})
    terms = tuple(
        Term(name, float(factors.get(name, 1.0)), _number(value), name, None, (), ())
        for name, value in losses.items()
    )
    loss = math.fsum(term.weight * term.value for term in terms if term.value is not None)
    return Pass(terms, loss=loss, hessians=hessians)


def gradients_of(
    given: Mapping[str, Given | Tensor] | TermGradients | Tensor,
    terms: Sequence[str],
    layout: ParameterLayout,
) -> TermGradients:
    """Returns gradients by term, flat or by parameter name, as one matrix.

    Raises:
        ArgumentError: a term has none, or a matrix has another number of rows.
        LayoutError: the shape of one does not fit.
    """
    if isinstance(given, Tensor):
        return TermGradients.of(given.detach(), tuple(terms))
    missing = [name for name in terms if name not in given]
    if missing:
        raise ArgumentError(f"No gradient was given for the term {missing[0]!r}.")
    matrix = torch.empty(len(terms), layout.size, dtype=layout.dtype, device=layout.device)
    unreached = {}
    for row, name in zip(matrix, terms, strict=True):
        one = given[name]
        row.copy_(flat(one, layout))
        names = (
            ()
            if isinstance(one, Tensor)
            else tuple(s.name for s in layout.slots if s.name not in one)
        )
        unreached[name] = names
    return TermGradients.of(matrix, tuple(terms), unreached)


def flat(given: Given | Tensor, layout: ParameterLayout) -> Tensor:
    """Returns a flat vector, or tensors by parameter name, as a flat vector."""
    if not isinstance(given, Tensor):
        return layout.flatten(given)
    if given.shape != (layout.size,):
        raise ArgumentError(
            f"A vector of shape {tuple(given.shape)} was given for {layout.size} parameters."
        )
    return given.detach()


def _apart(terms: Sequence[Term], renamed: Mapping[str, str]) -> tuple[Term, ...]:
    """Returns the terms under the names that the user wants, no two alike."""
    names: set[str] = set()
    identities: set[str] = set()
    apart = []
    for term in terms:
        name = numbered(renamed.get(term.name, term.name), names)
        apart.append(replace(term, name=name, identity=numbered(term.identity, identities)))
    return tuple(apart)


def _number(value: float | Tensor) -> float:
    return float(value.detach()) if isinstance(value, Tensor) else float(value)


def _weights_in(total: Tensor, losses: Mapping[str, Tensor]) -> dict[str, float]:
    """Returns d total / d term for each term."""
    with torch._C.DisableTorchFunction():
        live = {name: loss for name, loss in losses.items() if loss.requires_grad}
        edges: list[GradientEdge] = [get_gradient_edge(loss) for loss in live.values()]
        slopes = differentiate([get_gradient_edge(total)], edges, [torch.ones_like(total)])
        weights = dict.fromkeys(losses, 0.0)
        for name, slope in zip(live, slopes, strict=True):
            weights[name] = 0.0 if slope is None else float(slope.double().sum())
    return weights
