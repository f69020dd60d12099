"""Residuals that several problems of steady incompressible flow share."""

from __future__ import annotations

import torch
from torch import Tensor

from .derivatives import Field
from .formulation import Problem


def navier_stokes(
    problem: Problem, field: Field, points: Tensor, reynolds: float
) -> dict[str, Tensor]:
    """Returns the residuals of momentum along x and y and of continuity.

    The field has the outputs u, v, p: velocity and pressure in units of density times the square of
    the velocity's unit.
    """
    u, u_x, u_y, viscous_u, v, v_x, v_y, viscous_v, p_x, p_y = problem.partials(
        field, points, "u u_x u_y u_xx+u_yy v v_x v_y v_xx+v_yy p_x p_y"
    )
    return {
        "residual_u": u * u_x + v * u_y + p_x - viscous_u / reynolds,
        "residual_v": u * v_x + v * v_y + p_y - viscous_v / reynolds,
        "residual_c": u_x + v_y,
    }


def lid_velocity(walls: Tensor) -> Tensor:
    """Returns u on points of the four walls of a cavity, of which the lid is the last."""
    velocity = torch.zeros(walls.shape[:-1], dtype=walls.dtype, device=walls.device)
    velocity[-1] = 1.0
    return velocity


def without_lid_ends(points: Tensor) -> Tensor:
    """Returns the points of the unit square but for its upper corners."""
    x, y = points.unbind(-1)
    return points[(y < 1) | ((x > 0) & (x < 1))]
