"""From the records of a stretch of steps to rows of the database, like `rows.py` for one step."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product, repeat

import numpy as np

from .packed_scalars import dtype_of
from .records import TRAINING_BATCH, Cost, HistogramTable, ScalarTable, Stamp
from .schema import HISTOGRAM_PACKING
from .series import Known

StretchRecord = ScalarTable | HistogramTable | Cost

_HISTOGRAM = "gradient"


@dataclass(frozen=True, eq=False)
class _PackedRows:
    """Tables whose numbers make one row of the database a step."""

    tables: Sequence[ScalarTable]
    dtype: str
    key: Hashable
    data: Sequence[memoryview]

    @classmethod
    def of(cls, tables: Sequence[ScalarTable], dtype: str, part: str, steps: int) -> _PackedRows:
        columns = [np.moveaxis(table.values, 1, 0).reshape(steps, -1) for table in tables]
        numbers = np.ascontiguousarray(np.concatenate(columns, axis=1), dtype=dtype)
        names = tuple((table.names, table.terms, table.layers, table.batch) for table in tables)
        return cls(tables, dtype, (dtype, part, names), [memoryview(row) for row in numbers])


class StretchRows:
    """The rows of some records, complete but for the numbers of steps and series.

    Args:
        records: tables with an axis of steps, and what each instrument has cost at each step.
        part: which of several models or optimizers.
        steps: how many there are.
    """

    def __init__(self, records: Iterable[StretchRecord], part: str, steps: int) -> None:
        self._part = part
        self._costs: list[Cost] = []
        self._histograms: list[HistogramTable] = []
        tables: dict[tuple[str, bool], list[ScalarTable]] = defaultdict(list)
        for record in records:
            match record:
                case ScalarTable():
                    # A row of more than half a page would have a page for itself.
                    tables[dtype_of(record), len(record.layers) > 1].append(record)
                case HistogramTable():
                    self._histograms.append(record)
                case Cost():
                    self._costs.append(record)
        self._packed = [
            _PackedRows.of(some, kind, part, steps) for (kind, _), some in tables.items()
        ]

    def insert(self, connection: sqlite3.Connection, steps: Sequence[int], known: Known) -> None:
        """Inserts the rows.

        Args:
            connection: in a transaction.
            steps: the numbers of the steps.
            known: the series of the database, which are completed by new ones.
        """
        for packed in self._packed:
            names = (column for table in packed.tables for column in table.columns())
            packing = self._packing(packed.key, packed.dtype, names, known)
            _insert(connection, "packed_scalars", steps, packing, packed.data)
        for table in self._histograms:
            cells = product([_HISTOGRAM], table.terms, table.layers)
            key = (HISTOGRAM_PACKING, self._part, table.terms, table.layers)
            packing = self._packing(key, HISTOGRAM_PACKING, cells, known)
            _insert(connection, "packed_histograms", steps, packing, table.data)
        costs = [
            (known.number((cost.instrument, "", "", self._part, TRAINING_BATCH)), cost.seconds)
            for cost in self._costs
        ]
        connection.executemany(
            "INSERT INTO costs VALUES (?, ?, ?)",
            [(step, series, seconds) for step in steps for series, seconds in costs],
        )

    def _packing(
        self, key: Hashable, kind: str, names: Iterable[tuple[str, str, str]], known: Known
    ) -> int:
        packing = known.packing(key)
        if packing is None:
            series = [known.number((*each, self._part, TRAINING_BATCH)) for each in names]
            packing = known.learn(key, kind, series)
        return packing.number


def insert_stretch(
    connection: sqlite3.Connection,
    stamps: Sequence[Stamp],
    rows: StretchRows,
    part: str,
    known: Known,
) -> None:
    """Inserts several steps with all that was measured of them.

    Raises:
        sqlite3.IntegrityError: one of them is there already.
    """
    connection.executemany(
        "INSERT INTO steps VALUES (?, ?, ?, ?, ?)",
        [(at.step, part, at.time, at.elapsed, at.evaluations) for at in stamps],
    )
    rows.insert(connection, [at.step for at in stamps], known)


def _insert(
    connection: sqlite3.Connection,
    table: str,
    steps: Sequence[int],
    packing: int,
    data: Sequence[bytes | memoryview],
) -> None:
    connection.executemany(
        f"INSERT INTO {table} VALUES (?, ?, ?)", zip(steps, repeat(packing), data)
    )
