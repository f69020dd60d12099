"""All eigenvalues of the Hessian, for models that are small enough."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...diagnostics.operators import SymmetricOperator
from ..records import Field, Record
from ..schedules import Schedule
from ..snapshot import TOTAL, NotMeasurableError, Snapshot
from .base import Reads


@dataclass(eq=False)
class ExactSpectrum:
    """The whole spectrum of the Hessian, for every term and the total, from the dense matrix.

    P parameters take P Hessian-vector products a term and a dense eigenvalue problem: minutes for
    P = 5,000, which is why no set of instruments has it and its schedule must be given.

    Args:
        schedule: when; few steps.
        terms: which; None: every term and "total".
        most: parameters, beyond which nothing is measured.

    Records: fields `hessian_eigenvalues` of shape (parameters,), ascending.
    """

    schedule: Schedule
    terms: Sequence[str] | None = None
    most: int = 6_000
    name: str = "exact_spectrum"
    reads: Reads = "graph"

    def measure(self, snapshot: Snapshot) -> Iterator[Record]:
        """Yields the eigenvalues of each term."""
        if snapshot.layout.size > self.most:
            raise NotMeasurableError(
                f"The model has {snapshot.layout.size:,} parameters, and all eigenvalues are found "
                f"for {self.most:,} at most: raise `most`, or use Spectrum."
            )
        for term in (*snapshot.terms, TOTAL) if self.terms is None else self.terms:
            matrix = _dense(snapshot.hessian(term))
            # Rounding leaves the products a little unsymmetric; eigvalsh reads one half alone.
            values = torch.linalg.eigvalsh((matrix + matrix.mT) / 2)
            yield Field("hessian_eigenvalues", values.cpu().numpy(), term=term, layer="all")


def _dense(operator: SymmetricOperator, at_once: int = 64) -> Tensor:
    """Returns the matrix of an operator, from its products with unit vectors."""
    matrix = torch.empty(operator.shape, dtype=torch.float64, device="cpu")
    for start in range(0, operator.size, at_once):
        number = min(at_once, operator.size - start)
        units = torch.zeros(operator.size, number, dtype=operator.dtype, device=operator.device)
        units[start : start + number].fill_diagonal_(1)
        matrix[:, start : start + number] = operator.matmat(units).double().cpu()
    return matrix
