"""The short way of `probe.backward`, for steps that repeat the one before.

In most loops every step is like the last one: the same terms, computed by the same code for the
same parameters, and one optimizer that takes the step. What the long way (`manual.py`,
`stepping.py`) finds out at each step is known then. Here all that could have changed is looked at,
and where anything has, the long way is taken, as for a step that is not over with that of its
optimizer.
"""

from __future__ import annotations

import math
import operator
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from ..diagnostics.gradients import mismatch
from ..diagnostics.hooks import handles_so_far
from ..diagnostics.leaf_gradients import add_unheard
from ..diagnostics.live_graph import differentiate_scalars, nothing_would_notice
from ..diagnostics.rules import Observation, Weighting
from ..diagnostics.survey import FamiliarGraphs, Survey, Way, leads_to, way_to_a_leaf
from .instruments.base import Instrument
from .models import learning_rate_of, owned, signature
from .open_step import OpenStep, version_of
from .parts import Part
from .passes import pass_of_losses
from .repeated_step import RepeatedStep, gradients_of_terms
from .snapshot import Pass
from .stepping import Stepping
from .stretches import all_join

Guard = AbstractContextManager[None, bool]


_Place = tuple[int, torch.Size, tuple[int, ...]]


@dataclass(eq=False)
class _Pattern:
    """What the steps have in common."""

    thread: int
    part: Part
    parameters: Sequence[Tensor]
    places: list[_Place]  # of the parameters
    due: tuple[Instrument, ...]
    names: tuple[str, ...]
    weights: tuple[float, ...]
    factors: Tensor
    seeds: list[Tensor]
    ways: list[tuple[Way, Tensor]]  # from each loss to one of the parameters
    handles: int  # of hooks, which were all known when there were so many
    structure: tuple[type, ...]
    rule: Weighting | None

    def takes(self, given: Mapping[str, Any]) -> bool:
        """Takes weights, if they are numbers for terms of this pattern; returns whether it did."""
        if not all(isinstance(weight, float | int) for weight in given.values()):
            return False
        if not given.keys() <= set(self.names):
            return False
        self.weigh(given)
        return True

    def weigh(self, given: Mapping[str, float]) -> None:
        """Gives the terms weights."""
        weights = tuple(float(given.get(name, 1.0)) for name in self.names)
        if weights != self.weights:
            self.weights, self.factors = weights, self.factors.new_tensor(weights)

    def sum_of(self, values: Sequence[float]) -> float:
        """Returns the weighted sum of the values of the terms."""
        return math.fsum(map(operator.mul, self.weights, values))

    def is_of(self, losses: Mapping[str, Tensor]) -> bool:
        """Whether losses are terms of this pattern, with graphs that reach the parameters."""
        if tuple(losses) != self.names:
            return False
        for loss, seed, way in zip(losses.values(), self.seeds, self.ways, strict=True):
            if type(loss) is not Tensor or loss.shape != seed.shape or loss.dtype != seed.dtype:
                return False
            if loss.grad_fn is None or not loss.is_cpu or not leads_to(loss.grad_fn, *way):
                return False
        return True


