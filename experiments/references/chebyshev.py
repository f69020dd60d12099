"""Chebyshev polynomials on an interval: differentiation at nodes, coefficients, evaluation."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial import chebyshev
from torch import Tensor


def nodes(degree: int) -> Float[np.ndarray, " nodes"]:
    """Returns the extrema of the polynomial of that degree on [-1, 1], ascending."""
    return np.negative(np.cos(np.pi * np.arange(degree + 1) / degree))


def differentiation(degree: int) -> Float[np.ndarray, "nodes nodes"]:
    """Returns the matrix from values at the nodes to derivatives there.

    The differences of nodes are products of sines, without cancellation, and the diagonal is what
    makes the derivative of a constant zero (Baltensperger, Trummer, SIAM J. Sci. Comput. 24, 2003).
    """
    angle = np.pi * np.arange(degree + 1) / degree
    mean = (angle[:, None] + angle) / 2
    half = (angle[:, None] - angle) / 2
    difference = 2 * np.sin(mean) * np.sin(half)  # node i minus node k
    weight = np.where(np.arange(degree + 1) % 2 == 0, 1.0, -1.0)
    weight[[0, -1]] *= 2.0
    np.fill_diagonal(difference, 1.0)
    matrix: np.ndarray = weight[:, None] / weight / difference
    np.fill_diagonal(matrix, 0.0)
    np.fill_diagonal(matrix, -matrix.sum(axis=1))
    return matrix


def coefficients(values: Float[np.ndarray, "*nodes"]) -> Float[np.ndarray, "*nodes"]:
    """Returns the coefficients of the (product) polynomials with these values at the nodes."""
    for axis, count in enumerate(values.shape):
        inverse = np.linalg.inv(chebyshev.chebvander(nodes(count - 1), count - 1))
        values = np.moveaxis(np.tensordot(inverse, values, axes=(1, axis)), 0, axis)
    return values


def basis(z: Float[Tensor, "*batch"], count: int) -> Float[Tensor, "*batch count"]:
    """Returns T_0(z), T_1(z), ..., in operations that `partials` can differentiate."""
    values = [torch.ones_like(z), z]
    for _ in range(count - 2):
        values.append(2 * z * values[-1] - values[-2])
    return torch.stack(values, dim=-1)
