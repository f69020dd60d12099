"""Convection with constant speed: no imbalance of gradients, and hard to train all the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..derivatives import Field
from ..domains import Batch, Box, Region, initial_and_boundary
from ..formulation import Complexity, Problem, Published

_KRI = "Krishnapriyan et al., NeurIPS 2021, arXiv 2109.01050"


@dataclass(frozen=True)
class Convection(Problem):
    """u_t + beta u_x = 0 on [0, 2 pi), periodic, for t in [0, 1], with u(0, x) = sin x."""

    name: ClassVar[str] = "convection"
    equation: ClassVar[str] = "u_t + beta u_x = 0"
    domain: ClassVar[Box] = Box(t=(0.0, 1.0), x=(0.0, 2 * math.pi))
    regions: ClassVar[Mapping[str, Region]] = initial_and_boundary(domain, is_periodic=True)
    terms: ClassVar[tuple[str, ...]] = ("residual", "initial", "boundary")
    complexity: ClassVar[Complexity] = Complexity(
        "beta", (1, 10, 20, 30, 40), "the wave travels beta / (2 pi) times around the domain"
    )
    hidden: ClassVar[tuple[int, ...]] = (50,) * 4
    counts: ClassVar[tuple[int, ...]] = (100, 256)
    published: ClassVar[tuple[Published, ...]] = (
        *(
            Published(error, "L-BFGS", _KRI, {"beta": beta})
            for beta, error in [
                (1, 7.84e-3),
                (10, 1.08e-2),
                (20, 7.50e-1),
                (30, 8.97e-1),
                (40, 9.61e-1),
            ]
        ),
        Published(4.19e-3, "Adam and L-BFGS", "Rathore et al., ICML 2024", {"beta": 40}),
    )

    beta: float = 30

    def residuals(self, field: Field, batch: Batch) -> dict[str, Tensor]:
        """Returns the residuals of the equation, the initial values and the periodicity."""
        u_t, u_x = self.partials(field, batch["interior"], "u_t u_x")
        (start,) = self.partials(field, batch["initial"], "u")
        (ends,) = self.partials(field, batch["boundary"], "u")
        return {
            "residual": u_t + self.beta * u_x,
            "initial": start - torch.sin(batch["initial"][..., 1]),
            "boundary": ends[0] - ends[1],
        }

    def exact(self, points: Tensor) -> tuple[Tensor, ...]:
        """Returns sin(x - beta t)."""
        t, x = points.unbind(-1)
        return (torch.sin(x - self.beta * t),)
