"""From the records of a step to rows of the database.

The costly part, making bytes of histograms and fields, comes before the transaction, so that the
file is held for as short as possible.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from .arrays import Packed, pack
from .errors import StoreError
from .packed_scalars import dtype_of, pack_numbers, series_at
from .records import (
    TRAINING_BATCH,
    Cost,
    EigenvalueRecord,
    EncodedHistogram,
    Event,
    Field,
    Finding,
    HistogramRecord,
    Record,
    Scalar,
    ScalarTable,
)
from .run_json import jsonable
from .series import Known, Packing, Series, storable


@dataclass(frozen=True, eq=False)
class _PackedRow:
    """Tables whose numbers make one row of the database."""

    tables: Sequence[ScalarTable]
    dtype: str
    data: bytes
    key: Hashable  # the names in the tables, as they stand there


class Rows:
    """The rows of some records, complete but for the step and the numbers of series and grids."""

    def __init__(self, records: Iterable[Record], part: str) -> None:
        self._part = part
        self._by_table: dict[str, list[tuple[Series, tuple[Any, ...]]]] = defaultdict(list)
        self._scalars: list[Scalar | ScalarTable] = []
        self._histograms: list[HistogramRecord] = []
        self._grids: dict[Series, Packed] = {}
        self._events: list[Event] = []
        self._findings: list[Finding] = []
        for record in records:
            self._add(record)
        encoded = _encoded([record.histogram for record in self._histograms])
        for histogram, data in zip(self._histograms, encoded, strict=True):
            self._put("histograms", histogram, data)
        self._packed = list(_packed_rows(self._scalars, part))

    def insert(
        self,
        connection: sqlite3.Connection,
        step: int | None,
        time: float,
        known: Known,
        *,
        to_recorded: bool = False,
    ) -> None:
        """Inserts the rows.

        Args:
            connection: in a transaction.
            step: None for events and findings that belong to none.
            time: in seconds since 1970.
            known: the series of the database, which are completed by new ones.
            to_recorded: whether the step may have measurements already.

        Raises:
            StoreError: two records have the same series, or the step has it already.
        """
        packings = [self._packing(step, row, known) for row in self._packed]
        if packings or to_recorded:
            recorded = series_at(connection, step) if to_recorded and step is not None else set()
            self._check_scalars(step, known, packings, recorded)
        for row, packing in zip(self._packed, packings, strict=True):
            connection.execute(
                "INSERT INTO packed_scalars VALUES (?, ?, ?)", (step, packing.number, row.data)
            )
        for table, entries in self._by_table.items():
            before = _series_in(connection, table, step) if to_recorded else set()
            rows = []
            for series, values in entries:
                if table == "fields":
                    values = (self._grid(connection, series), *values)
                rows.append((step, known.number(series), *values))
            marks = ", ".join("?" * len(rows[0]))
            try:
                connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
            except sqlite3.IntegrityError as error:
                counts = Counter(series for series, _ in entries)
                counts.update(series for series in counts if known.number(series) in before)
                raise _twice(step, table, max(counts, key=counts.__getitem__)) from error
        connection.executemany(
            "INSERT INTO events VALUES (NULL, ?, ?, ?, ?, ?, ?)",
            [
                (step, self._part, time, *map(storable, (e.kind, e.text, e.source)))
                for e in self._events
            ],
        )
        connection.executemany(
            "INSERT INTO findings VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(step, self._part, *map(storable, _finding(f))) for f in self._findings],
        )

    def _add(self, record: Record) -> None:
        match record:
            case Scalar():
                self._scalars.append(record)
                self._put("scalars", record, float(record.value))
            case ScalarTable():
                self._scalars.append(record)
            case HistogramRecord():
                self._histograms.append(record)
            case EigenvalueRecord(eigenvalue=found):
                bounds = (found.value, found.lower, found.upper, found.residual)
                evidence = (int(found.products), bool(found.converged), found.status)
                self._put("eigenvalues", record, record.end, *map(float, bounds), *evidence)
            case Field():
                series = self._put("fields", record, *pack(record.values))
                if record.grid is not None:
                    self._grids[series] = pack(record.grid)
            case Cost():
                series = (record.instrument, "", "", self._part, TRAINING_BATCH)
                self._by_table["costs"].append((series, (float(record.seconds),)))
            case Event():
                self._events.append(record)
            case Finding():
                self._findings.append(record)

    def _put(
        self,
        table: str,
        record: Scalar | HistogramRecord | EigenvalueRecord | Field,
        *values: Any,
    ) -> Series:
        series = self._series(record)
        self._by_table[table].append((series, values))
        return series

    def _series(self, record: Scalar | HistogramRecord | EigenvalueRecord | Field) -> Series:
        return record.name, record.term, record.layer, self._part, record.batch

    def _packing(self, step: int | None, row: _PackedRow, known: Known) -> Packing:
        packing = known.packing(row.key)
        if packing is None:
            # New series get their numbers in the order of the records, packed or not.
            for record in self._scalars:
                for scalar in record.scalars() if isinstance(record, ScalarTable) else [record]:
                    known.number(self._series(scalar))
            scalars = (scalar for table in row.tables for scalar in table.scalars())
            series = [known.number(self._series(scalar)) for scalar in scalars]
            (number, times), *_ = Counter(series).most_common(1)
            if times > 1:
                raise _twice(step, "scalars", known.names(number))
            packing = known.learn(row.key, row.dtype, series)
        return packing

    def _check_scalars(
        self, step: int | None, known: Known, packings: Sequence[Packing], recorded: set[int]
    ) -> None:
        """Raises where a series has two numbers at the step, which no primary key would tell."""
        own = {known.number(series) for series, _ in self._by_table.get("scalars", ())}
        claims = [own, recorded, *(packing.series for packing in packings)]
        for one, other in combinations(claims, 2):
            if not one.isdisjoint(other):
                raise _twice(step, "scalars", known.names(min(one & other)))

    def _grid(self, connection: sqlite3.Connection, series: Series) -> int | None:
        grid = self._grids.get(series)
        if grid is None:
            return None
        dtype, shape, data = grid
        digest = hashlib.sha256(f"{dtype} {shape} ".encode() + data).digest()
        connection.execute("INSERT OR IGNORE INTO grids VALUES (NULL, ?, ?, ?, ?)", (digest, *grid))
        found = connection.execute("SELECT id FROM grids WHERE digest = ?", (digest,)).fetchone()
        return int(found[0])


def _packed_rows(records: Iterable[Scalar | ScalarTable], part: str) -> Iterator[_PackedRow]:
    tables: dict[str, list[ScalarTable]] = defaultdict(list)
    for record in records:
        if isinstance(record, ScalarTable) and record.values.size:
            tables[dtype_of(record)].append(record)
    for dtype, some in tables.items():
        names = tuple((table.names, table.terms, table.layers, table.batch) for table in some)
        yield _PackedRow(some, dtype, pack_numbers(some, dtype), (dtype, part, names))


def _encoded(histograms: Sequence[EncodedHistogram]) -> Sequence[bytes]:
    """Returns the bytes of each, made together where their class knows how (`all_to_bytes`)."""
    kinds = {type(histogram) for histogram in histograms}
    together = getattr(kinds.pop(), "all_to_bytes", None) if len(kinds) == 1 else None
    if together is None:
        return [histogram.to_bytes() for histogram in histograms]
    made: Sequence[bytes] = together(histograms)
    return made


def _series_in(connection: sqlite3.Connection, table: str, step: int | None) -> set[int]:
    found = connection.execute(f"SELECT series FROM {table} WHERE step = ?", (step,))
    return {series for (series,) in found}


def _twice(step: int | None, table: str, series: Series) -> StoreError:
    name, term, layer, *_ = series
    return StoreError(
        f"Step {step} was given with two {table} named {name!r} of term {term!r} in layer "
        f"{layer!r}: give each measurement of a step a name of its own."
    )


def _finding(finding: Finding) -> tuple[str, ...]:
    evidence: Mapping[str, Any] = dict(finding.evidence)
    return (
        finding.code,
        finding.severity,
        finding.verdict,
        json.dumps(evidence, default=jsonable),
        json.dumps(list(finding.advice)),
        finding.source,
    )
