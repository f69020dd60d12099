"""Steady flow in a square cavity whose lid slides: a spectral solution with its corners removed.

The streamfunction psi is the sum of what is known of the flow at the two ends of the lid
(`cavity_corners.py`) and a remainder that is smooth up to terms of order r^3, in Chebyshev
polynomials. Newton's method solves

    psi_y (lap psi)_x - psi_x (lap psi)_y = lap lap psi / Re,    u = psi_y,  v = -psi_x,

at the inner nodes; the two outer rings of nodes take the boundary conditions, psi = 0 and psi_n
equal to the velocity of the wall. The pressure follows by integrating its gradient.

Relative L2 error of the velocity on the evaluation grid, against degree 56, most of it next to the
ends of the lid, and largest error in the middle (at least 0.2 from every wall):

| Re  | degree 32      | degree 40      | degree 48      |
|-----|----------------|----------------|----------------|
| 10  | 3.8e-7, 1.0e-8 | 9.5e-8, 1.7e-9 | 1.4e-8, 5e-10  |
| 100 | 3.8e-5, 1.0e-6 | 9.6e-6, 1.9e-7 | 1.4e-6, 6.0e-8 |
| 400 | 6.8e-4, 1.8e-5 | 1.6e-4, 3.5e-6 | 2.8e-5, 7.9e-7 |

Pressure is less accurate: in the middle to 2e-5 at Re = 100, of which it varies by 0.1 there, and
the residual of momentum with its gradient is 2e-3. Of Ghia, Ghia and Shin (J. Comput. Phys. 48,
1982), u on the centre line is 0.5 % off and v 3 %; other spectral methods agree to seven digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial import chebyshev as polynomials
from torch import Tensor
from torch.nn import functional as F

from ...diagnostics.errors import ArgumentError
from ..derivatives import partials
from .cavity_corners import corner_pressure, corner_streamfunction
from .chebyshev import basis, coefficients, differentiation, nodes

_DEGREE = 40
_STEPS = 20  # of Newton's method
_TOLERANCE = 1e-9  # of its last step; rounding leaves about 1e-12

Values = Float[np.ndarray, "x y"]
"""At the nodes, which ascend from 0 to 1 in both coordinates."""


@dataclass(frozen=True, eq=False)
class CavityFlow:
    """The flow in the unit square below a lid that slides with velocity 1 towards x = 1.

    At the two ends of the lid velocity and pressure have no value. The pressure is zero at the
    centre of the square.
    """

    reynolds: float
    smooth_stream: Float[Tensor, "m n"]  # coefficients of T_m(2x - 1) T_n(2y - 1)
    smooth_pressure: Float[Tensor, "m n"]  # likewise

    def streamfunction(self, points: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch"]:
        """Returns psi, in operations that `partials` can differentiate."""
        x, y = points.unbind(-1)
        first, second = _corner_streamfunctions(x, y, self.reynolds)
        return _series(self.smooth_stream, x, y) + first + second

    def velocity(self, points: Float[Tensor, "*batch 2"]) -> tuple[Tensor, Tensor]:
        """Returns u and v.

        Raises:
            ArgumentError: derivatives are asked for, which `streamfunction` has.
        """
        if not isinstance(points, Tensor):
            raise ArgumentError("This velocity has values only: differentiate psi instead.")
        psi_x, psi_y = partials(
            lambda at: self.streamfunction(at)[..., None],
            points,
            "psi_x psi_y",
            coordinates="xy",
            outputs=["psi"],
        )
        return psi_y, -psi_x

    def pressure(self, points: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch"]:
        """Returns p, in operations that `partials` can differentiate."""
        x, y = points.unbind(-1)
        first, second = _corner_pressures(x, y, self.reynolds)
        return _series(self.smooth_pressure, x, y) + first + second


def _series(coefficients: Tensor, x: Tensor, y: Tensor) -> Tensor:
    m, n = coefficients.shape
    return (F.linear(basis(2 * x - 1, m), coefficients.mT) * basis(2 * y - 1, n)).sum(-1)


def _corner_streamfunctions(x: Tensor, y: Tensor, reynolds: float) -> tuple[Tensor, Tensor]:
    left = corner_streamfunction(x, 1 - y, 1.0, reynolds)
    right = corner_streamfunction(1 - x, 1 - y, -1.0, reynolds)
    return left[0] + right[0], left[1] + right[1]


def _corner_pressures(x: Tensor, y: Tensor, reynolds: float) -> tuple[Tensor, Tensor]:
    left = corner_pressure(x, 1 - y, 1.0, reynolds)
    right = corner_pressure(1 - x, 1 - y, -1.0, reynolds)
    return left[0] + right[0], left[1] + right[1]


@lru_cache(maxsize=16)
def cavity_flow(reynolds: float, degree: int = _DEGREE) -> CavityFlow:
    """Returns the flow at a Reynolds number of up to about 500, in about a second.

    Args:
        reynolds: Re, by the lid's velocity and length.
        degree: of the polynomials in x and in y.

    Raises:
        ArgumentError: Newton's method, which starts from the flow without inertia, does not find
            it.
    """
    D = 2 * differentiation(degree)
    corners = _Corners.at((nodes(degree) + 1) / 2, reynolds)
    remainder = _remainder(D, corners, 1 / reynolds)
    if remainder is None:
        raise ArgumentError(
            f"The flow at Reynolds number {reynolds:g} was not found with polynomials of degree "
            f"{degree}: choose a smaller number, such as 400."
        )
    pressure = _integrated(*_pressure_gradient(D, corners, remainder, 1 / reynolds))
    centre = torch.tensor(0.5, dtype=torch.float64)
    pressure[0, 0] -= float(sum(_corner_pressures(centre, centre, reynolds)))
    return CavityFlow(
        reynolds, torch.from_numpy(coefficients(remainder)), torch.from_numpy(pressure)
    )


@dataclass(frozen=True, eq=False)
class _Corners:
    """What the equations need of the corner flows at the nodes; nan at the ends of the lid."""

    psi: Values
    x: Values
    y: Values
    xx: Values
    xy: Values
    yy: Values
    laplacian_x: Values
    laplacian_y: Values
    bilaplacian: Values
    # The first terms' viscous force is their pressure gradient; what is left is the second terms'.
    second_laplacian_x: Values
    second_laplacian_y: Values
    second_pressure_x: Values
    second_pressure_y: Values

    @classmethod
    def at(cls, axis: Float[np.ndarray, " nodes"], reynolds: float) -> _Corners:
        def field(points: Tensor) -> Tensor:
            x, y = points.unbind(-1)
            first, second = _corner_streamfunctions(x, y, reynolds)
            pressure = _corner_pressures(x, y, reynolds)[1]
            return torch.stack([first + second, second, pressure], dim=-1)

        points = torch.from_numpy(np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1))
        values = partials(
            field,
            points,
            "psi psi_x psi_y psi_xx psi_xy psi_yy psi_xxx+psi_xyy psi_xxy+psi_yyy"
            " psi_xxxx+psi_xxyy+psi_xxyy+psi_yyyy s_xxx+s_xyy s_xxy+s_yyy p_x p_y",
            coordinates="xy",
            outputs=["psi", "s", "p"],
        )
        return cls(*(value.numpy() for value in values))


def _remainder(D: Values, corners: _Corners, viscosity: float) -> Values | None:
    """Returns the smooth part of the streamfunction, or None where there is none to be found."""
    n, identity, D2 = len(D), np.eye(len(D)), D @ D
    along_x, along_y = np.kron(D, identity), np.kron(identity, D)
    index = np.arange(n * n).reshape(n, n)
    inner, middle, ends = index[2:-2, 2:-2].ravel(), slice(2, -2), [0, -1]

    lid = np.zeros((n, n))
    lid[:, -1] = 1.0
    slope_y = lid - corners.y  # of the remainder, on the lid and on the wall below
    # In each corner the conditions on the slopes of both sides say the same, which is what psi_xy
    # is. On the lid the remainder has the slope 1 - 2, there being two corner flows, hence zero.
    twist = np.stack([D[ends] @ slope_y[:, 0], np.zeros(2)], axis=1)
    walls = np.setdiff1d(index, index[1:-1, 1:-1])
    conditions = np.concatenate(
        [
            np.eye(n * n)[walls],
            along_x[index[ends, middle].ravel()],
            along_y[index[middle, ends].ravel()],
            np.kron(D, D)[index[np.ix_(ends, ends)].ravel()],
        ]
    )
    given = np.concatenate(
        [
            -corners.psi.ravel()[walls],
            -corners.x[ends, middle].ravel(),
            slope_y[middle, ends].ravel(),
            twist.ravel(),
        ]
    )

    along_x, along_y = along_x[inner], along_y[inner]
    laplacian_x = (np.kron(D @ D2, identity) + np.kron(D, D2))[inner]
    laplacian_y = (np.kron(D2, D) + np.kron(identity, D @ D2))[inner]
    viscous = viscosity * (
        np.kron(D2 @ D2, identity) + 2 * np.kron(D2, D2) + np.kron(identity, D2 @ D2)
    )[inner]  # fmt: skip
    psi = np.zeros(n * n)
    for attempt in range(_STEPS):
        psi_x = along_x @ psi + corners.x.ravel()[inner]
        psi_y = along_y @ psi + corners.y.ravel()[inner]
        omega_x = laplacian_x @ psi + corners.laplacian_x.ravel()[inner]
        omega_y = laplacian_y @ psi + corners.laplacian_y.ravel()[inner]
        force = viscous @ psi + viscosity * corners.bilaplacian.ravel()[inner]
        jacobian = viscous
        if attempt > 0:
            force = force - psi_y * omega_x + psi_x * omega_y
            jacobian = (
                viscous
                - psi_y[:, None] * laplacian_x
                - omega_x[:, None] * along_y
                + psi_x[:, None] * laplacian_y
                + omega_y[:, None] * along_x
            )
        matrix = np.concatenate([conditions, jacobian])
        residual = np.concatenate([conditions @ psi - given, force])
        scale = 1 / np.abs(matrix).max(axis=1)
        step = np.linalg.solve(matrix * scale[:, None], residual * scale)
        psi = psi - step
        if attempt > 0 and np.abs(step).max() < _TOLERANCE:
            return psi.reshape(n, n)
    return None


def _pressure_gradient(
    D: Values, corners: _Corners, remainder: Values, viscosity: float
) -> tuple[Values, Values]:
    """Returns the gradient of the pressure without that of the corner flows."""
    D2 = D @ D
    psi_x = D @ remainder + corners.x
    psi_y = remainder @ D.T + corners.y
    psi_xx = D2 @ remainder + corners.xx
    psi_xy = D @ remainder @ D.T + corners.xy
    psi_yy = remainder @ D2.T + corners.yy
    laplacian = D2 @ remainder + remainder @ D2.T
    viscous_u = viscosity * (laplacian @ D.T + corners.second_laplacian_y)
    viscous_v = -viscosity * (D @ laplacian + corners.second_laplacian_x)
    p_x = viscous_u - psi_y * psi_xy + psi_x * psi_yy - corners.second_pressure_x
    p_y = viscous_v + psi_y * psi_xx - psi_x * psi_xy - corners.second_pressure_y
    # At the ends of the lid, where it has no value, a finite one is felt nearby only.
    return np.nan_to_num(p_x), np.nan_to_num(p_y)


def _integrated(p_x: Values, p_y: Values) -> Float[np.ndarray, "m n"]:
    """Returns the coefficients of the pressure: up the middle line, and from there to the sides."""
    sideways = polynomials.chebint(coefficients(p_x), axis=0, lbnd=0) / 2
    middle = np.array([polynomials.chebval(0.0, column) for column in coefficients(p_y).T])
    upwards = polynomials.chebint(middle, lbnd=0) / 2
    pressure = np.zeros((len(upwards), len(upwards)))
    pressure[:, :-1] += sideways
    pressure[0] += upwards
    return pressure
