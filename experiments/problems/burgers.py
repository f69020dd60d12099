"""The viscous Burgers equation, whose solution steepens to a shock."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..derivatives import Field
from ..domains import Batch, Box, Region, initial_and_boundary
from ..formulation import Complexity, Problem, Published

# Of Gauss and Hermite's rule. With 100 nodes it agrees with 200 of them to 1e-12 at the smallest of
# the viscosities.
_NODES, _WEIGHTS = map(torch.from_numpy, np.polynomial.hermite.hermgauss(100))


@dataclass(frozen=True)
class Burgers(Problem):
    """u_t + u u_x = nu u_xx on [-1, 1] for t in [0, 1], u(0, x) = -sin(pi x), u(t, +-1) = 0."""

    name: ClassVar[str] = "burgers"
    equation: ClassVar[str] = "u_t + u u_x = nu u_xx"
    domain: ClassVar[Box] = Box(t=(0.0, 1.0), x=(-1.0, 1.0))
    regions: ClassVar[Mapping[str, Region]] = initial_and_boundary(domain)
    terms: ClassVar[tuple[str, ...]] = ("residual", "initial", "boundary")
    complexity: ClassVar[Complexity] = Complexity(
        "viscosity",
        (0.1 / math.pi, 0.03 / math.pi, 0.01 / math.pi),
        "the shock at x = 0 is about 4 nu thick",
    )
    hidden: ClassVar[tuple[int, ...]] = (20,) * 8
    counts: ClassVar[tuple[int, ...]] = (100, 256)
    solution_error: ClassVar[float] = 1e-11
    published: ClassVar[tuple[Published, ...]] = (
        Published(6.7e-4, "Adam and L-BFGS", "Raissi, Perdikaris, Karniadakis, JCP 378 (2019)"),
        Published(4.80e-4, "SA-PINN", "McClenny, Braga-Neto, arXiv 2009.04544", deviation=1.01e-4),
        Published(1.45e-2, "PINN", "Hao et al., PINNacle, NeurIPS 2024"),
    )

    viscosity: float = 0.01 / math.pi

    def residuals(self, field: Field, batch: Batch) -> dict[str, Tensor]:
        """Returns the residuals of the equation, and of the initial and boundary values."""
        u, u_t, u_x, u_xx = self.partials(field, batch["interior"], "u u_t u_x u_xx")
        (start,) = self.partials(field, batch["initial"], "u")
        (ends,) = self.partials(field, batch["boundary"], "u")
        return {
            "residual": u_t + u * u_x - self.viscosity * u_xx,
            "initial": start + torch.sin(math.pi * batch["initial"][..., 1]),
            "boundary": ends,
        }

    def exact(self, points: Tensor) -> tuple[Tensor, ...]:
        """Returns the solution by the Cole-Hopf transform, integrated by Gauss and Hermite's rule.

        u = -E[sin(pi y) f(y)] / E[f(y)] with f(y) = exp(-cos(pi y) / (2 pi nu)) and y normally
        distributed about x with variance 2 nu t (Basdevant et al., Comput. Fluids 14, 1986). f
        ranges over 40 decades, so it enters by its logarithm: the two sums are one softmax.
        """
        t, x = points.unbind(-1)
        nodes = _NODES.to(points.device, points.dtype)
        log_weights = _WEIGHTS.log().to(points.device, points.dtype)
        y = x[..., None] - torch.sqrt(4 * self.viscosity * t)[..., None] * nodes
        log_f = -torch.cos(math.pi * y) / (2 * math.pi * self.viscosity)
        share = torch.softmax(log_f + log_weights, dim=-1)
        return (-(share * torch.sin(math.pi * y)).sum(-1),)

    def constrained(self, points: Tensor, outputs: Tensor) -> Tensor:
        """Returns -sin(pi x) plus t (1 - x^2) times the output."""
        t, x = points.unbind(-1)
        (u,) = outputs.unbind(-1)
        return torch.stack([t * (1 - x**2) * u - torch.sin(math.pi * x)], dim=-1)
