"""The Allen-Cahn equation with periodic conditions, as most PINN papers have it."""

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
from ..references.allen_cahn import periodic_solution

_JAXPI = "Wang, Sankaran, Wang, Perdikaris, arXiv 2308.08468 (2023)"
_SAP = "McClenny, Braga-Neto, arXiv 2009.04544"


@dataclass(frozen=True)
class AllenCahn(Problem):
    """u_t = d u_xx + 5 (u - u^3), periodic on [-1, 1], for t in [0, 1], u(0, x) = x^2 cos(pi x).

    Value and slope are periodic. DeepXDE's example of the same name is another problem:
    `allen_cahn_fixed`.
    """

    name: ClassVar[str] = "allen_cahn"
    equation: ClassVar[str] = "u_t = d u_xx + 5 (u - u^3)"
    domain: ClassVar[Box] = Box(t=(0.0, 1.0), x=(-1.0, 1.0))
    regions: ClassVar[Mapping[str, Region]] = initial_and_boundary(domain, is_periodic=True)
    terms: ClassVar[tuple[str, ...]] = ("residual", "initial", "boundary")
    complexity: ClassVar[Complexity] = Complexity(
        "diffusivity", (1e-2, 1e-3, 1e-4), "fronts between -1 and 1 are about sqrt(d) thick"
    )
    hidden: ClassVar[tuple[int, ...]] = (128,) * 4  # of McClenny and Braga-Neto
    counts: ClassVar[tuple[int, ...]] = (101, 257)
    has_closed_form: ClassVar[bool] = False
    solution_error: ClassVar[float] = 1e-6
    published: ClassVar[tuple[Published, ...]] = (
        Published(5.17e-1, "plain", _JAXPI, hidden=(256,) * 4),
        Published(5.37e-5, "best", _JAXPI),
        Published(2.1e-2, "SA-PINN", _SAP, deviation=1.2e-2),
    )

    diffusivity: float = 1e-4

    def residuals(self, field: Field, batch: Batch) -> dict[str, Tensor]:
        """Returns the residuals of the equation, the initial values and the periodicity."""
        start = batch["initial"]
        u, u_t, u_xx = self.partials(field, batch["interior"], "u u_t u_xx")
        (u_start,) = self.partials(field, start, "u")
        value, slope = self.partials(field, batch["boundary"], "u u_x")
        x = start[..., 1]
        return {
            "residual": u_t - self.diffusivity * u_xx - 5 * (u - u**3),
            "initial": u_start - x**2 * torch.cos(math.pi * x),
            "boundary": torch.stack([value[0] - value[1], slope[0] - slope[1]]),
        }

    def exact(self, points: Tensor) -> tuple[Tensor, ...]:
        """Returns a numerical reference."""
        t, x = points.unbind(-1)
        return (periodic_solution(self.diffusivity)(t, x),)
