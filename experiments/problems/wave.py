"""The wave equation with two standing waves."""

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

_NTK = "Wang, Yu, Perdikaris, J. Comput. Phys. 449 (2022), arXiv 2007.14527"
_RATHORE = "Rathore et al., ICML 2024, arXiv 2402.01868"


@dataclass(frozen=True)
class Wave(Problem):
    """u_tt = 4 u_xx on [0, 1]^2, at rest at t = 0, and u = 0 at both ends.

    The solution is u = sin(pi x) cos(2 pi t) + sin(beta pi x) cos(2 beta pi t) / 2.
    """

    name: ClassVar[str] = "wave"
    equation: ClassVar[str] = "u_tt = 4 u_xx"
    domain: ClassVar[Box] = Box(t=(0.0, 1.0), x=(0.0, 1.0))
    regions: ClassVar[Mapping[str, Region]] = initial_and_boundary(domain)
    terms: ClassVar[tuple[str, ...]] = ("residual", "initial", "velocity", "boundary")
    complexity: ClassVar[Complexity] = Complexity(
        "beta", (1, 2, 4, 5), "the second of the two waves oscillates beta times as fast"
    )
    hidden: ClassVar[tuple[int, ...]] = (500,) * 5
    counts: ClassVar[tuple[int, ...]] = (100, 100)
    published: ClassVar[tuple[Published, ...]] = (
        Published(4.518e-1, "M1", _NTK, steps=80_000),
        Published(1.728e-3, "tangent kernel weights", _NTK),
        Published(5.52e-2, "Adam and L-BFGS", _RATHORE, {"beta": 5}),
    )

    beta: int = 4

    def residuals(self, field: Field, batch: Batch) -> dict[str, Tensor]:
        """Returns the residuals of the equation, and of the initial and boundary values."""
        u_tt, u_xx = self.partials(field, batch["interior"], "u_tt u_xx")
        start, velocity = self.partials(field, batch["initial"], "u u_t")
        (ends,) = self.partials(field, batch["boundary"], "u")
        return {
            "residual": u_tt - 4 * u_xx,
            "initial": start - self.exact(batch["initial"])[0],
            "velocity": velocity,
            "boundary": ends,
        }

    def exact(self, points: Tensor) -> tuple[Tensor, ...]:
        """Returns the sum of both standing waves."""
        t, x = points.unbind(-1)
        slow = torch.sin(math.pi * x) * torch.cos(2 * math.pi * t)
        omega = self.beta * math.pi
        return (slow + 0.5 * torch.sin(omega * x) * torch.cos(2 * omega * t),)

    def constrained(self, points: Tensor, outputs: Tensor) -> Tensor:
        """Returns sin(pi x) + sin(4 pi x) / 2 plus t^2 x (1 - x) times the output."""
        t, x = points.unbind(-1)
        (u,) = outputs.unbind(-1)
        start = torch.sin(math.pi * x) + 0.5 * torch.sin(self.beta * math.pi * x)
        return torch.stack([start + t**2 * x * (1 - x) * u], dim=-1)
