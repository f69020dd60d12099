"""Chebyshev nodes, derivatives and series against polynomials known by their coefficients."""

import numpy as np
import pytest
import torch
from numpy.polynomial import chebyshev

from gradpath.experiments.references.chebyshev import (
    basis,
    coefficients,
    differentiation,
    nodes,
)


def test_nodes_ascend_from_end_to_end() -> None:
    np.testing.assert_allclose(nodes(4), [-1, -np.sqrt(0.5), 0, np.sqrt(0.5), 1], atol=1e-15)


@pytest.mark.parametrize("degree", [3, 8, 33])
def test_polynomials_are_differentiated_exactly(degree: int) -> None:
    series = np.random.default_rng(degree).normal(size=degree + 1)
    x = nodes(degree)
    found = differentiation(degree) @ chebyshev.chebval(x, series)
    expected = chebyshev.chebval(x, chebyshev.chebder(series))
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11 * np.abs(expected).max())


def test_coefficients_of_products_are_found() -> None:
    expected = np.random.default_rng(0).normal(size=(5, 8))
    values = chebyshev.chebgrid2d(nodes(4), nodes(7), expected)
    np.testing.assert_allclose(coefficients(values), expected, atol=1e-13)


def test_the_basis_is_cosines_of_multiples() -> None:
    angle = torch.linspace(0, 3.1, 9, dtype=torch.float64)
    expected = torch.cos(angle[:, None] * torch.arange(12))
    assert torch.allclose(basis(angle.cos(), 12), expected, atol=1e-12)
