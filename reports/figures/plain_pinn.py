"""The panel by which the field diagnoses a plain PINN that depends on time.

Wang, Sankaran, Wang and Perdikaris ("An expert's guide to training physics-informed neural
networks", arXiv 2308.08468, figures 3 and 6) look at three things: the gradients of the terms, all
parameters together; the residual over time, which a network that respects causality lowers from the
start on; and the eigenvalues of the tangent kernel's blocks, whose fall says how much slower some
parts of the solution are learned than others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ...diagnostics.errors import ArgumentError
from ...probes.store import Run
from ..tables import listed, number
from ..theme import PAGE_WIDTH, plain, shown, term_lines, theme
from .density_curves import PER_DECADE, SignedDecades, WeightedHistogram
from .drawing import MOST_TERMS, legend, signed_log_axis, tick, value_axis
from .fields import time_of
from .grids import pooled_histograms
from .measured import Series, Values, chosen, earlier, step_in_words
from .plate import NotMeasuredError, Plate

_NO_RESIDUAL = (
    "the residual on a grid (a field `residual`, which our own trainings record and the instrument "
    "Fields can)"
)
_NO_TIME = (
    "No coordinate of the run is called t, so that nothing is known to depend on time; "
    '`probe.describe(coordinates=["t", "x"])` says which one is time, and so does `time=0`.'
)
_NO_KERNEL = "the tangent kernel's eigenvalues (the instrument TangentKernel)"
_NO_HISTOGRAMS = "histograms of gradients (the instrument GradientHistograms)"

_Styles = dict[str, dict[str, Any]]
_Draw = Callable[[Axes, Any, _Styles], str]


def plain_pinn_diagnosis(
    run: Run, step: int | None = None, *, time: int | None = None, dark: bool = False
) -> Plate:
    """Returns gradients of the terms, the residual over time, and the tangent kernel's spectrum.

    What the run lacks of the three is left out and named in the caption.

    Args:
        run: of a problem that depends on time.
        step: the last measurement at or before it is shown; None: the last of each.
        time: which coordinate of the residual's grid is time, from 0; None: the one called "t" in
            the run's metadata `coordinates`.
        dark: for a dark page.

    Raises:
        NotMeasuredError: it is not known what is time, or there is neither a residual on a grid nor
            a tangent kernel.
        ArgumentError: the grid has no such coordinate.
    """
    time = time_of(run) if time is None else time
    if time is None:
        raise NotMeasuredError(_NO_TIME)
    histograms = pooled_histograms(run, step)
    residuals = residual_over_time(run, time, step)
    spectra = _spectra(run, step)
    if residuals is None and spectra is None:
        raise NotMeasuredError(f"The run has neither {_NO_RESIDUAL} nor {_NO_KERNEL}.")
    wanted: tuple[tuple[tuple[int, dict[str, Any]] | None, str, str, _Draw], ...] = (
        (histograms, _NO_HISTOGRAMS, "Gradients of all parameters", _draw_histograms),
        (
            residuals,
            _NO_RESIDUAL,
            "Mean square of the residual over the other coordinates",
            _draw_residuals,
        ),
        (spectra, _NO_KERNEL, "Eigenvalues of the blocks of the tangent kernel", _draw_spectra),
    )
    missing = [lacking for found, lacking, _, _ in wanted if found is None]
    captions: list[str] = []
    entries: dict[str, dict[str, Any]] = {}
    with theme(dark):
        plate = Plate("What a plain PINN suffers from", (PAGE_WIDTH, 2.6))
        panels = iter(plate.subplots(1, 3 - len(missing), squeeze=False)[0])
        styles = term_lines(run.terms)
        for found, _, what, draw in wanted:
            if found is None:
                continue
            at, by_term = found
            reading = draw(next(panels), by_term, styles)
            captions.append(f"{what} at {step_in_words(at, step)}: {reading}.")
            entries |= {term: styles[term] for term in by_term if term in styles}
        lines = [(Line2D([], [], **style), shown(term)) for term, style in entries.items()]
        legend(plate, lines[: MOST_TERMS + 1])
    if missing:
        captions.append(f"Not measured: {listed(missing)}.")
    words = " ".join(captions)
    return plate.describe(words, f"{3 - len(missing)} panels in a row. {words}")


def residual_over_time(
    run: Run, time: int, step: int | None = None
) -> tuple[int, dict[str, Series]] | None:
    """Returns the step and L_r(t) of each term: the mean square of its residual at each time.

    None where the run has no residual on a grid. A series has times for steps.

    Raises:
        ArgumentError: the grid has no such coordinate.
    """
    frame = run.fields("residual")
    kept = [grid is not None for grid in frame["grid"]]
    frame = frame[np.array(kept, dtype=bool)]
    if frame.empty:
        return None
    at = earlier(frame["step"].to_list(), step)
    found = {}
    for _, row in frame[frame["step"] == at].iterrows():
        grid = np.asarray(row["grid"], dtype=np.float64)
        grid = grid[:, None] if grid.ndim == 1 else grid
        if not 0 <= time < grid.shape[1]:
            raise ArgumentError(
                f"time={time}: the grid of the residual has {grid.shape[1]} coordinates; give a "
                "number from 0 on."
            )
        values = np.asarray(row["values"], dtype=np.float64).reshape(len(grid), -1)
        squares = (values**2).sum(axis=1)
        times, place = np.unique(grid[:, time], return_inverse=True)
        means = np.bincount(place, weights=squares) / np.bincount(place)
        found[str(row["term"]) or "residual"] = Series(times, means)
    return at, found


def _spectra(run: Run, step: int | None) -> tuple[int, dict[str, Values]] | None:
    try:
        frame = chosen(run.fields("kernel_eigenvalues"), run, None, "")
    except NotMeasuredError:
        return None
    at = earlier(frame["step"].to_list(), step)
    rows = frame[frame["step"] == at]
    return at, {
        str(row["term"]): np.sort(np.asarray(row["values"], dtype=np.float64))[::-1]
        for _, row in rows.iterrows()
    }


def _draw_histograms(axes: Axes, cells: dict[str, WeightedHistogram], styles: _Styles) -> str:
    decades = SignedDecades.of(cells.values())
    for term, cell in cells.items():
        if not cell.is_empty and term in styles:
            axes.plot(decades.centres, cell.shares(decades.edges) * PER_DECADE, **styles[term])
    end = 10.0**decades.last
    signed_log_axis(axes, "x", 10.0**decades.first, -end, end, most=3)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set(
        xlabel=f"gradient entry, linear below {tick(10.0**decades.first)}",
        ylabel="share of entries per decade",
    )
    axes.set_title("gradients of the terms")
    medians = [f"median magnitude {number(c.median)} for {plain(t, 40)}" for t, c in cells.items()]
    return listed(medians[:MOST_TERMS])


def _draw_residuals(axes: Axes, series: dict[str, Series], styles: _Styles) -> str:
    words = []
    for term, one in series.items():
        style = styles.get(term, {"color": matplotlib.rcParams["text.color"]})
        axes.plot(one.steps, np.where(np.isfinite(one.values), one.values, np.nan), **style)
        known = one.finite
        if len(known.values):
            first, last = (float(known.values[k]) for k in (0, -1))
            peak = int(known.values.argmax())
            words.append(
                f"{plain(term, 40)} {number(first)} at the first and {number(last)} at the last "
                f"time, largest at t = {number(float(known.steps[peak]))}"
            )
    value_axis(axes, [one.finite.values for one in series.values()])
    axes.set(xlabel="t", ylabel="mean squared residual")
    axes.set_title("residual over time")
    return "; ".join(words) or "nowhere finite"


def _draw_spectra(axes: Axes, spectra: dict[str, Values], styles: _Styles) -> str:
    words, positive = [], []
    for term, values in spectra.items():
        # The kernel has none below zero; what is there is rounding.
        kept = values[np.isfinite(values) & (values > 0)]
        if not kept.size:
            continue
        positive.append(kept)
        style = styles.get(term, {"color": matplotlib.rcParams["text.color"]})
        axes.plot(np.arange(1, kept.size + 1), kept, **style)
        words.append(
            f"{plain(term, 40)} from {number(float(kept[0]))} to {number(float(kept[-1]))}"
        )
    value_axis(axes, positive)
    axes.set(xlabel="index", ylabel="eigenvalue")
    axes.set_title("tangent kernel")
    return "; ".join(words) or "none is positive"
