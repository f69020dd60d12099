"""The solution beside the prediction, and where the prediction is wrong.

A run holds a prediction on a grid, and its error, which is prediction minus solution; so the
solution is known as well. A run without errors, or with fields of other names, shows what it has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ...diagnostics.errors import ArgumentError
from ...probes.store import Run
from ..tables import listed, number
from ..theme import PAGE_WIDTH, diverging_map, plain, shown, theme
from .drawing import tick
from .measured import Values, earlier, step_in_words
from .plate import NotMeasuredError, Plate

PREDICTION, ERROR = "prediction", "error"

NO_FIELDS = (
    "The run has no fields on a grid: the instrument Fields records them, and our own trainings "
    "record the prediction and its error."
)

# The names of coordinates, where the run says of which problem it is.
_COORDINATES = {
    **dict.fromkeys(("helmholtz", "cavity", "cavity_streamfunction", "kovasznay"), ("x", "y")),
    "poisson": ("x",),
}
_OF_TIME = ("t", "x")
_TIME_PROBLEMS = ("klein_gordon", "burgers", "convection", "wave", "allen_cahn", "allen_cahn_fixed",
                  "reaction")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Surface:
    """Values of one quantity at points."""

    name: str
    points: Values  # (points, coordinates)
    values: Values  # (points,)

    @property
    def finite(self) -> Values:
        """Those of the values that are numbers."""
        return self.values[np.isfinite(self.values)]

    def on_grid(self) -> tuple[Values, Values, Values] | None:
        """Returns both axes and the values, missing ones NaN; None where points are scattered."""
        x, y = (np.unique(self.points[:, axis]) for axis in (0, 1))
        # A grid may lack a few points, such as corners, but not most of them.
        if x.size * y.size > 2 * len(self.points) or min(x.size, y.size) < 2:
            return None
        table = np.full((x.size, y.size), np.nan)
        at = tuple(np.searchsorted(axis, self.points[:, k]) for k, axis in enumerate((x, y)))
        table[at] = self.values
        return x, y, table


@dataclass(frozen=True, eq=False)
class Measured:
    """Fields of a run at one step that lie on the same points."""

    step: int
    surfaces: tuple[Surface, ...]
    coordinates: tuple[str, ...]

    def named(self, name: str) -> Surface | None:
        """Returns a surface by its name."""
        return next((each for each in self.surfaces if each.name == name), None)


def solution_fields(
    run: Run, step: int | None = None, *, names: Sequence[str] | None = None, dark: bool = False
) -> Plate:
    """Returns solution, prediction and error over the plane, or lines where there is one axis.

    Args:
        run: that has fields on a grid or at scattered points.
        step: the last with fields at or before it is shown; None: the last of all.
        names: which fields; None: solution, prediction and magnitude of the error where they are
            known, else the first three of the run's.
        dark: for a dark page.

    Raises:
        NotMeasuredError: the run has no field with a grid of one or two coordinates.
        ArgumentError: there is no field of a name.
    """
    found = measured_fields(run, step, names)
    surfaces = found.surfaces if names else _with_solution(found.surfaces)[:3]
    with theme(dark):
        draw = _lines if len(found.coordinates) == 1 else _maps
        plate = draw(found, surfaces)
        plate.title = f"{listed([_titled(each.name) for each in surfaces])}, step {found.step:,}"
        plate.title = plate.title[0].upper() + plate.title[1:]
    reading = _reading(run, surfaces, found)
    axes = " and ".join(found.coordinates)
    return plate.describe(
        f"{listed([_titled(each.name) for each in surfaces]).capitalize()} at "
        f"{step_in_words(found.step, step)}, over {axes}. {reading}",
        f"{'Lines' if len(found.coordinates) == 1 else 'Colour maps'} over {axes} of "
        f"{listed([_titled(each.name) for each in surfaces])}. {reading}",
    )


def measured_fields(
    run: Run, step: int | None = None, names: Sequence[str] | None = None
) -> Measured:
    """Returns the fields of a run at one step, a surface for each column of their values.

    Raises:
        NotMeasuredError: there are none with a grid of one or two coordinates.
        ArgumentError: there is no field of a name.
    """
    every = run.fields()
    if "part" in every and not every.empty:
        every = every[every["part"] == every["part"].iloc[0]]
    kept = [
        grid is not None and _points(grid).shape[1] in (1, 2) and len(values) == len(grid)
        for values, grid in zip(every["values"], every["grid"], strict=True)
    ]
    frame = every[np.array(kept, dtype=bool)]
    if frame.empty:
        raise NotMeasuredError(NO_FIELDS)
    known = list(dict.fromkeys(frame["name"]))
    for name in names or ():
        if name not in known:
            raise ArgumentError(f"The run has no field {name!r}; it has {listed(known, 'or')}.")
    wanted = names or ([PREDICTION, ERROR] if PREDICTION in known else known)
    frame = frame[frame["name"].isin(list(wanted))]
    at = earlier(frame["step"].to_list(), step)
    frame = frame[frame["step"] == at]
    points = _points(frame["grid"].iloc[0])
    surfaces: list[Surface] = []
    order = {name: place for place, name in enumerate(wanted)}
    for _, row in frame.sort_values("name", key=lambda column: column.map(order)).iterrows():
        values = np.asarray(row["values"], dtype=np.float64).reshape(len(row["values"]), -1)
        if len(values) != len(points):
            continue
        for column in range(values.shape[1]):
            suffix = f" {column + 1}" if values.shape[1] > 1 else ""
            surfaces.append(Surface(f"{row['name']}{suffix}", points, values[:, column]))
    return Measured(at, tuple(surfaces), coordinates_of(run, points.shape[1]))


def coordinates_of(run: Run, count: int) -> tuple[str, ...]:
    """Returns the names of the coordinates of a run's grid: as it says, or those of its problem."""
    said = run.metadata.get("coordinates")
    if isinstance(said, list) and len(said) == count:
        return tuple(plain(str(name), 24) for name in said)
    problem = str(run.metadata.get("problem"))
    known = _OF_TIME if problem in _TIME_PROBLEMS else _COORDINATES.get(problem, ())
    return known if len(known) == count else tuple(f"x{place + 1}" for place in range(count))


