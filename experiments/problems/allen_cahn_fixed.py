"""The Allen-Cahn equation with fixed values at the ends: the example of DeepXDE."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..derivatives import Field
from ..domains import Batch, Box, Region, initial_and_boundary
from ..formulation import Complexity, Problem
from ..references.allen_cahn import fixed_solution


@dataclass(frozen=True)
class AllenCahnFixed(Problem):
    """u_t = d u_xx + 5 (u - u^3) on [-1, 1], u = -1 at both ends, u(0, x) = x^2 cos(pi x).

    An example in the documentation of DeepXDE.
    """

    name: ClassVar[str] = "allen_cahn_fixed"
    equation: ClassVar[str] = "u_t = d u_xx + 5 (u - u^3)"
    domain: ClassVar[Box] = Box(t=(0.0, 1.0), x=(-1.0, 1.0))
    regions: ClassVar[Mapping[str, Region]] = initial_and_boundary(domain)
    terms: ClassVar[tuple[str, ...]] = ("residual", "initial", "boundary")
    complexity: ClassVar[Complexity] = Complexity(
        "diffusivity", (1e-1, 1e-2, 1e-3), "fronts between -1 and 1 are about sqrt(d) thick"
    )
    hidden: ClassVar[tuple[int, ...]] = (20,) * 3
    counts: ClassVar[tuple[int, ...]] = (101, 257)
    has_closed_form: ClassVar[bool] = False
    solution_error: ClassVar[float] = 1e-7

    diffusivity: float = 1e-3

    def residuals(self, field: Field, batch: Batch) -> dict[str, Tensor]:
        """Returns the residuals of the equation, and of the initial and boundary values."""
        start = batch["initial"]
        u, u_t, u_xx = self.partials(field, batch["interior"], "u u_t u_xx")
        (u_start,) = self.partials(field, start, "u")
        (ends,) = self.partials(field, batch["boundary"], "u")
        x = start[..., 1]
        return {
            "residual": u_t - self.diffusivity * u_xx - 5 * (u - u**3),
            "initial": u_start - x**2 * torch.cos(math.pi * x),
            "boundary": ends + 1,
        }

    def exact(self, points: Tensor) -> tuple[Tensor, ...]:
        """Returns a numerical reference."""
        t, x = points.unbind(-1)
        return (fixed_solution(self.diffusivity)(t, x),)

    def constrained(self, points: Tensor, outputs: Tensor) -> Tensor:
        """Returns x^2 cos(pi x) plus t (1 - x^2) times the output."""
        t, x = points.unbind(-1)
        (u,) = outputs.unbind(-1)
        return torch.stack([x**2 * torch.cos(math.pi * x) + t * (1 - x**2) * u], dim=-1)
