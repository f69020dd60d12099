"""From a scalar loss with a live graph to its additive terms: names, weights, values.

`find_terms` walks the linear top of the graph (`expression.py`) and names what it finds
(`term_names.py`). The effective weight of a term is the derivative of the loss with respect to it,
taken by autograd and therefore exact; its unweighted gradient and Hessian are taken from its edge
of the graph, without the user's tensors. So loss = constant + sum_k weight_k * value_k, and this is
checked wherever all values are known.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from types import FrameType
from typing import overload

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from .adjoints import Adjoints, adjoints
from .errors import ArgumentError, GraphError
from .expression import Expression, dtype, expand, leaf_member, leaf_of, precision, shape
from .recording import ForwardRecording
from .term_groups import Draft, group_leaves, with_unique_names
from .term_names import Found, find_members, find_variables


@dataclass(frozen=True, eq=False)
class Term:
    """One additive term of a loss: its value enters the loss times its weight.

    The value is sum_j <seeds_j, edges_j>: for an ordinary scalar term one edge with seed 1, for a
    term that is a tensor of several entries their mean.
    """

    name: str
    weight: float  # effective weight, d loss / d term
    value: float | None  # unweighted; None where it cannot be known
    identity: str  # the same at every step for the same term, also where the name is made up
    place: str | None  # file and line where it was computed, where known
    edges: tuple[GradientEdge, ...]  # keep the graph alive; empty: the term has none
    seeds: tuple[Tensor, ...]

    def without_graph(self) -> Term:
        """Returns what is known of the term without its graph."""
        # Not `replace`, which takes three times as long.
        return Term(self.name, self.weight, self.value, self.identity, self.place, (), ())


@dataclass(frozen=True, eq=False)
class Terms(Sequence[Term]):
    """The terms of one loss, in the order they are written.

    loss = constant + sum_k weight_k * value_k. The constant is None where it cannot be told from a
    missing value.
    """

    terms: tuple[Term, ...]
    loss: float
    constant: float | None
    mismatch: float | None  # |loss - constant - sum_k weight_k value_k| / sum_k |weight_k value_k|
    adds_up: bool | None  # whether the mismatch is no more than rounding; None: values are missing
    root: GradientEdge
    seed: Tensor  # the gradient that the loss is differentiated with
    factors: tuple[GradientEdge, ...]  # learnable weights
    factor_seeds: tuple[Tensor, ...]  # d loss / d factor

    @overload
    def __getitem__(self, index: int) -> Term: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Term]: ...
    def __getitem__(self, index: int | slice) -> Term | Sequence[Term]:
        return self.terms[index]

    def __len__(self) -> int:
        return len(self.terms)

    def __iter__(self) -> Iterator[Term]:
        return iter(self.terms)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the terms."""
        return tuple(term.name for term in self.terms)

    @property
    def weights(self) -> dict[str, float]:
        """The effective weight of each term by name."""
        return {term.name: term.weight for term in self.terms}

    @property
    def status(self) -> str:
        """In one sentence, whether the terms are known to add up to the loss."""
        if self.adds_up:
            constant = f" and a constant of {self.constant:.6g}" if self.constant else ""
            return f"The weighted terms{constant} add up to the loss."
        if self.adds_up is None:
            missing = ", ".join(t.name for t in self.terms if t.value is None and t.weight != 0)
            if missing:
                return f"Not checked: the value of {missing} is not known."
            return f"Not checked: the loss is {self.loss}."
        return (
            f"The weighted terms miss the loss by {self.mismatch:.1e} of their size: a tensor was "
            "changed in place after it entered the loss, or the graph is not linear where it seems."
        )


