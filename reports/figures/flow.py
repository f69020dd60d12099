"""Flows: streamlines, and the profiles along lines that papers print.

Both of the cavity's formulations record the velocity on the evaluation grid; a run of anybody's
needs a field `velocity` of two columns, or two fields `u` and `v`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ...probes.store import Run
from ..tables import listed, number
from ..theme import PAGE_WIDTH, shown, theme
from .drawing import tick
from .fields import (
    ERROR,
    PREDICTION,
    Measured,
    Surface,
    draw_profile,
    measured_fields,
    time_of,
)
from .measured import Values, step_in_words
from .plate import NotMeasuredError, Plate

NO_VELOCITY = (
    "The run has no velocity on a grid: let the instrument Fields record a field `velocity` with "
    "two columns, or fields `u` and `v`."
)

_SLICES = 4


@dataclass(frozen=True, eq=False)
class _Flow:
    """Two components of a velocity on a grid."""

    name: str
    x: Values
    y: Values
    u: Values  # (x, y)
    v: Values

    @property
    def speed(self) -> Values:
        found: Values = np.hypot(self.u, self.v)
        return found


def streamlines(run: Run, step: int | None = None, *, dark: bool = False) -> Plate:
    """Returns the streamlines of a flow over its speed, beside those of the solution if known.

    Args:
        run: with a velocity on a grid.
        step: the last with fields at or before it is shown; None: the last of all.
        dark: for a dark page.

    Raises:
        NotMeasuredError: the run has no velocity on a grid.
    """
    found, flows = _flows(run, step)
    with theme(dark):
        plate = Plate(f"Streamlines, step {found.step:,}", (PAGE_WIDTH, 3.5))
        grid = plate.subplots(1, 2, sharex=True, sharey=True) if len(flows) == 2 else None
        panels = list(grid) if grid is not None else [plate.subplots()]
        most = max(float(np.nanmax(flow.speed)) for flow in flows)
        for axes, flow in zip(panels, flows, strict=True):
            drawn = axes.pcolormesh(
                flow.x, flow.y, flow.speed.T, shading="nearest", rasterized=True, vmin=0, vmax=most,
                alpha=0.75,
            )  # fmt: skip
            _draw_streamlines(axes, flow)
            axes.set_title(shown(flow.name))
            axes.set_aspect("equal")
            axes.set_xlabel(shown(found.coordinates[0]))
            axes.grid(False)
        panels[0].set_ylabel(shown(found.coordinates[1]))
        bar = plate.colorbar(drawn, ax=panels, shrink=0.8, aspect=30, label="speed")
        bar.outline.set_visible(False)
        bar.locator, bar.formatter = MaxNLocator(5), FuncFormatter(tick)
        bar.update_ticks()
    return plate.describe(
        f"Streamlines over the speed at {step_in_words(found.step, step)}. {_flow_reading(flows)}",
        f"Streamlines over a colour map of the speed: {listed([each.name for each in flows])}. "
        f"{_flow_reading(flows)}",
    )


def profiles(run: Run, step: int | None = None, *, dark: bool = False) -> Plate:
    """Returns solution and prediction along lines.

    Along one coordinate these are all values; over time and space, slices at a few times; of a flow
    u and v along the middle of the box, the profiles that are compared with Ghia, Ghia and Shin
    (1982) for the cavity.

    Args:
        run: that has fields on a grid.
        step: the last with fields at or before it is shown; None: the last of all.
        dark: for a dark page.

    Raises:
        NotMeasuredError: the run has no field on a grid of one or two coordinates.
    """
    try:
        return _centrelines(run, step, dark)
    except NotMeasuredError:
        pass
    found = measured_fields(run, step)
    lines = _compared(found)
    with theme(dark):
        if len(found.coordinates) == 1:
            plate, words = _one_line(found, lines), f"over {found.coordinates[0]}"
        else:
            plate, words = _slices(run, found, lines)
    return plate.describe(
        f"{_names(lines)} at {step_in_words(found.step, step)}, {words}.{_distance(found)}",
        f"Line plots of {_names(lines).lower()}, {words}.{_distance(found)}",
    )


def _flows(run: Run, step: int | None) -> tuple[Measured, list[_Flow]]:
    try:
        names = set(run.fields()["name"])
    except KeyError:
        names = set()
    known = {"velocity", "velocity_error"} & names or {"u", "v"} & names
    if not ({"velocity"} <= known or {"u", "v"} <= known):
        raise NotMeasuredError(NO_VELOCITY)
    found = measured_fields(run, step, sorted(known))
    by_name = {each.name: each for each in found.surfaces}
    pair = [by_name.get(name) for name in ("velocity 1", "velocity 2")]
    if None in pair:
        pair = [by_name.get(name) for name in ("u", "v")]
    errors = [by_name.get(f"velocity_error {place}") for place in (1, 2)]
    flow = _flow("prediction", pair)
    if flow is None or len(found.coordinates) != 2:
        raise NotMeasuredError(NO_VELOCITY)
    flows = [flow]
    if None not in errors:
        error = _flow("error", errors)
        if error is not None:
            solution = _Flow("solution", flow.x, flow.y, flow.u - error.u, flow.v - error.v)
            flows = [solution, flow]
    return found, flows


def _flow(name: str, pair: list[Surface | None]) -> _Flow | None:
    grids = [None if each is None else each.on_grid() for each in pair]
    if grids[0] is None or grids[1] is None:
        return None
    (x, y, u), (_, _, v) = grids[0], grids[1]
    return _Flow(name, x, y, u, v)


def _draw_streamlines(axes: Axes, flow: _Flow) -> None:
    # matplotlib wants equal distances, and numbers everywhere.
    x = np.linspace(flow.x[0], flow.x[-1], len(flow.x))
    y = np.linspace(flow.y[0], flow.y[-1], len(flow.y))
    u, v = (np.nan_to_num(each).T for each in (flow.u, flow.v))
    if not (np.hypot(u, v) > 0).any():
        return  # nothing flows
    ink = axes.xaxis.label.get_color()
    axes.streamplot(x, y, u, v, density=1.1, color=ink, linewidth=0.6, arrowsize=0.6)
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(y[0], y[-1])


def _flow_reading(flows: list[_Flow]) -> str:
    found = [
        f"The largest speed of the {flow.name} is {number(float(np.nanmax(flow.speed)))}."
        for flow in flows
    ]
    if len(flows) == 2:
        solution, prediction = flows
        difference = np.hypot(prediction.u - solution.u, prediction.v - solution.v)
        size = float(np.sqrt(np.nansum(solution.speed**2)))
        if size:
            relative = float(np.sqrt(np.nansum(difference**2))) / size
            found.append(f"The relative L2 error of the velocity is {number(relative)}.")
    return " ".join(found)


def _centrelines(run: Run, step: int | None, dark: bool) -> Plate:
    found, flows = _flows(run, step)
    x, y = (shown(name) for name in found.coordinates)
    extremes = []
    with theme(dark):
        plate = Plate(f"Velocity along the middle lines, step {found.step:,}", (PAGE_WIDTH, 2.9))
        grid = plate.subplots(1, 2)
        for flow, dashes in zip(flows, ("-", (0, (4, 1.5))), strict=False):
            across, along = len(flow.x) // 2, len(flow.y) // 2
            u, v = flow.u[across], flow.v[:, along]
            draw_profile(grid[0], flow.y, u, flow.name, dashes)
            draw_profile(grid[1], flow.x, v, flow.name, dashes)
            extremes.append(
                f"{flow.name}: u down to {number(float(np.nanmin(u)))}, v from "
                f"{number(float(np.nanmin(v)))} to {number(float(np.nanmax(v)))}"
            )
        grid[0].set(xlabel=y, ylabel=f"u at {x} = {number(float(flows[0].x[across]))}")
        grid[1].set(xlabel=x, ylabel=f"v at {y} = {number(float(flows[0].y[along]))}")
        grid[0].legend(loc="best")
    reading = f"On these lines, {'; '.join(extremes)}."
    return plate.describe(
        f"Horizontal velocity along the vertical and vertical velocity along the horizontal middle "
        f"line at {step_in_words(found.step, step)}. {reading}",
        f"Two line plots of velocity over {x} and {y}. {reading}",
    )


def _compared(found: Measured) -> list[Surface]:
    prediction, error = found.named(PREDICTION), found.named(ERROR)
    if prediction is None:
        return list(found.surfaces[:3])
    if error is None:
        return [prediction]
    solution = Surface("solution", prediction.points, prediction.values - error.values)
    return [solution, prediction]


def _names(lines: list[Surface]) -> str:
    return listed([shown(each.name) for each in lines]).capitalize()


def _one_line(found: Measured, lines: list[Surface]) -> Plate:
    plate = Plate(f"{_names(lines)}, step {found.step:,}", (PAGE_WIDTH, 2.6))
    axes = plate.subplots()
    for surface, dashes in zip(lines, _dashes(), strict=False):
        draw_profile(axes, surface.points[:, 0], surface.values, shown(surface.name), dashes)
    axes.set(xlabel=shown(found.coordinates[0]), ylabel="value")
    axes.legend(loc="best")
    return plate


def _slices(run: Run, found: Measured, lines: list[Surface]) -> tuple[Plate, str]:
    """One panel for each of a few values of the first coordinate: the times, where it is time."""
    first, second = (shown(name) for name in found.coordinates)
    tables = [each.on_grid() for each in lines]
    if None in tables:
        raise NotMeasuredError(
            "The fields of the run lie on scattered points, along which there are no lines: record "
            "them on a rectangular grid."
        )
    grids = [each for each in tables if each is not None]
    x, y, _ = grids[0]
    at = np.unique(np.linspace(0, len(x) - 1, _SLICES).round().astype(int))
    if time_of(run) is None:
        # On the edges of a box there is often nothing but the boundary condition.
        at = np.unique(np.linspace(0, len(x) - 1, _SLICES + 2).round().astype(int)[1:-1])
    plate = Plate(f"{_names(lines)} at fixed {first}, step {found.step:,}", (PAGE_WIDTH, 2.3))
    panels = plate.subplots(1, len(at), sharex=True, sharey=True, squeeze=False)[0]
    for place, axes in zip(at, panels, strict=True):
        for surface, (_, _, table), dashes in zip(lines, grids, _dashes(), strict=False):
            draw_profile(axes, y, table[place], shown(surface.name), dashes)
        axes.set_title(f"{first} = {number(float(x[place]))}")
        axes.set_xlabel(second)
        axes.xaxis.set_major_locator(MaxNLocator(3))
    panels[0].set_ylabel("value")
    handles, labels = panels[0].get_legend_handles_labels()
    plate.legend(handles, labels, loc="outside upper left", ncols=3)
    values = listed([number(float(x[place])) for place in at])
    return plate, f"over {second} at {first} = {values}"


def _dashes() -> tuple[object, ...]:
    return "-", (0, (4, 1.5)), (0, (1.2, 1.2))


def _distance(found: Measured) -> str:
    error = found.named(ERROR)
    if error is None or not error.finite.size:
        return ""
    return f" The largest error on the whole grid is {number(float(np.abs(error.finite).max()))}."
