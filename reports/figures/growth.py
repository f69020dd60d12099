"""How stiffness, imbalance and error grow with the complexity, and with each other."""

from __future__ import annotations

import math

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from ..comparison.comparing import Comparison
from ..comparison.members import Key
from ..comparison.quantities import quantity_of
from ..comparison.scaling import growth, points_of
from ..comparison.statistics import CONFIDENT, ranks
from ..comparison.summaries import text_of
from ..tables import number
from ..theme import PAGE_WIDTH, plain, shown, theme
from .dots import measured_columns, row_styles
from .drawing import legend, value_axis
from .plate import NotMeasuredError, Plate

# Wang, Teng, Perdikaris, SISC 43(5), 2021, section 2.2: |grad L_r| grows at most as C^4.
_BOUND = {"poisson": ("C", 4)}
_BOUNDED = ("reference_gradient", "reference_gradient_start")

_FEWEST_TO_CORRELATE = 5


def scaling(comparison: Comparison, quantity: str = "sharpness", *, dark: bool = False) -> Plate:
    """Returns a quantity against the columns on logarithmic axes, with fitted powers.

    A power is fitted to the runs of a row where they have three or more values of the column; its
    interval is Student's, as if runs were independent. For 1D Poisson the paper's bound on the
    gradient of the residual, O(C^4), is drawn beside it.

    Args:
        comparison: whose columns are positive numbers, such as complexities.
        quantity: one of `comparison.quantities`.
        dark: for a dark page.

    Raises:
        NotMeasuredError: no row has the quantity at two or more values of the column.
        ArgumentError: there is no such quantity.
    """
    measured_columns(comparison, quantity)
    points = {row: points_of(comparison, quantity, row) for row in comparison.row_values}
    points = {row: found for row, found in points.items() if len({x for x, _ in found}) > 1}
    name, axis = quantity_of(quantity), comparison.column_name
    if not points:
        raise NotMeasuredError(
            f"The {name.name} is known at fewer than two values of {plain(axis) or 'the columns'} "
            "that are positive numbers, so that nothing grows along them: train with more values."
        )
    sentences = []
    with theme(dark):
        plate = Plate(f"{_capital(name.name)} against {plain(axis)}", (0.75 * PAGE_WIDTH, 3.1))
        axes = plate.subplots()
        styles = row_styles(comparison.row_values)
        entries, drawn = [], [y for found in points.values() for _, y in found]
        for row, found in points.items():
            colour, marker = styles[row]
            label = shown(text_of(row), 24)
            law = growth(comparison, quantity, row)
            x, y = np.array(found).T
            axes.plot(x, y, linestyle="", marker=marker, color=colour, markersize=4)
            if law is None:
                ends = np.unique(x)
                medians = [float(np.median(y[x == each])) for each in ends]
                axes.plot(ends, medians, color=colour, linestyle=":")
                sentences.append(
                    f"{text_of(row)} goes from {number(medians[0])} to {number(medians[-1])}; two "
                    "values are too few for a fit."
                )
            else:
                ends = np.array([x.min(), x.max()])
                axes.plot(ends, law.at(ends), color=colour)
                drawn += law.at(ends).tolist()
                label += f": exponent {law.exponent:.2f} ({law.lower:.2f} to {law.upper:.2f})"
                sentences.append(
                    f"{text_of(row)} goes like {plain(axis)}^{law.exponent:.2f} "
                    f"({CONFIDENT} interval {law.lower:.2f} to {law.upper:.2f}, {law.count} "
                    f"runs){'' if law.is_shown else ', in which no growth is shown'}."
                )
            entries.append((Line2D([], [], color=colour, marker=marker, markersize=4), label))
        bound = _draw_bound(axes, comparison, quantity, points)
        if bound is not None:
            entries.append(bound)
            sentences.append("The paper's bound on its growth, C^4, is drawn through the first.")
        value_axis(axes, [drawn])
        _complexity_axis(axes, sorted({x for found in points.values() for x, _ in found}))
        axes.set_xlabel(shown(axis))
        axes.set_ylabel(shown(name.label, 48))
        legend(plate, entries)
    reading = " ".join(sentences)
    return plate.describe(
        f"{_capital(name.name)} against {plain(axis)}, both logarithmic, a mark for each run. "
        f"{reading}",
        f"Log-log plot of {name.name} against {plain(axis)}. {reading}",
    )


