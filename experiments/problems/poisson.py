"""Poisson's equation in one dimension, the paper's first example of unbalanced gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..derivatives import Field
from ..domains import Batch, Box, Region
from ..formulation import Complexity, Problem, Published

_SIAM = "Wang, Teng, Perdikaris, SIAM J. Sci. Comput. 43(5), A3055 (2021), table 1"


@dataclass(frozen=True)
class Poisson(Problem):
    """u_xx = -C^2 sin(C x) on [0, 1], with u = sin(C x) at both ends.

    In the paper's bounds the gradient of the residual's loss grows as C^4, that of the boundary's
    does not depend on C. The argument of the sine is C x, not C pi x.
    """

    name: ClassVar[str] = "poisson"
    equation: ClassVar[str] = "u_xx = -C^2 sin(C x)"
    domain: ClassVar[Box] = Box(x=(0.0, 1.0))
    regions: ClassVar[Mapping[str, Region]] = {
        "interior": Region((domain,)),
        "boundary": Region(domain.ends("x")),
    }
    terms: ClassVar[tuple[str, ...]] = ("residual", "boundary")
    complexity: ClassVar[Complexity] = Complexity(
        "C", (1, 2, 4, 8, 16), "the solution oscillates C times as fast"
    )
    hidden: ClassVar[tuple[int, ...]] = (50,) * 5
    counts: ClassVar[tuple[int, ...]] = (1000,)
    published: ClassVar[tuple[Published, ...]] = tuple(
        Published(error, "M1", _SIAM, {"C": C}, steps=40_000)
        for C, error in [(1, 1.34e-4), (2, 4.65e-4), (4, 3.82e-3), (8, 1.30e-2), (16, 9.44)]
    )

    C: float = 4

    def residuals(self, field: Field, batch: Batch) -> dict[str, Tensor]:
        """Returns the residuals of the equation, and of the values at the ends."""
        inside, ends = batch["interior"], batch["boundary"]
        (u_xx,) = self.partials(field, inside, "u_xx")
        (u,) = self.partials(field, ends, "u")
        return {
            "residual": u_xx + self.C**2 * torch.sin(self.C * inside[..., 0]),
            "boundary": u - torch.sin(self.C * ends[..., 0]),
        }

    def exact(self, points: Tensor) -> tuple[Tensor, ...]:
        """Returns sin(C x)."""
        (x,) = points.unbind(-1)
        return (torch.sin(self.C * x),)

    def constrained(self, points: Tensor, outputs: Tensor) -> Tensor:
        """Returns x sin(C) plus x (1 - x) times the output."""
        (x,), (u,) = points.unbind(-1), outputs.unbind(-1)
        return torch.stack([math.sin(self.C) * x + x * (1 - x) * u], dim=-1)
