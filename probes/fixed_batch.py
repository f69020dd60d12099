"""A fixed batch of the user's, on which a step is measured in place of its own points.

Collocation points that are drawn anew at every step make curves over time noisy. A function of the
user's that computes the losses on points of its own is evaluated at each measurement instead, from
the same random numbers each time, and without a trace: buffers, gradients, modes and generators
stay as they were.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..diagnostics.curvature import Hessian
from ..diagnostics.errors import ArgumentError, NotTwiceDifferentiableError
from ..diagnostics.layout import ParameterLayout
from ..diagnostics.live_graph import unnoticed_evaluation
from ..diagnostics.operators import SymmetricOperator
from ..diagnostics.random_numbers import RandomState, random_numbers
from ..diagnostics.terms import Term, as_terms
from .instruments.base import Instrument, reads
from .interception import unobserved
from .replicas import Replicas
from .snapshot import TOTAL, Pass

Losses = Mapping[str, Tensor]


@dataclass(eq=False)
class FixedBatch:
    """A function that computes the loss terms on points that stay the same.

    Attributes:
        compute: takes nothing, or the model, and returns the terms by name.
        name: of the batch, which every record on it carries.
        instruments: the names of those that measure on it; None: all that read gradients or graphs.
        random: the random numbers that each evaluation draws.
    """

    compute: Callable[..., Losses]
    name: str
    instruments: Collection[str] | None
    random: RandomState

    def chosen(self, due: Sequence[Instrument]) -> tuple[Instrument, ...]:
        """Returns those of the due instruments that measure on this batch."""
        if self.instruments is not None:
            return tuple(each for each in due if each.name in self.instruments)
        return tuple(each for each in due if reads(each) != "losses")

    def evaluate(self, weights: Mapping[str, float], models: Sequence[nn.Module]) -> Pass:
        """Returns the terms as the model stands, with the weights that they have in training.

        Raises:
            ArgumentError: the function returns no mapping from names to losses.
        """
        model = models[0] if len(models) == 1 else None
        losses = self._losses(model)
        terms = tuple(_weighted(term, weights) for term in as_terms(losses))
        known = [term.value for term in terms if term.value is not None]
        loss = sum(t.weight * v for t, v in zip(terms, known, strict=True))
        points = {name: loss.detach() for name, loss in losses.items() if loss.numel() > 1}
        one = _FixedPass(terms, loss=loss, points=points)
        if model is not None and self._takes_model:
            one.by_differences = self._differences(model, weights)
        return one

    @property
    def _takes_model(self) -> bool:
        try:
            parameters = inspect.signature(self.compute).parameters.values()
        except (TypeError, ValueError):
            return False
        return any(
            p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
            for p in parameters
        )

    def _losses(self, model: nn.Module | None) -> Losses:
        arguments = (model,) if self._takes_model else ()
        with unobserved(), unnoticed_evaluation(), random_numbers(self.random):
            losses = self.compute(*arguments)
        if isinstance(losses, Tensor):
            losses = {"loss": losses}
        if not isinstance(losses, Mapping) or not losses:
            raise ArgumentError(
                f"The function of the batch {self.name!r} returned {type(losses).__name__}: it "
                "must return a mapping from the names of the terms to their losses."
            )
        return losses

    def _differences(
        self, model: nn.Module, weights: Mapping[str, float]
    ) -> Callable[[str], SymmetricOperator]:
        def loss_of(copy: Any, term: str) -> Tensor:
            with random_numbers(self.random):
                losses = self.compute(copy)
            if isinstance(losses, Tensor):
                losses = {"loss": losses}
            wanted = losses if term == TOTAL else {term: losses[term]}
            factors = weights if term == TOTAL else {}
            parts = [factors.get(name, 1.0) * loss.mean() for name, loss in wanted.items()]
            return torch.stack([part.reshape(()) for part in parts]).sum()

        return lambda term: Hessian.by_differences(lambda copy: loss_of(copy, term), model)


@dataclass(eq=False)
class _FixedPass(Pass):
    """A pass whose loss can be evaluated again, so that differences replace derivatives."""

    by_differences: Callable[[str], SymmetricOperator] | None = None

    def hessian(self, term: str, layout: ParameterLayout, replicas: Replicas) -> SymmetricOperator:
        differences = self.by_differences
        if differences is None:
            return super().hessian(term, layout, replicas)
        try:
            exact = super().hessian(term, layout, replicas)
        except NotTwiceDifferentiableError:
            return replicas.averaged(differences(term))
        return _ElseByDifferences(exact, lambda: replicas.averaged(differences(term)))


class _ElseByDifferences(SymmetricOperator):
    """An exact Hessian, until a product shows that PyTorch cannot differentiate twice."""

    def __init__(
        self, exact: SymmetricOperator, differences: Callable[[], SymmetricOperator]
    ) -> None:
        self._differences = differences
        self._is_tried = False
        self._use(exact)

    def _use(self, operator: SymmetricOperator) -> None:
        self.operator = operator
        self.size = operator.size
        self.dtype = operator.dtype
        self.device = operator.device
        self.method = operator.method
        self.exact = operator.exact

    def matvec(self, vector: Tensor) -> Tensor:
        try:
            product = self.operator.matvec(vector)
        except NotTwiceDifferentiableError:
            if self._is_tried:
                raise
            self._use(self._differences())
            product = self.operator.matvec(vector)
        self._is_tried = True
        return product


def fixed_batch(
    compute: Callable[..., Losses], name: str, instruments: Collection[str] | None
) -> FixedBatch:
    """Returns a batch whose random numbers are those of this moment.

    Raises:
        ArgumentError: it is no function, or has the name of the training batch.
    """
    if not callable(compute):
        raise ArgumentError(
            f"A fixed batch is a function that returns its losses by name, not a "
            f"{type(compute).__name__}."
        )
    if name == "training":
        raise ArgumentError('"training" is the batch of the training step: give another name.')
    return FixedBatch(compute, name, instruments, RandomState.of_process())


def _weighted(term: Term, weights: Mapping[str, float]) -> Term:
    return replace(term, weight=weights.get(term.name, 1.0))
