"""Where a problem lives, and fresh random points in it.

A domain is a box, and so is each of its edges: a side whose ends are equal fixes a coordinate. All
points of a batch come from one call of the random generator, because at 128 points a region the
calls would otherwise cost more than the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..diagnostics.errors import ArgumentError

Batch = dict[str, Float[Tensor, "boxes points coordinates"]]
"""Points by the name of the region that they were drawn from."""


@dataclass(frozen=True)
class Box:
    """An interval for each coordinate, by the coordinate's name.

    Example:
        >>> square = Box(x=(-1.0, 1.0), y=(-1.0, 1.0))
        >>> square.at(y=1.0).intervals
        {'x': (-1.0, 1.0), 'y': (1.0, 1.0)}
    """

    intervals: Mapping[str, tuple[float, float]]

    def __init__(self, **intervals: tuple[float, float]) -> None:
        object.__setattr__(self, "intervals", intervals)

    @property
    def coordinates(self) -> tuple[str, ...]:
        """The names of the coordinates, in the order of a point's columns."""
        return tuple(self.intervals)

    @property
    def lower(self) -> tuple[float, ...]:
        """The lower end of each interval."""
        return tuple(ends[0] for ends in self.intervals.values())

    @property
    def upper(self) -> tuple[float, ...]:
        """The upper end of each interval."""
        return tuple(ends[1] for ends in self.intervals.values())

    @property
    def mean(self) -> tuple[float, ...]:
        """The mean of each coordinate of a uniform random point."""
        return tuple((a + b) / 2 for a, b in self.intervals.values())

    @property
    def deviation(self) -> tuple[float, ...]:
        """The standard deviation of each coordinate of a uniform random point."""
        return tuple((b - a) / math.sqrt(12) for a, b in self.intervals.values())

    @property
    def is_point(self) -> bool:
        """Whether all its points are the same."""
        return self.lower == self.upper

    def at(self, **fixed: float) -> Box:
        """Returns the part of the box where some coordinates have the given values.

        Raises:
            ArgumentError: there is no such coordinate.
        """
        for name in fixed:
            if name not in self.intervals:
                raise ArgumentError(
                    f"There is no coordinate {name!r}; there are {', '.join(self.intervals)}."
                )
        return Box(**{**self.intervals, **{name: (at, at) for name, at in fixed.items()}})

    def ends(self, *coordinates: str) -> tuple[Box, ...]:
        """Returns the edges at the lower and the upper end of each of some coordinates."""
        return tuple(self.at(**{name: at}) for name in coordinates for at in self.intervals[name])

    def grid(self, counts: tuple[int, ...]) -> Float[Tensor, "points coordinates"]:
        """Returns equidistant points, edges included, the last coordinate running fastest."""
        axes = [
            torch.linspace(*ends, count, dtype=torch.float64)
            for ends, count in zip(self.intervals.values(), counts, strict=True)
        ]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)


@dataclass(frozen=True)
class Region:
    """Boxes that are sampled together, each with the same number of points.

    Args:
        boxes: they may overlap.
        is_paired: whether all boxes get the same random numbers, so that their points face each
            other, as periodic boundary conditions need them.
    """

    boxes: tuple[Box, ...]
    is_paired: bool = False


def initial_and_boundary(domain: Box, *, is_periodic: bool = False) -> dict[str, Region]:
    """Returns the regions of a problem along t and x: inside, at the start, and at both ends."""
    return {
        "interior": Region((domain,)),
        "initial": Region((domain.at(t=domain.intervals["t"][0]),)),
        "boundary": Region(domain.ends("x"), is_periodic),
    }


class Sampler:
    """Draws batches of uniform random points.

    Args:
        regions: what to sample, by name.
        points: of each box; or that number by the name of the region. A box that is a single point
            is given once.
        dtype: of the points.
        device: of the points and of the generators that they are drawn from.

    Raises:
        ArgumentError: a number of points is less than one or for a region that there is not.

    Example:
        >>> square = Box(x=(0.0, 1.0), y=(0.0, 1.0))
        >>> regions = {"interior": Region((square,)), "edges": Region(square.ends("x", "y"))}
        >>> batch = Sampler(regions, 128).draw(torch.Generator().manual_seed(0))
        >>> batch["interior"].shape, batch["edges"].shape
        (torch.Size([1, 128, 2]), torch.Size([4, 128, 2]))
    """

    def __init__(
        self,
        regions: Mapping[str, Region],
        points: int | Mapping[str, int] = 128,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self._shapes: dict[str, tuple[int, int]] = {}
        counts = dict.fromkeys(regions, points) if isinstance(points, int) else points
        for name in [*regions, *counts]:
            if name not in regions or counts.get(name, 0) < 1:
                raise ArgumentError(
                    f"{counts.get(name, 'No')} points in region {name!r} cannot be drawn: give "
                    f"one or more for each of {', '.join(regions)}."
                )
        self._paired = [name for name, region in regions.items() if region.is_paired]
        lower, upper = [], []
        for name, region in regions.items():
            count = 1 if all(box.is_point for box in region.boxes) else counts[name]
            self._shapes[name] = (len(region.boxes), count)
            lower += [box.lower for box in region.boxes for _ in range(count)]
            upper += [box.upper for box in region.boxes for _ in range(count)]
        self._lower = torch.tensor(lower, dtype=dtype, device=device)
        self._upper = torch.tensor(upper, dtype=dtype, device=device)

    def draw(self, generator: torch.Generator) -> Batch:
        """Returns fresh points for every region, the boxes of each stacked."""
        unit = torch.rand(
            self._lower.shape,
            generator=generator,
            dtype=self._lower.dtype,
            device=self._lower.device,
        )
        if self._paired:
            boxes = self._by_region(unit)
            for name in self._paired:
                boxes[name][1:] = boxes[name][0]
        # lerp gives exactly the ends where they are equal, so a point of an edge lies on it.
        return self._by_region(torch.lerp(self._lower, self._upper, unit))

    def _by_region(self, rows: Float[Tensor, "rows coordinates"]) -> Batch:
        sizes = [boxes * points for boxes, points in self._shapes.values()]
        return {
            name: part.view(*shape, -1)
            for (name, shape), part in zip(self._shapes.items(), rows.split(sizes), strict=True)
        }
