"""Running the instruments: which are due, what they cost, and what happens when one fails.

A failing instrument never fails a training. What it cannot measure now (`GradpathError`) is an
event with the reason, told once; any other error is a mistake of the instrument's, which is
switched off with a warning, or with `strict` raised.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from ..diagnostics.errors import ArgumentError, GradpathError
from .instruments.base import Instrument, reads
from .records import TRAINING_BATCH, Cost, Event, Finding, Record
from .replicas import Replicas
from .schedules import Clock, Schedule, WithinBudget, earliest, every
from .snapshot import Snapshot


class ProbeWarning(UserWarning):
    """Something of a probe does not work; the training goes on."""


# What the second measurement is expected to cost, of the first. A first certified pair of
# eigenvalues takes three times as many products as one from a warm start, and whatever is measured
# for the first time finds models, optimizers and names.
_SECOND = 0.25


@dataclass
class _Spent:
    """What a schedule's measurements have cost.

    Attributes:
        seconds: of all but the first one, which sets up much that the others find.
        last: seconds of the last one.
        times: how many there were.
    """

    seconds: float = 0.0
    last: float = 0.0
    times: int = 0

    def begin(self) -> None:
        """Another measurement begins."""
        self.times += 1
        self.last = 0.0

    def add(self, seconds: float) -> None:
        """It has taken so many seconds more."""
        self.last += seconds
        if self.times > 1:
            self.seconds += seconds

    @property
    def next_cost(self) -> float | None:
        """What the next one is likely to cost; None before the first."""
        if self.times > 1:
            return self.last
        return _SECOND * self.last if self.times else None


@dataclass
class _Due:
    """The answer for one step of one part."""

    step: int
    instruments: tuple[Instrument, ...]


@dataclass
class Timer:
    """Seconds of training and of measuring since the beginning."""

    begun: float = field(default_factory=time.perf_counter)
    measuring: float = 0.0

    @property
    def training(self) -> float:
        """Seconds that were not spent on measurements."""
        return time.perf_counter() - self.begun - self.measuring


class Bench:
    """The instruments of a probe.

    Args:
        instruments: each with its schedule.
        schedule: in place of the instruments' own, for all of them.
        strict: whether errors are raised.

    Raises:
        ArgumentError: two instruments have one name, or one is no instrument.
    """

    def __init__(
        self, instruments: Sequence[Instrument], schedule: Schedule | None, strict: bool
    ) -> None:
        names = [_name(instrument) for instrument in instruments]
        for name in names:
            if names.count(name) > 1:
                raise ArgumentError(f"Two instruments are called {name!r}: give one a new name.")
        self.instruments = tuple(instruments)
        self.timer = Timer()
        self.seconds = 0.0  # that instruments have taken
        self._schedules = {
            name: schedule or i.schedule for name, i in zip(names, instruments, strict=True)
        }
        self.strict = strict
        self._off: set[str] = set()
        self._told: set[tuple[str, ...]] = set()
        self._spent: dict[tuple[str, int], _Spent] = defaultdict(_Spent)
        self._due: dict[str, _Due] = {}
        self._are_always_due = all(each == every(1) for each in self._schedules.values())

    @property
    def always_due(self) -> tuple[Instrument, ...]:
        """All living instruments, if each is due at every step; else none."""
        if not self._are_always_due:
            return ()
        if not self._off:
            return self.instruments
        return tuple(each for each in self.instruments if each.name not in self._off)

    def due(self, part: str, step: int, replicas: Replicas | None = None) -> tuple[Instrument, ...]:
        """Returns the instruments that measure at a step; asked again, the same ones."""
        known = self._due.get(part)
        if known is not None and known.step == step:
            return known.instruments
        training = self.timer.training
        answers: dict[int, bool] = {}
        chosen = []
        for instrument in self.instruments:
            if instrument.name in self._off:
                continue
            schedule = self._schedules[instrument.name]
            if id(schedule) not in answers:
                answers[id(schedule)] = self._is_due(part, schedule, step, training, replicas)
            if answers[id(schedule)]:
                chosen.append(instrument)
        if any(reads(instrument) != "losses" for instrument in chosen):
            chosen = [i for i in self.instruments if i in chosen or self._comes_along(i)]
        self._due[part] = _Due(step, tuple(chosen))
        return self._due[part].instruments

    def _comes_along(self, instrument: Instrument) -> bool:
        """Whether an instrument measures wherever another one does, within its budget or not.

        All losses are known then. To find them is what is dear about them.
        """
        is_limited = isinstance(self._schedules[instrument.name], WithinBudget)
        return is_limited and reads(instrument) == "losses" and instrument.name not in self._off

    def idle_until(self, step: int) -> int:
        """Returns the first step from this one on at which any instrument may be due."""
        living = (name for name in self._schedules if name not in self._off)
        return min((earliest(self._schedules[n], step) for n in living), default=sys.maxsize)

    def _is_due(
        self,
        part: str,
        schedule: Schedule,
        step: int,
        training: float,
        replicas: Replicas | None,
    ) -> bool:
        spent = self._spent[part, id(schedule)]
        due = schedule.due(step, Clock(training, spent.seconds, spent.next_cost))
        if replicas is None or replicas.count == 1 or not isinstance(schedule, WithinBudget):
            return due
        # Each process has a clock of its own; all must measure at the same steps.
        return schedule.of.due(step, Clock(training, 0.0, None)) and replicas.agree(due)

    def measure(self, instrument: Instrument, snapshot: Snapshot) -> list[Record]:
        """Returns what an instrument finds, with what it cost, or why it found nothing."""
        begun = time.perf_counter()
        records: list[Record] = []
        try:
            for record in instrument.measure(snapshot):
                # One by one: what was found before an error stands.
                records += [_on_batch(record, snapshot.batch)]
        except GradpathError as error:
            records += self.missing(snapshot.part, instrument.name, str(error))
        except Exception as error:
            if self.strict:
                raise
            records += self.switch_off(instrument.name, error)
        seconds = time.perf_counter() - begun
        self.seconds += seconds
        due = self._due.get(snapshot.part)
        together = due.instruments if due is not None and due.step == snapshot.step else ()
        if instrument in _paying(together or (instrument,)):
            self.charge(snapshot.part, [instrument], seconds)
        return [*records, Cost(instrument.name, seconds)]

    def missing(self, part: str, source: str, reason: str) -> list[Record]:
        """Returns the event that says why something is missing; nothing where it was said."""
        if (part, source, reason) in self._told:
            return []
        self._told.add((part, source, reason))
        return [Event("missing", reason, source)]

    def switch_off(self, name: str, error: Exception) -> list[Record]:
        """Switches an instrument off for good; returns the event that says so."""
        self._off.add(name)
        text = f"{name} failed and is switched off ({type(error).__name__}: {error})."
        warnings.warn(f"gradpath: {text} The training goes on.", ProbeWarning, stacklevel=2)
        return [Event("instrument_off", text, name)]

    def charge(self, part: str, instruments: Iterable[Instrument], seconds: float) -> None:
        """Counts seconds for the schedules of some instruments."""
        for schedule in {id(self._schedules[i.name]) for i in _paying(instruments)}:
            self._spent[part, schedule].add(seconds)

    def count(self, part: str, instruments: Iterable[Instrument]) -> None:
        """Counts one measuring step for the schedules of some instruments."""
        for schedule in {id(self._schedules[i.name]) for i in _paying(instruments)}:
            self._spent[part, schedule].begin()

    def rename_part(self, old: str, new: str) -> None:
        """Goes on under another name of a part."""
        for part, schedule in list(self._spent):
            if part == old:
                self._spent[new, schedule] = self._spent.pop((old, schedule))
        if old in self._due:
            self._due[new] = self._due.pop(old)


def wants(instruments: Iterable[Instrument], *kinds: str) -> tuple[Instrument, ...]:
    """Returns the instruments that read one of the kinds."""
    return tuple(instrument for instrument in instruments if reads(instrument) in kinds)


def _paying(instruments: Iterable[Instrument]) -> list[Instrument]:
    """Returns the instruments that a step is charged to: losses are only where they are alone."""
    measuring = list(instruments)
    return [each for each in measuring if reads(each) != "losses"] or measuring


def _name(instrument: Instrument) -> str:
    if not hasattr(instrument, "measure") or not hasattr(instrument, "schedule"):
        raise ArgumentError(
            f"{instrument!r} is no instrument: it needs a name, a schedule and measure(snapshot)."
        )
    return instrument.name


def _on_batch(record: Record, batch: str) -> Record:
    if batch == TRAINING_BATCH or isinstance(record, Cost | Event | Finding):
        return record
    return replace(record, batch=batch) if record.batch == TRAINING_BATCH else record
