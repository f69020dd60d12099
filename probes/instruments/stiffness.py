"""Both ends of the Hessian's spectrum, for every term and for the weighted total."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...diagnostics.curvature import Hessian
from ...diagnostics.lanczos import Eigenvalue, ExtremeEigenvalues, extreme_eigenvalues
from ...diagnostics.operators import SymmetricOperator
from ..records import EigenvalueRecord, Record
from ..schedules import Schedule, log_spaced, within_budget
from ..snapshot import TOTAL, NotMeasurableError, Snapshot
from .base import Reads


class WarmStarts:
    """The eigenvectors of the last measurement, which the next one starts from."""

    def __init__(self) -> None:
        self._vectors: dict[tuple[str, ...], Tensor] = {}

    def ends(
        self,
        key: tuple[str, ...],
        operator: SymmetricOperator,
        *,
        tol: float,
        max_basis: int,
        max_products: int,
        certified: bool,
        seed: int,
    ) -> ExtremeEigenvalues:
        """Returns the ends of an operator's spectrum, and keeps the vectors for the next time.

        Without a start, or with one of another size, the ends are certified: an estimate from a
        random start alone may miss one (see `extreme_eigenvalues`).
        """
        start = self._vectors.pop(key, None)
        if start is not None and (len(start) != operator.size or not bool(start.isfinite().all())):
            start = None
        found = extreme_eigenvalues(
            operator,
            tol=tol,
            max_basis=max_basis,
            max_products=max_products,
            start=None if certified else start,
            vectors=not certified,
            seed=seed,
            certified=certified or start is None,
        )
        vectors = [found.largest.vector, found.smallest.vector]
        known = [vector for vector in vectors if vector is not None]
        if known:
            self._vectors[key] = torch.stack(known, dim=1)
        return found


@dataclass(eq=False)
class Stiffness:
    """The largest and the smallest eigenvalue of the Hessian, each with its interval.

    The first measurement of a run is certified. Each later one starts from the eigenvectors of the
    one before and stops when its estimated error is small, which takes a third of the products; its
    intervals hold all the same, but are wide. `certified=True` narrows them every time. For a warm
    start two vectors of the model's size are kept a term, with `certified=True` none.

    Args:
        schedule: when; by default sixteen times a decade, as long as it takes 1 % of the time.
        terms: which; None: every term and "total".
        layers: whose diagonal blocks are measured as well, of the total; "all" of them.
        tol: relative to the largest magnitude in the spectrum.
        certified: whether every interval has to be narrow.
        max_basis: vectors of the model's size that are held.
        max_products: Hessian-vector products, after which the method stops in any case.
        seed: of the random starts.

    Records: eigenvalues `hessian`.
    """

    schedule: Schedule = field(default_factory=lambda: within_budget(0.005, log_spaced(16)))
    terms: Sequence[str] | None = None
    layers: Sequence[str] | str = ()
    tol: float = 1e-2
    certified: bool = False
    max_basis: int = 40
    max_products: int = 100
    seed: int = 0
    name: str = "stiffness"
    reads: Reads = "graph"
    _starts: WarmStarts = field(default_factory=WarmStarts)

    def measure(self, snapshot: Snapshot) -> Iterator[Record]:
        """Yields both ends for each term, the total, and each layer asked for."""
        single = snapshot.terms[0] if len(snapshot.terms) == 1 else None
        for term in self.terms or (*snapshot.terms, TOTAL):
            records = self._ends(snapshot, term, "all", snapshot.hessian(term))
            if single is not None and self.terms is None:
                # The total is the term times its weight: one measurement has both.
                for record in records:
                    yield record
                    yield _times(record, snapshot.weights[single])
                break
            yield from records
        layers = snapshot.layout.layers if self.layers == "all" else self.layers
        for layer in layers:
            total = snapshot.hessian(TOTAL)
            if not isinstance(total, Hessian):
                raise NotMeasurableError("Blocks of this Hessian cannot be taken layer by layer.")
            yield from self._ends(snapshot, TOTAL, layer, total.block(layer))

    def _ends(
        self, snapshot: Snapshot, term: str, layer: str, operator: SymmetricOperator
    ) -> Iterator[EigenvalueRecord]:
        found = self._starts.ends(
            (snapshot.part, snapshot.batch, term, layer),
            operator,
            tol=self.tol,
            max_basis=self.max_basis,
            max_products=self.max_products,
            certified=self.certified,
            seed=self.seed,
        )
        yield EigenvalueRecord(found.largest, "largest", term, layer)
        yield EigenvalueRecord(found.smallest, "smallest", term, layer)


def _times(record: EigenvalueRecord, weight: float) -> EigenvalueRecord:
    """Returns the end of the spectrum of the weighted total, from that of its only term."""
    found = record.eigenvalue
    lower, upper = sorted([weight * found.lower, weight * found.upper])
    scaled = Eigenvalue(
        weight * found.value,
        lower,
        upper,
        abs(weight) * found.residual,
        found.converged,
        found.status,
        found.products,
    )
    end = record.end
    if weight < 0:
        end = {"largest": "smallest", "smallest": "largest"}[end]
    return EigenvalueRecord(scaled, end, TOTAL, record.layer)
