"""One step of training as a pure function of one flat vector, with the gradient of every term.

The parameters of a network, the moments of Adam and the gradients are flat vectors, in the order of
a `ParameterLayout`. A step takes and returns them, so that it compiles as a whole, that a probe may
still read the parameters from before it, and that a checkpoint is three vectors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, Self, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call

from ..diagnostics.kernel import tangent_kernel
from ..diagnostics.layout import ParameterLayout
from ..diagnostics.stability import OptimizerStability, adam_limit, momentum_limit
from .compilation import compiled
from .domains import Batch
from .formulation import Problem
from .networks import MLP

# Adam's defaults; the paper has no others.
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
INITIAL_RATE = 1e-3


def learning_rate(step: int, initial: float = INITIAL_RATE) -> float:
    """Returns the paper's learning rate, 1e-3 times 0.9^(step / 1000), without stairs.

    Source: GradientPathologiesPINNs, `exponential_decay(1e-3, step, 1000, 0.9, staircase=False)`.
    """
    return initial * math.pow(0.9, step / 1000)


@dataclass(frozen=True, eq=False)
class Descended:
    """The parameters of a network before a step, where the optimizer remembers nothing of others.

    This is the state of gradient descent, and what is common to all.
    """

    parameters: Float[Tensor, " params"]

    @classmethod
    def of(cls, parameters: Float[Tensor, " params"]) -> Self:
        """Returns the state before the first step."""
        return cls(parameters)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of it, in the order of the fields."""
        return tuple(getattr(self, each.name) for each in fields(self))

    def stability(self, step: int, initial_rate: float = INITIAL_RATE) -> OptimizerStability:
        """Returns the limit of the step with this number, this being the state after it."""
        return OptimizerStability(
            limit=momentum_limit(learning_rate(step, initial_rate)),
            diagonal=None,
            weight_decay=None,
            maximize=False,
            held=(),
            rule="2 / eta, Cohen et al. 2021, arXiv 2103.00065",
            status="Gradient descent.",
        )

    @staticmethod
    def scales(step: int, rate: float) -> tuple[float, ...]:
        """Returns the numbers that change with the step, in double precision."""
        return (rate,)

    @staticmethod
    def stepped(tensors: Sequence[Tensor], gradient: Tensor, scales: Tensor) -> tuple[Tensor, ...]:
        """Returns the tensors after a step."""
        (parameters,), (rate,) = tensors, scales
        return (parameters - rate * gradient,)


@dataclass(frozen=True, eq=False)
class AdamState(Descended):
    """The parameters of a network, and what Adam remembers."""

    mean: Float[Tensor, " params"]  # of gradients, not corrected for its start at zero
    square: Float[Tensor, " params"]  # likewise of squared gradients

    @classmethod
    def of(cls, parameters: Float[Tensor, " params"]) -> Self:
        """Returns the state before the first step."""
        zeros = torch.zeros_like(parameters)
        return cls(parameters, zeros, zeros.clone())

    def stability(self, step: int, initial_rate: float = INITIAL_RATE) -> OptimizerStability:
        """Returns the limit of the step with this number, this being the state after it.

        Source: Cohen et al. 2022, arXiv 2207.14484.
        """
        rate, taken = learning_rate(step, initial_rate), step + 1
        root = (self.square / (1 - BETA2**taken)).sqrt()
        return OptimizerStability(
            limit=adam_limit(rate, BETA1),
            diagonal=(1 - BETA1**taken) * (root + EPSILON),
            weight_decay=None,
            maximize=False,
            held=(),
            rule="(2 + 2 b1) / ((1 - b1) eta), Cohen et al. 2022, arXiv 2207.14484",
            status="Adam, with the preconditioner that this step was taken with.",
        )

    @staticmethod
    def scales(step: int, rate: float) -> tuple[float, ...]:
        """Returns the corrections of the bias, with the rate."""
        return rate / (1 - BETA1 ** (step + 1)), math.sqrt(1 - BETA2 ** (step + 1))

    @staticmethod
    def stepped(tensors: Sequence[Tensor], gradient: Tensor, scales: Tensor) -> tuple[Tensor, ...]:
        """Returns the tensors after a step, as torch.optim.Adam does, operation by operation."""
        parameters, mean, square = tensors
        rate, root = scales
        mean = torch.lerp(mean, gradient, 1 - BETA1)
        square = BETA2 * square + (1 - BETA2) * gradient * gradient
        return parameters - rate * (mean / (square.sqrt() / root + EPSILON)), mean, square


State = TypeVar("State", bound=Descended)


@dataclass(frozen=True, eq=False)
class Taken(Generic[State]):
    """What one step has computed."""

    losses: Float[Tensor, " terms"]  # before the step, unweighted
    gradients: Float[Tensor, "terms params"]  # likewise
    state: State  # after it


