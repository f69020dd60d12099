"""When to measure: at which steps an instrument is due.

A schedule is a value. Whether it is due depends on the step and on a `Clock` alone, so a run that
is resumed is measured at the steps at which it would have been.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Protocol

from ..diagnostics.errors import ArgumentError


@dataclass(frozen=True)
class Clock:
    """What measuring has cost so far, and the next measurement will."""

    training: float  # seconds of the training, those of all measurements left out
    measuring: float  # seconds of all measurements that share a budget, but for the first one
    next_cost: float | None  # seconds, as far as the last ones tell; None before the first


class Schedule(Protocol):
    """Decides at which steps to measure.

    One that also has `earliest(step)`, the first step from that one on at which it may be due, is
    not asked before, so that the steps between cost next to nothing.
    """

    def due(self, step: int, clock: Clock) -> bool:
        """Returns whether to measure at this step."""
        ...


def earliest(schedule: Schedule, step: int) -> int:
    """Returns the first step from this one on at which a schedule may be due.

    Example:
        >>> earliest(every(10), 11)
        20
    """
    find = getattr(schedule, "earliest", None)
    return step if find is None else int(find(step))


@dataclass(frozen=True)
class Every:
    """Due at step 0 and every n-th after it; see `every`."""

    n: int

    def due(self, step: int, clock: Clock) -> bool:
        """Returns whether to measure at this step."""
        return step % self.n == 0

    def earliest(self, step: int) -> int:
        """Returns the first step from this one on at which it is due."""
        return step + -step % self.n


@dataclass(frozen=True)
class At:
    """Due at given steps; see `at`."""

    steps: frozenset[int]

    def due(self, step: int, clock: Clock) -> bool:
        """Returns whether to measure at this step."""
        return step in self.steps

    def earliest(self, step: int) -> int:
        """Returns the first step from this one on at which it is due; a huge one if never."""
        return min((each for each in self.steps if each >= step), default=sys.maxsize)


@dataclass(frozen=True)
class LogSpaced:
    """Due at steps that are equally spaced on a logarithmic axis; see `log_spaced`."""

    per_decade: int

    def due(self, step: int, clock: Clock) -> bool:
        """Returns whether to measure at this step."""
        return self.earliest(step) == step

    def earliest(self, step: int) -> int:
        """Returns the first step from this one on at which it is due."""
        if step < 1:
            return 0
        # The first k whose 10^(k / per_decade) may round to the step or more.
        k = max(0, math.floor(self.per_decade * math.log10(step - 0.5)))
        while (found := round(10 ** (k / self.per_decade))) < step:
            k += 1
        return found


@dataclass(frozen=True)
class AnyOf:
    """Due when one of several schedules is; see `any_of`."""

    schedules: tuple[Schedule, ...]

    def due(self, step: int, clock: Clock) -> bool:
        """Returns whether to measure at this step."""
        return any(schedule.due(step, clock) for schedule in self.schedules)

    def earliest(self, step: int) -> int:
        """Returns the first step from this one on at which one of them may be due."""
        return min((earliest(each, step) for each in self.schedules), default=sys.maxsize)


@dataclass(frozen=True)
class WithinBudget:
    """Due as soon as a share of the training time pays for it; see `within_budget`."""

    fraction: float
    of: Schedule

    def due(self, step: int, clock: Clock) -> bool:
        """Returns whether to measure at this step."""
        if not self.of.due(step, clock):
            return False
        if clock.next_cost is None:
            return True
        return clock.measuring + clock.next_cost <= self.fraction * clock.training

    def earliest(self, step: int) -> int:
        """Returns the first step from this one on at which it may be due."""
        return earliest(self.of, step)


def every(n: int) -> Every:
    """Returns a schedule that is due at steps 0, n, 2 n, ...

    Raises:
        ArgumentError: n is less than 1.

    Example:
        >>> clock = Clock(training=0.0, measuring=0.0, next_cost=None)
        >>> [step for step in range(10) if every(4).due(step, clock)]
        [0, 4, 8]
    """
    if n < 1:
        raise ArgumentError(f"every({n}) is never due; give a number of steps from 1.")
    return Every(n)


def at(*steps: int) -> At:
    """Returns a schedule that is due at the given steps.

    Raises:
        ArgumentError: there is none, or one is negative.
    """
    if not steps or min(steps) < 0:
        raise ArgumentError(f"at{steps} is never due; give one or more steps from 0.")
    return At(frozenset(steps))


def log_spaced(per_decade: int) -> LogSpaced:
    """Returns a schedule that is due at step 0 and at so many steps in each power of ten.

    They are 10^(k / per_decade), rounded; where several round to one step, it is due once.

    Raises:
        ArgumentError: per_decade is less than 1.

    Example:
        >>> clock = Clock(training=0.0, measuring=0.0, next_cost=None)
        >>> [step for step in range(101) if log_spaced(4).due(step, clock)]
        [0, 1, 2, 3, 6, 10, 18, 32, 56, 100]
    """
    if per_decade < 1:
        raise ArgumentError(f"log_spaced({per_decade}) is never due; give a number from 1.")
    return LogSpaced(per_decade)


def any_of(*schedules: Schedule) -> AnyOf:
    """Returns a schedule that is due when one of some others is.

    Example:
        >>> clock = Clock(training=0.0, measuring=0.0, next_cost=None)
        >>> [step for step in range(30) if any_of(every(10), at(3)).due(step, clock)]
        [0, 3, 10, 20]
    """
    return AnyOf(schedules)


def within_budget(fraction: float, of: Schedule | None = None) -> WithinBudget:
    """Returns a schedule that keeps the time of measurements below a share of the training time.

    The first measurement is made at once and does not count: its cost is unknown, and the beginning
    of a training says much. Each further one is due when the share pays for it and for all those
    made since.

    Args:
        fraction: the share, between 0 and 1.
        of: the steps that come into question; by default all.

    Raises:
        ArgumentError: the fraction is not between 0 and 1.

    Example:
        >>> early = Clock(training=1.0, measuring=0.1, next_cost=0.1)
        >>> within_budget(0.05).due(7, early), within_budget(0.5).due(7, early)
        (False, True)
        >>> within_budget(0.5, of=every(10)).due(7, early)
        False
    """
    if not 0 < fraction < 1:
        raise ArgumentError(f"within_budget({fraction}): give a share between 0 and 1, as 0.05.")
    return WithinBudget(fraction, every(1) if of is None else of)
