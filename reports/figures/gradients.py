"""Gradient histograms: every layer a panel, every loss term a curve.

What Wang, Teng and Perdikaris show (SISC 43(5), 2021, figures 2 and 6): a term whose gradients
crowd at zero beside another's is not trained. On their linear axis a difference of a few powers of
ten is a spike; on a signed logarithmic axis it is a distance that can be read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from ...diagnostics.errors import ArgumentError
from ...probes.store import Run
from ..tables import listed, number
from ..theme import PAGE_WIDTH, TOTAL, plain, shown, term_lines, theme
from .density_curves import PER_DECADE, SignedDecades, WeightedHistogram
from .drawing import (
    MOST_TERMS,
    layer_in_words,
    layer_labels,
    legend,
    signed_log_axis,
    tick,
)
from .measured import chosen, earlier, origin, step_in_words
from .plate import NotMeasuredError, Plate

MOST_PANELS = 12
NO_HISTOGRAMS = (
    "The run has no histograms of gradients: the instrument GradientHistograms, one of the "
    "standard set, records them."
)

# x and y limits of the paper's figures by problem, from the scripts that the authors published.
_PAPER_LIMITS = {
    "helmholtz": (3.0, 100.0),
    "klein_gordon": (1.0, 500.0),
    "cavity": (1.0, 100.0),
    "cavity_streamfunction": (1.0, 100.0),
}


def gradient_histograms(
    run: Run,
    step: int | None = None,
    *,
    layers: Sequence[str] | None = None,
    weighted: bool = False,
    axis: Literal["signed log", "linear"] = "signed log",
    style: Literal["paper"] | None = None,
    part: str | None = None,
    dark: bool = False,
) -> Plate:
    """Returns the histograms of all terms' gradients at one step, a panel a layer.

    Of a network with many layers, those shown are spread evenly from the first to the last.

    Args:
        run: that has histograms.
        step: the last with histograms at or before it is shown; None: the last of all.
        layers: which; None: as many as a page can hold.
        weighted: whether gradients are multiplied by the weights that the terms have in the loss.
        axis: of the gradient's entries. On "signed log", curves show the share of entries per
            decade, so that areas are shares; on "linear", a Gaussian kernel density over a symlog
            axis, as in the paper.
        style: "paper" for the figures of Wang, Teng and Perdikaris: their linear axis, for their
            problems with their limits, weighted gradients, and no encoders. The biases of a layer,
            which they leave out, belong to its histogram.
        part: of several models; None: the first.
        dark: for a dark page.

    Raises:
        NotMeasuredError: the run has no histograms, or no weights where they are asked for.
        ArgumentError: there is no such layer, part, axis or style.
    """
    if axis not in ("signed log", "linear") or style not in (None, "paper"):
        raise ArgumentError(
            f"axis={axis!r} or style={style!r} is unknown: the axis is 'signed log' or 'linear', "
            "the style 'paper' or None."
        )
    is_paper = style == "paper"
    is_linear, is_weighted = is_paper or axis == "linear", is_paper or weighted
    recorded = chosen(run.histogram_steps(), run, part, NO_HISTOGRAMS)
    at = earlier(recorded["step"].to_list(), step)
    rows = chosen(run.histograms(at), run, part, NO_HISTOGRAMS)
    cells = _cells(rows, _weights(run, rows, at) if is_weighted else None)
    names, left_out = _layers(rows, layers, is_paper)
    terms = list(dict.fromkeys(term for term, _ in cells))
    if len(terms) > MOST_TERMS:
        left_out += f" The first {MOST_TERMS} of {len(terms)} terms are shown."
        terms = terms[:MOST_TERMS]
    with theme(dark):
        columns = _columns(len(names))
        lines = math.ceil(len(names) / columns)
        plate = Plate(
            f"Gradients of the loss terms by layer, step {at:,}",
            (PAGE_WIDTH, 0.9 + lines * (1.6 if lines <= 2 else 1.1)),
        )
        grid = plate.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        panels = [
            _Panel(axes, layer, {t: cells[t, layer] for t in terms if (t, layer) in cells})
            for axes, layer in zip(grid.flat, names, strict=False)
        ]
        styles = term_lines([*run.terms, *terms])
        if is_linear:
            limits = _PAPER_LIMITS.get(str(run.metadata.get("problem"))) if is_paper else None
            _draw_linear(panels, styles, limits)
            entries = "gradient entry"
        else:
            below = _draw_signed_log(panels, styles)
            entries = f"gradient entry (a tick a decade, linear below {tick(below)})"
        _finish(panels, grid, styles)
        _add_legend(plate, cells, terms, styles, is_weighted)
        plate.supxlabel(entries, fontsize=8)
        unit = "density" if is_linear else "share per decade"
        if lines == 1:
            grid[0, 0].set_ylabel(unit)
        else:
            plate.supylabel(unit, fontsize=8)
    kind = "weighted" if is_weighted else "unweighted"
    if is_paper:
        left_out += (
            " In the paper's own figure there are no biases; here those of a layer are among its "
            "entries."
        )
    reading = _reading(panels)
    caption = (
        f"Histograms of the {kind} gradient of each loss term at {step_in_words(at, step)}, one "
        f"panel a layer, weights and biases together. {reading}{left_out}{origin(rows, run)}"
    )
    return plate.describe(
        caption,
        f"{len(names)} panels with density curves over the entries of the gradient, one curve for "
        f"each of {listed([plain(term, 40) for term in terms])}. {reading}",
    )


@dataclass(frozen=True, eq=False)
class _Panel:
    axes: Axes
    layer: str
    cells: Mapping[str, WeightedHistogram]


def _cells(
    rows: pd.DataFrame, weights: Mapping[str, float] | None
) -> dict[tuple[str, str], WeightedHistogram]:
    """Returns what is drawn by term and layer; terms of unknown weight are left out."""
    found = {}
    for term, layer, histogram in zip(rows["term"], rows["layer"], rows["histogram"], strict=True):
        weight = 1.0 if weights is None or term == TOTAL else weights.get(term, math.nan)
        if math.isfinite(weight):
            found[str(term), str(layer)] = WeightedHistogram(histogram, weight)
    return found


def _weights(run: Run, rows: pd.DataFrame, at: int) -> dict[str, float]:
    """Returns the weights that the terms had at a step, or at the last one before it."""
    missing = (
        "The weights of the loss terms were not recorded: the instrument Losses records them; "
        "without them, only unweighted gradients can be shown."
    )
    part = str(rows["part"].iloc[0]) if "part" in rows else None
    found = chosen(run.scalars("weight"), run, part, missing)
    found = found[found["step"] == earlier(found["step"].to_list(), at)]
    weights = dict(zip(found["term"].astype(str), found["value"].astype(float), strict=True))
    if not any(t == TOTAL or math.isfinite(weights.get(t, math.nan)) for t in rows["term"]):
        raise NotMeasuredError(missing)
    return weights


def _layers(
    rows: pd.DataFrame, wanted: Sequence[str] | None, is_paper: bool
) -> tuple[list[str], str]:
    """Returns which layers to show, and a sentence on those that are left out."""
    known = list(dict.fromkeys(rows["layer"].astype(str)))
    if wanted is not None:
        unknown = [layer for layer in wanted if layer not in known]
        if unknown or not wanted:
            raise ArgumentError(
                f"There are no histograms of {listed([*map(plain, unknown)]) or 'no layer'}: "
                f"choose among {listed([*map(plain, known[:MOST_PANELS])])}."
            )
        known = list(wanted)
    elif is_paper:
        known = [layer for layer in known if not layer.startswith("encoders.")] or known
    if len(known) <= MOST_PANELS:
        return known, ""
    spread = np.linspace(0, len(known) - 1, MOST_PANELS).round().astype(int)
    note = (
        f" {MOST_PANELS} of {len(known)} layers are shown, spread evenly from the first to the "
        "last; `layers=` shows others."
    )
    return [known[index] for index in spread], note


def _columns(panels: int) -> int:
    """Returns how many panels stand side by side, so that the last row is as full as can be."""
    if panels <= 4:
        return panels
    return 3 if panels in (5, 6, 9) else 4


def _draw_signed_log(panels: Sequence[_Panel], styles: Mapping[str, dict[str, Any]]) -> float:
    """Draws shares per decade, and returns the magnitude below which the axis is linear."""
    decades = SignedDecades.of(cell for panel in panels for cell in panel.cells.values())
    edges, centres = decades.edges, decades.centres
    for panel in panels:
        for term, cell in panel.cells.items():
            if not cell.is_empty:
                panel.axes.plot(centres, cell.shares(edges) * PER_DECADE, **styles[term])
    axes = panels[0].axes
    end = 10.0**decades.last
    signed_log_axis(axes, "x", 10.0**decades.first, -end, end, most=5 if len(panels) < 4 else 4)
    has_notes = any(_note(cell) for panel in panels for cell in panel.cells.values())
    axes.set_ylim(0, axes.get_ylim()[1] * (1.3 if has_notes else 1.0))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    return 10.0**decades.first


def _draw_linear(
    panels: Sequence[_Panel],
    styles: Mapping[str, dict[str, Any]],
    limits: tuple[float, float] | None,
) -> None:
    """Draws kernel densities; like the paper's, the y-axis is logarithmic above a density of 2."""
    limit = limits[0] if limits else _linear_limit(panels)
    highest = 0.0
    for panel in panels:
        for term, cell in panel.cells.items():
            if not cell.is_empty:
                at, density = cell.kernel_density(limit)
                highest = max(highest, float(density.max()))
                panel.axes.plot(at, density, **styles[term])
    axes = panels[0].axes
    axes.set_xlim(-limit, limit)
    axes.xaxis.set_major_locator(MaxNLocator(4, symmetric=True))
    axes.xaxis.set_major_formatter(FuncFormatter(tick))
    top = limits[1] if limits else max(1.2 * highest, 1e-300)
    if top > 10:
        axes.set_yscale("symlog", linthresh=2)
        powers = range(math.floor(math.log10(top)) + 1)
        every = math.ceil(len(powers) / 5)
        axes.yaxis.set_major_locator(FixedLocator([0, *(10.0**p for p in powers[::every])]))
        axes.yaxis.set_minor_locator(FixedLocator([]))
    axes.yaxis.set_major_formatter(FuncFormatter(tick))
    axes.set_ylim(0, top)