class FlatLosses:
    """The loss terms of a problem as functions of a flat vector of parameters.

    Args:
        problem: whose terms.
        network: of which the buffers are taken as they are, and the parameters are not.
    """

    def __init__(self, problem: Problem, network: MLP) -> None:
        self.problem = problem
        self.network = network
        self.layout = ParameterLayout.of(network)

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of the terms, in the order of every vector of losses."""
        return self.problem.terms

    def of_named(
        self, parameters: Mapping[str, Tensor], batch: Batch
    ) -> dict[str, Float[Tensor, ""]]:
        """Returns the terms by name at parameters given by name."""
        named = dict(parameters)

        def field(points: Tensor) -> Tensor:
            values: Tensor = functional_call(self.network, named, (points,))
            return values

        losses = self.problem.losses(field, batch)
        # Not stacked: the gradient of one entry would go backwards through all, with zeros.
        return {term: losses[term] for term in self.terms}

    def __call__(
        self, parameters: Float[Tensor, " params"], batch: Batch
    ) -> dict[str, Float[Tensor, ""]]:
        """Returns the terms by name at a flat vector of parameters."""
        return self.of_named(self.layout.unflatten(parameters), batch)

    def total(
        self, parameters: Mapping[str, Tensor], weights: Float[Tensor, " terms"], batch: Batch
    ) -> Float[Tensor, ""]:
        """Returns the weighted sum of the terms at parameters given by name."""
        return weights @ torch.stack(list(self.of_named(parameters, batch).values()))

    def unreached(self, batch: Batch) -> dict[str, tuple[str, ...]]:
        """Returns the names of the parameters that each term does not reach at all.

        In a flat vector all parameters are one tensor, which every term reaches.
        """
        leaves = {
            name: part.detach().clone().requires_grad_()
            for name, part in self.layout.unflatten(self.layout.flatten()).items()
        }
        found = {}
        for term, loss in self.of_named(leaves, batch).items():
            slopes = torch.autograd.grad(
                loss, list(leaves.values()), retain_graph=True, allow_unused=True
            )
            found[term] = tuple(
                name for name, slope in zip(leaves, slopes, strict=True) if slope is None
            )
        return found

    def kernel_traces(self, batch: Batch) -> dict[str, float]:
        """Returns the trace of each term's tangent kernel at the network's own parameters.

        They are exact, from the gradient of every residual. Residuals on several boxes, such as the
        edges of a square, are all rows of one kernel.
        """
        residuals = self.problem.residuals(self.network, batch)
        count = sum(residual.numel() for residual in residuals.values())
        kernel = tangent_kernel(residuals, self.layout, exact_points=count)
        return {term: block.trace.value for term, block in kernel.blocks.items()}


class TrainingStep(Generic[State]):
    """A step on the weighted sum of the terms, compiled where that is possible.

    Args:
        losses: the terms.
        batch: any of the batches that steps will be taken on, to trace with.
        kind: the state of the optimizer, which also says how it steps.
        compile: whether to try.
        initial_rate: the learning rate of the first step.

    Attributes:
        is_compiled: whether it is.
    """

    def __init__(
        self,
        losses: FlatLosses,
        batch: Batch,
        kind: type[State],
        *,
        compile: bool = True,
        initial_rate: float = INITIAL_RATE,
    ) -> None:
        self.losses = losses
        self.initial_rate = initial_rate
        self._kind = kind
        self._step, self.is_compiled = self._take, False
        if compile:
            state = kind.of(losses.layout.flatten())
            arguments = self._arguments(state, torch.ones(len(losses.terms)), 0, batch)
            self._step, self.is_compiled = compiled(self._take, arguments, what="The training step")

    def __call__(
        self, state: State, weights: Float[Tensor, " terms"], step: int, batch: Batch
    ) -> Taken[State]:
        """Takes the step with this number; what is given is not changed."""
        losses, gradients, *after = self._step(*self._arguments(state, weights, step, batch))
        return Taken(losses, gradients, self._kind(*after))

    def _arguments(self, state: State, weights: Tensor, step: int, batch: Batch) -> tuple[Any, ...]:
        # What changes with the step is given as a tensor, or a compiled function would be compiled
        # anew. Computed in double precision, as torch.optim.Adam does, and rounded once.
        like = state.parameters
        rate = learning_rate(step, self.initial_rate)
        scales = torch.tensor(state.scales(step, rate), dtype=like.dtype)
        return *state.tensors, weights.to(like.dtype), scales, batch

    def _take(self, *given: Any) -> tuple[Tensor, ...]:
        *tensors, weights, scales, batch = given
        with torch.enable_grad():
            point = tensors[0].detach().requires_grad_()
            losses = list(self.losses(point, batch).values())
            # One forward pass for all, whatever the terms share of it.
            rows = [torch.autograd.grad(loss, point, retain_graph=True)[0] for loss in losses]
        gradients = torch.stack(rows)
        after = self._kind.stepped(tensors, weights @ gradients, scales)
        return torch.stack(losses).detach(), gradients, *after
