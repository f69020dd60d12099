"""What each thread that trains is in the middle of."""

from __future__ import annotations

import threading
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from .open_step import OpenStep
from .parts import Part
from .self_check import SelfCheck
from .snapshot import Pass


class TrainingThread(threading.local):
    """Its open steps, and where in the loop it is; each thread has values of its own."""

    def __init__(self) -> None:
        self.open: dict[Part, OpenStep] = {}
        self.inside: Optimizer | None = None  # whose step() is running
        self.evaluation = 0  # of the loss, by the closure of that step
        self.watched: dict[str, Tensor] = {}
        self.measured: tuple[Any, OpenStep, Pass] | None = None  # a root, by `watch` already
        self.passing: tuple[OpenStep, Pass] | None = None  # whose backward pass is running
        self.check: SelfCheck | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a step is open or running, or losses were named for the next backward pass."""
        return bool(self.open or self.watched or self.measured) or self.inside is not None

    @property
    def is_trial(self) -> bool:
        """Whether this is an evaluation of the loss by a line search, not at the step's point."""
        if self.inside is None:
            return False
        # A closure that came past our wrapper is not counted.
        return self.evaluation > 1 or (self.evaluation == 0 and bool(self.open))
