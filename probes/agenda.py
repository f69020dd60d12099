"""Whether anything is due, asked at every step, so that most are over with it at once."""

from __future__ import annotations

from .bench import Bench
from .registry import Registry


class Agenda:
    """Knows for all parts of a run when something may be due.

    Args:
        registry: of the parts.
        bench: the instruments.
    """

    def __init__(self, registry: Registry, bench: Bench) -> None:
        self._registry = registry
        self._bench = bench

    def may_be_due(self) -> bool:
        """Whether something may have to be measured at this pass."""
        registry = self._registry
        if registry.look_again or not registry.parts.all:
            return True
        for part in registry.parts.all:
            if part.follow_up is not None:
                return True
            if part.step < part.idle_until:
                continue
            if self._bench.due(part.name, part.step, registry.replicas_of(part)):
                return True
            part.idle_until = self._bench.idle_until(part.step + 1)
        return False

    def is_empty(self, ahead: int) -> bool:
        """Whether it is known already that nothing is due, at the present step or so many after."""
        parts = self._registry.parts.all
        if self._registry.look_again or not parts:
            return False
        for part in parts:  # without `all`, which takes as long as the rest
            if part.step + ahead >= part.idle_until or part.follow_up is not None:
                return False
            if part.counts_passes:  # then the next backward pass is a step of its own
                return False
        return True
