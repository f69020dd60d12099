"""What one training step shows to the instruments.

A step consists of one or several backward passes (`Pass`): one in most loops, one a term or one a
micro-batch in others. A `Snapshot` puts them together. Everything costly is taken on demand and
once: instruments only read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from ..diagnostics.curvature import Hessian
from ..diagnostics.errors import GradpathError, GraphError
from ..diagnostics.gradients import TermGradients, term_gradients
from ..diagnostics.histograms import GradientHistogram, histograms_by_layer
from ..diagnostics.hooks import walk_below
from ..diagnostics.layout import ParameterLayout
from ..diagnostics.live_graph import differentiate
from ..diagnostics.operators import SymmetricOperator
from ..diagnostics.stability import OptimizerStability, optimizer_stability
from ..diagnostics.statistics import GradientStatistics, gradient_statistics
from ..diagnostics.terms import Term, Terms
from .models import learning_rate_of
from .replicas import Replicas

TOTAL = "total"

# Residuals and conditions differ within their first nodes; to see them takes microseconds.
_STRUCTURE_NODES = 16


class NotMeasurableError(GradpathError):
    """What an instrument wants to read is not there; the sentence says why."""


@dataclass(eq=False)
class Pass:
    """One backward pass: the terms of its loss, and what was taken from its graph.

    Attributes:
        terms: with their effective weights; the factor of a `GradScaler` is taken out.
        roots: what was differentiated, where the terms were read from a graph.
        loss: the value of what was differentiated, None where it is no sum of the terms.
        gradients: unweighted, one row a term; None where they were not taken, or could not be.
        points: values of a term at its points, where the user gave them.
        scale: the factor of a `GradScaler` before what was differentiated.
        micro_batches: how many passes with these terms have been put together.
        own_gradient: the part of the gradient that belongs to learnable weights themselves.
        total_gradient: what the pass has added to `.grad`, where that is all there is.
        hessians: by term, where the user gave values rather than a graph; a function is called
            when one is wanted. None where they are taken from the graph.
        given_key: its key before terms of other passes of the step had names of theirs.
    """

    terms: tuple[Term, ...]
    roots: tuple[Terms, ...] = ()
    loss: float | None = None
    gradients: TermGradients | None = None
    points: Mapping[str, Tensor] = field(default_factory=dict)
    scale: float = 1.0
    micro_batches: int = 1
    own_gradient: Tensor | None = None
    total_gradient: Tensor | None = None
    hessians: Mapping[str, SymmetricOperator | Callable[[], SymmetricOperator]] | None = None
    given_key: frozenset[str] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its terms."""
        return tuple(term.name for term in self.terms)

    @property
    def key(self) -> frozenset[str]:
        """What tells its loss from others."""
        return frozenset(term.identity for term in self.terms)

    @cached_property
    def structure(self) -> tuple[type, ...]:
        """How its loss begins to be computed, which tells losses of one name apart."""
        edges = [edge for term in self.terms for edge in term.edges]
        return tuple(map(type, islice(walk_below(edges), _STRUCTURE_NODES)))

    def reaches(self, parameters: set[int]) -> bool:
        """Whether its graph reaches any of the parameters with these ids."""
        edges = [edge for term in self.terms for edge in term.edges]
        # Mostly one is met after a few nodes.
        return any(id(getattr(n, "variable", None)) in parameters for n in walk_below(edges))

    @property
    def is_compiled(self) -> bool:
        """Whether a part of its graph is compiled code, which can often run backwards only once."""
        edges = [edge for term in self.terms for edge in term.edges]
        return any(type(node).__name__.startswith("Compiled") for node in walk_below(edges))

    def weigh(self, weights: Mapping[str, float]) -> None:
        """Gives the terms other weights, and the loss the value that follows."""
        self.terms = tuple(replace(term, weight=weights[term.name]) for term in self.terms)
        self.loss = math.fsum(t.weight * t.value for t in self.terms if t.value is not None)

    def take_gradients(
        self, layout: ParameterLayout, replicas: Replicas, only: set[int] | None
    ) -> None:
        """Takes the gradient of every term from the live graph.

        Args:
            layout: of the parameters.
            replicas: processes over which it is averaged.
            only: ids of the parameters that the backward pass gives a gradient to; None: all.

        Raises:
            GraphError: the graph cannot be differentiated without being used up.
        """
        taken = replicas.together(lambda: term_gradients(self.terms, layout))
        if only is not None:
            for slot, parameter in zip(layout.slots, layout.parameters, strict=True):
                if id(parameter) not in only:
                    taken.as_subclass(Tensor)[:, slot.slice] = 0.0
        taken = replicas.mean_of_rows(taken)
        if len(self.roots) == 1 and self.roots[0].factors:
            root = self.roots[0]
            own = differentiate(root.factors, layout.parameters, root.factor_seeds)
            self.own_gradient = replicas.mean(layout.flatten(own).div_(self.scale))
        self.gradients = taken

    def release(self) -> None:
        """Lets go of the graph, of which no more is wanted than how it began."""
        if any(term.edges for term in self.terms):
            _ = self.structure
            self.terms = tuple(term.without_graph() for term in self.terms)
        self.roots = ()
        self.hessians = {}

    def hessian(self, term: str, layout: ParameterLayout, replicas: Replicas) -> SymmetricOperator:
        """Returns the Hessian of a term, unweighted, or of the weighted total.

        Raises:
            GraphError: there is no live graph to take it from.
        """
        given = (self.hessians or {}).get(term)
        if given is not None:
            return given if isinstance(given, SymmetricOperator) else given()
        # A term that is no more than its value has no curvature to take, which is not zero.
        if self.hessians is not None and term != TOTAL:
            raise GraphError(
                f"The Hessian of the term {term!r} is not known: none was given, and there is no "
                "graph to take it from any more."
            )
        return replicas.averaged(
            replicas.together(
                lambda: self._total(layout) if term == TOTAL else self._of_term(term, layout)
            )
        )

    def _of_term(self, name: str, layout: ParameterLayout) -> SymmetricOperator:
        term = next(term for term in self.terms if term.name == name)
        return Hessian.of_loss(term, layout)

    def _total(self, layout: ParameterLayout) -> SymmetricOperator:
        if len(self.roots) == 1:
            hessian = Hessian.of_loss(self.roots[0], layout)
            return hessian if self.scale == 1 else WeightedSum([hessian], [1 / self.scale])
        if any(math.isnan(term.weight) for term in self.terms):
            raise GraphError("The terms are not added up, so their sum has no curvature.")
        parts = [self.hessian(term.name, layout, Replicas()) for term in self.terms if term.weight]
        if not parts:
            raise GraphError("No term has a weight other than zero: their sum has no curvature.")
        return WeightedSum(parts, [term.weight for term in self.terms if term.weight])


