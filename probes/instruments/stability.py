"""What curvature the optimizer can stand, beside the curvature that it meets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..records import EigenvalueRecord, Record, Scalar
from ..schedules import Schedule, log_spaced, within_budget
from ..snapshot import TOTAL, NotMeasurableError, Snapshot
from .base import Reads
from .stiffness import WarmStarts


@dataclass(eq=False)
class Stability:
    """The limits of gradient descent and of the optimizer, and the sharpness that it sees.

    Gradient descent with the present learning rate is stable below 2 / eta, which is the bound that
    Wang, Teng and Perdikaris quote. An optimizer that divides the gradient by a diagonal, as Adam
    does, has a limit of its own for the largest eigenvalue of D^(-1/2) H D^(-1/2) (Cohen et al.
    2022, arXiv 2207.14484).

    Records: scalars `stability_limit` (2 / eta) and `preconditioned_stability_limit` (the
    optimizer's own); eigenvalues `preconditioned_hessian` of the total.
    """

    schedule: Schedule = field(default_factory=lambda: within_budget(0.002, log_spaced(16)))
    tol: float = 1e-2
    certified: bool = False
    max_basis: int = 40
    max_products: int = 100
    seed: int = 0
    name: str = "stability"
    reads: Reads = "graph"
    _starts: WarmStarts = field(default_factory=WarmStarts)

    def measure(self, snapshot: Snapshot) -> Iterator[Record]:
        """Yields the limits, then the ends of the preconditioned spectrum."""
        rate = snapshot.learning_rate
        if rate is not None:
            yield Scalar("stability_limit", 2 / rate if rate else math.inf)
        stability = snapshot.stability
        if stability is None:
            raise NotMeasurableError(
                "No limit of stability is known: there is no optimizer, or more than one."
            )
        if stability.begins:
            return  # nothing is amiss: the next measurement has it
        if stability.limit is None:
            raise NotMeasurableError(stability.status)
        yield Scalar("preconditioned_stability_limit", stability.limit)
        found = self._starts.ends(
            (snapshot.part, snapshot.batch),
            stability.operator(snapshot.hessian(TOTAL)),
            tol=self.tol,
            max_basis=self.max_basis,
            max_products=self.max_products,
            certified=self.certified,
            seed=self.seed,
        )
        for end, eigenvalue in (("largest", found.largest), ("smallest", found.smallest)):
            yield EigenvalueRecord(eigenvalue, end, name="preconditioned_hessian")