def time_of(run: Run) -> int | None:
    """Returns which coordinate of a run's grid is time, None where that is not known."""
    said = run.metadata.get("coordinates")
    known: Sequence[Any] = said if isinstance(said, list) else ()
    if not known and str(run.metadata.get("problem")) in _TIME_PROBLEMS:
        known = _OF_TIME
    return known.index("t") if "t" in known else None


def _points(grid: Values) -> Values:
    found = np.asarray(grid, dtype=np.float64)
    return found[:, None] if found.ndim == 1 else found.reshape(len(found), -1)


def _with_solution(surfaces: Sequence[Surface]) -> tuple[Surface, ...]:
    """Returns solution, prediction and |error|, where prediction and error are known."""
    by_name = {each.name: each for each in surfaces}
    if not {PREDICTION, ERROR} <= set(by_name):
        return tuple(surfaces)
    prediction, error = by_name[PREDICTION], by_name[ERROR]
    return (
        Surface("solution", prediction.points, prediction.values - error.values),
        prediction,
        Surface("|error|", error.points, np.abs(error.values)),
    )


def _titled(name: str) -> str:
    return plain(name, 40)


def _maps(found: Measured, surfaces: Sequence[Surface]) -> Plate:
    plate = Plate("", (PAGE_WIDTH, 2.5 if len(surfaces) > 1 else 3.6))
    grid = plate.subplots(1, len(surfaces), sharex=True, sharey=True, squeeze=False)
    # Solution and prediction are compared by their colours.
    alike = [each for each in surfaces if each.name in ("solution", PREDICTION)]
    common = np.concatenate([each.finite for each in alike]) if len(alike) > 1 else None
    for axes, surface in zip(grid.flat, surfaces, strict=True):
        shared = common if common is not None and surface in alike else None
        _draw_map(plate, axes, surface, shared)
        axes.set_title(shown(surface.name))
        axes.set_xlabel(shown(found.coordinates[0]))
    grid[0, 0].set_ylabel(shown(found.coordinates[1]))
    return plate