def _linear_limit(panels: Sequence[_Panel]) -> float:
    """Returns three standard deviations of the widest term in the median layer."""
    spreads = [[c.spread for c in panel.cells.values() if not c.is_empty] for panel in panels]
    widest = float(np.median([max(each) for each in spreads if each] or [1.0]))
    return 3 * widest or 1.0


def _finish(panels: Sequence[_Panel], grid: Any, styles: Mapping[str, dict[str, Any]]) -> None:
    """Names the panels, notes what no curve shows, and takes away those that are not used."""
    used = [panel.axes for panel in panels]
    names = layer_labels([panel.layer for panel in panels], 26 if grid.shape[1] < 4 else 20)
    for panel in panels:
        panel.axes.set_title(names[panel.layer])
        notes = [(t, note) for t, cell in panel.cells.items() if (note := _note(cell))]
        for line, (term, note) in enumerate(notes[:3]):
            panel.axes.text(
                0.98, 0.96 - line * 0.13, note, transform=panel.axes.transAxes, fontsize=6,
                color=styles[term]["color"], ha="right", va="top",
            )  # fmt: skip
    for axes in grid.flat:
        if axes not in used:
            axes.remove()
    for above, below in zip(grid[:-1].flat, grid[1:].flat, strict=True):
        if below not in used:
            above.tick_params(labelbottom=True)


