"""Grids of runs, mostly models x complexities: a run a panel, all panels on the same axes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ...diagnostics.errors import ArgumentError
from ...probes.store import Run
from ..comparison.comparing import Comparison, placed
from ..comparison.members import Key
from ..comparison.summaries import text_of
from ..tables import listed, number
from ..theme import PAGE_WIDTH, TOTAL, plain, shown, term_lines, theme
from .density_curves import PER_DECADE, SignedDecades, WeightedHistogram
from .drawing import (
    MOST_TERMS,
    draw_line,
    legend,
    signed_log_axis,
    step_axis,
    tick,
    value_axis,
)
from .measured import Series, by_name, chosen, earlier
from .plate import NotMeasuredError, Plate

MOST_ROWS, MOST_COLUMNS = 6, 5

Histograms = Mapping[str, WeightedHistogram]


@dataclass(frozen=True, eq=False)
class _Grid:
    """What is shown of each cell, and which cells there are."""

    row_name: str
    column_name: str
    rows: tuple[Key, ...]
    columns: tuple[Key, ...]
    runs: Mapping[tuple[Key, Key], Run]
    unfinished: Mapping[tuple[Key, Key], str]  # the status of those that have not finished

    @property
    def arrangement(self) -> str:
        """How the panels stand, in words."""
        down = f"{plain(self.row_name)} downwards ({listed([text_of(row) for row in self.rows])})"
        if not self.column_name:
            return down
        across = listed([text_of(column) for column in self.columns])
        return f"{down}, {plain(self.column_name)} to the right ({across})"


def histogram_grid(
    runs: Iterable[Run] | Comparison,
    *,
    rows: str = "model",
    columns: str = "complexity",
    step: int | None = None,
    layer: str | None = None,
    weighted: bool = False,
    dark: bool = False,
) -> Plate:
    """Returns the gradient histograms of the terms of several runs, a panel a run.

    Of the runs in one place of the grid, mostly seeds, the first is shown.

    Args:
        runs: what to show, or a comparison, whose keys then hold.
        rows: the key of the metadata that tells the rows apart.
        columns: likewise.
        step: the last with histograms at or before it is shown; None: the last of each run.
        layer: whose gradient; None: of the whole network, its layers together.
        weighted: whether gradients are multiplied by the weights of the terms.
        dark: for a dark page.

    Raises:
        NotMeasuredError: no run has histograms, of this layer, or weights where they are wanted.
        ArgumentError: the keys are unknown.
    """
    grid = _placed(runs, rows, columns)
    cells: dict[tuple[Key, Key], Histograms] = {}
    steps: dict[tuple[Key, Key], int] = {}
    for at, run in grid.runs.items():
        found = pooled_histograms(run, step, layer, weighted)
        if found is not None:
            steps[at], cells[at] = found
    if not cells:
        raise NotMeasuredError(
            f"None of the runs has histograms of gradients{f' of {plain(layer)}' if layer else ''}"
            f"{' with the weights of their terms' if weighted else ''}: the instruments "
            "GradientHistograms and Losses, of the standard set, record them."
        )
    terms = _terms(cells.values())
    decades = SignedDecades.of(cell for found in cells.values() for cell in found.values())
    what = "weighted" if weighted else "unweighted"
    where = "whole network" if layer is None else plain(layer, 40)
    with theme(dark):
        plate, panels, styles = _panels(grid, f"Gradients of the loss terms, {where}", terms)
        for at, axes in panels.items():
            if at not in cells:
                _say(axes, "no histograms" if at in grid.runs else "no run")
                continue
            for term, cell in cells[at].items():
                if not cell.is_empty and term in styles:
                    shares = cell.shares(decades.edges) * PER_DECADE
                    axes.plot(decades.centres, shares, **styles[term])
        first = next(iter(panels.values()))
        end = 10.0**decades.last
        most = 6 if len(panels) < 3 else 3
        signed_log_axis(first, "x", 10.0**decades.first, -end, end, most=most)
        first.set_ylim(bottom=0)
        first.yaxis.set_major_locator(MaxNLocator(3))
        below = tick(10.0**decades.first)
        plate.supxlabel(
            f"gradient entry, {what} (a tick a decade, linear below {below})", fontsize=8
        )
        plate.supylabel("share of entries per decade", fontsize=8)
        _legend(plate, terms, styles)
    medians = [_median_ratio(grid, at, found) for at, found in cells.items()]
    reading = " ".join(filter(None, medians))
    return plate.describe(
        f"Histograms of the {what} gradient of each loss term, {where}, {_at_steps(steps)}; "
        f"{grid.arrangement}. {reading}",
        f"Grid of density curves over the entries of the gradient, {grid.arrangement}. {reading}",
    )


def stiffness_grid(
    runs: Iterable[Run] | Comparison,
    *,
    rows: str = "model",
    columns: str = "complexity",
    dark: bool = False,
) -> Plate:
    """Returns the largest Hessian eigenvalues of the terms and of the total over the steps.

    Of the runs in one place of the grid, mostly seeds, the first is shown.

    Args:
        runs: what to show, or a comparison, whose keys then hold.
        rows: the key of the metadata that tells the rows apart.
        columns: likewise.
        dark: for a dark page.

    Raises:
        NotMeasuredError: no run has eigenvalues of the Hessian.
        ArgumentError: the keys are unknown.
    """
    grid = _placed(runs, rows, columns)
    found = {at: _largest(run) for at, run in grid.runs.items()}
    cells = {at: lines for at, lines in found.items() if lines}
    if not cells:
        raise NotMeasuredError(
            "None of the runs has eigenvalues of the Hessian: the instrument Stiffness, of the "
            "standard set, records them."
        )
    terms = _terms(cells.values())
    every = [line for lines in cells.values() for line in lines.values()]
    readings = []
    with theme(dark):
        plate, panels, styles = _panels(grid, "Largest Hessian eigenvalues", terms)
        for at, axes in panels.items():
            if at not in cells:
                _say(axes, "not measured" if at in grid.runs else "no run")
                continue
            for term, line in cells[at].items():
                if term in styles:
                    draw_line(axes, line, **styles[term])
            total = cells[at].get(TOTAL)
            if total is not None and len(total.finite.values):
                known = total.finite.values
                readings.append(
                    f"{_name(grid, at)} from {number(float(known[0]))} to "
                    f"{number(float(known[-1]))}, at most {number(float(known.max()))}"
                )
        first = next(iter(panels.values()))
        value_axis(first, [line.finite.values for line in every])
        step_axis(first, every, label=False)
        first.xaxis.set_major_locator(MaxNLocator(3 if len(grid.columns) < 4 else 2, integer=True))
        plate.supxlabel("step", fontsize=8)
        plate.supylabel("largest eigenvalue", fontsize=8)
        _legend(plate, terms, styles)
    reading = f"Of the weighted total: {'; '.join(readings)}." if readings else ""
    return plate.describe(
        f"Largest eigenvalue of the Hessian of each unweighted term and of the weighted total over "
        f"the steps; {grid.arrangement}. {reading}",
        f"Grid of line plots of eigenvalues over steps, {grid.arrangement}. {reading}",
    )


def pooled_histograms(
    run: Run, step: int | None, layer: str | None = None, weighted: bool = False
) -> tuple[int, dict[str, WeightedHistogram]] | None:
    """Returns a step and the histogram of each term, over all layers or one; None without any."""
    try:
        recorded = chosen(run.histogram_steps(), run, None, "")
        at = earlier(recorded["step"].to_list(), step)
        rows = chosen(run.histograms(at, layer=layer), run, None, "")
        weights = _weights(run, at) if weighted else {}
    except NotMeasuredError:
        return None
    found = {
        str(term): WeightedHistogram(
            sum(of_term["histogram"]), weights.get(str(term), 1.0) if weighted else 1.0
        )
        for term, of_term in rows.groupby("term", sort=False)
    }
    return at, found


def _placed(runs: Iterable[Run] | Comparison, rows: str, columns: str) -> _Grid:
    if isinstance(runs, Comparison):
        found = runs
    else:
        given = tuple(runs)
        if not given:
            raise ArgumentError("No run was given: give one or more.")
        found = placed(given, rows=rows, columns=columns)
    shown_rows = found.row_values[:MOST_ROWS]
    shown_columns = found.column_values[:MOST_COLUMNS]
    cells, unfinished = {}, {}
    for row in shown_rows:
        for column in shown_columns:
            # Of the seeds, one that has finished, or at least one that can be read.
            members = [each for each in found.group(row, column) if each.path]
            readable = [each for each in members if each.status != "broken"]
            for member in sorted(readable, key=lambda each: not each.counts)[:1]:
                cells[row, column] = Run(member.path)
                if not member.counts:
                    unfinished[row, column] = member.status
    return _Grid(found.row_name, found.column_name, shown_rows, shown_columns, cells, unfinished)


def _weights(run: Run, at: int) -> dict[str, float]:
    found = chosen(run.scalars("weight"), run, None, "")
    found = found[found["step"] == earlier(found["step"].to_list(), at)]
    return dict(zip(found["term"].astype(str), found["value"].astype(float), strict=True))


def _largest(run: Run) -> dict[str, Series]:
    try:
        frame = chosen(run.eigenvalues(), run, None, "")
    except NotMeasuredError:
        return {}
    frame = frame[(frame["layer"] == "all") & (frame["end"] == "largest")]
    return by_name(pd.DataFrame(frame), "term", (*run.terms, TOTAL))


def _terms(cells: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(term for found in cells for term in found))[:MOST_TERMS]


def _panels(
    grid: _Grid, title: str, terms: list[str]
) -> tuple[Plate, dict[tuple[Key, Key], Axes], dict[str, dict[str, Any]]]:
    lines, across = len(grid.rows), len(grid.columns)
    # A single column is as wide as two panels of a row would be, and its panels stand side by side.
    is_row = across == 1 and lines > 1
    shape = (math.ceil(lines / 4), min(lines, 4)) if is_row else (lines, across)
    plate = Plate(title, (PAGE_WIDTH, 0.75 + shape[0] * (1.9 if shape[0] == 1 else 1.25)))
    drawn = plate.subplots(*shape, sharex=True, sharey=True, squeeze=False)
    places = [(row, column) for row in grid.rows for column in grid.columns]
    panels = dict(zip(places, drawn.flat, strict=False))
    for (row, column), axes in panels.items():
        label = shown(text_of(row), 22)
        if grid.column_name and (not is_row or across > 1):
            label += f", {shown(grid.column_name, 12)} = {shown(text_of(column), 10)}"
        if (row, column) in grid.unfinished:
            label += f" ({grid.unfinished[row, column]})"
        axes.set_title(label, fontsize=7 if across > 3 else 8)
    for axes in drawn.flat[len(places) :]:
        axes.remove()
    known = [term for run in grid.runs.values() for term in run.terms]
    return plate, panels, term_lines([*known, *terms])


def _say(axes: Axes, words: str) -> None:
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", fontsize=7)


def _legend(plate: Plate, terms: list[str], styles: Mapping[str, dict[str, Any]]) -> None:
    legend(plate, [(Line2D([], [], **styles[term]), shown(term)) for term in terms])


def _name(grid: _Grid, at: tuple[Key, Key]) -> str:
    row, column = text_of(at[0]), text_of(at[1])
    if not grid.column_name or len(grid.columns) == 1:
        return row
    return f"{row} at {plain(grid.column_name)} = {column}"


def _at_steps(steps: Mapping[tuple[Key, Key], int]) -> str:
    first, last = min(steps.values()), max(steps.values())
    return f"at step {first:,}" if first == last else f"at steps {first:,} to {last:,}"


def _median_ratio(grid: _Grid, at: tuple[Key, Key], found: Histograms) -> str:
    medians = {term: cell.median for term, cell in found.items()}
    known = {term: value for term, value in medians.items() if 0 < value < np.inf}
    if len(known) < 2:
        return ""
    large, small = max(known, key=lambda t: known[t]), min(known, key=lambda t: known[t])
    return (
        f"{_name(grid, at)}: the median magnitude of {plain(large, 40)} is "
        f"{number(known[large] / known[small])} times that of {plain(small, 40)}."
    )
