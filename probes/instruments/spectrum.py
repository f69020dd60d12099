"""How the eigenvalues of the Hessian are distributed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...diagnostics.spectrum import spectral_density
from ..records import Field, Record, Scalar
from ..schedules import Schedule, log_spaced, within_budget
from ..snapshot import TOTAL, Snapshot
from .base import Reads


@dataclass(eq=False)
class Spectrum:
    """The spectral density by stochastic Lanczos quadrature, for every term and the total.

    Records: fields `spectral_density` of shape (2, probes, steps), nodes and weights as in
    `SpectralDensity`; scalars `spectral_density_error`, its bound.
    """

    schedule: Schedule = field(default_factory=lambda: within_budget(0.05, log_spaced(2)))
    terms: Sequence[str] | None = None
    probes: int = 1
    steps: int = 40
    seed: int = 0
    name: str = "spectrum"
    reads: Reads = "graph"

    def measure(self, snapshot: Snapshot) -> Iterator[Record]:
        """Yields one density a term."""
        terms = (*snapshot.terms, TOTAL) if self.terms is None else self.terms
        for term in terms:
            density = spectral_density(
                snapshot.hessian(term), probes=self.probes, steps=self.steps, seed=self.seed
            )
            values = np.stack([density.nodes, density.weights])
            yield Field("spectral_density", values, term=term, layer="all")
            yield Scalar("spectral_density_error", density.wasserstein_bound, term, "all")
