"""How much the gradients of one step depend on which points were drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from ..probes.instruments.base import Reads
from ..probes.records import Record, Scalar
from ..probes.schedules import Schedule
from ..probes.snapshot import TOTAL, Snapshot
from .domains import Sampler
from .seeds import generator_of
from .training_step import FlatLosses


@dataclass(eq=False)
class Resampling:
    """The noise of a batch's gradient over its mean, for every term and the weighted sum.

    Args:
        losses: the terms.
        sampler: of batches as the training has them.
        schedule: when.
        seed: of the points, which are none of the training's.
        batches: that are drawn each time.

    Records: scalars `gradient_noise`.
    """

    losses: FlatLosses
    sampler: Sampler
    schedule: Schedule
    seed: int = 0
    batches: int = 5
    name: str = "resampling"
    reads: Reads = "graph"
    _generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self._generator = generator_of("resampled points", self.seed)

    def measure(self, snapshot: Snapshot) -> Iterator[Record]:
        """Yields one number a term, and that of the sum."""
        parameters = self.losses.layout.flatten()
        rows = torch.stack([self._gradients(parameters) for _ in range(self.batches)])
        weights = torch.tensor([snapshot.weights[term] for term in self.losses.terms])
        total = torch.einsum("t,btp->bp", weights.to(rows), rows)
        for term, gradients in zip(self.losses.terms, rows.unbind(1), strict=True):
            yield Scalar("gradient_noise", noise_over_signal(gradients), term, "all")
        yield Scalar("gradient_noise", noise_over_signal(total), TOTAL, "all")

    def _gradients(self, parameters: Float[Tensor, " params"]) -> Float[Tensor, "terms params"]:
        with torch.enable_grad():
            point = parameters.detach().requires_grad_()
            losses: Mapping[str, Tensor] = self.losses(point, self.sampler.draw(self._generator))
            rows = [
                torch.autograd.grad(loss, point, retain_graph=True)[0] for loss in losses.values()
            ]
        return torch.stack(rows)


def noise_over_signal(gradients: Float[Tensor, "batches params"]) -> float:
    """Returns the standard deviation of a batch's gradient over the norm of the mean gradient.

    The square of the norm of a mean of n holds an n-th of the variance, which is taken off. What
    is left may be nothing or less; a tenth of what was taken off is the least that n batches can
    tell from nothing, so that no result is above sqrt(10 n).

    Example:
        >>> round(noise_over_signal(torch.tensor([[3.0, 1.0], [3.0, -1.0]])), 6)  # sqrt(2 / 8)
        0.5
    """
    number = len(gradients)
    mean = gradients.mean(dim=0).double()
    variance = float((gradients - mean).double().square().sum()) / (number - 1)
    if variance == 0:
        return 0.0
    own = variance / number
    signal = max(float(mean.square().sum()) - own, own / 10)
    return float((variance / signal) ** 0.5)
