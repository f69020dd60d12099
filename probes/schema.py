"""The tables of run.db, their versions, and how the file is opened for writing and for reading.

Every kind of measurement has a table with the primary key (step, series): rows arrive in the order
of steps, so that a new one goes to the end of the file; with (series, step) each would go to a
place of its own, which is ten times slower. A series is the names of a measurement; they are stored
once, in a table that the rows point into.

`PRAGMA user_version` is the version of the tables, and `MIGRATIONS` the way from each to the next.
A new version is one more entry at the end; the earlier ones never change. A writer brings an old
run up to date where it lies, a reader does so in a copy in memory.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from .errors import StoreError, explained

DATABASE = "run.db"

# What SQLite's integers hold.
BEYOND_EVERY_STEP = 2**63 - 1

# Says that a SQLite file is ours: "grad" in ASCII.
_APPLICATION_ID = 0x67726164

# A reader that is in the middle of a query for longer than this holds up a writer that does
# without WAL.
_PATIENCE_SECONDS = 10.0

_VERSION_1 = """
CREATE TABLE series (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,     -- what was measured; of a cost, the instrument
    term TEXT NOT NULL,     -- of which term of the loss; '' of none, 'total' of the weighted sum
    layer TEXT NOT NULL,    -- in which layer; '' in none, 'all' in all together
    part TEXT NOT NULL,     -- of which of several models or optimizers; '' where there is one
    batch TEXT NOT NULL,    -- on which points: 'training', or a fixed batch of the user's
    UNIQUE (name, term, layer, part, batch)
);
CREATE TABLE steps (
    step INTEGER NOT NULL,
    part TEXT NOT NULL,
    time REAL NOT NULL,     -- seconds since 1970
    elapsed REAL NOT NULL,  -- seconds that the run had been going on, pauses between resumes apart
    evaluations INTEGER,    -- of the loss, so far; NULL where nobody counted
    PRIMARY KEY (step, part)
) WITHOUT ROWID;
CREATE TABLE scalars (
    step INTEGER NOT NULL,
    series INTEGER NOT NULL REFERENCES series,
    value REAL,             -- NULL is NaN, for which SQLite has no number
    PRIMARY KEY (step, series)
) WITHOUT ROWID;
CREATE TABLE histograms (
    step INTEGER NOT NULL,
    series INTEGER NOT NULL REFERENCES series,
    data BLOB NOT NULL,     -- GradientHistogram.to_bytes()
    PRIMARY KEY (step, series)
) WITHOUT ROWID;
CREATE TABLE eigenvalues (
    step INTEGER NOT NULL,
    series INTEGER NOT NULL REFERENCES series,
    "end" TEXT NOT NULL,    -- 'largest' or 'smallest'
    value REAL,             -- this and the next three: NULL is NaN
    lower REAL,
    upper REAL,
    residual REAL,
    products INTEGER NOT NULL,
    converged INTEGER NOT NULL,
    status TEXT NOT NULL,
    PRIMARY KEY (step, series, "end")
) WITHOUT ROWID;
CREATE TABLE grids (
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,
    dtype TEXT NOT NULL,
    shape TEXT NOT NULL,
    data BLOB NOT NULL
);
CREATE TABLE fields (
    step INTEGER NOT NULL,
    series INTEGER NOT NULL REFERENCES series,
    grid INTEGER REFERENCES grids,
    dtype TEXT NOT NULL,    -- '<f4' or '<f8'
    shape TEXT NOT NULL,    -- JSON
    data BLOB NOT NULL,     -- zlib of the numbers' first bytes, then their second bytes, ...
    PRIMARY KEY (step, series)
) WITHOUT ROWID;
CREATE TABLE costs (
    step INTEGER NOT NULL,
    series INTEGER NOT NULL REFERENCES series,
    seconds REAL NOT NULL,
    PRIMARY KEY (step, series)
) WITHOUT ROWID;
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    step INTEGER,           -- NULL where it belongs to none
    part TEXT NOT NULL,
    time REAL NOT NULL,
    kind TEXT NOT NULL,
    text TEXT NOT NULL,
    source TEXT NOT NULL
);
CREATE TABLE findings (
    id INTEGER PRIMARY KEY,
    step INTEGER,           -- as of events
    part TEXT NOT NULL,
    code TEXT NOT NULL,
    severity TEXT NOT NULL,
    verdict TEXT NOT NULL,
    evidence TEXT NOT NULL, -- JSON
    advice TEXT NOT NULL,   -- JSON
    source TEXT NOT NULL
);
"""

# A row for each number of a step costs more than making the numbers, where there are hundreds. A
# packed row holds them side by side, and a packing says what each is. This is a table with row
# numbers and an index: in one without, a row of more than a quarter of a page spills onto pages of
# its own.
_VERSION_2 = """
CREATE TABLE packings (
    id INTEGER PRIMARY KEY,
    dtype TEXT NOT NULL     -- of the numbers: '<f4' or '<f8'
);
CREATE TABLE packed_columns (
    packing INTEGER NOT NULL REFERENCES packings,
    position INTEGER NOT NULL,  -- which of the numbers, from 0
    series INTEGER NOT NULL REFERENCES series,
    PRIMARY KEY (packing, position)
) WITHOUT ROWID;
CREATE TABLE packed_scalars (
    step INTEGER NOT NULL,
    packing INTEGER NOT NULL REFERENCES packings,
    data BLOB NOT NULL,     -- the numbers, one after the other
    PRIMARY KEY (step, packing)
);
"""

# Likewise of the histograms of a step, where every step is recorded.
_VERSION_3 = """
CREATE TABLE packed_histograms (
    step INTEGER NOT NULL,
    packing INTEGER NOT NULL REFERENCES packings,  -- with HISTOGRAM_PACKING for a dtype
    data BLOB NOT NULL,     -- see diagnostics/histogram_tables.py
    PRIMARY KEY (step, packing)
);
"""

# What such a packing has in place of a dtype.
HISTOGRAM_PACKING = "histograms"

MIGRATIONS: tuple[str, ...] = (_VERSION_1, _VERSION_2, _VERSION_3)

_WAL_CANNOT_WORK = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PROTOCOL)

# The tables whose rows belong to a step of a series, and those that name step and part themselves.
# What is packed belongs to a step of a packing, all of whose series are of one part.
SERIES_TABLES = ("scalars", "histograms", "eigenvalues", "fields", "costs")
PACKED_TABLES = ("packed_scalars", "packed_histograms")
PART_TABLES = ("steps", "events", "findings")


def open_for_writing(folder: Path, journal: str) -> sqlite3.Connection:
    """Returns a connection to a run's database, made or brought up to date where needed.

    Args:
        folder: of the run; exists.
        journal: "wal", or "delete". Where WAL cannot work (it needs memory that all processes
            share, which network file systems lack), the other is taken.

    Raises:
        StoreError: the database is a newer version's or no run's, or cannot be written.
    """
    try:
        connection = _connect_with_wal(folder) if journal == "wal" else None
        if connection is None:
            connection = _connect_without_wal(folder)
        try:
            migrate(connection)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise explained(error, folder) from error
    return connection


def open_for_reading(folder: Path) -> sqlite3.Connection:
    """Returns a connection that can read a run's database, whoever writes it meanwhile.

    Raises:
        StoreError: there is no such database, it is a newer version's, or damaged.
    """
    try:
        connection = _connect_read_only(folder)
        try:
            version = _check(connection, folder)
            if 0 < version < len(MIGRATIONS):
                old, connection = connection, sqlite3.connect(":memory:", isolation_level=None)
                old.backup(connection)
                old.close()
                migrate(connection)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise explained(error, folder) from error
    if version == 0:
        connection.close()
        raise StoreError(
            f"{folder} is no run: its {DATABASE} holds none of gradpath's tables; give the folder "
            "that a probe wrote."
        )
    return connection


def migrate(connection: sqlite3.Connection) -> None:
    """Brings the tables from their version to the newest, in one transaction."""
    version = _number(connection, "user_version")
    if version == len(MIGRATIONS):
        return
    # executescript would commit what is open; a script that begins and commits by itself is whole.
    connection.executescript(
        "BEGIN IMMEDIATE;\n"
        + "\n".join(MIGRATIONS[version:])
        + f"\nPRAGMA application_id = {_APPLICATION_ID};"
        + f"\nPRAGMA user_version = {len(MIGRATIONS)};\nCOMMIT;"
    )


def seal(connection: sqlite3.Connection) -> None:
    """Makes run.db the only file of the database, readable also where nobody may write.

    Where a reader is in the middle of a query for longer than a writer waits, the database stays
    in WAL mode: complete all the same, and sealed by the next writer that finishes.
    """
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        connection.execute("PRAGMA journal_mode = DELETE").fetchall()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise


def _connect(folder: Path, mode: str, immutable: bool = False) -> sqlite3.Connection:
    uri = f"{(folder / DATABASE).absolute().as_uri()}?mode={mode}{'&immutable=1' * immutable}"
    # Without an isolation level, Python begins no transaction by itself. Threads take turns: the
    # writer has a lock, and a reader's connection lives within one call.
    return sqlite3.connect(
        uri, uri=True, timeout=_PATIENCE_SECONDS, isolation_level=None, check_same_thread=False
    )


def _connect_with_wal(folder: Path) -> sqlite3.Connection | None:
    """Returns a connection, or None where WAL cannot work."""
    connection = _connect(folder, "rwc")
    try:
        _check(connection, folder)
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode == "wal":
            # Only the first transaction opens the files that WAL needs.
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("COMMIT")
            # A commit survives the death of the process; a power cut may cost the last ones.
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA journal_size_limit = {4 << 20}")
            return connection
    except sqlite3.OperationalError as error:
        connection.close()
        if error.sqlite_errorcode & 0xFF not in _WAL_CANNOT_WORK:
            raise
    except BaseException:
        connection.close()
        raise
    connection.close()
    return None


def _connect_without_wal(folder: Path) -> sqlite3.Connection:
    connection = _connect(folder, "rwc")
    try:
        # Alone with the file, SQLite can leave WAL mode also where it could not enter it.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
        _check(connection, folder)
        connection.execute("PRAGMA journal_mode = DELETE").fetchall()
    finally:
        connection.close()
    connection = _connect(folder, "rwc")
    # With a rollback journal, less than this may lose more than the last commits.
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _connect_read_only(folder: Path) -> sqlite3.Connection:
    connection = _connect(folder, "ro")
    try:
        _number(connection, "user_version")
    except sqlite3.OperationalError:
        connection.close()
        wal = folder / f"{DATABASE}-wal"
        if not (folder / DATABASE).exists() or (wal.exists() and wal.stat().st_size):
            raise
        # In WAL mode, closed by a writer that did not seal it, and in a folder where nobody may
        # write: all of it is in the one file, but SQLite would want to make its two others.
        return _connect(folder, "ro", immutable=True)
    return connection


def _check(connection: sqlite3.Connection, folder: Path) -> int:
    """Returns the version of a database that is ours or still empty."""
    version = _number(connection, "user_version")
    tables = int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    if tables and _number(connection, "application_id") != _APPLICATION_ID:
        raise StoreError(
            f"{folder} is no run: its {DATABASE} was made by another program; give the folder of a "
            "run, or a new one."
        )
    if version > len(MIGRATIONS):
        raise StoreError(
            f"Run {folder} was written by a newer gradpath (its tables have version {version}, "
            f"this gradpath knows {len(MIGRATIONS)}): update gradpath (`pip install -U gradpath`)."
        )
    return version


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])
