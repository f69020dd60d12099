"""The numbers by which a database knows series, and packings of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import cast

from .packed_scalars import Columns, insert_packing, known_packings

Series = tuple[str, str, str, str, str]  # name, term, layer, part, batch


@dataclass(frozen=True)
class Packing:
    """Which series the numbers of a packed row belong to."""

    number: int
    series: frozenset[int]


class Known:
    """What a database has of series and packings; new ones are stored when they are asked for.

    Args:
        connection: to the database.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        rows = connection.execute("SELECT id, name, term, layer, part, batch FROM series")
        self._connection = connection
        self._series = {cast(Series, tuple(names)): number for number, *names in rows}
        self._packings = known_packings(connection)
        self._by_key: dict[Hashable, Packing] = {}

    def number(self, series: Series) -> int:
        """Returns the number of a series."""
        number = self._series.get(series)
        if number is None:
            number = self._series[series] = self._number_of_stored(
                cast(Series, tuple(map(storable, series)))
            )
        return number

    def names(self, number: int) -> Series:
        """Returns the series of a number."""
        return next(series for series, found in self._series.items() if found == number)

    def packing(self, key: Hashable) -> Packing | None:
        """Returns the packing that was learned under a key; None where none was."""
        return self._by_key.get(key)

    def learn(self, key: Hashable, dtype: str, series: Sequence[int]) -> Packing:
        """Returns the packing of some series, and lets it be found by a key that costs less."""
        columns: Columns = (dtype, tuple(series))
        number = self._packings.get(columns)
        if number is None:
            number = self._packings[columns] = insert_packing(self._connection, columns)
        found = self._by_key[key] = Packing(number, frozenset(series))
        return found

    def _number_of_stored(self, series: Series) -> int:
        number = self._series.get(series)
        if number is None:
            cursor = self._connection.execute(
                "INSERT INTO series VALUES (NULL, ?, ?, ?, ?, ?)", series
            )
            assert cursor.lastrowid is not None
            number = self._series[series] = cursor.lastrowid
        return number


def storable(text: str) -> str:
    r"""Returns a text as UTF-8 can hold it.

    A Python string may hold halves of characters, as from file names that are no UTF-8. They become
    what Python writes for them.

    Example:
        >>> print(storable("u\udcff"))
        u\udcff
    """
    return text.encode("utf-8", "backslashreplace").decode()