class Repeating:
    """Knows the pattern that steps repeat.

    Args:
        stepping: of the probe.
        graphs: that the terms have had.
    """

    def __init__(self, stepping: Stepping, graphs: FamiliarGraphs) -> None:
        self._stepping = stepping
        self._graphs = graphs
        self._pattern: _Pattern | None = None

    def learn(
        self,
        step: OpenStep,
        one: Pass,
        losses: Mapping[str, Tensor],
        rule: Weighting | None,
        survey: Survey,
    ) -> None:
        """Takes note of a step that has gone the long way, its graph alive.

        Args:
            step: to which nobody but the probe has added in `.grad`.
            one: its pass.
            losses: by name.
            rule: by which they are weighted.
            survey: of the graph.
        """
        part, layout = step.part, step.layout
        optimizers = part.optimizers
        if not survey.finds_nothing or step.due != self._stepping.bench.always_due:
            return
        if part.is_guess or part.counts_passes or len(optimizers) != 1:
            return
        if not owned(optimizers[0]).issuperset(map(id, layout.parameters)):
            return
        if not all(type(loss) is Tensor and loss.is_cpu for loss in losses.values()):
            return
        if one.points or any(len(term.seeds) != 1 for term in one.terms):
            return
        ends = [edge.node for term in one.terms for edge in term.edges]
        ways = [found for end in ends if (found := way_to_a_leaf(end, part.parameter_ids))]
        if len(ways) < len(losses):
            return
        self._pattern = _Pattern(
            threading.get_ident(),
            part,
            layout.parameters,
            list(map(_place, layout.parameters)),
            step.due,
            one.names,
            tuple(term.weight for term in one.terms),
            torch.tensor([term.weight for term in one.terms], dtype=layout.dtype),
            [seed for term in one.terms for seed in term.seeds],
            ways,
            handles_so_far(),
            one.structure,
            rule,
        )

    def backward(
        self,
        losses: Mapping[str, Tensor],
        weights: Mapping[str, Any],
        rule: Weighting | None,
        guard: Guard,
    ) -> float | None:
        """Does what `Manual.backward` does, for a step that repeats the one before.

        Returns:
            the weighted sum; None where it does not, and nothing has been done.
        """
        pattern, self._pattern = self._pattern, None
        if pattern is None:
            return None
        values = None
        with guard:
            values = self._seen(pattern, losses, weights, rule)
        if values is None:
            return None
        part, stepping, names = pattern.part, self._stepping, pattern.names
        try:
            found = differentiate_scalars([*losses.values()], pattern.seeds, pattern.parameters)
            rows = part.layout.flatten_rows(found)
            unreached = [tuple(gradient is None for gradient in row) for row in found]
            if rule is not None:
                gradients = gradients_of_terms(rows, names, unreached, part.layout)
                pattern.weigh(rule.update(Observation(part.step, gradients, part.layout, values)))
        except BaseException:
            with guard:  # by then the long way has opened the step
                stepping.begin_pass()
                stepping.begin(pass_of_losses(losses, weights, None), part)
            raise
        loss = pattern.sum_of(values)
        total = pattern.factors @ rows
        add_unheard(part.layout, total)
        with guard:
            stepping.registry.parts.new_pass()
            # What is in `.grad` is the weighted sum itself, but a NaN is not equal to itself.
            check = 0.0
            if not math.isfinite(total.sum().item()) and total.isnan().any():
                check = mismatch(rows, pattern.weights, total)
            stepping.thread.repeated = RepeatedStep(
                part,
                part.step,
                pattern.due,
                part.layout,
                version_of(pattern.parameters),
                names,
                pattern.weights,
                values,
                loss,
                rows,
                unreached,
                check,
                pattern.structure,
            )
            self._pattern = pattern
        return loss

    def _seen(
        self,
        pattern: _Pattern,
        losses: Mapping[str, Tensor],
        weights: Mapping[str, Any],
        rule: Weighting | None,
    ) -> list[float] | None:
        """Returns the values of the terms; None if anything is not as before."""
        stepping, part = self._stepping, pattern.part
        registry = stepping.registry
        if (
            stepping.thread.is_busy
            or threading.get_ident() != pattern.thread
            or not stepping.recorder.is_on
            or (stepping.is_attached and stepping.forward.is_wanted)
            or stepping.fixed is not None
            or registry.look_again
            or len(registry.parts.all) != 1
            or part.follow_up is not None
            or stepping.bench.always_due != pattern.due
            or (distributed.is_available() and distributed.is_initialized())
        ):
            return None
        for parameter, place in zip(pattern.parameters, pattern.places, strict=True):
            if parameter.grad is not None or _place(parameter) != place:
                return None
        instruments = stepping.backlog.goes_on(part, pattern.due, pattern.names)
        if (
            instruments is None
            or len(part.optimizers) != 1
            or signature(part.models) != part.signature
            or rule is not pattern.rule
            or (rule is None and not pattern.takes(weights))
            or not pattern.is_of(losses)
            or handles_so_far() != pattern.handles
            or not nothing_would_notice()
            or not self._graphs.survey([*losses.values()]).finds_nothing
            or not self._graphs.knew_it
        ):
            return None
        values = [loss.item() for loss in losses.values()]
        rate = learning_rate_of(part.optimizers[0])
        known = [*values, pattern.sum_of(values)]
        if not all_join(instruments, part.step, pattern.names, known, rate):
            return None
        return values


def _place(parameter: Tensor) -> _Place:
    """Returns what changes when other data are put into a parameter."""
    return parameter.data_ptr(), parameter.shape, parameter.stride()
