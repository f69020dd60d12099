"""Frames with the names of series in them: how the rows of a run's tables get these."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .records import TRAINING_BATCH
from .schema import BEYOND_EVERY_STEP

SERIES = ["name", "term", "layer", "part", "batch"]


def steps_between(step: int | None, since: int | None) -> dict[str, int]:
    """Returns the first and the last step that are wanted: one alone, or all from one on."""
    if step is not None:
        return {"first": int(step), "last": int(step)}
    return {"first": int(since or 0), "last": BEYOND_EVERY_STEP}


def conditions(given: dict[str, str]) -> str:
    """Returns the condition that some columns have the values of parameters of their names."""
    return " AND ".join(["TRUE", *(f"{name} = :{name}" for name in given)])


def series_named(connection: sqlite3.Connection, given: dict[str, str]) -> pd.DataFrame:
    """Returns the names of series, by their number in ascending order."""
    found = connection.execute(
        f"SELECT id, {', '.join(SERIES)} FROM series WHERE {conditions(given)} ORDER BY id", given
    ).fetchall()
    frame = pd.DataFrame(found, columns=["id", *SERIES])
    return frame.astype({"id": "int64", **dict.fromkeys(SERIES, "str")}).set_index("id")


def named(
    steps: NDArray[np.int64], numbers: NDArray[np.int64], series: pd.DataFrame
) -> pd.DataFrame:
    """Returns a frame of steps and the names of series that are given by their numbers."""
    # Each name is made a string of pandas once, not at every row.
    at = np.searchsorted(series.index.to_numpy(), numbers)
    return pd.DataFrame({"step": steps} | {name: series[name].array.take(at) for name in SERIES})


def quoted(columns: dict[str, str]) -> Iterator[str]:
    """Yields names of columns as SQL takes them."""
    return (f'"{name}"' for name in columns)  # "end" is a word of SQL's


def without_single_names(frame: pd.DataFrame, keep: list[str]) -> pd.DataFrame:
    """Drops names of series that tell nothing apart."""
    single = [
        name
        for name, usual in (("name", None), ("part", ""), ("batch", TRAINING_BATCH))
        if name not in keep and (usual is None or (frame[name] == usual).all())
    ]
    return frame.drop(columns=single)


def without_single_part(frame: pd.DataFrame) -> pd.DataFrame:
    """Drops the part where there is but one."""
    return frame.drop(columns="part") if (frame["part"] == "").all() else frame


def exact(column: pd.Series[Any], values: Sequence[Any]) -> pd.Series[Any]:
    """Returns a column as it is, but for whole numbers with gaps: floats lose digits of seeds."""
    known = [value for value in values if value is not None]
    if len(known) == len(values) or not all(type(value) is int for value in known):
        return column
    kind = "UInt64" if max(known, default=0) > np.iinfo(np.int64).max else "Int64"
    return pd.Series(values, dtype=kind)
