"""The steps that wait to be measured together, where every step is recorded.

To measure and commit a step of a small network by itself takes longer than its backward pass. So
consecutive steps at which the same instruments are due wait, in memory and in the run's folder
(`waiting.py`), until there is a stretch of them, or they have waited for a moment, or something
else is to be written. What needs a look of its own (a curvature, a loss that is not finite, the
first step of all) never waits.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .bench import Bench
from .instruments.base import Instrument
from .live_backlogs import register
from .open_step import OpenStep
from .parts import Part
from .recorder import Recorder
from .records import Event, Stamp
from .run_writer import RunWriter
from .snapshot import Snapshot
from .stretches import Joining, all_join, joining, measure, settings_of
from .waiting import Kind, WaitingFile, WaitingStep, stretch_of

# From some steps on, more of them together are hardly cheaper; what waits is not seen by a reader.
_MOST_STEPS = 64
_MOST_SECONDS = 1.0

# Where steps of one kind never follow each other, waiting takes longer than it saves.
_MOST_SINGLE = 8

# The gradients of a large network take longer to keep than is saved.
_MOST_BYTES_A_STEP = 1 << 20


@dataclass(frozen=True, eq=False)
class _Common:
    """What the waiting steps have in common."""

    kind: Kind
    due: tuple[Instrument, ...]
    instruments: tuple[Joining, ...]

    def has(self, step: OpenStep, snapshot: Snapshot) -> bool:
        """Whether a step is like them."""
        kind = self.kind
        return (
            step.layout is kind.layout
            and step.due == self.due
            and snapshot.gradients.terms == kind.terms
            and tuple(snapshot.passes[0].points) == kind.scattered
            and step.part.name == kind.part
        )


class Backlog:
    """Takes steps in, and measures and commits them together.

    Args:
        bench: the instruments.
        recorder: of the run.
    """

    def __init__(self, bench: Bench, recorder: Recorder) -> None:
        self.folder = os.path.realpath(recorder.folder)
        self.pid = os.getpid()
        self._bench = bench
        self._recorder = recorder
        self._turn = threading.RLock()  # a reader in another thread may ask for all there is
        self._common: _Common | None = None
        self._file: WaitingFile | None = None
        self._since = 0.0
        self._last: dict[str, int] = {}  # by part, the last step that was closed
        self._may = True  # whether steps may wait at all
        self._single = 0  # how many stretches in a row were of one step
        register(self)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return self._file is None or not self._file.steps

    @property
    def _number(self) -> int:
        """How many steps wait."""
        return 0 if self._file is None else len(self._file.steps)

    def takes(self, step: OpenStep, snapshot: Snapshot) -> bool:
        """Takes a step in that is over, if it may wait; what waits is settled if it may not.

        Returns:
            whether it is in the run's folder.
        """
        if os.getpid() != self.pid:
            return False  # a forked process, in which another thread's lock would never be free
        part = step.part.name
        follows = self._last.get(part) == step.number - 1
        self._last[part] = step.number
        with self._turn:
            if follows and self._may_wait(step, snapshot) and self._begin(step, snapshot):
                waiting = _waiting(step, snapshot, self._recorder.elapsed)
                return self._add(waiting, snapshot.gradients)
            self.settle()
        return False

    def goes_on(
        self, part: Part, due: tuple[Instrument, ...], terms: tuple[str, ...]
    ) -> tuple[Joining, ...] | None:
        """Returns what would measure the next step of a part if it is like those that wait.

        None where it would not wait together with them.
        """
        common = self._common
        if common is None or not self._may or self._file is None or os.getpid() != self.pid:
            return None
        kind = common.kind
        if kind.part != part.name or kind.layout is not part.layout or common.due != due:
            return None
        if kind.terms != terms or kind.scattered:
            return None
        return common.instruments if self._last[kind.part] == part.step - 1 else None

    def settle(self) -> None:
        """Measures and commits all that waits."""
        if os.getpid() != self.pid:
            return  # the steps are the parent's to commit
        with self._turn:
            common, file = self._common, self._file
            if common is None or file is None or not file.steps:
                return
            begun = time.perf_counter()
            is_committed = False
            try:
                stretch = stretch_of(common.kind, file.steps, file.gradients)
                records = measure(stretch, common.instruments, self._switch_off)
                is_committed = self._recorder.record_stretch(stretch.stamps, records, stretch.part)
            finally:
                if is_committed:
                    file.clear()
                else:
                    self._leave_the_file()
            self._bench.charge(stretch.part, common.due, time.perf_counter() - begun)

    def close(self) -> None:
        """Settles what waits, and leaves no file behind; a further step begins a new one."""
        self.settle()
        file, self._file = self._file, None
        if file is not None and os.getpid() == self.pid:
            file.close()
        self._common = None

    def _leave_the_file(self) -> None:
        """Leaves what waits to who opens the run next, who will measure it; nothing waits any more.

        An error or Ctrl-C has come between, or the database cannot be written.
        """
        self._file, self._may = None, False

    def _may_wait(self, step: OpenStep, snapshot: Snapshot) -> bool:
        if (
            not self._may
            or step.records
            or step.micro_batches
            or step.fixed is not None
            or step.on_fixed
        ):
            return False
        if step.self_check is None or len(snapshot.passes) != 1:
            return False
        if self._recorder.has_sinks or snapshot.replicas.count > 1:
            return False
        gradients = snapshot.passes[0].gradients
        return (
            gradients is not None
            and gradients.device.type == "cpu"
            and gradients.nbytes <= _MOST_BYTES_A_STEP
        )

    def _begin(self, step: OpenStep, snapshot: Snapshot) -> bool:
        """Makes sure that what waits is like the step; returns False where no such step waits."""
        common = self._common
        if common is not None and common.has(step, snapshot):
            return _all_join(common.instruments, snapshot)
        instruments = joining(step.due)
        if instruments is not None and _all_join(instruments, snapshot):
            # As of a generator and a discriminator in turn.
            self._single = self._single + 1 if self._number == 1 else 0
            self._may = self._single < _MOST_SINGLE
            self.close()
            settings = settings_of(instruments)
            gradients = snapshot.gradients
            scattered = tuple(snapshot.passes[0].points)
            kind = Kind(
                step.part.name, step.layout, gradients.terms, scattered, gradients.dtype, settings
            )
            self._common = _Common(kind, step.due, instruments)
            return True
        return False

    def add(self, step: WaitingStep, gradients: Tensor) -> bool:
        """Takes in a step that goes on with those that wait.

        Returns:
            whether it is in the run's folder.
        """
        with self._turn:
            common = self._common
            assert common is not None
            self._last[common.kind.part] = step.stamp.step
            return self._add(step, gradients)

    def _add(self, step: WaitingStep, gradients: Tensor) -> bool:
        def append(writer: RunWriter) -> None:
            assert self._common is not None
            if self._file is None:
                self._file = WaitingFile(writer.folder, self._common.kind, _MOST_STEPS)
            self._file.append(step, gradients)

        now = time.perf_counter()
        if self.is_empty:
            self._since = now
        if not self._recorder.attempt(append):
            self._leave_the_file()
            return False
        if self._number >= _MOST_STEPS or now - self._since > _MOST_SECONDS:
            self.settle()
        return True

    def _switch_off(self, instrument: Joining, error: Exception) -> None:
        if self._bench.strict:
            raise error
        records = self._bench.switch_off(instrument.name, error)
        self._recorder.note(*(record for record in records if isinstance(record, Event)))


def _all_join(instruments: Sequence[Joining], snapshot: Snapshot) -> bool:
    values = [*snapshot.losses.values(), snapshot.loss]
    return all_join(instruments, snapshot.step, snapshot.terms, values, snapshot.learning_rate)


def _waiting(step: OpenStep, snapshot: Snapshot, elapsed: float) -> WaitingStep:
    terms = snapshot.gradients.terms
    losses, weights = snapshot.losses, snapshot.weights
    rate, loss = snapshot.learning_rate, snapshot.loss
    return WaitingStep(
        Stamp(step.number, time.time(), elapsed, step.part.evaluations),
        [_known(losses[term]) for term in terms],
        [weights[term] for term in terms],
        _known(loss),
        _known(rate),
        list(snapshot.deviations.values()),
        _known(step.self_check),
        step.seconds,
    )


def _known(value: float | None) -> float:
    return float("nan") if value is None else value