class WeightedSum(SymmetricOperator):
    """sum_k w_k A_k."""

    def __init__(self, operators: Sequence[SymmetricOperator], weights: Sequence[float]) -> None:
        first = operators[0]
        self.operators = tuple(operators)
        self.weights = tuple(weights)
        self.size = first.size
        self.dtype = first.dtype
        self.device = first.device
        self.method = first.method
        self.exact = all(operator.exact for operator in operators)

    def matvec(self, vector: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Returns the weighted sum of the products."""
        total = torch.zeros_like(self._check(vector))
        for operator, weight in zip(self.operators, self.weights, strict=True):
            total.add_(operator.matvec(vector), alpha=weight)
        return total


@dataclass(eq=False)
class Snapshot:
    """One step, or on a fixed batch of the user's, what it would have been there.

    Attributes:
        step: its number.
        part: which of several models or optimizers; "" where there is one.
        batch: "training", or the name of a fixed batch.
        layout: of the parameters; layers are slices of its flat vectors.
        terms: the names of the loss terms.
        losses: the unweighted value of each; None where it could not be known.
        weights: the effective weight of each; NaN where it is not known.
        loss: what was differentiated; None where that is not known.
        optimizers: that take the step.
        models: by the prefix of their layers' names.
    """

    step: int
    part: str
    batch: str
    layout: ParameterLayout
    passes: Sequence[Pass]
    optimizers: Sequence[Optimizer] = ()
    models: Mapping[str, nn.Module] = field(default_factory=dict)
    replicas: Replicas = field(default_factory=Replicas)
    given_learning_rate: float | None = None
    given_stability: OptimizerStability | None = None
    given_update: Callable[[], Tensor] | None = None
    parameters_before: Float[Tensor, " params"] | None = None
    parameters_after: Float[Tensor, " params"] | None = None
    graph_is_alive: bool = False
    _total: SymmetricOperator | None = None

    @property
    def learning_rate(self) -> float | None:
        """Of the first group of the optimizer; None without one."""
        if self.given_learning_rate is not None:
            return self.given_learning_rate
        return learning_rate_of(self.optimizers[0]) if self.optimizers else None

    @property
    def model(self) -> nn.Module | None:
        """The model, where there is one alone."""
        return next(iter(self.models.values())) if len(self.models) == 1 else None

    @property
    def _terms(self) -> list[Term]:
        return [term for one in self.passes for term in one.terms]

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of the loss terms."""
        return tuple(term.name for term in self._terms)

    @cached_property
    def losses(self) -> dict[str, float | None]:
        """The unweighted value of each term, the mean over all processes."""
        known = [term for term in self._terms if term.value is not None]
        means = self.replicas.means([term.value for term in known if term.value is not None])
        values: dict[str, float | None] = dict.fromkeys(self.terms)
        values.update(zip((term.name for term in known), means, strict=True))
        return values

    @property
    def weights(self) -> dict[str, float]:
        """The effective weight of each term."""
        return {term.name: term.weight for term in self._terms}

    @cached_property
    def loss(self) -> float | None:
        """What was differentiated; the mean over all processes."""
        values = [one.loss for one in self.passes]
        if any(value is None for value in values):
            return None
        return self.replicas.means([math.fsum(v for v in values if v is not None)])[0]

    @cached_property
    def gradients(self) -> TermGradients:
        """The unweighted gradient of each term, (terms, params).

        Raises:
            NotMeasurableError: they were not taken at this step.
        """
        taken = [one.gradients for one in self.passes if one.gradients is not None]
        if len(taken) < len(self.passes) or not taken:
            raise NotMeasurableError("The gradients of the terms could not be taken.")
        if len(taken) == 1:
            return taken[0]
        rows = torch.cat([each.as_subclass(Tensor) for each in taken])
        unreached = {term: names for each in taken for term, names in each.unreached.items()}
        return TermGradients.of(rows, tuple(t for each in taken for t in each.terms), unreached)

    @property
    def known_gradients(self) -> TermGradients:
        """The gradients of the terms, or where those could not be taken, that of the total alone.

        Raises:
            NotMeasurableError: that is not known either.
        """
        totals = [one.total_gradient for one in self.passes]
        if any(one.gradients is None for one in self.passes) and None not in totals:
            total = sum(each for each in totals if each is not None)
            assert isinstance(total, Tensor)
            return TermGradients.of(total[None], (TOTAL,))
        return self.gradients

    @cached_property
    def statistics(self) -> GradientStatistics:
        """Magnitudes and angles of the known gradients, by layer, once for all instruments."""
        return gradient_statistics(self.known_gradients, self.layout)

    @cached_property
    def histograms(self) -> dict[tuple[int | str, str], GradientHistogram]:
        """The histogram of each known gradient in each layer, once for all instruments."""
        return histograms_by_layer(self.known_gradients, self.layout)

    @cached_property
    def gradient(self) -> Float[Tensor, " params"]:
        """The gradient of the weighted total."""
        weights = torch.tensor(
            [self.weights[name] for name in self.gradients.terms],
            dtype=self.layout.dtype,
            device=self.layout.device,
        )
        return weights @ self.gradients.as_subclass(Tensor)

    def hessian(self, term: str = TOTAL) -> SymmetricOperator:
        """Returns the Hessian of a term, unweighted, or of the weighted total.

        Only while the graph is alive, so for instruments that read "graph".

        Raises:
            NotMeasurableError: the graph is gone, or no pass has such a term.
            GraphError: the graph cannot be differentiated.
            NotTwiceDifferentiableError: nor twice.
        """
        if not self.graph_is_alive:
            raise NotMeasurableError(
                'Curvature needs the live graph: the instrument must read "graph".'
            )
        if term == TOTAL and self._total is not None:
            return self._total
        one = next((p for p in self.passes if term == TOTAL or term in p.names), None)
        if one is None:
            raise NotMeasurableError(f"There is no term {term!r} at this step.")
        hessian = one.hessian(term, self.layout, self.replicas)
        if term == TOTAL:
            # Several instruments want it. Each operator holds vectors of the model's size, so those
            # of the terms are not kept.
            self._total = hessian
        return hessian

    @cached_property
    def stability(self) -> OptimizerStability | None:
        """The limit of the optimizer in its present state; None where there is no single one."""
        if self.given_stability is not None or len(self.optimizers) != 1:
            return self.given_stability
        return optimizer_stability(self.optimizers[0], self.layout)

    @property
    def update(self) -> Float[Tensor, " params"]:
        """Parameters after the step minus those before; for instruments that read "update".

        Raises:
            NotMeasurableError: it is not known.
        """
        if self.given_update is not None:
            return self.given_update()
        if self.parameters_before is None or self.parameters_after is None:
            raise NotMeasurableError("The parameters before and after the step are not known.")
        return self.parameters_after - self.parameters_before

    @cached_property
    def deviations(self) -> dict[str, float]:
        """The standard deviation of terms over their points, where the user gave their values."""
        return {
            name: float(values.double().std(correction=0))
            for one in self.passes
            for name, values in one.points.items()
        }

    def release(self) -> None:
        """Lets go of the graph."""
        self.graph_is_alive = False
        self._total = None
        for one in self.passes:
            one.release()
