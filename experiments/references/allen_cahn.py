"""Solutions of u_t = d u_xx + 5 (u - u^3) on [-1, 1] from u = x^2 cos(pi x), until t = 1.

Two problems go by the name of Allen-Cahn. They differ by the conditions at x = -1 and x = 1:
periodic, or u = -1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial import chebyshev
from scipy.interpolate import RectBivariateSpline
from torch import Tensor

from ...diagnostics.errors import ArgumentError
from .chebyshev import differentiation, nodes
from .exponential import etdrk4

# Solutions are kept on a grid of that many steps along t and x, which holds the evaluation grid.
_TIMES, _PLACES = 200, 512
_STEPS = 600  # of the time stepping, whose error is then below 1e-10
_WAVES = 2048  # places of the Fourier grid; the error falls as their number to the power -2
_DEGREE = 384  # of Chebyshev polynomials


@dataclass(frozen=True, eq=False)
class AllenCahnSolution:
    """A solution on a grid, and between its points by splines."""

    spline: RectBivariateSpline

    def __call__(self, t: Float[Tensor, "*batch"], x: Float[Tensor, "*batch"]) -> Tensor:
        """Returns u.

        Raises:
            ArgumentError: derivatives are asked for.
        """
        if not isinstance(t, Tensor):
            raise ArgumentError("The reference is known on a grid: it has values, no derivatives.")
        times, places = (at.detach().cpu().double().numpy() for at in (t, x))
        return torch.as_tensor(self.spline.ev(times, places), dtype=t.dtype, device=t.device)


def _initial(x: np.ndarray) -> np.ndarray:
    return x**2 * np.cos(np.pi * x)


def _reaction(u: np.ndarray) -> np.ndarray:
    return np.asarray(5 * (u - u**3))


@lru_cache(maxsize=16)
def periodic_solution(diffusivity: float, waves: int = _WAVES) -> AllenCahnSolution:
    """Returns the periodic solution, by a Fourier method.

    The initial values have a kink at x = 1, where their slope jumps from -2 to 2. Solutions by
    equidistant places therefore agree less than their smoothness later on suggests: against 4,096
    of them at d = 1e-4, the relative L2 error is 1.4e-5 with 512, 8e-7 with 2,048.
    """
    x = -1 + 2 * np.arange(waves) / waves
    wave_numbers = np.pi * np.arange(waves // 2 + 1)

    def reaction(modes: np.ndarray) -> np.ndarray:
        return np.fft.rfft(_reaction(np.fft.irfft(modes, waves)))

    modes = etdrk4(
        -diffusivity * wave_numbers**2,
        reaction,
        np.fft.rfft(_initial(x)),
        time=1.0,
        steps=_STEPS,
        kept=_TIMES,
    )
    values = np.fft.irfft(modes, waves)[:, :: waves // _PLACES]
    return _interpolated(np.concatenate([values, values[:, :1]], axis=1))


@lru_cache(maxsize=16)
def fixed_solution(diffusivity: float, degree: int = _DEGREE) -> AllenCahnSolution:
    """Returns the solution with u = -1 at both ends, by Chebyshev collocation.

    The relative L2 error against degree 512 at d = 1e-3 is 5.5e-6 with 256, 2.3e-8 with 384.
    """
    x = nodes(degree)
    D = differentiation(degree)
    # With w = u + 1, zero at both ends, the second derivative is a matrix on the inner nodes. Its
    # eigenvalues are real and negative, its eigenvectors far from dependent.
    eigenvalues, vectors = np.linalg.eig(diffusivity * (D @ D)[1:-1, 1:-1])
    to_modes = np.linalg.inv(vectors.real)
    modes = etdrk4(
        eigenvalues.real,
        lambda modes: to_modes @ _reaction(vectors.real @ modes - 1),
        to_modes @ (_initial(x[1:-1]) + 1),
        time=1.0,
        steps=_STEPS,
        kept=_TIMES,
    )
    values = np.pad(modes @ vectors.real.T, ((0, 0), (1, 1))) - 1
    coefficients = np.linalg.solve(chebyshev.chebvander(x, degree), values.T)
    return _interpolated(chebyshev.chebval(np.linspace(-1, 1, _PLACES + 1), coefficients))


def _interpolated(values: Float[np.ndarray, "times places"]) -> AllenCahnSolution:
    t, x = np.linspace(0, 1, _TIMES + 1), np.linspace(-1, 1, _PLACES + 1)
    return AllenCahnSolution(RectBivariateSpline(t, x, values, kx=5, ky=5))