def find_terms(
    loss: Tensor,
    *,
    gradient: Tensor | None = None,
    recording: ForwardRecording | None = None,
) -> Terms:
    """Returns the additive terms of a loss whose graph is alive (before `backward()`).

    Args:
        loss: the scalar that is differentiated; any shape if `gradient` is given.
        gradient: what the loss would be differentiated with, as in `loss.backward(gradient)`.
        recording: a recording of the forward pass; gives values and names to terms whose tensors
            are gone.

    Returns:
        The terms. A product of two terms, a logarithm or a root of a sum is one term; so is a mean
        over points. Names come from the caller's variables, else from the recording, else from the
        graph. The value of a term whose tensor is gone follows from the loss if it is the only one,
        no constant can have been added, and the term stands out from rounding; else it is None.

    Raises:
        GraphError: the loss has no graph or its graph is freed, or it is no scalar and no gradient
            was given.
        ArgumentError: the loss is no tensor, or the gradient has another shape.

    Example:
        >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> residual, boundary = (w**2).mean(), (w - 1).abs().mean()
        >>> for term in find_terms(residual + 10.0 * boundary):
        ...     print(term.name, term.weight, term.value)
        residual 1.0 2.5
        boundary 10.0 0.5
    """
    frame = sys._getframe(1)
    # Neither a tensor class of the user's nor a mode that is active shall see what is done here.
    with torch._C.DisableTorchFunction():
        seed = _seed(loss, gradient)
        expression = expand(loss)
        terms = _terms_of(expression, loss, seed, frame, recording)
        if terms is None or (expression.has_slices and terms.adds_up is False):
            # A write into a slice was not linear after all, so the terms end above it.
            expression = expand(loss, through_slices=False)
            terms = _terms_of(expression, loss, seed, frame, recording)
            assert terms is not None
        return terms


def as_terms(
    losses: Mapping[str, Tensor], weights: Mapping[str, float] | None = None
) -> tuple[Term, ...]:
    """Returns losses that the caller names as terms.

    Args:
        losses: by name a scalar, or a tensor of one value a point, which counts by its mean. A loss
            without a graph makes a term that reaches no parameter.
        weights: by name; 1 where left out.

    Raises:
        ArgumentError: a loss is no tensor, is empty or complex.
    """
    known = weights or {}
    return tuple(_as_term(name, loss, known.get(name, 1.0)) for name, loss in losses.items())


def _as_term(name: str, loss: Tensor, weight: float) -> Term:
    if not isinstance(loss, Tensor) or loss.numel() == 0 or loss.is_complex():
        kind = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ArgumentError(
            f"The loss {name!r} ({kind}) is no term: give a real tensor of at least one entry."
        )
    detached = loss.detach()
    value = float(detached if loss.numel() == 1 else detached.cpu().double().mean())
    edges: tuple[GradientEdge, ...] = ()
    seeds: tuple[Tensor, ...] = ()
    if loss.requires_grad:
        edges = (get_gradient_edge(loss),)
        seeds = (torch.full_like(detached, 1 / loss.numel()),)
    return Term(name, weight, value, name, None, edges, seeds)


def _seed(loss: Tensor, gradient: Tensor | None) -> Tensor:
    if not isinstance(loss, Tensor):
        raise ArgumentError(
            f"A loss of type {type(loss).__name__} has no terms: give the tensor on which "
            "backward() is called."
        )
    if not loss.requires_grad:
        raise GraphError(
            "This loss has no graph: it was computed under no_grad, detached, or made from plain "
            "numbers; give the tensor on which backward() is called."
        )
    if loss.is_complex():
        raise GraphError("A complex loss cannot be minimised: give its real part or its modulus.")
    if gradient is not None:
        if gradient.shape != loss.shape:
            raise ArgumentError(
                f"A gradient of shape {tuple(gradient.shape)} was given for a loss of shape "
                f"{tuple(loss.shape)}: they must have the same."
            )
        return gradient.detach().to(loss.dtype)
    if loss.numel() != 1:
        raise GraphError(
            f"A loss of shape {tuple(loss.shape)} is no scalar: give its mean or sum, or the "
            "gradient that backward() is called with."
        )
    return torch.ones_like(loss).detach()


def _terms_of(
    expression: Expression,
    loss: Tensor,
    seed: Tensor,
    frame: FrameType | None,
    recording: ForwardRecording | None,
) -> Terms | None:
    """Returns the terms of an expanded loss; None where it is not linear where it seems."""
    slopes = adjoints(expression, seed)
    if slopes is None:
        return None
    members = [member[0] for edge in expression.leaves if (member := leaf_member(edge))]
    found = find_variables(frame, (*expression.inputs, *expression.leaves, *members))
    found |= find_members(found, expression)
    drafts = group_leaves(expression, found, recording)
    terms = [
        _weighted(draft, identity, name, slopes, found, recording)
        for draft, identity, name in with_unique_names(drafts)
    ]
    total = _inner(loss, seed)
    return _checked(terms, total, expression, seed, slopes)


