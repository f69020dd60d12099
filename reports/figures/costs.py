"""What measuring has cost."""

from __future__ import annotations

import numpy as np

from ...probes.store import Run
from ..tables import number, percent
from ..theme import PAGE_WIDTH, plain, shown, term_colours, theme
from .plate import NotMeasuredError, Plate

_MOST_BARS = 16


def probing_cost(run: Run, *, dark: bool = False) -> Plate:
    """Returns the seconds that each instrument took, and its share of the time of the run.

    Args:
        run: any that was recorded by a probe.
        dark: for a dark page.

    Raises:
        NotMeasuredError: no costs were recorded.
    """
    costs = run.cost()
    if costs.empty:
        raise NotMeasuredError(
            "The run does not say what its measurements have cost: one that a Probe recorded does."
        )
    groups = costs.groupby("instrument")["seconds"].agg(["sum", "count"])
    groups = groups[groups["sum"] > 0] if (groups["sum"] > 0).any() else groups
    groups = groups.sort_values("sum", ascending=False)
    elapsed = float(run.timeline()["elapsed"].max())
    total = float(groups["sum"].sum())
    drawn = groups.head(_MOST_BARS)
    with theme(dark):
        plate = Plate("Cost of probing", (PAGE_WIDTH, 0.75 + 0.21 * max(len(drawn), 3)))
        axes = plate.subplots()
        colour = next(iter(term_colours(["cost"]).values()))
        places = np.arange(len(drawn))
        axes.barh(places, drawn["sum"], height=0.62, color=colour, edgecolor="none")
        for place, (seconds, count) in zip(places, drawn.to_numpy(), strict=True):
            share = f"{percent(float(seconds) / elapsed)}, " if elapsed > 0 else ""
            times = "once" if count == 1 else f"{int(count):,} times"
            axes.annotate(
                f"{number(float(seconds), 2)} s, {share}{times}", (seconds, place), (4, 0),
                textcoords="offset points", va="center", fontsize=7,
            )  # fmt: skip
        axes.set_yticks(places, [shown(str(name), 28) for name in drawn.index])
        axes.set_ylim(len(drawn) - 0.4, -0.6)
        axes.set_xlim(0, max(1.45 * float(drawn["sum"].max()), 1e-9))
        axes.set_xlabel("seconds in all")
        axes.grid(axis="y", visible=False)
    share = ""
    if elapsed > 0:
        share = f", {percent(total / elapsed)} of the {number(elapsed)} s that it went on"
    dearest = drawn.index[0]
    reading = (
        f"All measurements of the run took {number(total, 2)} s{share}. The dearest is "
        f"{plain(str(dearest), 40)}, {number(float(drawn['sum'].iloc[0]), 2)} s."
    )
    return plate.describe(reading, f"Bars of the seconds that each instrument took. {reading}")
