"""The solution of Burgers' equation against adaptive quadrature of the Cole-Hopf integrals."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from gradpath.experiments import PROBLEMS, problem


def by_quadrature(t: float, x: float, nu: float) -> float:
    """u = -int sin(pi y) f(y) G(x - y) dy / int f(y) G(x - y) dy."""

    def exponent(y: float) -> float:
        return -math.cos(math.pi * y) / (2 * math.pi * nu) - (x - y) ** 2 / (4 * nu * t)

    reach = 12 * math.sqrt(4 * nu * t) + 2
    sample = np.linspace(x - reach, x + reach, 20001)
    highest = max(map(exponent, sample))
    # The integrand is narrow: the quadrature is told where it lives.
    lively = [y for y in sample if exponent(y) > highest - 60]
    ends, peaks = (lively[0], lively[-1]), lively[:: max(1, len(lively) // 40)][:90]

    def integral(weight: bool) -> float:
        value, _ = quad(
            lambda y: (math.sin(math.pi * y) if weight else 1.0) * math.exp(exponent(y) - highest),
            *ends,
            points=peaks,
            limit=400,
            epsabs=0,
            epsrel=1e-12,
        )
        return float(value)

    return -integral(True) / integral(False)


@pytest.mark.filterwarnings("ignore:.*roundoff error")
@pytest.mark.parametrize("viscosity", PROBLEMS["burgers"].complexity.values)
@pytest.mark.parametrize("t", [0.01, 0.3, 1.0])
def test_it_agrees_with_adaptive_quadrature(t: float, viscosity: float) -> None:
    places = [-0.97, -0.5, -0.02, -0.001, 0.004, 0.3]
    points = torch.tensor([[t, x] for x in places], dtype=torch.float64)
    (found,) = problem("burgers", viscosity=viscosity).exact(points)
    expected = [by_quadrature(t, x, viscosity) for x in places]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-11)


def test_it_is_finite_where_its_integrands_are_not() -> None:
    """At this viscosity they range over exp(+-500)."""
    case = problem("burgers", viscosity=1e-3 / math.pi)
    (u,) = case.exact(case.evaluation_points())
    assert u.isfinite().all()
    assert float(u.abs().max()) <= 1.0


def test_it_starts_from_a_sine_and_is_odd() -> None:
    x = torch.linspace(-1, 1, 21, dtype=torch.float64)
    case = problem("burgers")
    (start,) = case.exact(torch.stack([torch.zeros_like(x), x], dim=-1))
    assert torch.allclose(start, -torch.sin(math.pi * x), atol=1e-14)
    (u,) = case.exact(torch.stack([torch.full_like(x, 0.8), x], dim=-1))
    assert torch.allclose(u, -u.flip(0), atol=1e-12)
