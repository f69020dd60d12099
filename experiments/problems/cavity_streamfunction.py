"""Flow in a cavity below a sliding lid, by streamfunction and pressure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..derivatives import Field
from ..domains import Batch, Box, Region
from ..flow import lid_velocity, without_lid_ends
from ..formulation import Complexity, Problem, Published
from ..references.cavity import cavity_flow
from .cavity import Cavity

_V1 = "Wang, Teng, Perdikaris, arXiv 2001.04536v1 (2020)"


@dataclass(frozen=True)
class CavityStreamfunction(Problem):
    """The flow of `cavity` with u = psi_y and v = -psi_x, which is incompressible as it is.

    The streamfunction is determined up to a constant, as the pressure is; the reference is zero on
    the walls. The terms are the paper's. (Its code takes half of "boundary_u" and "boundary_v".)
    """

    name: ClassVar[str] = "cavity_streamfunction"
    equation: ClassVar[str] = (
        "psi_y psi_xy - psi_x psi_yy + p_x = (psi_xxy + psi_yyy) / Re, likewise along y"
    )
    domain: ClassVar[Box] = Box(x=(0.0, 1.0), y=(0.0, 1.0))
    regions: ClassVar[Mapping[str, Region]] = {
        "interior": Region((domain,)),
        "walls": Region(domain.ends("x", "y")),  # the lid last
    }
    outputs: ClassVar[tuple[str, ...]] = ("psi", "p")
    terms: ClassVar[tuple[str, ...]] = ("residual_u", "residual_v", "boundary_u", "boundary_v")
    complexity: ClassVar[Complexity] = Cavity.complexity
    hidden: ClassVar[tuple[int, ...]] = (50,) * 5
    counts: ClassVar[tuple[int, ...]] = Cavity.counts
    has_closed_form: ClassVar[bool] = False
    solution_error: ClassVar[float] = Cavity.solution_error
    published: ClassVar[tuple[Published, ...]] = tuple(
        Published(error, model, _V1, steps=40_000)
        for model, error in [("M1", 2.71e-1), ("M2", 2.49e-1), ("M3", 1.21e-1), ("M4", 3.42e-2)]
    )

    reynolds: float = 100

    def residuals(self, field: Field, batch: Batch) -> dict[str, Tensor]:
        """Returns the residuals of momentum, and of the velocity of the walls."""
        psi_x, psi_y, psi_xx, psi_xy, psi_yy, viscous_u, viscous_v, p_x, p_y = self.partials(
            field,
            batch["interior"],
            "psi_x psi_y psi_xx psi_xy psi_yy psi_xxy+psi_yyy psi_xxx+psi_xyy p_x p_y",
        )
        v, u = self.partials(field, batch["walls"], "psi_x psi_y")
        return {
            "residual_u": psi_y * psi_xy - psi_x * psi_yy + p_x - viscous_u / self.reynolds,
            "residual_v": psi_x * psi_xy - psi_y * psi_xx + p_y + viscous_v / self.reynolds,
            "boundary_u": u - lid_velocity(batch["walls"]),
            "boundary_v": -v,
        }

    def exact(self, points: Tensor) -> tuple[Tensor, ...]:
        """Returns a numerical reference."""
        flow = cavity_flow(self.reynolds)
        return flow.streamfunction(points), flow.pressure(points)

    def observed(self, field: Field, points: Tensor) -> Tensor:
        """Returns the speed."""
        u, v = self.velocity(field, points).unbind(-1)
        return torch.hypot(u, v)

    def velocity(self, field: Field, points: Tensor) -> Tensor:
        """Returns u = psi_y and v = -psi_x."""
        psi_x, psi_y = self.partials(field, points, "psi_x psi_y")
        return torch.stack([psi_y, -psi_x], dim=-1)

    def evaluation_points(self) -> Tensor:
        """Returns the grid without the ends of the lid."""
        return without_lid_ends(super().evaluation_points())
