"""Gradient histograms over time: steps to the right, magnitudes upwards, shares as colour."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ...diagnostics.errors import ArgumentError
from ...diagnostics.histograms import GradientHistogram
from ...probes.store import Run
from ..tables import number
from ..theme import PAGE_WIDTH, is_dark, plain, shown, theme
from .drawing import step_axis, tick
from .gradients import NO_HISTOGRAMS
from .measured import Series, Values, chosen, origin
from .plate import Plate

MOST_COLUMNS = 120
"""Snapshots that can be told apart on a page."""

_MOST_READ = 6_000  # histograms, which take about a second
_PER_DECADE = 8
_MOST_DECADES = 10
_MOST_TERMS = 4
_QUANTILES = {0.05: ":", 0.5: "-", 0.95: ":"}


def histograms_over_time(
    run: Run,
    *,
    term: str | None = None,
    layer: str | None = None,
    part: str | None = None,
    dark: bool = False,
) -> Plate:
    """Returns how the magnitudes of a gradient are spread, at every step that has a histogram.

    The colour is the share of entries per decade; lines are the median and the 5 % and 95 %
    quantiles. Of a run with many snapshots, those shown are spread evenly.

    Args:
        run: that has histograms.
        term: of the loss; None: each in a panel of its own, up to four.
        layer: which; None: all layers together.
        part: of several models; None: the first.
        dark: for a dark page.

    Raises:
        NotMeasuredError: the run has no histograms.
        ArgumentError: it has none of this term, layer or part.
    """
    recorded = chosen(run.histogram_steps(), run, part, NO_HISTOGRAMS)
    steps = _spread(recorded, of_one_layer=layer is not None)
    rows = _read(run, recorded, steps, term, layer)
    if rows.empty:
        raise ArgumentError(
            f"The run has no histograms of the gradient of term {term!r} in layer {layer!r}; its "
            f"terms are {[*map(plain, run.terms)]}, its layers {[*map(plain, run.layers[:24])]}."
        )
    rows = chosen(rows, run, part, NO_HISTOGRAMS)
    terms = list(dict.fromkeys(rows["term"].astype(str)))
    drawn = {name: _History.of(rows[rows["term"] == name]) for name in terms[:_MOST_TERMS]}
    where = "all layers" if layer is None else plain(layer, 40)
    with theme(dark):
        plate = Plate(f"Magnitudes of the gradient over time, {where}", (PAGE_WIDTH, 2.7))
        panels = plate.subplots(1, len(drawn), sharex=True, sharey=True, squeeze=False)[0]
        first, last = _decades(drawn.values())
        edges = np.linspace(first, last, (last - first) * _PER_DECADE + 1)
        shares = {name: one.shares(edges) * _PER_DECADE for name, one in drawn.items()}
        highest = max(float(np.nanmax(each, initial=0.0)) for each in shares.values()) or 1.0
        for axes, (name, history) in zip(panels, drawn.items(), strict=True):
            image = axes.pcolormesh(
                history.column_edges,
                edges,
                np.where(shares[name] > 0, shares[name], np.nan),
                vmin=0,
                vmax=highest,
                rasterized=True,
            )
            _draw_quantiles(axes, history)
            axes.set_title(shown(name, 60 // len(drawn)))
            if not (shares[name] > 0).any():
                axes.text(
                    0.5, 0.5, "all entries are zero" if history.is_zero else "out of these limits",
                    transform=axes.transAxes, fontsize=7, ha="center", va="center",
                )  # fmt: skip
            axes.grid(False)
            step_axis(axes)
            axes.set_xlim(history.column_edges[0], history.column_edges[-1])
        panels[0].set_ylim(first, last)
        panels[0].yaxis.set_major_locator(MaxNLocator(7, integer=True))
        panels[0].yaxis.set_major_formatter(FuncFormatter(lambda power, _: tick(10.0**power)))
        panels[0].set_ylabel("magnitude of a gradient entry")
        bar = plate.colorbar(image, ax=list(panels), pad=0.01, aspect=25)
        bar.set_label("share of entries per decade")
        bar.outline.set_visible(False)
    left_out = recorded["step"].nunique() - len(steps)
    reading = " ".join(_reading(name, history) for name, history in drawn.items())
    caption = (
        f"The unweighted gradient in {where}, weights and biases together, at {_steps(len(steps))}"
        f"{f' of {left_out + len(steps):,}' if left_out else ''}. Lines: median, 5 % and 95 % "
        f"quantiles. {reading}{origin(rows, run)}"
    )
    if len(terms) > _MOST_TERMS:
        caption += f" The first {_MOST_TERMS} of {len(terms)} terms are shown."
    return plate.describe(
        caption,
        f"Heat map of the share of gradient entries over steps and magnitudes. {reading}",
    )


def _steps(number: int) -> str:
    return "one step" if number == 1 else f"{number} steps"


def _spread(recorded: pd.DataFrame, of_one_layer: bool) -> list[int]:
    """Returns as many steps as a page can show and a reader wants to wait for."""
    steps = np.unique(recorded["step"].to_numpy())
    each = 1 if of_one_layer else max(int(recorded["count"].max()), 1)
    most = int(np.clip(_MOST_READ // each, 2, MOST_COLUMNS))
    if len(steps) <= most:
        return [int(step) for step in steps]
    # Even in steps: snapshots are often dense at the start, where a page has no room for them.
    wanted = np.linspace(steps[0], steps[-1], most)
    nearest = np.abs(steps[:, None] - wanted).argmin(axis=0)
    return [int(step) for step in steps[np.unique(nearest)]]


def _read(
    run: Run, recorded: pd.DataFrame, steps: list[int], term: str | None, layer: str | None
) -> pd.DataFrame:
    if recorded["count"].sum() > 3 * _MOST_READ:
        return pd.concat([run.histograms(step, term, layer) for step in steps], ignore_index=True)
    rows = run.histograms(None, term, layer)
    return rows[rows["step"].isin(steps)]


class _History:
    """The histograms of one term over the steps."""

    def __init__(self, steps: Values, histograms: list[GradientHistogram]) -> None:
        self.steps = steps
        self.histograms = histograms
        quantiles = np.array([each.magnitude_quantile([*_QUANTILES]) for each in histograms])
        self.quantiles = {
            q: Series(steps, quantiles[:, column]) for column, q in enumerate(_QUANTILES)
        }

    @classmethod
    def of(cls, rows: pd.DataFrame) -> _History:
        """Returns the history of rows that are added up over layers."""
        groups = [list(group) for _, group in rows.groupby("step", sort=True)["histogram"]]
        steps = sorted(set(rows["step"]))
        return cls(np.array(steps, dtype=float), [sum(group[1:], group[0]) for group in groups])

    def shares(self, edges: Values) -> Values:
        """Returns the share of entries between powers of ten, (bins, steps)."""
        below = np.stack([each.fraction_below(10.0**edges) for each in self.histograms], axis=1)
        return np.asarray(np.diff(below, axis=0))

    @property
    def is_zero(self) -> bool:
        """Whether all entries are exactly zero, at all steps."""
        return all(each.zeros == each.count for each in self.histograms)

    @property
    def column_edges(self) -> Values:
        """Where the column of each step ends and the next begins."""
        if len(self.steps) == 1:
            return np.array([self.steps[0] - 0.5, self.steps[0] + 0.5])
        middles = (self.steps[1:] + self.steps[:-1]) / 2
        outer = [2 * self.steps[0] - middles[0], 2 * self.steps[-1] - middles[-1]]
        return np.concatenate([outer[:1], middles, outer[1:]])


def _decades(histories: Iterable[_History]) -> tuple[int, int]:
    """Returns the powers of ten between which almost all magnitudes are."""
    found = [one.quantiles[q].values for one in histories for q in _QUANTILES]
    known = np.concatenate(found)
    known = known[np.isfinite(known) & (known > 0)]
    if not len(known):
        return -1, 0
    last = math.ceil(math.log10(known.max())) + 1
    return max(math.floor(math.log10(known.min())) - 1, last - _MOST_DECADES), last


def _draw_quantiles(axes: Axes, history: _History) -> None:
    colour = "#ffffff" if is_dark() else "#d7263d"  # no term's, and apart from the map's
    for q, dashes in _QUANTILES.items():
        one = history.quantiles[q]
        with np.errstate(divide="ignore", invalid="ignore"):
            powers = np.log10(np.where(one.values > 0, one.values, np.nan))
        marker = "o" if len(one.steps) == 1 else None
        axes.plot(
            one.steps, powers, color=colour, linestyle=dashes, linewidth=1.0, marker=marker,
            markersize=3,
        )  # fmt: skip


def _reading(term: str, history: _History) -> str:
    medians = history.quantiles[0.5]
    first, last = float(medians.values[0]), float(medians.values[-1])
    start, end = int(medians.steps[0]), int(medians.steps[-1])
    zeros = history.histograms[-1].zeros / max(history.histograms[-1].count, 1)
    also = f", {100 * zeros:.3g} % of the entries being exactly zero" if zeros > 0.005 else ""
    if start == end:
        return f"The median magnitude of {plain(term, 40)} is {number(first)} at step {start:,}."
    return (
        f"The median magnitude of {plain(term, 40)} goes from {number(first)} at step {start:,} "
        f"to {number(last)} at step {end:,}{also}."
    )
