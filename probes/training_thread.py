"""What each thread that trains is in the middle of."""

from __future__ import annotations

import threading
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from .open_step import OpenStep
from .parts import Part
from .repeated_step import RepeatedStep
from .self_check import SelfCheck
from .snapshot import Pass


class TrainingThread(threading.local):
    """Its open steps, and where in the loop it is; each thread has values of its own."""

    def __init__(self) -> None:
        self.repeated: RepeatedStep | None = None  # that was differentiated, and not yet taken
        self._open: dict[Part, OpenStep] = {}
        self.inside: Optimizer | None = None  # whose step() is running
        self.evaluation = 0  # of the loss, by the closure of that step
        self.watched: dict[str, Tensor] = {}
        self.measured: tuple[Any, OpenStep, Pass] | None = None  # a root, by `watch` already
        self.passing: tuple[OpenStep, Pass] | None = None  # whose backward pass is running
        self.check: SelfCheck | None = None

    @property
    def open(self) -> dict[Part, OpenStep]:
        """The open steps; who asks for them goes the long way, with all that there are."""
        repeated, self.repeated = self.repeated, None
        if repeated is not None:
            self._open[repeated.part] = repeated.to_open_step()
        return self._open

    @property
    def has_open_step(self) -> bool:
        """Whether there is an open step that need be told of the step to be taken."""
        return bool(self._open)

    @property
    def is_busy(self) -> bool:
        """Whether a step is open or running, or losses were named for the next backward pass."""
        is_open = bool(self._open) or self.repeated is not None or self.inside is not None
        return is_open or bool(self.watched or self.measured)

    @property
    def is_trial(self) -> bool:
        """Whether this is an evaluation of the loss by a line search, not at the step's point."""
        if self.inside is None:
            return False
        # A closure that came past our wrapper is not counted.
        return self.evaluation > 1 or (self.evaluation == 0 and bool(self.open))
