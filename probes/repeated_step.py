"""The step of a loop whose steps are all alike: differentiated, and not yet taken."""

from __future__ import annotations

import math
import time
from typing import NamedTuple

from torch import Tensor
from torch.optim import Optimizer

from ..diagnostics.gradients import TermGradients
from ..diagnostics.layout import ParameterLayout
from ..diagnostics.terms import Term
from .instruments.base import Instrument
from .interception import is_inside_a_pass
from .models import learning_rate_of
from .open_step import OpenStep
from .parts import Part
from .records import Stamp
from .snapshot import Pass
from .waiting import WaitingStep


class RepeatedStep(NamedTuple):
    """What is known of it, in the same order for all terms.

    Attributes:
        part, number, due, layout, versions: as of an `OpenStep`.
        names, weights, losses: of the terms.
        loss: the weighted sum.
        gradients: (terms, params), unweighted.
        unreached: for each term, whether it reaches no part of each parameter.
        self_check: how far the weighted gradients are from `.grad`.
        structure: how the loss begins to be computed, as of a `Pass`.
    """

    part: Part
    number: int
    due: tuple[Instrument, ...]
    layout: ParameterLayout
    versions: int
    names: tuple[str, ...]
    weights: tuple[float, ...]
    losses: list[float]
    loss: float
    gradients: Tensor
    unreached: list[tuple[bool, ...]]
    self_check: float
    structure: tuple[type, ...]

    def is_over_with(self, optimizer: Optimizer) -> bool:
        """Whether it is over as expected when an optimizer has stepped."""
        return self.part.optimizers == [optimizer] and not is_inside_a_pass()

    def waiting(self, optimizer: Optimizer, elapsed: float) -> WaitingStep:
        """Returns it as it waits to be measured, now that it is over."""
        rate = learning_rate_of(optimizer)
        return WaitingStep(
            Stamp(self.number, time.time(), elapsed, self.part.evaluations),
            self.losses,
            self.weights,
            self.loss,
            math.nan if rate is None else rate,
            (),
            self.self_check,
            0.0,
        )

    def to_open_step(self) -> OpenStep:
        """Returns it as any other step, to which more may come than was expected."""
        step = OpenStep(self.part, self.number, self.due, self.layout)
        step.versions = self.versions
        step.self_check = self.self_check
        terms = tuple(
            Term(name, weight, value, name, None, (), ())
            for name, weight, value in zip(self.names, self.weights, self.losses, strict=True)
        )
        gradients = gradients_of_terms(self.gradients, self.names, self.unreached, self.layout)
        one = Pass(terms, loss=self.loss, gradients=gradients)
        one.structure = self.structure
        one.release()
        step.tell_apart(one)
        step.add(one)
        return step


def gradients_of_terms(
    rows: Tensor, names: tuple[str, ...], unreached: list[tuple[bool, ...]], layout: ParameterLayout
) -> TermGradients:
    """Returns the gradients of terms by name.

    Args:
        rows: (terms, params), unweighted.
        names: of the terms.
        unreached: for each term, whether it reaches no part of each parameter.
        layout: of the parameters.
    """
    missing = {
        name: tuple(slot.name for slot, is_not in zip(layout.slots, row, strict=True) if is_not)
        for name, row in zip(names, unreached, strict=True)
    }
    return TermGradients.of(rows, names, missing)
