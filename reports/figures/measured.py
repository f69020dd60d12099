"""What a figure reads of a run: the values of one part, on one batch, at one step.

A run may tell several models apart, and may hold the same quantity on the points of the training
step and on others. A figure shows one kind of them, and its caption says which.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...diagnostics.errors import ArgumentError
from ...probes.store import Run
from ..tables import listed, number
from ..theme import plain
from .plate import NotMeasuredError

Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Series:
    """One quantity over the steps."""

    steps: Values
    values: Values

    @property
    def finite(self) -> Series:
        """Those of its values that are numbers."""
        kept = np.isfinite(self.values)
        return Series(self.steps[kept], self.values[kept])


def chosen(frame: pd.DataFrame, run: Run, part: str | None, missing: str) -> pd.DataFrame:
    """Returns the rows of one part and one batch; what they are, `origin` says.

    Args:
        frame: from a method of `Run`.
        run: that it was read from.
        part: None: the first one.
        missing: the sentence to raise where there is no row: what would record it.

    Raises:
        NotMeasuredError: there are no rows.
        ArgumentError: the run has no such part.
    """
    if part is not None and part not in run.parts:
        raise ArgumentError(
            f"The run has no part {part!r}: choose one of {listed([*map(repr, run.parts)], 'or')}."
        )
    if not frame.empty and "part" in frame:
        frame = frame[frame["part"] == (frame["part"].iloc[0] if part is None else part)]
    if frame.empty:
        raise NotMeasuredError(missing)
    if "batch" in frame and frame["batch"].nunique() > 1:
        frame = frame[frame["batch"] == frame["batch"].mode().iloc[0]]
    return frame


def origin(frame: pd.DataFrame, run: Run) -> str:
    """Returns a sentence on the part and the batch of rows, after a space; "" if it goes unsaid."""
    words = ""
    if "part" in frame and len(run.parts) > 1:
        words += (
            f" Of the {len(run.parts)} parts that are trained apart, this is "
            f"{plain(frame['part'].iloc[0])}."
        )
    batch = frame["batch"].iloc[0] if "batch" in frame else "training"
    if batch != "training":
        words += f" Measured on the fixed batch {plain(batch)}, not on that of the training step."
    return words


def by_name(frame: pd.DataFrame, column: str, wanted: Iterable[str] = ()) -> dict[str, Series]:
    """Returns the series of each term or layer, in the order of `wanted`, then of appearance.

    A step that was recorded twice, as after a resume, counts with its last value.
    """
    groups = {str(name): rows for name, rows in frame.groupby(column, sort=False)}
    order = [name for name in wanted if name in groups]
    order += [name for name in groups if name not in order]
    return {name: series(groups[name]) for name in order}


def series(rows: pd.DataFrame, column: str = "value") -> Series:
    """Returns rows as a series in ascending order of steps."""
    rows = rows.drop_duplicates("step", keep="last").sort_values("step")
    return Series(rows["step"].to_numpy(np.float64), rows[column].to_numpy(np.float64))


def earlier(steps: Sequence[int] | Values, step: int | None) -> int:
    """Returns the last of the steps at or before one; without one, the last; else the first."""
    known = np.unique(np.asarray(steps, dtype=np.int64))
    if step is None:
        return int(known[-1])
    at = int(np.searchsorted(known, step, side="right")) - 1
    return int(known[max(at, 0)])


def step_in_words(shown: int, asked: int | None) -> str:
    """Returns "step 30,000", and where another was asked for, that this is the nearest."""
    words = f"step {shown:,}"
    if asked is None or asked == shown:
        return words
    return f"{words} (the nearest {'earlier' if shown < asked else 'later'} one to {asked:,})"


def not_finite(found: Mapping[str, Series]) -> str:
    """Returns a sentence on values that are no numbers, after a space; "" if there are none."""
    words = []
    for name, one in found.items():
        bad = ~np.isfinite(one.values)
        if bad.any():
            of = f"{int(bad.sum()):,} of {len(bad):,} values of {plain(name)}"
            words.append(f"{of}, first at step {int(one.steps[bad][0]):,}")
    more = f" and of {len(words) - 3} others" if len(words) > 3 else ""
    return f" Not finite, and left out: {'; '.join(words[:3])}{more}." if words else ""


def from_to(one: Series) -> str:
    """Returns how a series goes, such as "from 283 at step 0 to 6.7e+5 at step 40,000"."""
    known = one.finite
    if not len(known.steps):
        return "is never a finite number"
    first, last = (number(float(value)) for value in known.values[[0, -1]])
    start, end = (f"step {int(step):,}" for step in known.steps[[0, -1]])
    if len(known.steps) == 1:
        return f"is {first} at {start}"
    return f"goes from {first} at {start} to {last} at {end}"
