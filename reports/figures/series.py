"""Numbers over the steps: losses, weights, imbalance of gradients, sizes of updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ...probes.store import Run
from ..tables import listed, number
from ..theme import HALF_PAGE, PAGE, PAGE_WIDTH, TOTAL, plain, shown, term_lines, theme
from .drawing import (
    MOST_TERMS,
    STRETCHES,
    draw_line,
    legend,
    mark_not_finite,
    step_axis,
    stretches,
    value_axis,
)
from .measured import Series, by_name, chosen, from_to, not_finite, origin
from .plate import Plate

_NO_RATIOS = (
    "The run has no ratios between the gradients of terms: the instrument Imbalance, one of the "
    "light set, records them for a loss of several terms."
)


def losses(run: Run, *, part: str | None = None, dark: bool = False) -> Plate:
    """Returns the loss of every term, unweighted, and the weighted total over the steps.

    Args:
        run: that has losses.
        part: of several models; None: the first.
        dark: for a dark page.

    Raises:
        NotMeasuredError: the run has no losses.
        ArgumentError: it has no such part.
    """
    missing = "The run has no losses: the instrument Losses, one of every set, records them."
    rows = chosen(run.scalars("loss"), run, part, missing)
    found, left_out = _of_terms(rows, run)
    with theme(dark):
        plate = Plate("Losses", PAGE)
        axes = plate.subplots()
        how = _draw_scattered(axes, found, run)
        axes.set_ylabel("loss (unit of the loss)")
        legend(plate, _entries(found, run, "{} (unweighted)", "{} (weighted)"))
    reading = " ".join(_sentence(name, one) for name, one in found.items())
    return plate.describe(
        f"The loss of each term, unweighted, and their weighted sum.{how} {reading}"
        f"{not_finite(found)}{left_out}{origin(rows, run)}",
        f"Line plot of the losses over the steps. {reading}",
    )


def weights(run: Run, *, part: str | None = None, dark: bool = False) -> Plate:
    """Returns the weight of every term in the loss over the steps.

    Args:
        run: that has weights.
        part: of several models; None: the first.
        dark: for a dark page.

    Raises:
        NotMeasuredError: the run has no weights.
        ArgumentError: it has no such part.
    """
    missing = (
        "The run has no weights of loss terms: the instrument Losses, one of every set, records "
        "them."
    )
    rows = chosen(run.scalars("weight"), run, part, missing)
    found, left_out = _of_terms(rows, run)
    with theme(dark):
        plate = Plate("Weights of the loss terms", (PAGE_WIDTH, HALF_PAGE[1]))
        axes = plate.subplots()
        how = _draw_scattered(axes, found, run)
        axes.set_ylabel("weight in the loss")
        legend(plate, _entries(found, run))
    constant = [
        name for name, one in found.items()
        if len(one.finite.values) and np.ptp(one.finite.values) == 0
    ]  # fmt: skip
    words = []
    if constant:
        values = {number(float(found[name].finite.values[0])) for name in constant}
        names = listed([plain(name, 40) for name in constant])
        words.append(
            f"{names}: {listed(sorted(values))} all the time."
            if len(values) == 1
            else f"{names}: the same all the time."
        )
    words += [_sentence(name, one) for name, one in found.items() if name not in constant]
    reading = " ".join(words)
    return plate.describe(
        f"What each term is multiplied by in the loss.{how} {reading}{not_finite(found)}{left_out}"
        f"{origin(rows, run)}",
        f"Line plot of the weights over the steps. {reading}",
    )


def imbalance(run: Run, *, part: str | None = None, dark: bool = False) -> Plate:
    """Returns how much harder one term pulls than the others, over the steps.

    Left the ratio that Wang, Teng and Perdikaris balance by, max|g_ref| / mean|g_i|, right that of
    the norms; both of unweighted gradients over all parameters. Bands reach from the least to the
    largest ratio of a layer.

    Args:
        run: that has ratios.
        part: of several models; None: the first.
        dark: for a dark page.

    Raises:
        NotMeasuredError: the run has no ratios, as with a single term.
        ArgumentError: it has no such part.
    """
    panels = {"max_to_mean": "largest over mean entry", "norm_ratio": "norm over norm"}
    rows = {name: chosen(run.scalars(name), run, part, _NO_RATIOS) for name in panels}
    reference = _reference(run, rows["max_to_mean"])
    with theme(dark):
        plate = Plate(f"How much harder {plain(reference, 40)} pulls than the other terms", PAGE)
        grid = plate.subplots(1, len(panels), sharex=True)
        everything: dict[str, Series] = {}
        for axes, (name, title) in zip(grid, panels.items(), strict=True):
            found, left_out = _of_terms(_in_layer(rows[name], "all"), run)
            bands = {term: _band(rows[name], term) for term in found}
            # One is where both pull alike: a reader wants to see how far off it is.
            _draw_terms(axes, found, run, bands, balanced=(1.0,))
            axes.axhline(1, color=matplotlib.rcParams["text.color"], linewidth=0.7)
            axes.set_title(title)
            everything |= {f"{term} ({title})": one for term, one in found.items()}
        grid[0].set_ylabel(f"{shown(reference, 14)} / other")
        ratios, _ = _of_terms(_in_layer(rows["max_to_mean"], "all"), run)
        legend(plate, _entries(ratios, run, shown(reference, 24) + " / {}"))
    words = []
    for term, one in ratios.items():
        known = one.finite
        if len(known.values):
            top = int(known.values.argmax())
            words.append(
                f"The largest entry of {plain(reference, 40)} is "
                f"{number(float(np.median(known.values)))} times the mean entry of "
                f"{plain(term, 40)} at the median step, at most "
                f"{number(float(known.values[top]))} times (step {int(known.steps[top]):,})."
            )
    reading = " ".join(words) or "None of the ratios is finite."
    return plate.describe(
        f"Unweighted gradient of {plain(reference, 40)} over that of each other term: the largest "
        "magnitude over the mean one, which is the paper's ratio, and norm over norm. Lines are "
        f"of all parameters, bands reach over the layers. {reading}{not_finite(everything)}"
        f"{left_out}{origin(rows['max_to_mean'], run)}",
        f"Two line plots of ratios over the steps, each with a line at one. {reading}",
    )


def update_sizes(run: Run, *, part: str | None = None, dark: bool = False) -> Plate:
    """Returns how far the parameters move at a step, and how far they have come.

    Args:
        run: that has norms of updates.
        part: of several models; None: the first.
        dark: for a dark page.

    Raises:
        NotMeasuredError: the run has none.
        ArgumentError: it has no such part.
    """
    missing = (
        "The run has no sizes of updates: the instrument Updates, one of the standard set, records "
        "them."
    )
    sizes = chosen(run.scalars("parameter_norm"), run, part, missing)
    panels = {
        "update_norm": ("length of one step", "over the parameters' norm"),
        "distance_from_start": ("distance from the start", "over the parameters' norm"),
    }
    found = {}
    for name in panels:
        rows = run.scalars(name)
        if not rows.empty:
            found[name] = _relative(chosen(rows, run, part, missing), sizes)
    with theme(dark):
        plate = Plate("How far the parameters move", (PAGE_WIDTH, HALF_PAGE[1]))
        grid = plate.subplots(1, len(found), sharex=True, squeeze=False)[0]
        ink = matplotlib.rcParams["text.color"]
        lines = {name: by_name(_in_layer(rows, "all"), "layer") for name, rows in found.items()}
        for axes, (name, rows) in zip(grid, found.items(), strict=True):
            low, high = _band(rows, None)
            drawn = [*lines[name].values()]
            if name == "update_norm":
                value_axis(axes, [one.values for one in (*drawn, low, high)])
            axes.fill_between(low.steps, low.values, high.values, color=ink, alpha=0.14, lw=0)
            for one in drawn:
                draw_line(axes, one, color=ink)
            step_axis(axes, drawn or [low])
            if name == "distance_from_start":
                axes.set_ylim(bottom=0)
            axes.set_title(panels[name][0])
            axes.set_ylabel(panels[name][1])
        entries: list[tuple[Artist, str]] = [
            (Line2D([], [], color=ink), "all parameters"),
            (Line2D([], [], color=ink, alpha=0.14, linewidth=6), "from layer to layer"),
        ]
        legend(plate, entries)
    reading = " ".join(
        f"{title.capitalize()}, over the norm of the parameters: {from_to(one)}."
        for name, (title, _) in panels.items()
        for one in lines.get(name, {}).values()
    )
    return plate.describe(
        "Norms of the update and of the way from the first measured parameters, relative to the "
        f"norm of the parameters; the line is of all parameters, the band reaches over the layers. "
        f"{reading}{origin(sizes, run)}",
        f"Line plots over the steps. {reading}",
    )


def _of_terms(rows: pd.DataFrame, run: Run) -> tuple[dict[str, Series], str]:
    """Returns the series of as many terms as can be told apart, and a sentence on the others."""
    found = by_name(rows, "term", [*run.terms, TOTAL])
    if len(found) <= MOST_TERMS:
        return found, ""
    terms = [name for name in found if name != TOTAL][: MOST_TERMS - (TOTAL in found)]
    kept = {name: found[name] for name in [*terms, *([TOTAL] if TOTAL in found else [])]}
    return kept, f" The first {len(terms)} of {len(found) - (TOTAL in found)} terms are shown."


def _draw_terms(
    axes: Axes,
    found: Mapping[str, Series],
    run: Run,
    bands: Mapping[str, tuple[Series, Series]] | None = None,
    balanced: Sequence[float] = (),
) -> None:
    styles = term_lines([*run.terms, *found])
    ends = [end for pair in (bands or {}).values() for end in pair]
    value_axis(axes, [*(one.values for one in (*found.values(), *ends)), balanced])
    for name, one in found.items():
        style: dict[str, Any] = styles[name]
        for low, high in [(bands or {})[name]] if bands else []:
            axes.fill_between(
                low.steps, low.values, high.values, color=style["color"], alpha=0.14, linewidth=0
            )
        # The total is drawn below: it often lies on its largest term.
        draw_line(axes, one, **style, zorder=1.9 if name == TOTAL else 2)
    step_axis(axes, found.values())
    mark_not_finite(axes, found.values())


def _draw_scattered(axes: Axes, found: Mapping[str, Series], run: Run) -> str:
    """Draws long series by their medians and ranges, and returns a sentence that says so."""
    known = {name: stretches(one) for name, one in found.items()}
    every = [one.values for one in found.values()]
    is_constant = all(np.ptp(values) == 0 for values in every)
    if is_constant or not all(known.values()) or not np.isfinite(np.concatenate(every)).all():
        _draw_terms(axes, found, run)
        return ""
    medians = {name: each[1] for name, each in known.items() if each}
    bands = {name: (each[0], each[2]) for name, each in known.items() if each}
    _draw_terms(axes, medians, run, bands)
    return (
        f" Lines are medians over {STRETCHES} equal stretches of the steps, bands reach from the "
        "least to the largest value in each."
    )


def _entries(
    found: Mapping[str, Series], run: Run, pattern: str = "{}", of_total: str = "{}"
) -> Sequence[tuple[Artist, str]]:
    styles = term_lines([*run.terms, *found])
    return [
        (
            Line2D([], [], **styles[name]),
            (of_total if name == TOTAL else pattern).replace("{}", shown(name)),
        )
        for name in found
    ]


def _sentence(name: str, one: Series) -> str:
    return f"{plain(name, 40).capitalize() if name == TOTAL else plain(name, 40)} {from_to(one)}."


def _in_layer(rows: pd.DataFrame, layer: str) -> pd.DataFrame:
    found = rows[rows["layer"] == layer]
    return found if len(found) else rows.drop_duplicates(["step", "term"])


def _band(rows: pd.DataFrame, term: str | None) -> tuple[Series, Series]:
    """Returns the least and the largest value of a layer at each step, thinned to a page."""
    of_layers = rows[rows["layer"] != "all"] if term is None else rows[rows["term"] == term]
    finite = of_layers[np.isfinite(of_layers["value"])]
    groups = finite.groupby("step")["value"]
    steps = groups.min().index.to_numpy(np.float64)
    every = max(1, len(steps) // 240)
    low, high = groups.min().to_numpy(np.float64), groups.max().to_numpy(np.float64)
    return Series(steps[::every], low[::every]), Series(steps[::every], high[::every])


def _relative(rows: pd.DataFrame, sizes: pd.DataFrame) -> pd.DataFrame:
    """Returns values over the norm of the parameters of the same step and layer."""
    joined = rows.merge(sizes[["step", "layer", "value"]], on=["step", "layer"], suffixes=("", "2"))
    with np.errstate(divide="ignore", invalid="ignore"):
        joined["value"] = joined["value"] / joined["value2"].where(joined["value2"] > 0)
    return joined


def _reference(run: Run, rows: pd.DataFrame) -> str:
    """Returns the term that the others are compared with: the one of the part without ratios."""
    weights = run.scalars("weight")
    if "part" in weights and "part" in rows:
        weights = weights[weights["part"] == rows["part"].iloc[0]]
    known, compared = set(weights["term"]), set(rows["term"])
    others = [term for term in run.terms if term in known and term not in compared]
    return others[0] if others else "reference"
