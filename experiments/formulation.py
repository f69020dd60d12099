"""What a reference problem states, and what every one of them can therefore do.

A problem is a frozen dataclass whose fields are its parameters. It names its domain, the regions
that are sampled, and the residuals of its equation and conditions for any field: a network, or its
own solution, on which they vanish. Losses, samples and errors follow.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from .derivatives import Field, partials
from .domains import Batch, Box, Region, Sampler


@dataclass(frozen=True)
class Complexity:
    """The parameter that makes a problem harder."""

    parameter: str
    values: tuple[float, ...]  # from the easiest on
    effect: str  # what it does to the solution


@dataclass(frozen=True)
class Published:
    """A relative L2 error that was published for a problem."""

    error: float
    model: str  # M1 to M4, or the method in the words of the source
    source: str
    parameters: Mapping[str, float] = field(default_factory=dict)  # where not the default ones
    deviation: float | None = None  # standard deviation over runs
    hidden: tuple[int, ...] | None = None  # widths of the hidden layers, where not the default ones
    steps: int | None = None  # that were trained, where the source says so

    @property
    def described(self) -> dict[str, float | str | None]:
        """What a run keeps of it, for reports to compare with."""
        return {
            "value": self.error,
            "deviation": self.deviation,
            "source": self.source,
            "steps": self.steps,
        }


@dataclass(frozen=True)
class Problem(ABC):
    """An equation with its conditions and its solution.

    A field is a function from points (..., coordinates) to values (..., outputs). The mean over the
    points of the square of a residual, added up over its other dimensions, is a term of the loss,
    so that a residual of several edges is a sum of means as in the paper and its code.
    """

    name: ClassVar[str]
    equation: ClassVar[str]
    domain: ClassVar[Box]
    regions: ClassVar[Mapping[str, Region]]  # what is sampled, by name
    outputs: ClassVar[tuple[str, ...]] = ("u",)
    # Of the loss. Those of the equation itself, and no others, begin with "residual".
    terms: ClassVar[tuple[str, ...]]
    complexity: ClassVar[Complexity]
    hidden: ClassVar[tuple[int, ...]]  # widths of the hidden layers in the source
    counts: ClassVar[tuple[int, ...]]  # of the evaluation grid along each coordinate
    # Whether the solution can be differentiated and its residuals vanish; else it is numerical.
    has_closed_form: ClassVar[bool] = True
    # Relative L2 error of the solution on that grid, with the default parameters: no network can be
    # shown to be better.
    solution_error: ClassVar[float] = 0.0
    published: ClassVar[tuple[Published, ...]] = ()

    @abstractmethod
    def residuals(self, field: Field, batch: Batch) -> dict[str, Float[Tensor, "*boxes points"]]:
        """Returns the residuals of a field at the points of a batch, by the names of the terms."""

    @abstractmethod
    def exact(self, points: Float[Tensor, "*batch coordinates"]) -> tuple[Tensor, ...]:
        """Returns the outputs of the solution, or of a reference for it."""

    def solution(
        self, points: Float[Tensor, "*batch coordinates"]
    ) -> Float[Tensor, "*batch outputs"]:
        """Returns the solution as a field."""
        # A list, because torch.compile does not look for jets in a tuple.
        return torch.stack(list(self.exact(points)), dim=-1)

    def partials(
        self, field: Field, points: Float[Tensor, "*batch coordinates"], wanted: str
    ) -> tuple[Float[Tensor, "*batch"], ...]:
        """Returns outputs and derivatives of a field by name, such as "u u_xx+u_yy"."""
        return partials(
            field, points, wanted, coordinates=self.domain.coordinates, outputs=self.outputs
        )

    def losses(self, field: Field, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Returns the terms of the loss by name, without weights."""
        return {
            name: residual.square().mean(dim=-1).sum()
            for name, residual in self.residuals(field, batch).items()
        }

    def sampler(
        self,
        points: int | Mapping[str, int] = 128,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Sampler:
        """Returns what draws batches: as in the paper 128 points inside and on every edge."""
        return Sampler(self.regions, points, dtype=dtype, device=device)

    def constrained(
        self, points: Float[Tensor, "*batch coordinates"], outputs: Float[Tensor, "*batch outputs"]
    ) -> Float[Tensor, "*batch outputs"]:
        """Returns outputs that meet all initial and boundary conditions, whatever they were.

        Only where `has_hard_conditions` says so: a function that meets them, plus the outputs times
        one that vanishes where they hold (Lagaris et al., IEEE Trans. Neural Netw. 9, 1998).
        """
        raise NotImplementedError

    @property
    def has_hard_conditions(self) -> bool:
        """Whether `constrained` is known."""
        return type(self).constrained is not Problem.constrained

    def observed(
        self, field: Field, points: Float[Tensor, "points coordinates"]
    ) -> Float[Tensor, "points quantities"]:
        """Returns what is compared with the solution: the outputs, if nothing else is said."""
        return field(points)

    def velocity(
        self, field: Field, points: Float[Tensor, "points coordinates"]
    ) -> Float[Tensor, "points 2"] | None:
        """Returns the velocity of a flow, None for problems that are none."""
        return None

    def evaluation_points(self) -> Float[Tensor, "points coordinates"]:
        """Returns the grid on which errors are measured, in float64."""
        return self.domain.grid(self.counts)

    def published_for(self, model: str, hidden: Sequence[int]) -> tuple[Published, ...]:
        """Returns what was published for these parameters, this model and these hidden layers."""
        defaults = {name: getattr(type(self), name) for name in asdict(self)}
        return tuple(
            each
            for each in self.published
            if each.model == model
            and tuple(each.hidden or self.hidden) == tuple(hidden)
            and {**defaults, **each.parameters} == asdict(self)
        )

    @cached_property
    def _reference(self) -> Float[Tensor, "points quantities"]:
        return self.observed(self.solution, self.evaluation_points())

    def error(
        self,
        field: Field,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> float:
        """Returns the relative L2 error of a field on the evaluation grid.

        Args:
            field: takes points of this dtype on this device.
            dtype: of the network; norms are taken in float64.
            device: of the network.
        """
        with torch.no_grad():
            values = self.observed(field, self.evaluation_points().to(device, dtype))
        difference = values.double().cpu() - self._reference
        return float(difference.norm() / self._reference.norm())