def _draw_map(plate: Plate, axes: Axes, surface: Surface, common: Values | None) -> None:
    values = surface.finite if common is None else common
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    style: dict[str, Any] = {"norm": Normalize(low, high if high > low else low + 1)}
    if low < 0 < high:
        most = max(-low, high)
        style = {"norm": Normalize(-most, most), "cmap": diverging_map()}
    on_grid = surface.on_grid()
    if on_grid is not None:
        x, y, table = on_grid
        # Thousands of cells are one image in a page.
        drawn: ScalarMappable = axes.pcolormesh(
            x, y, table.T, shading="nearest", rasterized=True, **style
        )
    else:
        kept = np.isfinite(surface.values)
        points, numbers = surface.points[kept], surface.values[kept]
        drawn = axes.scatter(
            points[:, 0], points[:, 1], c=numbers, s=_dot(len(points)), linewidths=0,
            rasterized=True, **style,
        )  # fmt: skip
    axes.grid(False)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    bar = plate.colorbar(drawn, ax=axes, location="bottom", shrink=0.9, aspect=28, pad=0.02)
    bar.locator = MaxNLocator(4)
    bar.formatter = FuncFormatter(tick)
    bar.outline.set_visible(False)
    bar.update_ticks()


def _dot(count: int) -> float:
    return float(np.clip(9000 / max(count, 1), 1.5, 30))


def _lines(found: Measured, surfaces: Sequence[Surface]) -> Plate:
    compared = [each for each in surfaces if each.name != "|error|"]
    errors = [each for each in surfaces if each.name == "|error|"]
    plate = Plate("", (PAGE_WIDTH, 2.6))
    grid = plate.subplots(1, 1 + bool(errors), squeeze=False)
    for surface, dashes in zip(compared, ("-", (0, (4, 1.5)), (0, (1, 1))), strict=False):
        draw_profile(grid[0, 0], surface.points[:, 0], surface.values, shown(surface.name), dashes)
    grid[0, 0].legend(loc="best")
    grid[0, 0].set_ylabel("value")
    for surface in errors:
        draw_profile(grid[0, 1], surface.points[:, 0], surface.values, "", "-")
        grid[0, 1].set_ylabel("|error|")
    for axes in grid.flat:
        axes.set_xlabel(shown(found.coordinates[0]))
        axes.yaxis.set_major_formatter(FuncFormatter(tick))
    return plate


def draw_profile(axes: Axes, x: Values, values: Values, label: str, dashes: object) -> None:
    """Draws values along one coordinate, in its order."""
    order = np.argsort(x)
    few = len(x) <= 30
    axes.plot(
        x[order], np.where(np.isfinite(values), values, np.nan)[order], label=label or None,
        linestyle=dashes, marker="o" if few else "", markersize=2.5,
    )  # fmt: skip


def _reading(run: Run, surfaces: Sequence[Surface], found: Measured) -> str:
    by_name = {each.name: each for each in surfaces}
    sentences = []
    solution, error = by_name.get("solution"), by_name.get("|error|")
    if solution is not None and error is not None and error.finite.size:
        norm = float(np.sqrt(np.nansum(solution.values**2)))
        relative = float(np.sqrt(np.nansum(error.values**2))) / norm if norm else math.nan
        worst = int(np.nanargmax(error.values))
        place = ", ".join(
            f"{name} = {number(float(at))}"
            for name, at in zip(found.coordinates, error.points[worst], strict=True)
        )
        sentences.append(
            f"The relative L2 error is {number(relative)}, the largest error "
            f"{number(float(error.values[worst]))} at {place}; the solution lies between "
            f"{number(float(np.nanmin(solution.values)))} and "
            f"{number(float(np.nanmax(solution.values)))}."
        )
    else:
        sentences += [
            f"{_titled(each.name)} lies between {number(float(each.finite.min()))} and "
            f"{number(float(each.finite.max()))}."
            for each in surfaces
            if each.finite.size
        ]
    bad = [each for each in surfaces if each.finite.size < each.values.size]
    sentences += [
        f"Not finite, and left out: {each.values.size - each.finite.size:,} of "
        f"{each.values.size:,} values of {_titled(each.name)}."
        for each in bad
    ]
    return " ".join(sentences)
