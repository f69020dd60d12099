"""What a step is predicted to do to each term, beside what it does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from ...diagnostics.descent import predicted_change
from ..planned_update import planned_update
from ..records import Record, Scalar
from ..schedules import Schedule, log_spaced, within_budget
from ..snapshot import NotMeasurableError, Snapshot
from .base import Reads


@dataclass(eq=False)
class Descent:
    """The change of every term that gradient and curvature predict for the step about to be taken.

    The step is what the optimizer will do, found by letting a copy of it take the step on copies of
    the parameters; code without `backward()` gives it with `probe.record(update=...)`, and Hessians
    of the same points. What really happens is recorded by the probe: on a fixed batch from the same
    points after the step, else from the losses of the next step, whose points may be others.

    Records: scalars `predicted_change` and `predicted_change_first_order` of each term, unweighted;
    `actual_change` follows.
    """

    schedule: Schedule = field(default_factory=lambda: within_budget(0.02, log_spaced(4)))
    name: str = "descent"
    reads: Reads = "step"
    follows_up: bool = True

    def measure(self, snapshot: Snapshot) -> Iterator[Record]:
        """Yields what is predicted for each term."""
        update = _coming_update(snapshot)
        hessians = [snapshot.hessian(term) for term in snapshot.terms]
        change = predicted_change(snapshot.gradients, update, hessians)
        for term, first, both in zip(
            snapshot.terms, change.first_order.tolist(), change.total.tolist(), strict=True
        ):
            yield Scalar("predicted_change", both, term)
            yield Scalar("predicted_change_first_order", first, term)


def _coming_update(snapshot: Snapshot) -> Tensor:
    if snapshot.given_update is not None:
        return snapshot.given_update()
    if len(snapshot.optimizers) != 1:
        raise NotMeasurableError(
            "The step to be taken is not known: there is no one optimizer, and probe.record was "
            "given no update."
        )
    return planned_update(snapshot.optimizers[0], snapshot.layout)
