"""Many scalars in one row of the database: how they get there, and all scalars read back.

A *packing* says which series the numbers of a row belong to, in order. It is stored with the first
row that needs it, so that a row is its numbers and nothing else. To read a name, the bytes that it
has in each row are cut out by SQLite, and numpy makes numbers of all of them at once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from .records import TRAINING_BATCH, ScalarTable

Columns = tuple[str, tuple[int, ...]]  # the dtype, and the series of each number
Integers = NDArray[np.int64]


def dtype_of(table: ScalarTable) -> str:
    """Returns the dtype in which the numbers of a table are stored."""
    return "<f4" if table.values.dtype == np.float32 else "<f8"


def pack_numbers(tables: Sequence[ScalarTable], dtype: str) -> bytes:
    """Returns the numbers of all tables, one after the other."""
    return b"".join(np.asarray(table.values, dtype=dtype).tobytes() for table in tables)


def known_packings(connection: sqlite3.Connection) -> dict[Columns, int]:
    """Returns the number of every packing that the database has."""
    found = connection.execute(
        "SELECT packing, dtype, series FROM packed_columns JOIN packings ON id = packing "
        "ORDER BY packing, position"
    )
    return {
        (dtype, tuple(series for *_, series in columns)): packing
        for (packing, dtype), columns in groupby(found, key=itemgetter(0, 1))
    }


def insert_packing(connection: sqlite3.Connection, columns: Columns) -> int:
    """Stores a packing, and returns its number."""
    dtype, series = columns
    packing = connection.execute("INSERT INTO packings VALUES (NULL, ?)", (dtype,)).lastrowid
    assert packing is not None
    connection.executemany(
        "INSERT INTO packed_columns VALUES (?, ?, ?)",
        [(packing, position, each) for position, each in enumerate(series)],
    )
    return packing


def series_at(connection: sqlite3.Connection, step: int) -> set[int]:
    """Returns the series that have a scalar at a step, packed or not."""
    found = connection.execute(
        "SELECT series FROM scalars WHERE step = :step UNION ALL SELECT series FROM packed_columns "
        "WHERE packing IN (SELECT packing FROM packed_scalars WHERE step = :step)",
        {"step": step},
    )
    return {series for (series,) in found}


@dataclass(frozen=True, eq=False)
class Scalars:
    """Numbers in the order of steps, and of series within a step."""

    steps: Integers
    series: Integers
    values: NDArray[np.float64]


def read_scalars(
    connection: sqlite3.Connection, name: str | None = None, since: int | None = None
) -> Scalars:
    """Returns all scalars of a name, or without one all there are, packed or not.

    Args:
        connection: in a transaction.
        name: of the series.
        since: the first step that is wanted; None: all.
    """
    condition = "TRUE" if name is None else "series IN (SELECT id FROM series WHERE name = :name)"
    rows = connection.execute(
        f"SELECT step, series, value FROM scalars WHERE {condition} AND step >= :since "
        "ORDER BY step, series",
        {"name": name, "since": since or 0},
    ).fetchall()
    steps, series, values = zip(*rows, strict=True) if rows else ((), (), ())
    parts = [
        Scalars(
            np.array(steps, dtype=np.int64),
            np.array(series, dtype=np.int64),
            np.array(values, dtype=np.float64),  # NULL is None, which becomes NaN
        )
    ]
    columns = connection.execute(
        "SELECT packing, dtype, position, series FROM packed_columns JOIN packings ON id = packing "
        f"WHERE {condition} AND dtype GLOB '<f[48]' ORDER BY packing, position",
        {"name": name},
    ).fetchall()
    for (packing, dtype), some in groupby(columns, key=itemgetter(0, 1)):
        _, _, positions, wanted = zip(*some, strict=True)
        parts.append(_unpack(connection, packing, np.dtype(dtype), positions, wanted, since or 0))
    return _in_order(parts)


def last_loss(connection: sqlite3.Connection) -> float | None:
    """Returns the total loss that was recorded last; None where there is none, or it is NaN."""
    series = "SELECT id FROM series WHERE name = 'loss' AND term = 'total' AND batch = ?"
    found = connection.execute(
        f"SELECT step, value FROM scalars WHERE series IN ({series}) ORDER BY step DESC LIMIT 1",
        (TRAINING_BATCH,),
    ).fetchall()
    columns = connection.execute(
        "SELECT packing, dtype, position FROM packed_columns JOIN packings ON id = packing "
        f"WHERE series IN ({series})",
        (TRAINING_BATCH,),
    ).fetchall()
    for packing, dtype, position in columns:
        size = np.dtype(dtype).itemsize
        rows = connection.execute(
            "SELECT step, substr(data, ?, ?) FROM packed_scalars WHERE packing = ? "
            "ORDER BY step DESC LIMIT 1",
            (1 + position * size, size, packing),
        )
        found += [(step, float(np.frombuffer(data, dtype)[0])) for step, data in rows]
    return max(found, key=itemgetter(0))[1] if found else None


def _unpack(
    connection: sqlite3.Connection,
    packing: int,
    dtype: np.dtype[np.floating],
    positions: tuple[int, ...],
    series: tuple[int, ...],
    since: int,
) -> Scalars:
    """Returns the numbers that stand at some positions in the rows of a packing."""
    first, number = positions[0], positions[-1] - positions[0] + 1
    rows = connection.execute(
        "SELECT step, substr(data, ?, ?) FROM packed_scalars WHERE packing = ? AND step >= ? "
        "ORDER BY step",
        (1 + first * dtype.itemsize, number * dtype.itemsize, packing, since),
    ).fetchall()
    steps = np.array([step for step, _ in rows], dtype=np.int64)
    numbers = np.frombuffer(b"".join([data for _, data in rows]), dtype)
    values = numbers.reshape(len(rows), number)[:, np.array(positions) - first]
    return Scalars(
        np.repeat(steps, len(series)),
        np.tile(np.array(series, dtype=np.int64), len(steps)),
        values.astype(np.float64).reshape(-1),
    )


def _in_order(parts: Sequence[Scalars]) -> Scalars:
    steps = np.concatenate([part.steps for part in parts])
    series = np.concatenate([part.series for part in parts])
    values = np.concatenate([part.values for part in parts])
    ascends = (steps[1:] > steps[:-1]) | ((steps[1:] == steps[:-1]) & (series[1:] > series[:-1]))
    if not ascends.all():
        order = np.lexsort((series, steps))
        steps, series, values = steps[order], series[order], values[order]
    return Scalars(steps, series, values)
