"""The step that is being taken: what its backward passes have shown so far.

Several backward passes may belong to one step. Passes with the same terms are micro-batches, whose
gradients add up; passes with other terms are further terms of the step. Where the gradients are set
to zero in between, passes of one name are told apart by how their losses are computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from ..diagnostics.gradients import TermGradients
from ..diagnostics.layout import ParameterLayout
from ..diagnostics.stability import OptimizerStability
from ..diagnostics.term_groups import numbered
from ..diagnostics.terms import Term
from .bench import Bench
from .instruments.base import Instrument
from .models import owned
from .parts import Key, Part
from .records import Record
from .snapshot import Pass, Snapshot


@dataclass(eq=False)
class OpenStep:
    """A step of which something is measured, until it is committed.

    Attributes:
        part: that it trains, as far as is known.
        number: of the step.
        due: the instruments that measure at it.
        layout: of the part when the step began.
        passes: by the identities of their terms.
        micro_batches: whether some of them came more than once.
        records: what instruments found while graphs were alive.
        fixed: the same step on a fixed batch of the user's.
        stepped: optimizers that have stepped since.
        versions: how often the parameters had been changed in place when it began.
        seconds: spent on it beside the instruments.
        on_fixed: the instruments that measure on the fixed batch.
        self_check: how far the weighted gradients of the terms are from `.grad`; None: unchecked.
        given_learning_rate, given_stability, given_update: what functional code has said.
    """

    part: Part
    number: int
    due: tuple[Instrument, ...]
    layout: ParameterLayout
    passes: dict[Key, Pass] = field(default_factory=dict)
    micro_batches: bool = False
    records: list[Record] = field(default_factory=list)
    fixed: Snapshot | None = None
    stepped: list[Optimizer] = field(default_factory=list)
    parameters_before: Float[Tensor, " params"] | None = None
    versions: int = 0
    seconds: float = 0.0
    on_fixed: tuple[Instrument, ...] = ()
    self_check: float | None = None
    given_learning_rate: float | None = None
    given_stability: OptimizerStability | None = None
    given_update: Callable[[], Tensor] | None = None

    @property
    def is_over(self) -> bool:
        """Whether all that move its parameters have stepped."""
        moved = set().union(*map(owned, self.stepped))
        return moved.issuperset(map(id, self.layout.parameters))

    def release_graphs(self, *, of_fixed: bool = True) -> None:
        """Lets go of the graphs of its passes."""
        for one in self.passes.values():
            one.release()
        if of_fixed and self.fixed is not None:
            self.fixed.release()

    def add(self, one: Pass) -> None:
        """Takes a backward pass in."""
        earlier = self.passes.get(one.key)
        if earlier is None:
            self.passes[one.key] = one
        else:
            self.micro_batches = True
            _absorb(earlier, one)

    def begin_anew(self, one: Pass) -> None:
        """Decides what a pass is that comes again after the gradients have been set to zero.

        A loss that was taken already is taken anew: the step before it was given up, and its passes
        are forgotten. Another loss under the same name is a further term, as in
        `for loss_fn in loss_fns: optimizer.zero_grad(); loss = loss_fn(); loss.backward()`.
        """
        if all(one.structure != earlier.structure for earlier in self.passes.values()):
            names = {term.name for earlier in self.passes.values() for term in earlier.terms}
            identities = set().union(*self.passes)
            one.terms = _numbered(one.terms, names, identities)
            return
        self.passes.clear()
        self.records.clear()
        self.micro_batches = False
        # An error inside of `optimizer.step` may have left the parameters elsewhere.
        self.versions = version_of(self.layout.parameters)
        if self.parameters_before is not None:
            self.parameters_before = self.layout.flatten()

    def tell_apart(self, one: Pass) -> None:
        """Numbers terms whose names other passes of this step have as well.

        In `loss.backward(retain_graph=True); boundary.backward()` both have the boundary, and what
        the step is taken with is the sum of both.
        """
        one.given_key = one.key
        earlier = list(self.passes.values())
        for place, each in enumerate(earlier):
            if each.given_key == one.given_key:
                earlier = earlier[:place]  # a micro-batch of it, numbered as it is
                break
        names = {name for each in earlier for name in each.names}
        identities = set().union(*(each.key for each in earlier))
        one.terms = _numbered(one.terms, names, identities)

    def restrict(self, part: Part) -> None:
        """Keeps what belongs to a part that is smaller than the step was thought to be."""
        layout = part.layout
        places = {
            id(parameter): slot.slice
            for slot, parameter in zip(self.layout.slots, self.layout.parameters, strict=True)
        }
        pieces = [places[id(parameter)] for parameter in layout.parameters]
        for one in self.passes.values():
            if one.gradients is not None:
                rows = one.gradients.as_subclass(Tensor)
                matrix = torch.cat([rows[:, piece] for piece in pieces], dim=1)
                kept = {slot.name for slot in layout.slots}
                unreached = {
                    term: tuple(name for name in names if name in kept)
                    for term, names in one.gradients.unreached.items()
                }
                one.gradients = TermGradients.of(matrix, one.gradients.terms, unreached)
        if self.parameters_before is not None:
            self.parameters_before = torch.cat([self.parameters_before[p] for p in pieces])
        self.layout = layout
        self.part = part
        self.number = max(0, part.step - 1)
        self.records.clear()  # curvature was that of too many parameters


@contextmanager
def overhead_of(bench: Bench) -> Iterator[list[OpenStep]]:
    """Charges the time of the block, without that of instruments, to a step put in the list."""
    steps: list[OpenStep] = []
    begun, measured = time.perf_counter(), bench.seconds
    yield steps
    for step in steps:
        step.seconds += time.perf_counter() - begun - (bench.seconds - measured)


def version_of(parameters: Sequence[Tensor]) -> int:
    """Returns a number that grows when one of the parameters is changed in place."""
    return sum(parameter._version for parameter in parameters)


def gradients_are_gone(parameters: Sequence[Tensor]) -> bool:
    """Whether nothing is accumulated in `.grad` of any of the parameters."""
    return not any(
        parameter.grad is not None and bool(parameter.grad.detach().any())
        for parameter in parameters
    )


def _numbered(terms: Sequence[Term], names: set[str], identities: set[str]) -> tuple[Term, ...]:
    """Returns terms under names and identities that are not taken, which then are."""
    return tuple(
        replace(
            term,
            name=numbered(term.name, names),
            identity=numbered(term.identity, identities),
        )
        for term in terms
    )


def _absorb(one: Pass, other: Pass) -> None:
    """Adds a micro-batch to those before: values and gradients by their weighted mean."""
    place = {term.identity: index for index, term in enumerate(other.terms)}
    count = one.micro_batches + other.micro_batches
    terms = []
    for row, first in enumerate(one.terms):
        second = other.terms[place[first.identity]]
        weight = first.weight + second.weight
        # Weights that cancel, or are all zero, say nothing: each micro-batch counts alike.
        share = second.weight / weight if weight else 1 / count
        value = None
        if first.value is not None and second.value is not None:
            value = (1 - share) * first.value + share * second.value
        terms.append(replace(first, weight=weight, value=value))
        if one.gradients is not None and other.gradients is not None:
            new = other.gradients.as_subclass(Tensor)[place[first.identity]]
            one.gradients.as_subclass(Tensor)[row].mul_(1 - share).add_(new, alpha=share)
    if other.gradients is None:
        one.gradients = None
    if one.total_gradient is not None and other.total_gradient is not None:
        one.total_gradient.add_(other.total_gradient)
    else:
        one.total_gradient = None
    one.terms = tuple(terms)
    one.micro_batches = count
    one.loss = None if one.loss is None or other.loss is None else one.loss + other.loss