def _weighted(
    draft: Draft,
    identity: str,
    name: str,
    adjoints: Adjoints,
    found: Mapping[GradientEdge, Found],
    recording: ForwardRecording | None,
) -> Term:
    slopes = [_slope(edge, adjoints) for edge in draft.edges]
    entries = slopes[0]
    if len(slopes) > 1:
        entries = torch.cat([each.reshape(-1).cpu() for each in slopes])
    weight = 1.0
    seeds: tuple[Tensor, ...]
    if entries.numel() == 1:
        weight = float(entries)
        seeds = (torch.ones_like(entries),)
    elif entries.numel() > 0 and bool((entries == entries.reshape(-1)[0]).all()):
        count = 1 if draft.by_sum else entries.numel()
        weight = float(entries.reshape(-1)[0]) * count
        seeds = tuple(torch.full_like(each, 1 / count) for each in slopes)
    else:
        # Points of unequal weight: there is no one weight, so the term carries them inside.
        seeds = tuple(slopes)
    tensors = [_tensor(edge, found, recording) for edge in draft.edges]
    known = [tensor for tensor in tensors if tensor is not None]
    value = sum(map(_inner, known, seeds)) if len(known) == len(tensors) else None
    return Term(name, weight, value, identity, draft.place, draft.edges, seeds)


def _inner(tensor: Tensor, seed: Tensor) -> float:
    if tensor.numel() == 1:
        return float(tensor.detach()) * float(seed)
    return float((tensor.detach().cpu().double() * seed.cpu()).sum())


def _slope(edge: GradientEdge, adjoints: Adjoints) -> Tensor:
    if edge in adjoints.parts:
        return adjoints.parts[edge]
    device = next(iter(adjoints.parts.values())).device
    return torch.zeros(shape(edge), dtype=dtype(edge), device=device)


def _tensor(
    edge: GradientEdge, found: Mapping[GradientEdge, Found], recording: ForwardRecording | None
) -> Tensor | None:
    if edge in found:
        return found[edge].tensor
    if (leaf := leaf_of(edge.node)) is not None:
        return leaf
    if (member := leaf_member(edge)) is not None:
        leaf = leaf_of(member[0].node)
        return None if leaf is None else leaf[member[1]]
    return recording.value(edge) if recording is not None else None


def _checked(
    terms: list[Term], loss: float, expression: Expression, seed: Tensor, adjoints: Adjoints
) -> Terms:
    """Fills in the one missing value or the constant, and compares the sum with the loss."""
    known = sum(term.weight * term.value for term in terms if term.value is not None)
    size = sum(abs(term.weight * term.value) for term in terms if term.value is not None)
    tolerance = _rounding(expression)
    constant: float | None = None if expression.may_hold_constant else 0.0
    missing = [k for k, t in enumerate(terms) if t.value is None and t.weight != 0]
    rest = loss - known
    # What is left of the loss has to stand out from its rounding to be worth a term's value.
    if (
        len(missing) == 1
        and constant is not None
        and abs(rest) > 100 * tolerance * (size + abs(loss))
    ):
        k = missing[0]
        terms[k] = replace(terms[k], value=rest / terms[k].weight)
        missing, size, rest = [], size + abs(rest), 0.0
    mismatch: float | None = None
    if not missing:
        size += abs(loss)
        if constant is None:
            constant = rest if abs(rest) > tolerance * size else 0.0
        mismatch = abs(rest - constant) / size if size != 0 else 0.0
    return Terms(
        terms=tuple(terms),
        loss=loss,
        constant=constant,
        mismatch=mismatch,
        adds_up=None if mismatch is None or isnan(mismatch) else mismatch <= tolerance,
        root=expression.root,
        seed=seed,
        factors=tuple(adjoints.factors),
        factor_seeds=tuple(adjoints.factors.values()),
    )


def _rounding(expression: Expression) -> float:
    """The relative rounding that the sum may show: half an eps for each operation on the way."""
    edges = (*expression.inputs, *expression.leaves)
    return precision(edges) * (len(edges) + 1) / 2
