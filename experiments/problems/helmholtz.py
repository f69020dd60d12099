"""The Helmholtz equation on a square, the paper's main example."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..derivatives import Field
from ..domains import Batch, Box, Region
from ..formulation import Complexity, Problem, Published

_V1 = "Wang, Teng, Perdikaris, arXiv 2001.04536v1 (2020), table 2"
_SIAM = "Wang, Teng, Perdikaris, SIAM J. Sci. Comput. 43(5), A3055 (2021), table "
_MODELS = ("M1", "M2", "M3", "M4")
_STEPS = 40_000

# Units and number of hidden layers, errors of M1 to M4 (means of ten runs).
_V1_ERRORS = """
30 3 2.44e-1 5.39e-2 5.31e-2 1.07e-2
50 3 1.06e-1 1.12e-2 2.46e-2 3.87e-3
100 3 9.07e-2 4.84e-3 1.17e-2 2.71e-3
30 5 2.47e-1 2.74e-2 4.12e-2 3.49e-3
50 5 1.40e-1 7.43e-3 1.97e-2 2.54e-3
100 5 1.15e-1 5.37e-3 1.08e-2 1.63e-3
30 7 3.10e-1 2.67e-2 3.17e-2 3.59e-3
50 7 1.98e-1 7.33e-3 2.37e-2 2.04e-3
100 7 8.14e-2 4.52e-3 9.36e-3 1.49e-3
"""
# The same with the standard deviation behind each mean.
_SIAM_ERRORS = """
30 3 4.36e-1 1.57e-1 4.31e-2 1.68e-2 4.03e-2 1.06e-2 5.85e-3 1.10e-3
50 3 1.94e-1 3.91e-2 1.44e-2 6.37e-3 2.12e-2 4.32e-3 3.30e-3 4.29e-4
100 3 8.51e-2 2.55e-2 4.41e-3 1.54e-3 1.34e-2 1.13e-3 1.67e-3 3.50e-4
30 5 4.19e-1 2.82e-1 1.47e-2 3.31e-3 3.22e-2 9.74e-3 4.05e-3 1.11e-3
50 5 2.02e-1 5.69e-2 6.33e-3 1.03e-3 1.70e-2 4.20e-3 1.95e-3 3.00e-4
100 5 1.31e-1 6.17e-2 4.00e-3 1.22e-3 1.01e-2 1.31e-3 1.29e-3 1.79e-4
30 7 3.41e-1 1.17e-1 1.59e-2 3.54e-3 2.57e-2 3.73e-3 3.62e-3 4.31e-4
50 7 1.97e-1 4.81e-2 6.44e-3 1.12e-3 1.69e-2 3.37e-3 2.03e-3 3.14e-4
100 7 6.98e-2 3.55e-2 4.40e-3 9.39e-4 1.12e-2 1.25e-3 2.10e-3 3.23e-4
"""
# Errors of M1 to M4 for k = 2, 3, 4 in SIAM's table 4 (50 units, 5 hidden layers).
_ERRORS_OF_K = [
    (2, (5.20e-1, 3.03e-2, 1.77e-2, 5.68e-3)),
    (3, (7.63e-1, 5.12e-2, 2.28e-2, 3.57e-3)),
    (4, (1.78, 3.61e-1, 5.15e-2, 3.19e-3)),
]


def _rows(table: str) -> Iterator[tuple[tuple[int, ...], list[float]]]:
    for units, layers, *errors in map(str.split, table.strip().splitlines()):
        yield (int(units),) * int(layers), [float(error) for error in errors]


def _published() -> Iterator[Published]:
    for hidden, errors in _rows(_V1_ERRORS):
        for model, mean in zip(_MODELS, errors, strict=True):
            yield Published(mean, model, _V1, hidden=hidden, steps=_STEPS)
    for hidden, errors in _rows(_SIAM_ERRORS):
        for model, mean, deviation in zip(_MODELS, errors[::2], errors[1::2], strict=True):
            yield Published(mean, model, f"{_SIAM}3", {}, deviation, hidden, _STEPS)
    for k, means in _ERRORS_OF_K:
        for model, mean in zip(_MODELS, means, strict=True):
            yield Published(mean, model, f"{_SIAM}4", {"k": k}, hidden=(50,) * 5, steps=_STEPS)


@dataclass(frozen=True)
class Helmholtz(Problem):
    """u_xx + u_yy + k^2 u = q on [-1, 1]^2, u = 0 on the edges, u = sin(a1 pi x) sin(a2 pi y)."""

    name: ClassVar[str] = "helmholtz"
    equation: ClassVar[str] = "u_xx + u_yy + k^2 u = q(x, y)"
    domain: ClassVar[Box] = Box(x=(-1.0, 1.0), y=(-1.0, 1.0))
    regions: ClassVar[Mapping[str, Region]] = {
        "interior": Region((domain,)),
        "boundary": Region(domain.ends("x", "y")),
    }
    terms: ClassVar[tuple[str, ...]] = ("residual", "boundary")
    complexity: ClassVar[Complexity] = Complexity(
        "a2", (1, 2, 3, 4), "the solution oscillates a2 times as fast along y"
    )
    hidden: ClassVar[tuple[int, ...]] = (50,) * 3
    counts: ClassVar[tuple[int, ...]] = (100, 100)
    published: ClassVar[tuple[Published, ...]] = tuple(_published())

    a1: float = 1
    a2: float = 4
    k: float = 1

    def residuals(self, field: Field, batch: Batch) -> dict[str, Tensor]:
        """Returns the residuals of the equation, and of the values on the four edges."""
        inside = batch["interior"]
        u, laplacian = self.partials(field, inside, "u u_xx+u_yy")
        (edges,) = self.partials(field, batch["boundary"], "u")
        (solution,) = self.exact(inside)
        q = (self.k**2 - (self.a1 * math.pi) ** 2 - (self.a2 * math.pi) ** 2) * solution
        return {"residual": laplacian + self.k**2 * u - q, "boundary": edges}

    def exact(self, points: Tensor) -> tuple[Tensor, ...]:
        """Returns sin(a1 pi x) sin(a2 pi y)."""
        x, y = points.unbind(-1)
        return (torch.sin(self.a1 * math.pi * x) * torch.sin(self.a2 * math.pi * y),)

    def constrained(self, points: Tensor, outputs: Tensor) -> Tensor:
        """Returns (1 - x^2) (1 - y^2) times the output, which is zero on the edges."""
        x, y = points.unbind(-1)
        (u,) = outputs.unbind(-1)
        return torch.stack([(1 - x**2) * (1 - y**2) * u], dim=-1)
