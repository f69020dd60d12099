"""Groups of runs beside each other: every seed a dot, the median a line across them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ...diagnostics.errors import ArgumentError
from ..comparison.comparing import Comparison
from ..comparison.members import Key
from ..comparison.quantities import quantity_of
from ..comparison.summaries import text_of
from ..tables import listed, number
from ..theme import PAGE_WIDTH, plain, shown, theme
from .drawing import legend, value_axis
from .plate import NotMeasuredError, Plate

MOST_ROWS, MOST_COLUMNS = 16, 6

_MARKERS = "osD^vP*X"


def compared(comparison: Comparison, quantity: str = "error", *, dark: bool = False) -> Plate:
    """Returns a dot plot of a quantity: a line a row, a panel a column, a dot a seed.

    Args:
        comparison: from `compare_runs`.
        quantity: one of `comparison.quantities`.
        dark: for a dark page.

    Raises:
        NotMeasuredError: no run that has finished has the quantity.
        ArgumentError: there is no such quantity.
    """
    columns = measured_columns(comparison, quantity)
    rows = comparison.row_values[:MOST_ROWS]
    name = quantity_of(quantity).label
    known = [
        value
        for row in rows
        for column in columns
        for value in comparison.numbers(quantity, row, column).values()
    ]
    published = [
        float(str(each["value"]))
        for row in rows
        for column in columns
        for each in comparison.published(row, column)
        if quantity == "error"
    ]
    with theme(dark):
        lines = math.ceil(len(columns) / 3)
        height = lines * (0.75 + 0.24 * len(rows)) + 0.35
        plate = Plate(_title(quantity_of(quantity).name), (PAGE_WIDTH, max(height, 1.6)))
        grid = plate.subplots(lines, min(len(columns), 3), sharex=True, sharey=True, squeeze=False)
        for axes, column in zip(grid.flat, columns, strict=False):
            _draw_groups(axes, comparison, quantity, rows, column)
            if comparison.columns:
                axes.set_title(f"{shown(comparison.column_name)} = {_label(column)}")
        for axes in grid.flat[len(columns) :]:
            axes.set_visible(False)
        for axes in grid.flat[max(0, len(columns) - grid.shape[1]) : len(columns)]:
            axes.xaxis.set_tick_params(labelbottom=True)
        drawn = [each for each in [*known, *published] if math.isfinite(each)]
        value_axis(grid[0, 0], [drawn], "x")
        grid[0, 0].set_ylim(len(rows) - 0.5, -0.5)
        plate.supxlabel(shown(name, 60), fontsize=8)
        legend(plate, _entries(bool(published)))
    words = _reading(comparison, quantity, rows, columns)
    cut = ""
    if len(comparison.row_values) > len(rows) or len(comparison.column_values) > len(columns):
        cut = (
            f" Shown are {len(rows)} of {len(comparison.row_values)} rows and {len(columns)} of "
            f"{len(comparison.column_values)} columns."
        )
    return plate.describe(
        f"{_title(quantity_of(quantity).name)} by {plain(comparison.row_name)}: a dot for each run "
        f"that has finished, a bar between the quartiles, a line at the median. {words}{cut}",
        f"Dot plot of {plain(name)} by {plain(comparison.row_name)}. {words}",
    )


def measured_columns(comparison: Comparison, quantity: str) -> tuple[Key, ...]:
    """Returns the columns in which a quantity is known, as many as a page can hold.

    Raises:
        NotMeasuredError: there are none.
        ArgumentError: there is no such quantity.
    """
    try:
        name = quantity_of(quantity).name
    except KeyError:
        raise ArgumentError(
            f"There is no quantity {quantity!r}: choose one of "
            f"{listed(comparison.quantities, 'or')}."
        ) from None
    found = tuple(
        column
        for column in comparison.column_values
        if any(comparison.numbers(quantity, row, column) for row in comparison.row_values)
    )
    if not found:
        raise NotMeasuredError(f"No run that has finished has the {name} recorded.")
    return found[:MOST_COLUMNS]


def row_styles(rows: Sequence[Key]) -> dict[Key, tuple[str, str]]:
    """Returns colour and marker of each row in the theme that is open."""
    colours = cycle(matplotlib.rcParams["axes.prop_cycle"].by_key()["color"])
    return dict(zip(rows, zip(colours, cycle(_MARKERS), strict=False), strict=False))


def _draw_groups(
    axes: Axes, comparison: Comparison, quantity: str, rows: Sequence[Key], column: Key
) -> None:
    styles = row_styles(comparison.row_values)
    ink = matplotlib.rcParams["text.color"]
    for place, row in enumerate(rows):
        colour, _ = styles[row]
        values = np.array(list(comparison.numbers(quantity, row, column).values()))
        values = values[np.isfinite(values)]
        group = comparison.group(row, column)
        if not values.size:
            if group:
                known = comparison.numbers(quantity, row, column)
                words = "not finite" if known else f"none of {len(group)}"
                axes.text(
                    0.02, place, words, transform=axes.get_yaxis_transform(),
                    va="center", fontsize=7,
                )  # fmt: skip
            continue
        spread = comparison.spread(quantity, row, column)
        if math.isfinite(spread.upper) and len(values) > 1:
            axes.plot(
                [spread.lower, spread.upper], [place, place], color=colour, linewidth=7, alpha=0.3,
                solid_capstyle="butt",
            )  # fmt: skip
        # Apart from each other, in the order of the seeds, so that equal numbers are seen.
        offsets = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else np.zeros(1)
        axes.plot(values, place + offsets, "o", color=colour, markersize=3, markeredgewidth=0)
        if math.isfinite(spread.median) and len(values) > 1:
            middle = [spread.median, spread.median]
            axes.plot(middle, [place - 0.28, place + 0.28], color=ink, linewidth=1.4)
        if quantity == "error":
            for each in comparison.published(row, column):
                axes.plot(
                    float(str(each["value"])), place, "D", markersize=4.5, markerfacecolor="none",
                    markeredgecolor=ink, markeredgewidth=0.8,
                )  # fmt: skip
    axes.set_yticks(range(len(rows)), [_label(row) for row in rows])
    axes.tick_params(axis="y", length=0)


def _entries(published: bool) -> list[tuple[Line2D, str]]:
    ink = matplotlib.rcParams["text.color"]
    found = [
        (Line2D([], [], marker="o", linestyle="", color=ink, markersize=3), "one run"),
        (Line2D([], [], marker="|", linestyle="", color=ink, markersize=9), "median"),
        (Line2D([], [], linewidth=6, alpha=0.3, color=ink), "between quartiles"),
    ]
    if published:
        found.append(
            (Line2D([], [], marker="D", linestyle="", markerfacecolor="none", markeredgecolor=ink,
                    markersize=4.5), "published")
        )  # fmt: skip
    return found


def _reading(
    comparison: Comparison, quantity: str, rows: Sequence[Key], columns: Sequence[Key]
) -> str:
    sentences = []
    for column in columns:
        medians = []
        for row in rows:
            spread = comparison.spread(quantity, row, column)
            if spread.count:
                whole = len(comparison.group(row, column))
                of = "" if spread.count == whole else f" ({spread.count} of {whole} runs)"
                medians.append(f"{text_of(row)} {number(spread.median)}{of}")
        if medians:
            at = ""
            if comparison.columns and len(columns) > 1:
                at = f" at {plain(comparison.column_name)} = {text_of(column)}"
            sentences.append(f"Medians{at}: {listed(medians)}.")
    return " ".join(sentences)


def _label(value: Key) -> str:
    return shown(text_of(value), 24)


def _title(name: str) -> str:
    return name[0].upper() + name[1:]
