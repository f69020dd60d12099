"""Whether the gradients of the terms pull the same way, and whether steps do what they should."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ...diagnostics.errors import ArgumentError
from ...probes.store import Run
from ..tables import number
from ..theme import PAGE_WIDTH, diverging_map, plain, shown, term_colours, theme
from .drawing import layer_in_words, layer_labels, legend, step_axis, value_axis
from .measured import Values, by_name, chosen, origin
from .plate import NotMeasuredError, Plate

_MOST_COLUMNS = 160
_MOST_PANELS = 6


def alignment(
    run: Run,
    pair: tuple[str, str] | None = None,
    *,
    part: str | None = None,
    dark: bool = False,
) -> Plate:
    """Returns whether the terms agree on the direction: a row a layer, steps to the right.

    The colour is the alignment score, 1 where all gradients point the same way; of two terms it is
    their cosine, -1 where each undoes what the other does.

    Args:
        run: that has alignment scores.
        pair: two terms, for their cosine; None: the score of all terms.
        part: of several models; None: the first.
        dark: for a dark page.

    Raises:
        NotMeasuredError: the run has no scores, as with a single term, or none is a number.
        ArgumentError: there is no such pair or part.
    """
    missing = (
        "The run has no alignment of the gradients of terms: the instrument Alignment, one of the "
        "light set, records it for a loss of several terms."
    )
    rows = run.scalars("alignment") if pair is None else _cosines(run, *pair)
    rows = chosen(rows, run, part, missing)
    layers = [name for name in dict.fromkeys(rows["layer"].astype(str)) if name != "all"]
    layers = ["all", *layers] if (rows["layer"] == "all").any() else layers
    latest = rows.drop_duplicates(["layer", "step"], keep="last")
    table = latest.pivot(index="layer", columns="step", values="value").reindex(layers)
    steps, values = table.columns.to_numpy(np.float64), table.to_numpy(np.float64)
    if not np.isfinite(values).any():
        raise NotMeasuredError(
            "The run has no alignment of the gradients of terms that is a number: the gradient of "
            "a term is zero, or not finite, wherever they were compared."
        )
    whole = values[0]
    edges, cells = _joined(steps, values)
    with theme(dark):
        what = "alignment score" if pair is None else "cosine of the gradients"
        of = "" if pair is None else f" of {plain(pair[0], 40)} and {plain(pair[1], 40)}"
        plate = Plate(
            f"Alignment of the gradients{of}",
            (PAGE_WIDTH, float(np.clip(1.1 + 0.22 * len(layers), 2.0, 4.4))),
        )  # fmt: skip
        axes = plate.subplots()
        image = axes.pcolormesh(
            edges, np.arange(len(layers) + 1) - 0.5, cells, cmap=diverging_map(), vmin=-1, vmax=1,
            rasterized=True,
        )  # fmt: skip
        axes.axhline(0.5, color=matplotlib.rcParams["axes.facecolor"], linewidth=1.5)
        _layer_axis(axes, layers)
        step_axis(axes)
        axes.set_xlim(edges[0], edges[-1])
        bar = plate.colorbar(image, ax=axes, pad=0.01, aspect=18, ticks=[-1, -0.5, 0, 0.5, 1])
        bar.set_label(what)
        bar.outline.set_visible(False)
    reading = _agreement(layers, values, whole)
    opposed = ", -1 where they are opposed" if pair or len(run.terms) == 2 else ""
    return plate.describe(
        f"{what.capitalize()} of the unweighted gradients in each layer and in all: 1 where they "
        f"point the same way, 0 where they are at right angles{opposed}. "
        f"{reading}{origin(rows, run)}",
        f"Heat map of the {what} over layers and steps. {reading}",
    )  # fmt: skip


def _cosines(run: Run, first: str, second: str) -> pd.DataFrame:
    for one, other in ((first, second), (second, first)):
        rows = run.scalars(f"cosine:{other}")
        rows = rows[rows["term"] == one]
        if not rows.empty:
            return rows
    raise ArgumentError(
        f"The run has no cosine of {plain(first)!r} and {plain(second)!r}: give two of its terms, "
        f"{[*map(plain, run.terms)]}."
    )


def _joined(steps: Values, values: Values) -> tuple[Values, Values]:
    """Returns edges on the axis of steps, and the mean of the values between them."""
    if len(steps) == 1:
        return steps[0] + np.array([-0.5, 0.5]), values
    middles = (steps[1:] + steps[:-1]) / 2
    edges = np.concatenate([[2 * steps[0] - middles[0]], middles, [2 * steps[-1] - middles[-1]]])
    if len(steps) <= _MOST_COLUMNS:
        return edges, values
    even = np.linspace(edges[0], edges[-1], _MOST_COLUMNS + 1)
    column = np.clip(np.searchsorted(even, steps, side="right") - 1, 0, _MOST_COLUMNS - 1)
    used, places = np.unique(column, return_inverse=True)
    sums = np.zeros((len(values), len(used)))
    counts = np.zeros_like(sums)
    known = np.isfinite(values)
    for row in range(len(values)):
        np.add.at(sums[row], places[known[row]], values[row, known[row]])
        np.add.at(counts[row], places[known[row]], 1)
    with np.errstate(invalid="ignore"):
        means = sums / counts
    starts = np.append(even[used], even[-1])
    starts[0] = even[0]
    return starts, means


def _layer_axis(axes: Axes, layers: Sequence[str]) -> None:
    every = -(-len(layers) // 26)
    rows = range(0, len(layers), every)
    names = layer_labels([layer for layer in layers if layer != "all"], 24)
    axes.set_yticks([*rows], [names.get(layers[row], "all layers") for row in rows])
    axes.set_ylim(len(layers) - 0.5, -0.5)
    axes.grid(False)


def _agreement(layers: Sequence[str], values: Values, whole: Values) -> str:
    known = whole[np.isfinite(whole)]
    if not len(known):
        return "None of the values is a finite number."
    medians = [
        (float(np.median(row[np.isfinite(row)])), layer)
        for layer, row in zip(layers, values, strict=True)
        if layer != "all" and np.isfinite(row).any()
    ]
    words = (
        f"Over all layers it is {number(float(np.median(known)))} at the median step, between "
        f"{number(float(known.min()))} and {number(float(known.max()))}, and below zero at "
        f"{int((known < 0).sum()):,} of {len(known):,} measurements."
    )
    if len(medians) > 1:
        least, layer = min(medians)
        words += f" Terms agree least in {plain(layer_in_words(layer), 40)}, {number(least)}."
    return words


def predicted_change(run: Run, *, part: str | None = None, dark: bool = False) -> Plate:
    """Returns what steps were predicted to change in each term, against what they did.

    Filled marks are predictions from gradient and curvature, g.d + d.H d / 2 with d the step of the
    optimizer, hollow ones from the gradient alone; on the line both agree with what happened.

    Args:
        run: that has predictions.
        part: of several models; None: the first.
        dark: for a dark page.

    Raises:
        NotMeasuredError: the run has no predictions, or nothing to compare them with.
        ArgumentError: it has no such part.
    """
    missing = (
        "The run has no predicted and actual changes of the terms: the instrument Descent, one of "
        "the full set, records them."
    )
    names = ("actual_change", "predicted_change", "predicted_change_first_order")
    frames = [chosen(run.scalars(name), run, part, missing) for name in names]
    keys = [k for k in ("step", "term", "part", "batch") if all(k in each for each in frames)]
    joined = frames[0]
    for suffix, frame in zip(("second", "first"), frames[1:], strict=True):
        right = frame[[*keys, "value"]].rename(columns={"value": suffix})
        joined = joined.merge(right, on=keys)
    is_finite = np.isfinite(joined[["value", "second", "first"]].to_numpy()).all(axis=1)
    joined = chosen(joined.loc[is_finite], run, part, missing)
    found = {name: joined[joined["term"] == name] for name in by_name(joined, "term", run.terms)}
    drawn = dict([*found.items()][:_MOST_PANELS])
    with theme(dark):
        colours = term_colours([*run.terms, *drawn])
        columns = min(len(drawn), 3)
        lines = -(-len(drawn) // columns)
        plate = Plate(
            "Predicted against actual change of the terms", (PAGE_WIDTH, 0.6 + 2.3 * lines)
        )
        grid = plate.subplots(lines, columns, squeeze=False)
        for axes, (name, rows) in zip(grid.flat, drawn.items(), strict=False):
            values = [rows[column].to_numpy() for column in ("value", "second", "first")]
            for which in ("x", "y"):
                value_axis(axes, values, which, least=max(np.abs(values[0]).max() * 1e-4, 1e-300))
            page = matplotlib.rcParams["axes.facecolor"]
            axes.plot(values[0], values[2], "o", color=colours[name], mfc=page, ms=3.6, mew=0.9)
            axes.plot(values[0], values[1], "o", color=colours[name], ms=2.4)
            ends = np.array([axes.get_xlim(), axes.get_ylim()])
            line = [ends[:, 0].min(), ends[:, 1].max()]
            axes.plot(line, line, color=matplotlib.rcParams["axes.edgecolor"], linewidth=0.7)
            axes.set(xlim=line, ylim=line)
            axes.set_title(shown(name, 80 // columns))
        for axes in grid.flat[len(drawn) :]:
            axes.remove()
        plate.supxlabel("actual change of the term (unit of the loss)", fontsize=8)
        plate.supylabel("predicted change", fontsize=8)
        ink = matplotlib.rcParams["text.color"]
        legend(plate, [
            (Line2D([], [], color=ink, ls="none", marker="o", ms=3), "gradient and curvature"),
            (Line2D([], [], color=ink, ls="", marker="o", ms=3.6, mfc="none"), "gradient alone"),
            (Line2D([], [], color=ink, linewidth=0.7), "as predicted"),
        ])  # fmt: skip
    reading = " ".join(_kept_promises(name, rows) for name, rows in drawn.items())
    more = "" if len(drawn) == len(found) else f" {len(drawn)} of {len(found)} terms are shown."
    return plate.describe(
        f"One mark a measured step. {reading}{more}{origin(joined, run)}",
        f"Scatter plots of the predicted over the actual change, one a term. {reading}",
    )


def _kept_promises(name: str, rows: pd.DataFrame) -> str:
    actual, second, first = (rows[c].to_numpy() for c in ("value", "second", "first"))
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = [
            float(np.median(np.abs(each - actual) / np.abs(actual))) for each in (second, first)
        ]
    broken = int(((second < 0) & (actual > 0)).sum())
    return (
        f"{plain(name, 40)}: with curvature the prediction is off by "
        f"{number(100 * errors[0], 2)} % of the actual change at the median step, without it by "
        f"{number(100 * errors[1], 2)} %; "
        f"{broken} of {len(rows)} steps raised the term and were predicted to lower it."
    )
