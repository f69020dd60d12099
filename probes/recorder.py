"""Where a probe's records go: the run on disk, opened when it is needed, given up when it fails."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import distributed

from .bench import ProbeWarning
from .errors import StoreError
from .live_backlogs import settle
from .records import Event, Finding, Record, Stamp
from .run_json import read_document
from .run_writer import RunWriter
from .sinks.broadcast import Broadcast
from .sinks.sink import Sink
from .stretch_rows import StretchRecord


class Recorder:
    """Writes the records of a probe, unless another process of the same training does.

    Args:
        folder: of the run.
        resume: whether a run that is there is continued.
        strict: whether a run that cannot be written fails the training.
        sinks: that get a copy of what is committed.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        resume: bool,
        strict: bool,
        sinks: Sequence[Sink] = (),
    ) -> None:
        self.folder = Path(folder).absolute()  # the training may change its working directory
        self.failure: str | None = None
        self._resume = resume
        self._strict = strict
        self._broadcast = Broadcast(sinks, self.note)
        self._writer: RunWriter | None = None
        self._described: dict[str, Any] = {}
        self._parts: dict[str, dict[str, Any]] = {}
        self._pid = os.getpid()

    @property
    def is_on(self) -> bool:
        """Whether records of this process get anywhere."""
        return self.failure is None and os.getpid() == self._pid

    @property
    def elapsed(self) -> float:
        """Seconds that the run has been going on; 0 before it is opened."""
        return 0.0 if self._writer is None else self._writer.elapsed

    @property
    def has_sinks(self) -> bool:
        """Whether trackers get a copy of each step."""
        return self._broadcast.is_wanted

    def open(self) -> None:
        """Opens the run.

        Raises:
            StoreError: it cannot be written.
        """
        if self._writer is None and writes(has_begun=False):
            self._writer = RunWriter(self.folder, metadata=self._described, resume=self._resume)

    def begin(self) -> None:
        """Opens the run if that is still to be done, as soon as there is something to record."""
        self.attempt(lambda writer: None)

    def last_step(self, part: str) -> int | None:
        """Returns the latest step that is in the run; None where there is none."""
        return None if self._writer is None else self._writer.last_step(part)

    def named_parts(self) -> set[str]:
        """Returns the parts that the run tells apart by names, from earlier sessions as well."""
        if self._writer is None:
            return set()
        return set(read_document(self.folder).get("parts", ()))

    def describe(self, **metadata: Any) -> None:
        """Adds to run.json; what is known before the run is opened is there from its beginning."""
        self._described |= metadata
        if self._writer is not None:
            self.attempt(lambda writer: writer.describe(**metadata))

    def record(
        self, step: int, records: Iterable[Record], part: str, evaluations: int | None
    ) -> bool:
        """Commits a step; returns whether it is in the run."""
        kept = list(records)
        is_committed = self.attempt(
            lambda writer: writer.record(step, kept, part=part, evaluations=evaluations)
        )
        if is_committed:
            self._broadcast.step(step, kept, part)
        return is_committed

    def record_stretch(
        self, stamps: Sequence[Stamp], records: Iterable[StretchRecord], part: str
    ) -> bool:
        """Commits several steps at once; returns whether they are in the run."""
        return self.attempt(lambda writer: writer.record_stretch(stamps, records, part=part))

    def complete(self, step: int, records: Iterable[Record], part: str) -> None:
        """Adds to a step that is in the run what could be known only later."""
        kept = list(records)
        if self.attempt(lambda writer: writer.complete(step, kept, part=part)):
            self._broadcast.step(step, kept, part)

    @property
    def is_resumed(self) -> bool:
        """Whether the run may have been written before."""
        return self._resume

    def describe_part(self, part: str, about: Mapping[str, Any]) -> None:
        """Adds what is known of one of several parts to run.json."""
        self._parts[part] = dict(about)
        self.describe(parts=self._parts)

    def note(self, *records: Event | Finding) -> None:
        """Records what belongs to no step."""
        if records:
            self.attempt(lambda writer: writer.note(*records))

    def rename_part(self, old: str, new: str) -> None:
        """Gives a part of the run another name."""
        settle(self.folder)
        self.attempt(lambda writer: writer.rename_part(old, new))

    def end(self, error: BaseException | str | None = None) -> None:
        """Ends the run; it can be opened again, and then goes on."""
        if self._writer is None or os.getpid() != self._pid:
            return
        self._broadcast.close()
        writer, self._writer = self._writer, None
        self._resume = True
        try:
            if error is None:
                writer.finish()
            else:
                writer.fail(error)
        except StoreError as failure:
            self.give_up(failure)

    def attempt(self, work: Callable[[RunWriter], None]) -> bool:
        """Does something with the writer; returns False where nothing is, or can be, written."""
        if not self.is_on or not writes(has_begun=self._writer is not None):
            return False
        try:
            self.open()
            assert self._writer is not None
            work(self._writer)
        except StoreError as error:
            if self._strict:
                raise
            self.give_up(error)
            return False
        return True

    def give_up(self, error: StoreError | str) -> None:
        """Records nothing more, and warns."""
        self.failure = str(error)
        warnings.warn(
            f"gradpath: {error} Nothing more is recorded; the training goes on.",
            ProbeWarning,
            stacklevel=2,
        )


def writes(*, has_begun: bool) -> bool:
    """Whether this process is the one that writes, of those of a distributed training.

    Args:
        has_begun: whether it writes already; it goes on, unless it turns out to be another.
    """
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank() == 0
    if has_begun:
        return True
    # Before they have met; torchrun, for one, says who is who.
    return os.environ.get("RANK", "0") == "0" or os.environ.get("WORLD_SIZE", "1") == "1"
