"""Flow in a cavity below a sliding lid, by velocity and pressure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..derivatives import Field
from ..domains import Batch, Box, Region
from ..flow import lid_velocity, navier_stokes, without_lid_ends
from ..formulation import Complexity, Problem, Published
from ..references.cavity import cavity_flow

_V1 = "Wang, Teng, Perdikaris, arXiv 2001.04536v1 (2020)"


@dataclass(frozen=True)
class Cavity(Problem):
    """Steady incompressible flow in [0, 1]^2; the lid y = 1 slides with u = 1, v = 0.

    The terms are the paper's: L_ru, L_rv and L_rc are "residual_u", "residual_v" and "residual_c",
    L_ub and L_vb "boundary_u" and "boundary_v".

    - Pressure is determined up to a constant only, and no term fixes it: the bias of that output
      has no influence on the loss. The reference is zero at the centre.
    - At the two upper corners the velocity jumps from 0 to 1. Random points on the edges do not hit
      them, and the evaluation grid leaves them out.
    - The error is that of the speed, sqrt(u^2 + v^2), as in the paper, which however divides
      spectral norms of matrices and refers to a solution that is itself 2 to 5 % off.
    """

    name: ClassVar[str] = "cavity"
    equation: ClassVar[str] = "u u_x + v u_y + p_x = (u_xx + u_yy) / Re, likewise v; u_x + v_y = 0"
    domain: ClassVar[Box] = Box(x=(0.0, 1.0), y=(0.0, 1.0))
    regions: ClassVar[Mapping[str, Region]] = {
        "interior": Region((domain,)),
        "walls": Region(domain.ends("x", "y")),  # the lid last
    }
    outputs: ClassVar[tuple[str, ...]] = ("u", "v", "p")
    terms: ClassVar[tuple[str, ...]] = (
        *("residual_u", "residual_v", "residual_c"),
        *("boundary_u", "boundary_v"),
    )
    complexity: ClassVar[Complexity] = Complexity(
        "reynolds", (10, 100, 400), "boundary layers grow thinner, the vortex less symmetric"
    )
    hidden: ClassVar[tuple[int, ...]] = (50,) * 5
    counts: ClassVar[tuple[int, ...]] = (101, 101)
    has_closed_form: ClassVar[bool] = False
    solution_error: ClassVar[float] = 1e-5
    published: ClassVar[tuple[Published, ...]] = tuple(
        Published(error, model, _V1, steps=40_000)
        for model, error in [("M1", 7.84e-1), ("M2", 7.48e-1), ("M3", 7.48e-1), ("M4", 7.53e-1)]
    )

    reynolds: float = 100

    def residuals(self, field: Field, batch: Batch) -> dict[str, Tensor]:
        """Returns the residuals of momentum and continuity, and of the velocity of the walls."""
        u, v = self.partials(field, batch["walls"], "u v")
        return {
            **navier_stokes(self, field, batch["interior"], self.reynolds),
            "boundary_u": u - lid_velocity(batch["walls"]),
            "boundary_v": v,
        }

    def exact(self, points: Tensor) -> tuple[Tensor, ...]:
        """Returns a numerical reference."""
        flow = cavity_flow(self.reynolds)
        return *flow.velocity(points), flow.pressure(points)

    def observed(self, field: Field, points: Tensor) -> Tensor:
        """Returns the speed."""
        u, v = self.velocity(field, points).unbind(-1)
        return torch.hypot(u, v)

    def velocity(self, field: Field, points: Tensor) -> Tensor:
        """Returns u and v."""
        return torch.stack(list(self.partials(field, points, "u v")), dim=-1)

    def evaluation_points(self) -> Tensor:
        """Returns the grid without the ends of the lid."""
        return without_lid_ends(super().evaluation_points())
