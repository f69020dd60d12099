"""A logistic reaction at every point for itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..derivatives import Field
from ..domains import Batch, Box, Region, initial_and_boundary
from ..formulation import Complexity, Problem, Published

_KRI = "Krishnapriyan et al., NeurIPS 2021, arXiv 2109.01050"
_RATHORE = "Rathore et al., ICML 2024, arXiv 2402.01868"


@dataclass(frozen=True)
class Reaction(Problem):
    """u_t = rho u (1 - u) on [0, 2 pi], periodic, for t in [0, 1], from a Gaussian around pi."""

    name: ClassVar[str] = "reaction"
    equation: ClassVar[str] = "u_t = rho u (1 - u)"
    domain: ClassVar[Box] = Box(t=(0.0, 1.0), x=(0.0, 2 * math.pi))
    regions: ClassVar[Mapping[str, Region]] = initial_and_boundary(domain, is_periodic=True)
    terms: ClassVar[tuple[str, ...]] = ("residual", "initial", "boundary")
    complexity: ClassVar[Complexity] = Complexity(
        "rho", (1, 3, 5, 7), "the solution saturates within 1 / rho and grows steep fronts"
    )
    hidden: ClassVar[tuple[int, ...]] = (50,) * 4
    counts: ClassVar[tuple[int, ...]] = (100, 256)
    published: ClassVar[tuple[Published, ...]] = (
        Published(9.79e-1, "L-BFGS", _KRI),
        Published(1.92e-2, "Adam and L-BFGS", _RATHORE),
    )

    rho: float = 5

    def residuals(self, field: Field, batch: Batch) -> dict[str, Tensor]:
        """Returns the residuals of the equation, the initial values and the periodicity."""
        u, u_t = self.partials(field, batch["interior"], "u u_t")
        (start,) = self.partials(field, batch["initial"], "u")
        (ends,) = self.partials(field, batch["boundary"], "u")
        return {
            "residual": u_t - self.rho * u * (1 - u),
            "initial": start - self._initial(batch["initial"][..., 1]),
            "boundary": ends[0] - ends[1],
        }

    def _initial(self, x: Tensor) -> Tensor:
        return torch.exp(-((x - math.pi) ** 2) / (2 * (math.pi / 4) ** 2))

    def exact(self, points: Tensor) -> tuple[Tensor, ...]:
        """Returns h e^(rho t) / (h e^(rho t) + 1 - h), h being the initial values."""
        t, x = points.unbind(-1)
        h = self._initial(x)
        grown = h * torch.exp(self.rho * t)
        return (grown / (grown + 1 - h),)
