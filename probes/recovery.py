"""Completing a run whose writer was killed while steps waited to be measured.

Whoever opens the run next measures them: the process that resumes it, or one that reads it. Where
the folder cannot be written, a reader does so in a copy of the database in memory.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from .errors import StoreError, explained
from .lock import WAITING, WriterLock, completing
from .records import Event
from .rows import Rows
from .schema import open_for_reading, open_for_writing, seal
from .series import Known
from .stretch_rows import StretchRows, insert_stretch

if TYPE_CHECKING:
    from .instruments.base import Instrument


def has_waiting(folder: Path) -> bool:
    """Whether steps may wait in a run's folder."""
    return (folder / WAITING).exists()


def complete(connection: sqlite3.Connection, folder: Path) -> None:
    """Measures the steps that wait in a run's folder, and commits them.

    Args:
        connection: to the database, or a copy of it, in no transaction.
        folder: of the run.

    Raises:
        StoreError: they were recorded by a newer version, or the database cannot be written.
    """
    measuring, reading = _load()
    found = reading.read_waiting(folder)
    if found is None:
        return
    kind, stretch = found
    recorded = connection.execute("SELECT step FROM steps WHERE part = ?", (stretch.part,))
    stretch = stretch.without({step for (step,) in recorded})
    if not stretch.stamps:
        return  # killed between the commit and the clearing of the file
    missing: list[Event] = []

    def failed(instrument: Instrument, error: Exception) -> None:
        text = (
            f"{instrument.name} failed ({type(error).__name__}: {error}) as the run was completed."
        )
        missing.append(Event("missing", text, instrument.name))

    records = measuring.measure(stretch, measuring.with_settings(kind.instruments), failed)
    rows = StretchRows(records, stretch.part, len(stretch.stamps))
    last = stretch.stamps[-1]
    try:
        connection.execute("BEGIN IMMEDIATE")
        known = Known(connection)
        insert_stretch(connection, stretch.stamps, rows, stretch.part, known)
        Rows(missing, stretch.part).insert(connection, last.step, last.time, known)
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise explained(error, folder) from error


def forget_waiting(folder: Path) -> None:
    """Removes the file of the steps that waited, which are in the database now.

    Raises:
        StoreError: it cannot be removed.
    """
    try:
        (folder / WAITING).unlink(missing_ok=True)
    except OSError as error:
        raise explained(error, folder) from error


def open_completed(folder: Path) -> sqlite3.Connection:
    """Returns a connection that can read a lost run with all its steps.

    Raises:
        StoreError: as `open_for_reading` and `complete`.
    """
    _load()  # takes a second, in which nobody need wait for the lock
    with contextlib.suppress(StoreError, sqlite3.Error):
        _complete_in_place(folder)
        return open_for_reading(folder)
    old, copy = open_for_reading(folder), sqlite3.connect(":memory:", isolation_level=None)
    try:
        old.backup(copy)
        complete(copy, folder)
    except BaseException:
        copy.close()
        raise
    finally:
        old.close()
    if not has_waiting(folder):
        # Somebody else has completed it meanwhile: before or after it was copied.
        copy.close()
        return open_for_reading(folder)
    return copy


def _load() -> tuple[ModuleType, ModuleType]:
    """Loads PyTorch and what measures; few readers need it."""
    from . import stretches, waiting

    return stretches, waiting


def _complete_in_place(folder: Path) -> None:
    with completing(folder) as waiting:
        lock = WriterLock(folder)
        try:
            connection = open_for_writing(folder, "wal")
            try:
                complete(connection, folder)
                seal(connection)
            finally:
                connection.close()
        finally:
            lock.release()
        # Only now: as long as it is there, others know that the lock was no writer's. A writer that
        # has begun since has a file of its own.
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(waiting), (folder / WAITING).stat()):
                forget_waiting(folder)
