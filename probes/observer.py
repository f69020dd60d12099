"""Who is told of the backward passes and the steps of a training, and of what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.autograd.graph import GradientEdge
from torch.optim import Optimizer

Root = Tensor | GradientEdge


@dataclass
class BackwardCall:
    """One backward pass of the user's, before and after it runs."""

    roots: tuple[Root, ...]
    gradients: tuple[Tensor | None, ...]  # one a root
    inputs: tuple[Root, ...] | None = None  # what alone gets a gradient; None: all leaves
    through: str = "backward"  # or "autojac", whose result is no sum of the roots' gradients
    keeps_graph: bool = False  # set by an observer that needs the graph afterwards


class Observer(Protocol):
    """Who is told; what it raises goes to the user, so it raises nothing of its own."""

    @property
    def has_open_step(self) -> bool:
        """Whether a step without a closure need be told before it is taken."""
        ...

    def before_backward(self, call: BackwardCall) -> None:
        """A backward pass is about to run; its graph is alive."""

    def after_backward(self, call: BackwardCall) -> None:
        """It has run."""

    def before_step(self, optimizer: Optimizer) -> None:
        """An optimizer is about to step."""

    def after_step(self, optimizer: Optimizer) -> bool:
        """It has stepped; returns whether it need not be told of passes until the next step."""
        ...

    def slept_through_a_pass(self) -> None:
        """Since the last step there was a backward pass, or several, that it was not told of."""

    def after_idle_step(self, optimizer: Optimizer) -> bool:
        """As `after_step`, where it was not told of anything since the last one."""
        ...

    def closure_called(self, optimizer: Optimizer) -> None:
        """An optimizer, inside its step, is about to evaluate the loss."""

    def parameters_added(self, optimizer: Optimizer) -> None:
        """An optimizer was made, or got a group of parameters."""

    def gradient_taken(self) -> None:
        """`torch.autograd.grad` was called for leaves, outside of any backward pass."""
