"""Tables of reports: what a reader sees, with the numbers behind it.

Whoever makes a table knows how its numbers are to be read, so text and value stand side by side:
pages show the text, sorting and downloads take the value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from ..diagnostics.errors import ArgumentError

Value = str | int | float | bool | None

MISSING = "not measured"


@dataclass(frozen=True)
class Cell:
    """One entry of a table.

    Args:
        text: what a reader sees.
        value: what it is sorted by and what a download has; None where there is none.
        tone: whether something about it needs attention.
    """

    text: str
    value: Value = None
    tone: Literal["", "good", "warn", "fail", "missing"] = ""


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
        name: its heading, with the unit.
        meaning: a sentence on what is in it, "" where the heading says it.
        is_number: whether it is set flush right.
    """

    name: str
    meaning: str = ""
    is_number: bool = False


@dataclass(frozen=True)
class Table:
    """A table with its heading and what is to be known of its numbers.

    Args:
        title: a few words, without a full stop.
        columns: from left to right.
        rows: each with one cell a column.
        note: sentences that stand below it, "" where there are none.

    Raises:
        ArgumentError: a row has not one cell a column.

    Example:
        >>> table = Table(
        ...     "Relative error",
        ...     (Column("model"), Column("error", is_number=True)),
        ...     ((Cell("M1", "M1"), number_cell(0.0142)), (Cell("M2", "M2"), number_cell(None))),
        ... )
        >>> table.frame()
          model   error
        0    M1  0.0142
        1    M2     NaN
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ArgumentError(
                    f"A row of the table {self.title!r} has {len(row)} cells for "
                    f"{len(self.columns)} columns; give one cell a column."
                )

    def frame(self) -> pd.DataFrame:
        """Returns the values, as a download has them."""
        values = [[cell.value for cell in row] for row in self.rows]
        return pd.DataFrame(values, columns=[column.name for column in self.columns])


def number_cell(value: float | None, digits: int = 3) -> Cell:
    """Returns a cell with a number; one that says so where nothing was measured."""
    return Cell(MISSING, None, "missing") if value is None else Cell(number(value, digits), value)


def number(value: float, digits: int = 3) -> str:
    """Returns a number with so many significant digits, short enough for a table.

    Example:
        >>> [number(each) for each in (0.19412, 3.3e-4, 751733.7, 2.0, float("nan"), -float("inf"))]
        ['0.194', '3.3e-4', '7.52e+5', '2', 'NaN', '-infinite']
    """
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "infinite" if value > 0 else "-infinite"
    if value == 0:
        return "0"
    exponent = int(f"{value:.{digits - 1}e}".split("e")[1])
    if -3 <= exponent < 4:
        text = f"{value:.{max(digits - 1 - exponent, 0)}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    mantissa = f"{value:.{digits - 1}e}".split("e")[0]
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{exponent:+d}"


def percent(share: float) -> str:
    """Returns a share in percent, with two digits.

    Example:
        >>> percent(0.0234), percent(0.5), percent(2e-6), percent(0.0)
        ('2.3 %', '50 %', '< 0.01 %', '0 %')
    """
    return "< 0.01 %" if 0 < share < 1e-4 else f"{number(100 * share, 2)} %"


def listed(words: Sequence[str], last: str = "and") -> str:
    """Returns words as a sentence lists them.

    Example:
        >>> listed(["M1"]), listed(["M1", "M2", "M4"])
        ('M1', 'M1, M2 and M4')
    """
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {last} {words[-1]}"
