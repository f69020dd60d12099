"""The tables of a run, as CSV or Parquet.

A table has a row a measurement, and always the same columns, whichever of them tell something apart
in this run. Histograms are two tables: `histograms` has a row a histogram, with counts and
quantiles, and `histogram_bins` a row an occupied bin, with nothing lost. No PyTorch is loaded:
NumPy alone decodes the bytes of histograms.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..diagnostics.histogram_bins import (
    INFINITY_BIN,
    NAN_BIN,
    Bins,
    Counts,
    Values,
    quantiles,
    ranges,
)
from ..diagnostics.histogram_bytes import decode
from .records import TRAINING_BATCH
from .store import Run

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)

# So many histograms are in memory at a time.
_PIECE = 5000

_SERIES = ["step", "name", "term", "layer", "part", "batch"]
_STEP = ["step", "part"]


def write_csv(run: Run, folder: Path) -> None:
    """Writes a file a table into a folder."""
    for name, pieces in tables(run):
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            for number, piece in enumerate(pieces):
                piece.to_csv(file, index=False, header=number == 0, na_rep="nan")


def write_parquet(run: Run, folder: Path) -> None:
    """Writes a file a table into a folder; pyarrow is installed."""
    import pyarrow
    import pyarrow.parquet

    for name, pieces in tables(run):
        writer = None
        for piece in pieces:
            if writer is None:
                schema = pyarrow.Schema.from_pandas(piece, preserve_index=False)
                writer = pyarrow.parquet.ParquetWriter(folder / f"{name}.parquet", schema)
            writer.write_table(pyarrow.Table.from_pandas(piece, schema, preserve_index=False))
        if writer is not None:
            writer.close()


def tables(run: Run) -> Iterator[tuple[str, Iterable[pd.DataFrame]]]:
    """Yields the name of each table and its rows, in pieces; an empty table is one empty piece."""
    yield "scalars", [scalars(run)]
    yield "eigenvalues", [eigenvalues(run)]
    encoded = encoded_histograms(run)
    yield "histograms", (_summaries(piece) for piece in _pieces(encoded))
    yield "histogram_bins", (_bins(piece) for piece in _pieces(encoded))
    yield "fields", _fields(run)
    yield "costs", [_complete(run.cost(), _STEP)]
    yield "events", [_complete(run.events(), _STEP)]
    yield "findings", [_findings(run)]
    yield "timeline", [_complete(run.timeline(), _STEP)]


def scalars(run: Run) -> pd.DataFrame:
    """Returns scalars of every name."""
    return _complete(run.scalars(), _SERIES)


def encoded_histograms(run: Run) -> pd.DataFrame:
    """Returns histograms of every name, as the bytes that they are stored as."""
    return _complete(run.encoded_histograms(name=None), _SERIES)


def eigenvalues(run: Run) -> pd.DataFrame:
    """Returns those of every operator, whose name is the series' name."""
    return _complete(run.eigenvalues(None).rename(columns={"operator": "name"}), _SERIES)


def _pieces(frame: pd.DataFrame) -> Iterator[pd.DataFrame]:
    for start in range(0, max(1, len(frame)), _PIECE):
        yield frame.iloc[start : start + _PIECE]


def _summaries(encoded: pd.DataFrame) -> pd.DataFrame:
    counted = [decode(data) for data in encoded["data"]]
    special = {"zeros": 0, "nans": NAN_BIN, "positive_infinities": INFINITY_BIN,
               "negative_infinities": -INFINITY_BIN}  # fmt: skip
    columns: dict[str, Any] = {
        "entries": [counts.sum() for _, counts in counted],
        **{name: [_count(*both, number) for both in counted] for name, number in special.items()},
    }
    found = np.array([_quantiles(*both) for both in counted]).reshape(-1, len(QUANTILES))
    quantile_columns = {f"quantile_{q}": found[:, k] for k, q in enumerate(QUANTILES)}
    named = encoded[_SERIES].reset_index(drop=True)
    return named.assign(**pd.DataFrame(columns, dtype="int64"), **quantile_columns)


def _count(bins: Bins, counts: Counts, number: int) -> int:
    return int(counts[bins == number].sum())


def _quantiles(bins: Bins, counts: Counts) -> Values:
    is_number = bins != NAN_BIN
    return quantiles(bins[is_number], counts[is_number], np.array(QUANTILES))


def _bins(encoded: pd.DataFrame) -> pd.DataFrame:
    """Returns a row a bin: so many entries x with lower <= x <= upper; NaNs are in no bin."""
    counted = [decode(data) for data in encoded["data"]]
    empty: Bins = np.empty(0, dtype=np.int32)
    bins = np.concatenate([empty, *(bins for bins, _ in counted)])
    counts = np.concatenate([empty.astype(np.int64), *(counts for _, counts in counted)])
    is_number = bins != NAN_BIN
    rows = np.repeat(np.arange(len(encoded)), [len(bins) for bins, _ in counted])[is_number]
    lower, upper = ranges(bins[is_number])
    named = encoded[_SERIES].take(rows)
    return named.assign(lower=lower, upper=upper, count=counts[is_number])


def _fields(run: Run) -> Iterator[pd.DataFrame]:
    """Yields a row an entry of an array, with the coordinates that its grid gives it."""
    frame = _complete(run.fields(), _SERIES)
    found = [
        (row, np.asarray(row["values"]), _coordinates(row["values"], row["grid"]))
        for row in frame.to_dict("records")
    ]
    most = max((coordinates.shape[1] for *_, coordinates in found), default=0)
    for row, values, coordinates in found:
        piece = pd.DataFrame({name: row[name] for name in _SERIES}, index=range(values.size))
        piece = piece.assign(entry=range(values.size), value=values.reshape(-1).astype(np.float64))
        for k in range(most):
            has_it = k < coordinates.shape[1]
            piece[f"x{k}"] = coordinates[:, k].astype(np.float64) if has_it else np.nan
        yield piece
    if not found:
        yield frame[_SERIES].assign(entry=frame["step"], value=frame["step"].astype(np.float64))


def _coordinates(values: NDArray[Any], grid: NDArray[Any] | None) -> NDArray[Any]:
    """Returns a row an entry of the values; without columns where the grid does not fit them."""
    entries, points = values.size, values.shape[0] if values.ndim else 1
    if grid is None or not entries:
        return np.empty((entries, 0))
    # One point a row of the grid, and of each point perhaps several outputs.
    if grid.ndim in (1, 2) and len(grid) == points:
        return np.repeat(grid.reshape(points, -1), entries // points, axis=0)
    # A point for every entry, such as of an image.
    if grid.shape[: values.ndim] == values.shape:
        return grid.reshape(entries, -1)
    return np.empty((entries, 0))


def _findings(run: Run) -> pd.DataFrame:
    columns = ["code", "severity", "verdict", "evidence", "advice", "source"]
    rows = [
        (
            f.code,
            f.severity,
            f.verdict,
            json.dumps(dict(f.evidence)),
            json.dumps(f.advice),
            f.source,
        )
        for f in run.findings
    ]
    return pd.DataFrame(rows, columns=columns, dtype="str")


def _complete(frame: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Returns the frame with these columns first, also those that tell nothing apart here."""
    usual = {"part": "", "batch": TRAINING_BATCH}
    for name in names:
        if name not in frame:
            frame = frame.assign(**{name: pd.Series(usual[name], frame.index, dtype="str")})
    return frame[[*names, *frame.columns.drop(names)]]
