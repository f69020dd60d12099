"""The flow of a cavity next to the ends of its lid, where it is singular, in closed form.

At distance r from an end and at an angle phi from the lid (the wall is at pi / 2) the
streamfunction and the pressure begin with

    psi = r f(phi) + U Re r^2 g(phi),    p = U P(phi) / (Re r) + K log r,

U being 1 where the lid comes out of the wall and -1 where it moves into it. The first terms are
Taylor's (1962) Stokes flow of a plate scraping fluid off another, in which velocity jumps. The
second ones are what its own inertia does to it; Botella and Peyret removed both (Comput. Fluids
27, 1998). With h = f'' + f, the vorticity of the first term being -h / r:

    g'''' + 4 g'' = (f h)',    g = g' = 0 at phi = 0 and pi / 2,    K = f h - g''' - 4 g'.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .chebyshev import basis, coefficients, differentiation, nodes

_C = 4 / (math.pi**2 - 4)
_DEGREE = 20  # of the polynomial for g, whose coefficients then fall to rounding


def corner_streamfunction(
    along: Float[Tensor, "*batch"],
    down: Float[Tensor, "*batch"],
    velocity: float,
    reynolds: float,
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Returns both terms of psi, by the distances from the wall and from the lid.

    Args:
        along: distance from the wall.
        down: distance from the lid.
        velocity: U, 1 or -1.
        reynolds: Re.
    """
    phi = torch.atan2(down, along)
    first = _C * ((math.pi / 2 * phi - math.pi**2 / 4) * down + phi * along)
    g = torch.as_tensor(_G, dtype=along.dtype)
    second = (along**2 + down**2) * (basis(4 / math.pi * phi - 1, len(g)) * g).sum(-1)
    return first, velocity * reynolds * second


def corner_pressure(
    along: Float[Tensor, "*batch"],
    down: Float[Tensor, "*batch"],
    velocity: float,
    reynolds: float,
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Returns both terms of p; the arguments are those of `corner_streamfunction`."""
    square = along**2 + down**2
    # The harmonic conjugate of the vorticity.
    first = -_C * (2 * along + math.pi * down) / square
    return velocity / reynolds * first, _K / 2 * torch.log(square)


def _second_order() -> tuple[Float[np.ndarray, " n"], float]:
    """Returns the coefficients of g in Chebyshev polynomials of 4 phi / pi - 1, and K."""
    phi = math.pi / 4 * (nodes(_DEGREE) + 1)
    D = 4 / math.pi * differentiation(_DEGREE)
    f = _C * (phi * np.cos(phi) + (math.pi / 2 * phi - math.pi**2 / 4) * np.sin(phi))
    h = _C * (math.pi * np.cos(phi) - 2 * np.sin(phi))
    D2 = D @ D
    equation = D2 @ D2 + 4 * D2
    right = D @ (f * h)
    ends = [0, -1]
    equation[ends] = np.eye(len(phi))[ends]
    equation[[1, -2]] = D[ends]
    right[[0, 1, -2, -1]] = 0.0
    g = np.linalg.solve(equation, right)
    K = f * h - D @ (D2 @ g) - 4 * D @ g
    return coefficients(g), float(np.median(K))


_G, _K = _second_order()