def error_against_sharpness(comparison: Comparison, *, dark: bool = False) -> Plate:
    """Returns the error of every run against the largest Hessian eigenvalue at its end.

    Raises:
        NotMeasuredError: no run that has finished has both.
    """
    found: dict[tuple[Key, Key], list[tuple[float, float]]] = {}
    for row in comparison.row_values:
        for column in comparison.column_values:
            errors = comparison.numbers("error", row, column)
            sharp = comparison.numbers("sharpness", row, column)
            both = [
                (sharp[seed], errors[seed])
                for seed in errors
                if seed in sharp and 0 < sharp[seed] < math.inf and 0 < errors[seed] < math.inf
            ]
            if both:
                found[row, column] = both
    if not found:
        raise NotMeasuredError(
            "No run that has finished has both an error and a positive largest Hessian eigenvalue: "
            "record them with the instruments Stiffness and Fields."
        )
    points = np.array([point for both in found.values() for point in both])
    reading = _correlation(points, len(found))
    with theme(dark):
        plate = Plate("Error against the largest Hessian eigenvalue", (0.75 * PAGE_WIDTH, 3.1))
        axes = plate.subplots()
        colours = row_styles(comparison.row_values)
        markers = row_styles(comparison.column_values)
        for (row, column), both in found.items():
            x, y = np.array(both).T
            axes.plot(
                x, y, linestyle="", color=colours[row][0], marker=markers[column][1], markersize=4.5
            )
        value_axis(axes, [points[:, 0]], "x")
        value_axis(axes, [points[:, 1]], "y")
        axes.set(xlabel="largest Hessian eigenvalue at the end", ylabel="relative L2 error")
        legend(plate, _entries(comparison, list(found)))
    return plate.describe(
        f"Relative L2 error of every run that has finished against the largest eigenvalue of the "
        f"Hessian of its weighted loss at the end. {reading}",
        f"Scatter plot of error against largest Hessian eigenvalue, {len(points)} runs. {reading}",
    )


def _complexity_axis(axes: Axes, values: list[float]) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(values))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    room = (values[-1] / values[0]) ** 0.06
    axes.set_xlim(values[0] / room, values[-1] * room)


def _draw_bound(
    axes: Axes, comparison: Comparison, quantity: str, points: dict[Key, list[tuple[float, float]]]
) -> tuple[Line2D, str] | None:
    bound = _BOUND.get(comparison.problem)
    if quantity not in _BOUNDED or bound is None or comparison.column_name != bound[0]:
        return None
    _, power = bound
    every = [point for found in points.values() for point in found]
    x = np.array(sorted({point[0] for point in every}))
    first = float(np.median([y for at, y in every if at == x[0]]))
    ink = matplotlib.rcParams["text.color"]
    (line,) = axes.plot(x, first * (x / x[0]) ** power, color=ink, linestyle="--", linewidth=0.8)
    return line, f"growth like {bound[0]}⁴, the paper's bound"


def _correlation(points: np.ndarray, groups: int) -> str:
    if len(points) < _FEWEST_TO_CORRELATE:
        return f"These are {len(points)} runs, too few to speak of a relation."
    places = [np.array(ranks(points[:, k].tolist())) for k in (0, 1)]
    if any(each.std() == 0 for each in places):
        return f"One of the two is the same for all {len(points)} runs."
    rank_correlation = float(np.corrcoef(places[0], places[1])[0, 1])
    return (
        f"Spearman's rank correlation over {len(points)} runs of {groups} groups is "
        f"{rank_correlation:.2f}; runs of a group are alike, and groups differ in more than their "
        "sharpness, so that it does not say that one causes the other."
    )


def _entries(comparison: Comparison, groups: list[tuple[Key, Key]]) -> list[tuple[Line2D, str]]:
    colours, markers = row_styles(comparison.row_values), row_styles(comparison.column_values)
    one = len(comparison.column_values) == 1
    found = []
    for row in comparison.row_values:
        if any(each == row for each, _ in groups):
            marker = markers[comparison.column_values[0]][1] if one else "s"
            line = Line2D(
                [], [], linestyle="", marker=marker, color=colours[row][0], markersize=4.5
            )
            found.append((line, shown(text_of(row), 24)))
    if not one:
        ink = matplotlib.rcParams["text.color"]
        for column in comparison.column_values:
            if any(each == column for _, each in groups):
                line = Line2D(
                    [], [], linestyle="", marker=markers[column][1], color=ink, markersize=4.5,
                    markerfacecolor="none",
                )  # fmt: skip
                label = f"{shown(comparison.column_name)} = {shown(text_of(column), 24)}"
                found.append((line, label))
    return found


def _capital(name: str) -> str:
    return name[0].upper() + name[1:]
