"""Losses, weights and the learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from ..records import Event, Finding, Record, Scalar, ScalarTable
from ..schedules import Schedule, every, within_budget
from ..snapshot import TOTAL, Snapshot
from ..stretch import Stretch
from .base import Reads


@dataclass(eq=False)
class Losses:
    """The value of every term, raw and weighted, its weight, the total and the learning rate.

    By default every ten steps, as long as that takes less than a hundredth of the time: finding the
    terms of a loss takes as long as a step of a very small network. `probe.backward` knows them.
    Where another instrument has them found, they are recorded in any case.

    Where a term was given as values at points, also their standard deviation. The first value that
    is not finite is a finding.

    Records: scalars `loss`, `weighted_loss`, `weight`, `loss_deviation`, `learning_rate`.
    """

    schedule: Schedule = field(default_factory=lambda: within_budget(0.002, every(10)))
    name: str = "losses"
    reads: Reads = "losses"
    _found: dict[str, int] = field(default_factory=dict)  # by part, the step
    _unknown: set[tuple[str, str]] = field(default_factory=set)

    def measure(self, snapshot: Snapshot) -> Iterator[Record]:
        """Yields what the losses of the step are."""
        for term, value in snapshot.losses.items():
            weight = snapshot.weights[term]
            yield Scalar("weight", weight, term)
            if value is None:
                yield from self._missing(snapshot, term)
                continue
            yield Scalar("loss", value, term)
            yield Scalar("weighted_loss", weight * value, term)
            yield from self._checked(snapshot, term, value)
        if snapshot.loss is not None:
            yield Scalar("loss", snapshot.loss, TOTAL)
            if all(value is None or math.isfinite(value) for value in snapshot.losses.values()):
                yield from self._checked(snapshot, TOTAL, snapshot.loss)
        for term, deviation in snapshot.deviations.items():
            yield Scalar("loss_deviation", deviation, term)
        if snapshot.learning_rate is not None:
            yield Scalar("learning_rate", snapshot.learning_rate)

    def joins(self, values: Iterable[float | None], learning_rate: float | None) -> bool:
        """Whether a step can be measured in a stretch: what is to be told needs a look.

        Args:
            values: of all terms, and of the loss.
            learning_rate: of the step.
        """
        are_usual = all(value is not None and math.isfinite(value) for value in values)
        return are_usual and learning_rate is not None

    def measure_stretch(self, stretch: Stretch) -> Iterator[ScalarTable]:
        """Yields what the losses of all its steps are."""
        values = np.stack([stretch.losses, stretch.weights * stretch.losses, stretch.weights])
        yield ScalarTable(("loss", "weighted_loss", "weight"), values[..., None], stretch.terms)
        yield ScalarTable(("loss",), stretch.loss[None, :, None, None], (TOTAL,))
        yield ScalarTable(("learning_rate",), stretch.learning_rate[None, :, None, None])
        if stretch.scattered:
            deviations = stretch.deviations[None, ..., None]
            yield ScalarTable(("loss_deviation",), deviations, stretch.scattered)

    def _missing(self, snapshot: Snapshot, term: str) -> Iterator[Record]:
        if (snapshot.part, term) not in self._unknown:
            self._unknown.add((snapshot.part, term))
            yield Event(
                "missing",
                f"The value of {term} is not known: its tensor was gone at the backward pass. Name "
                "the terms with probe.watch({...}).",
                self.name,
            )

    def _checked(self, snapshot: Snapshot, term: str, value: float) -> Iterator[Record]:
        # What is not finite makes everything else so at the steps that follow.
        first = self._found.get(snapshot.part, snapshot.step)
        if math.isfinite(value) or first != snapshot.step:
            return
        self._found[snapshot.part] = snapshot.step
        what = "The total loss" if term == TOTAL else f"The loss term {term}"
        yield Finding(
            "GP401",
            "fail",
            f"{what} became {value} at step {snapshot.step}; nothing after it can be trusted.",
            {"step": snapshot.step, "term": term, "value": str(value), "batch": snapshot.batch},
            (
                "Look at the steps before: a weight, the learning rate or a gradient that grew.",
                "Lower the learning rate, or clip the gradients.",
                "Check the term for a division by zero, a logarithm or a root at zero.",
            ),
            "observed by gradpath",
        )
