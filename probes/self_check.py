"""The check that nothing of a loss was missed: do the weighted terms add up to the gradient?

What a backward pass adds to `.grad` is what the training goes by. It is compared with the sum of
the measured gradients of the terms, times their weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..diagnostics.gradients import TermGradients, mismatch
from .open_step import OpenStep
from .replicas import Replicas
from .snapshot import Pass


class SelfCheck:
    """Remembers `.grad` before a backward pass whose terms have been measured.

    Args:
        step: that the pass belongs to; it is told the result.
        one: the pass.
        replicas: the processes that average `.grad` in it.
    """

    def __init__(self, step: OpenStep, one: Pass, replicas: Replicas) -> None:
        self._step = step
        self._layout = step.layout
        self._pass = one
        self._scale = one.scale
        # Under no_sync() the gradients of each process stay its own.
        self._is_possible = replicas.averages_gradients
        self._before = self._accumulated()

    def compare(self, expected: Tensor | None = None) -> None:
        """Compares `.grad` with what was measured, and keeps the worst result of the step.

        Args:
            expected: the weighted sum of what was measured, where somebody has it already.
        """
        after = self._accumulated()
        if not self._is_possible or after is None:
            return
        if expected is not None and self._before is None and torch.equal(after, expected):
            self._keep(0.0)
            return
        change = after if self._before is None else after.sub_(self._before)
        change.div_(self._scale)
        one = self._pass
        if one.gradients is None:
            _take_from(change, one)
            return
        weights = [term.weight for term in one.terms]
        found = mismatch(one.gradients, weights, change, one.own_gradient)
        self._keep(found)

    def _keep(self, found: float) -> None:
        # Not max(): a NaN says that something is wrong, and must not lose against a number.
        known = self._step.self_check
        self._step.self_check = found if known is None or not found <= known else known

    def _accumulated(self) -> Tensor | None:
        gradients = [parameter.grad for parameter in self._layout.parameters]
        if all(gradient is None for gradient in gradients):
            return None
        return self._layout.flatten(gradients)


def _take_from(change: Tensor, one: Pass) -> None:
    """Makes the best of what was added to `.grad` where no other gradient could be taken."""
    if len(one.terms) == 1 and one.terms[0].weight:
        term = one.terms[0]
        row = change.div(term.weight)[None]
        one.gradients = TermGradients.of(row, (term.name,))
    else:
        one.total_gradient = change
