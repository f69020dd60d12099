"""`gradpath runs`: which runs there are, how far they came, and what became of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from rich.cells import cell_len
from rich.table import Table

from ..diagnostics.errors import GradpathError
from ..experiments.sweep_file import DECLARATION
from ..experiments.sweeps import sweep_state
from ..probes.store import Run, runs
from .terminal import aligned, cell, console, duration, number, plain

# What every row has, and what run.json says of the machine rather than of the training.
_OF_EVERY_RUN = ("path", "status", "steps", "last_step", "loss", "started", "ended", "error")
_OF_THE_MACHINE = ("folder", "host", "platform", "pid")

# What the runs of a comparison are told apart by.
_TOLD_APART_BY = ("model", "complexity", "seed")

_STYLES = {"running": "green", "failed": "red", "broken": "bold red", "lost": "yellow"}


class _Column(NamedTuple):
    name: str
    texts: list[str]
    is_number: bool = False
    goes_first: int = 0  # where a terminal is too narrow: those with the highest, 0 never


def print_runs(folder: str, as_json: bool) -> None:
    """Prints one row a run, and one line a sweep.

    Raises:
        StoreError: there is no such folder.
    """
    frame = runs(folder)
    described = [
        name
        for name in frame.columns.drop([*_OF_EVERY_RUN])
        if name not in _OF_THE_MACHINE and frame[name].notna().any()
    ]
    # Gaps have turned whole numbers into floats.
    frame[described] = frame[described].convert_dtypes()
    seconds = [_seconds(row) for row in frame.to_dict("records")]
    shown = console()
    if as_json:
        rows = frame[[*_OF_EVERY_RUN, *described]].to_dict("records")
        timed = ({"seconds": taken} | row for row, taken in zip(rows, seconds, strict=True))
        print(json.dumps([_jsonable(row) for row in timed], indent=2))
    elif frame.empty:
        print(f"There are no runs in {plain(folder)}.")
    elif shown.is_terminal:
        _print_table(frame, described, seconds)
    else:
        columns = [*_columns(frame, described, seconds), _errors(frame)]
        header = [column.name for column in columns]
        print(aligned([header, *zip(*(column.texts for column in columns), strict=True)]))
    if not as_json:
        for line in _sweeps(Path(folder)):
            print(plain(line))


def _sweeps(folder: Path) -> Iterator[str]:
    """Yields how far each sweep in a folder has come: only its declaration says what is left."""
    for declaration in sorted(folder.rglob(DECLARATION)):
        place = declaration.parent
        try:
            state = sweep_state(place)
        except GradpathError as error:
            yield str(error)
            continue
        done, running, failed = (
            len(state.members(status)) for status in ("finished", "running", "failed")
        )
        count = len(state.statuses)
        yield (
            f"Sweep {place}: {done} of {count} done, {running} running, {failed} failed, "
            f"{count - done - running - failed} left."
        )


def _print_table(frame: pd.DataFrame, described: list[str], seconds: list[float | None]) -> None:
    """Prints what fits the width of a terminal, and below it what is alike in all runs."""
    shown = console()
    readable = frame[frame["status"] != "broken"]
    alike = [
        name
        for name in described
        if len(readable) > 1 and readable[name].nunique(dropna=False) == 1
    ]
    columns = _columns(frame, [name for name in described if name not in alike], seconds)
    left_out = []
    for column in sorted(columns, key=lambda column: column.goes_first, reverse=True):
        if column.goes_first and _width(columns) > shown.width:
            columns.remove(column)
            left_out.append(column.name)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(
            cell(column.name),
            justify="right" if column.is_number else "left",
            no_wrap=column.is_number,
            overflow="fold",
        )
    for texts in zip(*(column.texts for column in columns), strict=True):
        path, status, *rest = texts
        table.add_row(cell(path), cell(status, _STYLES.get(status, "")), *map(cell, rest))
    shown.print(table)
    for path, error in zip(frame["path"], _errors(frame).texts, strict=True):
        if error:
            shown.print(cell(f"{path}: {error}", "red"))
    if alike:
        values = (f"{name} {_text(readable[name].iloc[0])}" for name in alike)
        shown.print(cell(f"In all of them: {', '.join(values)}", "dim"))
    if left_out:
        shown.print(cell(f"No room for: {', '.join(left_out)}", "dim"))


def _width(columns: list[_Column]) -> int:
    widths = [max(map(cell_len, [column.name, *column.texts])) for column in columns]
    return sum(widths) + 2 * (len(widths) - 1)


def _columns(
    frame: pd.DataFrame, described: list[str], seconds: list[float | None]
) -> list[_Column]:
    rows = frame.to_dict("records")

    def texts(name: str) -> list[str]:
        return [plain(_text(row[name])) for row in rows]

    return [
        _Column("path", texts("path")),
        _Column("status", texts("status")),
        *(
            _Column(plain(name), texts(name), goes_first=0 if name in _TOLD_APART_BY else 4)
            for name in described
        ),
        _Column("steps", texts("steps"), is_number=True, goes_first=3),
        _Column("last step", texts("last_step"), is_number=True),
        _Column("loss", [number(_loss(row)) for row in rows], is_number=True),
        _Column("started", [_local(row["started"]) for row in rows], goes_first=1),
        _Column("duration", [duration(taken) for taken in seconds], is_number=True, goes_first=2),
    ]


def _errors(frame: pd.DataFrame) -> _Column:
    return _Column("error", [plain(_text(error)) for error in frame["error"]])


def _loss(row: dict[Any, Any]) -> float | None:
    """Returns the last total, which may be NaN; None where none was recorded."""
    if pd.isna(row["loss"]) and row["status"] != "broken":
        # The row does not tell the two apart, and it matters which it is.
        losses = Run(row["path"]).scalars("loss")
        return math.nan if (losses["term"] == "total").any() else None
    return None if pd.isna(row["loss"]) else float(row["loss"])


def _local(moment: pd.Timestamp) -> str:
    return "" if pd.isna(moment) else f"{moment.to_pydatetime().astimezone():%Y-%m-%d %H:%M}"


def _seconds(row: dict[Any, Any]) -> float | None:
    """Returns how long a run took, or has taken so far; None where that is not known."""
    if pd.isna(row["started"]):
        return None
    if row["status"] == "running":
        return float((pd.Timestamp.now("UTC") - row["started"]).total_seconds())
    if not pd.isna(row["ended"]):
        return float((row["ended"] - row["started"]).total_seconds())
    # Nobody wrote down when a run was killed; its last step was recorded before.
    timeline = Run(row["path"]).timeline() if row["status"] == "lost" else pd.DataFrame()
    return None if timeline.empty else float(timeline["elapsed"].max())


def _text(value: Any) -> str:
    return "" if pd.isna(value) else str(value)


def _jsonable(row: dict[Any, Any]) -> dict[Any, Any]:
    def value_of(value: Any) -> Any:
        # JSON has no NaN and no infinity.
        if pd.isna(value) or (isinstance(value, float) and math.isinf(value)):
            return None
        return value.isoformat() if isinstance(value, pd.Timestamp) else value

    return {name: value_of(value) for name, value in row.items()}
