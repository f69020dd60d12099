"""Writing a run: one process, one transaction a step.

`RunWriter.record` returns when the step is committed. From then on it is in the run however the
process ends; a step that was cut short is not in it at all.
"""

from __future__ import annotations

import contextlib
import operator
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from ..diagnostics.errors import ArgumentError
from . import revisions
from .errors import StoreError, described, explained
from .forking import give_up_in_children
from .lock import WriterLock
from .records import Event, Finding, Record, Stamp
from .recovery import complete, forget_waiting
from .rows import Rows
from .run_folder import make_folder, remove_what_a_killed_start_left
from .run_json import (
    DOCUMENT,
    check_names,
    environment,
    read_document,
    with_earlier_session,
    write_document,
)
from .schema import BEYOND_EVERY_STEP, DATABASE, open_for_writing, seal
from .series import Known
from .stretch_rows import StretchRecord, StretchRows, insert_stretch

JOURNAL_VARIABLE = "GRADPATH_JOURNAL"

# A connection must not be closed in a forked process, not even by the garbage collector.
_connections_of_the_parent: list[sqlite3.Connection] = []


class RunWriter:
    """The one writer of a run.

    A step is recorded once, by one call with all its records. With several models or optimizers in
    one run, each is a `part` with steps of its own.

    A run that is resumed goes on from where the training does. A training that was killed mostly
    goes back to an earlier checkpoint: the first step recorded after a resume replaces the steps of
    its part from there on, in one transaction, and an event says so. The run shows the way that the
    network has gone, every step once.

    It may be used from several threads. In a forked process it is dead: `record` raises, and
    `finish` does nothing.

    Args:
        folder: of the run; made where it is missing.
        metadata: what the run is to be found by, such as model, complexity and seed; what JSON can
            hold.
        resume: whether a run that is there is continued. Where there is none, it is begun.
        journal: SQLite's: "wal", or "delete" for file systems where WAL does not work and SQLite
            does not notice, as on some networks. By default what the environment variable
            GRADPATH_JOURNAL says, else "wal".

    Raises:
        StoreError: the folder holds something else, or a run and `resume` is False; another process
            writes it; it cannot be written.

    Example:
        >>> import tempfile
        >>> from gradpath.probes import Run, RunWriter, Scalar
        >>> folder = tempfile.TemporaryDirectory()
        >>> with RunWriter(folder.name, metadata={"seed": 0}) as writer:
        ...     writer.record(0, [Scalar("loss", 2.5, term="residual")])
        >>> Run(folder.name).scalars("loss")
           step      term layer  value
        0     0  residual          2.5
        >>> folder.cleanup()
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        metadata: Mapping[str, Any] | None = None,
        resume: bool = False,
        journal: str | None = None,
    ) -> None:
        journal = journal or os.environ.get(JOURNAL_VARIABLE, "wal")
        if journal not in ("wal", "delete"):
            raise ArgumentError(f'The journal is {journal!r}; give "wal" or "delete".')
        here = environment()
        check_names(metadata or {})
        self.folder = Path(folder).absolute()
        self.turn = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._ended_because = "was never opened"
        make_folder(self.folder)
        self._lock = WriterLock(self.folder)
        try:
            is_there = (self.folder / DOCUMENT).exists()
            if is_there:
                self._document = self._earlier_document(resume, here)
            else:
                remove_what_a_killed_start_left(self.folder)
                self._document = {"status": "running", "started": _now()}
            connection = open_for_writing(self.folder, journal)
            try:
                if is_there:
                    complete(connection, self.folder)
                    forget_waiting(self.folder)
                self._known: Known | None = None
                # From which step on each part still has what an earlier session recorded.
                earlier = revisions.parts(connection) if is_there else []
                self._replaced_from = dict.fromkeys(earlier, BEYOND_EVERY_STEP)
                self._elapsed_before = revisions.elapsed(connection)
                self._begun = time.monotonic()
                self._document |= {"status": "running", "ended": None, "error": None}
                self._document |= dict(metadata or {}) | here
                write_document(self.folder, self._document)
            except BaseException:
                connection.close()
                raise
        except BaseException:
            self._lock.release()
            raise
        self._connection = connection
        give_up_in_children(self)

    @property
    def elapsed(self) -> float:
        """Seconds that the run has been going on, pauses before a resume left out."""
        return self._elapsed_before + time.monotonic() - self._begun

    def last_step(self, part: str = "") -> int | None:
        """Returns the latest recorded step, None where there is none yet."""
        with self.turn:
            found = self._open().execute("SELECT max(step) FROM steps WHERE part = ?", (part,))
            return next(found)[0]  # type: ignore[no-any-return]

    def describe(self, **metadata: Any) -> None:
        """Adds to run.json what became known on the way, such as the loss as discovered.

        Raises:
            StoreError: the run has ended or cannot be written.
        """
        check_names(metadata)
        with self.turn:
            self._open()
            self._document |= metadata
            write_document(self.folder, self._document)

    def record(
        self,
        step: int,
        records: Iterable[Record],
        *,
        part: str = "",
        evaluations: int | None = None,
    ) -> None:
        """Records a step, and returns when it is committed.

        Args:
            step: its number, 0 or more. Steps may be left out, and come in any order.
            records: all that was measured.
            part: which of several models or optimizers the step was of.
            evaluations: of the loss so far, where they are counted apart from steps, as for L-BFGS.

        Raises:
            StoreError: the step is recorded already, names a measurement twice, or cannot be
                written. Nothing of it is in the run then; later steps can be recorded.
        """
        step = operator.index(step)
        if not 0 <= step < BEYOND_EVERY_STEP:
            raise ArgumentError(f"Step {step} cannot be recorded; number steps from 0.")
        rows = Rows(records, part)
        with self.turn:
            with self._transaction() as connection:
                now = time.time()
                resumed = self._replace_from(connection, step, part)
                self._insert_step(connection, (step, part, now, self.elapsed, evaluations))
                known = self._known_in(connection)
                rows.insert(connection, step, now, known)
                if resumed is not None:
                    Rows([resumed], part).insert(connection, step, now, known)
            if part in self._replaced_from:
                self._replaced_from[part] = min(step, self._replaced_from[part])

    def record_stretch(
        self, stamps: Sequence[Stamp], records: Iterable[StretchRecord], *, part: str = ""
    ) -> None:
        """Records several steps in one transaction.

        Args:
            stamps: of the steps, their numbers ascending.
            records: of all of them.
            part: which of several models or optimizers the steps were of.

        Raises:
            StoreError: a step is recorded already, or they cannot be written. None of them is in
                the run then.
        """
        rows, first = StretchRows(records, part, len(stamps)), stamps[0]
        with self.turn:
            with self._transaction() as connection:
                resumed = self._replace_from(connection, first.step, part)
                known = self._known_in(connection)
                revisions.refuse_recorded(
                    connection, [stamp.step for stamp in stamps], part, self.folder
                )
                insert_stretch(connection, stamps, rows, part, known)
                if resumed is not None:
                    Rows([resumed], part).insert(connection, first.step, first.time, known)
            if part in self._replaced_from:
                self._replaced_from[part] = min(first.step, self._replaced_from[part])

    def complete(self, step: int, records: Iterable[Record], *, part: str = "") -> None:
        """Adds to a recorded step what could be known only later.

        Raises:
            StoreError: the step is not recorded, has such a measurement already, or cannot be
                written.
        """
        rows = Rows(records, part)
        with self._transaction() as connection:
            found = connection.execute(
                "SELECT time FROM steps WHERE step = ? AND part = ?", (step, part)
            ).fetchone()
            if found is None:
                raise StoreError(
                    f"Step {step} is not in run {self.folder}, so nothing can be added to it: "
                    "record it first."
                )
            known = self._known_in(connection)
            rows.insert(connection, step, found[0], known, to_recorded=True)

    def note(self, *records: Event | Finding, step: int | None = None, part: str = "") -> None:
        """Records events and findings that are no part of a step's measurements, at any time.

        Raises:
            StoreError: they cannot be written.
        """
        rows = Rows(records, part)
        with self._transaction() as connection:
            rows.insert(connection, step, time.time(), self._known_in(connection))

    def rename_part(self, old: str, new: str) -> None:
        """Gives all that was recorded of a part another name, in one transaction.

        A run may begin with the one part "" and get names for its parts when a second model shows
        up. What a resumed run still has to replace goes along.

        Raises:
            StoreError: there are steps of the new name already, or it cannot be written.
        """
        if old == new:
            return
        with self.turn:
            with self._transaction() as connection:
                if revisions.count_steps(connection, new):
                    raise StoreError(
                        f"Run {self.folder} has steps of a part {new!r} already, so that {old!r} "
                        "cannot be renamed to it: give it a name of its own."
                    )
                revisions.rename(connection, old, new)
            self._known = None
            if old in self._replaced_from:
                self._replaced_from[new] = self._replaced_from.pop(old)

    def finish(self) -> None:
        """Ends the run well, and leaves its database as one file.

        Raises:
            StoreError: that could not be written; what was recorded is in the run nevertheless.
        """
        self._end("finished", None)

    def fail(self, error: BaseException | str) -> None:
        """Ends the run with the error that ended the training.

        Raises:
            StoreError: as `finish`.
        """
        self._end("failed", error if isinstance(error, str) else described(error))

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.finish()
        else:
            self.fail(error)

    def abandon(self) -> None:
        """Lets go of the run in a forked process; the parent writes on."""
        if self._connection is not None:
            _connections_of_the_parent.append(self._connection)
            self._connection = None
            self._ended_because = "belongs to the process that this one was forked from"
            self._lock.release()

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreError(
                f"Run {self.folder} {self._ended_because}, so this process cannot record in it: "
                "open it with `resume=True` when its writer has ended, or record to another folder."
            )
        return self._connection

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self.turn:
            connection = self._open()
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException as error:
                # Series that were new are known, but undone; the next step asks the database.
                self._known = None
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise explained(error, self.folder) from error
                raise

    def _insert_step(self, connection: sqlite3.Connection, row: tuple[Any, ...]) -> None:
        step, part, *_ = row
        try:
            connection.execute("INSERT INTO steps VALUES (?, ?, ?, ?, ?)", row)
        except sqlite3.IntegrityError as error:
            raise revisions.recorded_already(step, part, self.folder) from error

    def _known_in(self, connection: sqlite3.Connection) -> Known:
        if self._known is None:
            self._known = Known(connection)
        return self._known

    def _replace_from(self, connection: sqlite3.Connection, step: int, part: str) -> Event | None:
        """Deletes what an earlier session recorded of this step and those after it.

        Returns:
            the event that tells, at the first step of a part after a resume.
        """
        end = self._replaced_from.get(part, 0)
        if step >= end:
            return None
        steps = revisions.delete_steps(connection, part, step, end)
        if end < BEYOND_EVERY_STEP:
            return None
        text = f"Resumed at step {step}, which replaced {steps} steps recorded from there on."
        return Event("resumed", text, source="store")

    def _end(self, status: str, error: str | None) -> None:
        with self.turn:
            connection, self._connection = self._connection, None
            if connection is None:
                return
            self._ended_because = f"is {status}"
            with contextlib.ExitStack() as last:
                last.callback(self._lock.release)
                self._document |= {"status": status, "ended": _now(), "error": error}
                last.callback(write_document, self.folder, self._document)
                last.callback(connection.close)
                try:
                    seal(connection)
                except sqlite3.Error as failure:
                    raise explained(failure, self.folder) from failure

    def _earlier_document(self, resume: bool, here: Mapping[str, Any]) -> dict[str, Any]:
        document = read_document(self.folder)
        if not resume:
            raise StoreError(
                f"There is a run at {self.folder} already: give another folder, or `resume=True` "
                "to continue it."
            )
        if not (self.folder / DATABASE).exists():
            raise StoreError(
                f"Run {self.folder} cannot be resumed: its {DATABASE} is missing; restore it from "
                "a copy, or give another folder."
            )
        return with_earlier_session(document, here)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
