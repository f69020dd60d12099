"""The Klein-Gordon equation with a cubic term."""

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

_V1 = "Wang, Teng, Perdikaris, arXiv 2001.04536v1 (2020)"


@dataclass(frozen=True)
class KleinGordon(Problem):
    """u_tt - u_xx + u^3 = f on [0, 1]^2, with u and u_t given at t = 0, u at x = 0 and x = 1.

    The solution is u = x cos(5 pi t) + (x t)^3. (The paper prints u(x, 0) = 0; its code uses x, as
    this solution has it.) As in that code, one term holds both initial conditions.
    """

    name: ClassVar[str] = "klein_gordon"
    equation: ClassVar[str] = "u_tt - u_xx + u^3 = f(t, x)"
    domain: ClassVar[Box] = Box(t=(0.0, 1.0), x=(0.0, 1.0))
    regions: ClassVar[Mapping[str, Region]] = initial_and_boundary(domain)
    terms: ClassVar[tuple[str, ...]] = ("residual", "initial", "boundary")
    complexity: ClassVar[Complexity] = Complexity(
        "frequency", (1, 3, 5), "the solution oscillates that many half periods in time"
    )
    hidden: ClassVar[tuple[int, ...]] = (50,) * 5
    counts: ClassVar[tuple[int, ...]] = (100, 100)
    published: ClassVar[tuple[Published, ...]] = tuple(
        Published(error, model, _V1, steps=40_000)
        for model, error in [("M1", 1.79e-1), ("M2", 1.06e-2), ("M3", 1.97e-2), ("M4", 2.81e-3)]
    )

    frequency: float = 5

    def residuals(self, field: Field, batch: Batch) -> dict[str, Tensor]:
        """Returns the residuals of the equation, and of the initial and boundary values."""
        inside, start, ends = batch["interior"], batch["initial"], batch["boundary"]
        u, wave = self.partials(field, inside, "u u_tt-u_xx")
        u_start, u_t = self.partials(field, start, "u u_t")
        (u_ends,) = self.partials(field, ends, "u")
        return {
            "residual": wave + u**3 - self._source(inside),
            "initial": torch.stack([u_start - start[..., 1], u_t]),
            "boundary": u_ends - self.exact(ends)[0],
        }

    def _source(self, points: Tensor) -> Tensor:
        t, x = points.unbind(-1)
        omega = self.frequency * math.pi
        u_tt = 6 * t * x**3 - omega**2 * x * torch.cos(omega * t)
        u_xx = 6 * x * t**3
        return u_tt - u_xx + self.exact(points)[0] ** 3

    def exact(self, points: Tensor) -> tuple[Tensor, ...]:
        """Returns x cos(5 pi t) + (x t)^3."""
        t, x = points.unbind(-1)
        return (x * torch.cos(self.frequency * math.pi * t) + (x * t) ** 3,)

    def constrained(self, points: Tensor, outputs: Tensor) -> Tensor:
        """Returns x (cos(5 pi t) + t^3) plus t^2 x (1 - x) times the output."""
        t, x = points.unbind(-1)
        (u,) = outputs.unbind(-1)
        known = x * (torch.cos(self.frequency * math.pi * t) + t**3)
        return torch.stack([known + t**2 * x * (1 - x) * u], dim=-1)
