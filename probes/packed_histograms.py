"""Many histograms in one row of the database, and those rows read back.

A packing says which series they belong to, in order, as it does for scalars (`packed_scalars.py`);
in place of a dtype it has the name of the encoding.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any

from ..diagnostics.histogram_bytes import encode
from ..diagnostics.histogram_tables import decode_table
from .frames import conditions
from .schema import HISTOGRAM_PACKING


def read_packed_histograms(
    connection: sqlite3.Connection, given: Mapping[str, Any], *, with_data: bool
) -> list[tuple[Any, ...]]:
    """Returns step, series and bytes of histograms that are packed, as others are stored.

    Args:
        connection: in a transaction.
        given: names of the series that are wanted, and the `first` and `last` step.
        with_data: whether the bytes are wanted, which takes longer than all the rest.
    """
    names = {name: value for name, value in given.items() if name not in ("first", "last")}
    columns = connection.execute(
        "SELECT packing, position, series FROM packed_columns JOIN packings ON id = packing "
        f"WHERE dtype = '{HISTOGRAM_PACKING}' "
        f"AND series IN (SELECT id FROM series WHERE {conditions(names)}) "
        "ORDER BY packing, position",
        names,
    ).fetchall()
    places: list[tuple[int, int]] = []
    counted = []
    for packing, some in groupby(columns, key=itemgetter(0)):
        wanted = [(position, series) for _, position, series in some]
        rows = connection.execute(
            f"SELECT step{', data' * with_data} FROM packed_histograms "
            "WHERE packing = :packing AND step BETWEEN :first AND :last",
            {"packing": packing, "first": given["first"], "last": given["last"]},
        )
        for step, *data in rows:
            places += [(step, series) for _, series in wanted]
            for table in map(decode_table, data):
                counted += [table[position] for position, _ in wanted]
    if not with_data:
        return [*places]
    return [(*place, data) for place, data in zip(places, encode(counted), strict=True)]