def _note(cell: WeightedHistogram) -> str:
    if cell.histogram.count == 0:
        return "no entries"
    if cell.not_finite:
        return f"{cell.not_finite:,} not finite"
    return f"{100 * cell.zeros:.3g} % zero" if cell.zeros >= 0.005 else ""


def _add_legend(
    plate: Plate,
    cells: Mapping[tuple[str, str], WeightedHistogram],
    terms: Sequence[str],
    styles: Mapping[str, dict[str, Any]],
    is_weighted: bool,
) -> None:
    weights = {term: cell.weight for (term, _), cell in cells.items()}
    times = "\N{MULTIPLICATION SIGN}"
    labels = {
        term: f"{number(weights[term])} {times} {shown(term)}"
        if is_weighted and term != TOTAL
        else shown(term)
        for term in terms
    }
    entries = [(Line2D([], [], **styles[term]), label) for term, label in labels.items()]
    legend(plate, entries, f"gradient {times} weight" if is_weighted else "gradient, unweighted")


def _reading(panels: Sequence[_Panel]) -> str:
    """Returns sentences on what the panels show: the widest gap, zeros, what is not finite."""
    words = []
    gaps = []
    for panel in panels:
        medians = {t: c.median for t, c in panel.cells.items() if c.median > 0}
        known = {t: m for t, m in medians.items() if math.isfinite(m)}
        if len(known) > 1:
            most, least = max(known, key=known.__getitem__), min(known, key=known.__getitem__)
            gaps.append((known[most] / known[least], panel.layer, most, least, known))
    if gaps:
        ratio, layer, most, least, known = max(gaps, key=lambda gap: gap[0])
        words.append(
            f"The terms are furthest apart in {_layer(layer)}: half of the entries of "
            f"{plain(most, 40)} are above {number(known[most])}, half of those of "
            f"{plain(least, 40)} above {number(known[least])}, a factor of {number(ratio)}."
        )
    else:
        found = [
            (cell.median, panel.layer)
            for panel in panels
            for cell in panel.cells.values()
            if math.isfinite(cell.median)
        ]
        if found:
            (low, low_layer), (high, high_layer) = min(found), max(found)
            words.append(
                f"The median magnitude goes from {number(low)} in {_layer(low_layer)} to "
                f"{number(high)} in {_layer(high_layer)}."
            )
    all_zero = [
        f"{plain(t, 40)} in {_layer(p.layer)}"
        for p in panels
        for t, c in p.cells.items()
        if c.zeros == 1
    ]
    if all_zero:
        words.append(f"All entries are zero of {_first(all_zero)}.")
    broken = [
        f"{plain(t, 40)} in {_layer(p.layer)}"
        for p in panels
        for t, c in p.cells.items()
        if c.not_finite
    ]
    if broken:
        words.append(f"Entries that are not finite are left out of {_first(broken)}.")
    return " ".join(words)


def _layer(name: str) -> str:
    return plain(layer_in_words(name), 40)


def _first(names: Sequence[str], most: int = 3) -> str:
    if len(names) <= most:
        return listed(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"
