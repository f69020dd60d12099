"""What stands between the events of a training and the probe, so that neither harms the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from .recorder import Recorder
from .records import Event
from .stepping import Stepping


class Guard:
    """Passes events on to `Stepping`, and keeps its errors from the training.

    Args:
        stepping: that is told.
        recorder: where the reason goes when it fails.
        strict: whether its errors are raised.
    """

    def __init__(self, stepping: Stepping, recorder: Recorder, strict: bool) -> None:
        self._stepping = stepping
        self._recorder = recorder
        self._strict = strict
        self._turn = threading.RLock()  # several threads may train
        self._begun: list[float] = []  # when, of the blocks that the thread is in whose turn it is

    @property
    def has_open_step(self) -> bool:
        """Whether a step without a closure need be told before it is taken."""
        return self._stepping.thread.has_open_step

    def after_step(self, optimizer: Optimizer) -> bool:
        """Counts a step; returns whether nothing is due at the next one."""
        stepping = self._stepping
        if not stepping.is_busy and stepping.stepped_idly(optimizer):
            return True
        self.step_taken(optimizer)
        return False

    def slept_through_a_pass(self) -> None:
        """Counts it; what little is done cannot fail."""
        stepping = self._stepping
        if stepping.is_attached:
            stepping.registry.parts.new_pass()

    def after_idle_step(self, optimizer: Optimizer) -> bool:
        """The same, where nothing can be under way."""
        if self._stepping.stepped_idly(optimizer):
            return True
        self.step_taken(optimizer)
        return False

    def __enter__(self) -> None:
        """Begins a block whose errors are kept from the training, unless the probe is strict."""
        begun = time.perf_counter()
        self._turn.acquire()
        self._begun.append(begun)

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        try:
            if not isinstance(error, Exception):
                return False
            self._fail(error)
            return True
        finally:
            self._stepping.bench.timer.measuring += time.perf_counter() - self._begun.pop()
            self._turn.release()

    def _fail(self, error: Exception) -> None:
        if self._strict:
            raise error
        text = f"The probe failed and is switched off ({type(error).__name__}: {error})."
        self._stepping.thread.open.clear()
        self._recorder.note(Event("probe_off", text, "probe"))
        self._recorder.give_up(text)

    def __getattr__(self, event: str) -> Callable[..., None]:
        method = getattr(self._stepping, event)
        recorder, timer, turn = self._recorder, self._stepping.bench.timer, self._turn

        def told(*args: Any) -> None:
            if not recorder.is_on:
                return
            # As a block, in less time: it is called five times a step.
            begun = time.perf_counter()
            with turn:
                try:
                    method(*args)
                except Exception as error:
                    self._fail(error)
                finally:
                    timer.measuring += time.perf_counter() - begun

        self.__dict__[event] = told
        return told
