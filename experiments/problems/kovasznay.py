"""Kovasznay's flow behind a grid: Navier-Stokes with a solution in closed form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..derivatives import Field
from ..domains import Batch, Box, Region
from ..flow import navier_stokes
from ..formulation import Complexity, Problem


@dataclass(frozen=True)
class Kovasznay(Problem):
    """Steady incompressible flow on [-1/2, 1] x [-1/2, 3/2], its values given on the edges.

    The solution is periodic along y and decays along x (Kovasznay, Proc. Camb. Phil. Soc. 44,
    1948). Pressure is given where the flow leaves, x = 1, which fixes its constant.
    """

    name: ClassVar[str] = "kovasznay"
    equation: ClassVar[str] = "u u_x + v u_y + p_x = (u_xx + u_yy) / Re, likewise v; u_x + v_y = 0"
    domain: ClassVar[Box] = Box(x=(-0.5, 1.0), y=(-0.5, 1.5))
    regions: ClassVar[Mapping[str, Region]] = {
        "interior": Region((domain,)),
        "boundary": Region(domain.ends("x", "y")),
        "outflow": Region((domain.at(x=1.0),)),
    }
    outputs: ClassVar[tuple[str, ...]] = ("u", "v", "p")
    terms: ClassVar[tuple[str, ...]] = (
        *("residual_u", "residual_v", "residual_c"),
        *("boundary_u", "boundary_v", "pressure"),
    )
    complexity: ClassVar[Complexity] = Complexity(
        "reynolds", (20, 40, 100), "convection outweighs viscosity, the flow decays slowly along x"
    )
    hidden: ClassVar[tuple[int, ...]] = (50,) * 4
    counts: ClassVar[tuple[int, ...]] = (101, 101)

    reynolds: float = 40

    def residuals(self, field: Field, batch: Batch) -> dict[str, Tensor]:
        """Returns the residuals of momentum and continuity, and of the values on the edges."""
        edges, outflow = batch["boundary"], batch["outflow"]
        u, v, _ = self.exact(edges)
        on_edges = self.partials(field, edges, "u v")
        (p,) = self.partials(field, outflow, "p")
        return {
            **navier_stokes(self, field, batch["interior"], self.reynolds),
            "boundary_u": on_edges[0] - u,
            "boundary_v": on_edges[1] - v,
            "pressure": p - self.exact(outflow)[2],
        }

    def exact(self, points: Tensor) -> tuple[Tensor, ...]:
        """Returns velocity and pressure, with c = Re/2 - sqrt(Re^2/4 + 4 pi^2)."""
        x, y = points.unbind(-1)
        c = self.reynolds / 2 - math.sqrt(self.reynolds**2 / 4 + 4 * math.pi**2)
        decay, phase = torch.exp(c * x), 2 * math.pi * y
        u = 1 - decay * torch.cos(phase)
        v = c / (2 * math.pi) * decay * torch.sin(phase)
        return u, v, (1 - decay**2) / 2
