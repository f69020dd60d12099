"""The ends of the Hessian's spectrum while a network trains, beside what the optimizer can stand.

Wang, Teng and Perdikaris (SISC 43(5), 2021, figures 4 and 10) show the largest eigenvalue of the
total loss for several problems and networks. Here each value carries its interval, each term has
its own, and the limits of stability are drawn: 2 / eta for gradient descent, and for Adam its own
limit on the preconditioned Hessian (Cohen et al. 2022, arXiv 2207.14484).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ...probes.store import Run
from ..tables import listed, number
from ..theme import PAGE_WIDTH, TOTAL, plain, shown, term_lines, theme
from .drawing import MOST_TERMS, legend, step_axis, thinned, value_axis
from .labels import Runs, by_label
from .measured import Series, chosen, from_to, not_finite, origin, series
from .plate import NotMeasuredError, Plate

_LIMIT_DASHES = (0, (1, 2.2))
_MISSING = (
    "The run has no eigenvalues of the Hessian: the instrument Stiffness, one of the standard set, "
    "records them."
)


def stiffness(
    runs: Runs,
    *,
    terms: Sequence[str] | None = None,
    layer: str = "all",
    part: str | None = None,
    dark: bool = False,
) -> Plate:
    """Returns the largest and the smallest eigenvalue of the Hessian against the step.

    Bands are the intervals that hold the eigenvalues, marks that are not filled are values that had
    not converged, dotted lines are limits of stability. One run is shown with each of its terms,
    unweighted, and the weighted total; several with their totals over each other. Where it was
    measured, a third panel has the preconditioned Hessian, which is what Adam and its like react
    to.

    Args:
        runs: one, several, or several by the name to show.
        terms: which, "total" for the weighted sum; None: all of one run, the total of several.
        layer: whose diagonal block; "all" for the whole Hessian.
        part: of several models; None: the first.
        dark: for a dark page.

    Raises:
        NotMeasuredError: no run has such eigenvalues.
        ArgumentError: there is no run, or no such part.
    """
    named = by_label(runs)
    is_single = len(named) == 1
    wanted = terms if terms is not None or is_single else (TOTAL,)
    measured = {}
    for name, run in named.items():
        found = _Measured.of(run, wanted, layer, part)
        if found is not None:
            measured[name] = found
    if not measured:
        raise NotMeasuredError(_MISSING)
    curves = _curves(measured, is_single)
    with theme(dark):
        known = next(iter(named.values())).terms if is_single else ()
        styles = term_lines([*known, *(curve.key for curve in curves)])
        ends = ["largest", "smallest"]
        if any(c.ends.get("preconditioned") is not None for c in curves):
            ends.append("preconditioned")
        plate = Plate(_title(measured, layer, is_single), (PAGE_WIDTH, 2.75))
        panels = plate.subplots(1, len(ends), sharex=True, squeeze=False)[0]
        for axes, end in zip(panels, ends, strict=True):
            _draw(axes, end, curves, styles)
        # The panels share their steps, though not each end was measured at all of them.
        step_axis(panels[0], [one.value for curve in curves for one in curve.ends.values()])
        _add_legend(plate, curves, styles, ends)
    origins = {origin(each.eigenvalues, named[name]) for name, each in measured.items()}
    missing = [plain(name) for name in named if name not in measured]
    caption = " ".join(_reading(curve) for curve in curves[:6])
    if len(curves) > 6:
        caption += f" And {len(curves) - 6} more."
    caption += _limits_in_words(curves) + _not_converged(measured)
    caption += not_finite({c.name: c.ends["largest"].value for c in curves if "largest" in c.ends})
    if missing:
        caption += f" Without eigenvalues: {listed(missing)}."
    what = "Eigenvalues of the Hessian of each loss term, unweighted, and of the weighted total"
    if not is_single:
        what = "Eigenvalues of the Hessian"
    what += "; bands are the intervals that hold them, cut where they leave the axis. "
    if len(measured) and any(each.left_out for each in measured.values()):
        caption += f" The first {MOST_TERMS} terms are shown."
    shown_ends = listed([_PANEL_TITLES[end] for end in ends])
    return plate.describe(
        what + caption + "".join(sorted(origins)),
        f"Line plots over the steps: {shown_ends}. {_reading(curves[-1])}",
    )


@dataclass(frozen=True, eq=False)
class _End:
    """One end of a spectrum over the steps."""

    value: Series
    lower: Series
    upper: Series
    converged: Series

    @classmethod
    def of(cls, rows: pd.DataFrame) -> _End:
        return cls(*(series(rows, name) for name in ("value", "lower", "upper", "converged")))


@dataclass(frozen=True, eq=False)
class _Measured:
    """What a run knows of its curvature."""

    eigenvalues: pd.DataFrame
    preconditioned: pd.DataFrame
    limit: Series | None
    own_limit: Series | None
    factor: float  # of the optimizer's own limit: so many over eta
    left_out: int

    @classmethod
    def of(
        cls, run: Run, terms: Sequence[str] | None, layer: str, part: str | None
    ) -> _Measured | None:
        try:
            rows = chosen(_of_layer(run.eigenvalues(), layer), run, part, _MISSING)
        except NotMeasuredError:
            return None
        known = list(dict.fromkeys(rows["term"]))
        shown_terms = [*[t for t in known if t != TOTAL][: MOST_TERMS - 1], TOTAL]
        if terms is not None:
            shown_terms = list(terms)
        left_out = len(set(known) - set(shown_terms)) if terms is None else 0
        rows = rows[rows["term"].isin(shown_terms)]
        if rows.empty:
            return None
        preconditioned = _of_layer(run.eigenvalues("preconditioned_hessian"), layer)
        if TOTAL not in shown_terms:
            preconditioned = preconditioned.iloc[:0]
        if not preconditioned.empty:
            preconditioned = chosen(preconditioned, run, part, _MISSING)
        limit = _scalar(run, "stability_limit", part)
        own_limit = _scalar(run, "preconditioned_stability_limit", part)
        factor = math.nan
        if limit is not None and own_limit is not None:
            factor = 2 * float(own_limit.values[-1]) / float(limit.values[-1])
        rate = _scalar(run, "learning_rate", part)
        if rate is not None:  # known at more steps than the limit that is made of it
            with np.errstate(divide="ignore"):
                limit = Series(rate.steps, 2 / rate.values)
        return cls(rows, preconditioned, limit, own_limit, factor, left_out)


def _of_layer(frame: pd.DataFrame, layer: str) -> pd.DataFrame:
    return frame[frame["layer"] == layer]


def _scalar(run: Run, name: str, part: str | None) -> Series | None:
    frame = run.scalars(name)
    return None if frame.empty else series(chosen(frame, run, part, _MISSING))


@dataclass(frozen=True, eq=False)
class _Curve:
    """What one line in each panel shows: a term of one run, or one of several runs."""

    key: str  # by which it has its colour
    name: str  # in words
    ends: Mapping[str, _End]
    measured: _Measured


def _curves(measured: Mapping[str, _Measured], is_single: bool) -> list[_Curve]:
    curves = []
    for name, each in measured.items():
        terms = list(dict.fromkeys(each.eigenvalues["term"].astype(str)))
        for term in terms:
            rows = each.eigenvalues[each.eigenvalues["term"] == term]
            ends = {str(end): _End.of(one) for end, one in rows.groupby("end")}
            largest = each.preconditioned[each.preconditioned["end"] == "largest"]
            if term == TOTAL and not largest.empty:
                ends["preconditioned"] = _End.of(largest)
            of_run = name if len(terms) == 1 else f"{name}, {term}"
            key = term if is_single else of_run
            curves.append(_Curve(key, key, ends, each))
    return curves


def _title(measured: Mapping[str, _Measured], layer: str, is_single: bool) -> str:
    of = "the Hessian" if layer == "all" else f"the Hessian's block of {plain(layer, 40)}"
    return f"Ends of the spectrum of {of}" + ("" if is_single else f" of {len(measured)} runs")


_PANEL_TITLES = {
    "largest": "largest eigenvalue",
    "smallest": "smallest eigenvalue",
    "preconditioned": "largest, preconditioned",
}


def _draw(
    axes: Axes,
    end: str,
    curves: Sequence[_Curve],
    styles: Mapping[str, dict[str, Any]],
) -> None:
    drawn = [curve for curve in curves if end in curve.ends]
    values = [curve.ends[end].value.values for curve in drawn]
    limits = _limits(end, curves)
    if end != "smallest":
        values += [limit.values for limit, _ in limits.values()]
    low, high = _value_limits(axes, values)
    for curve in drawn:
        one = curve.ends[end]
        style = styles[curve.key]
        # An interval may reach far beyond the values; the axis is theirs.
        axes.fill_between(
            one.value.steps,
            np.clip(one.lower.values, low, high),
            np.clip(one.upper.values, low, high),
            color=style["color"], alpha=0.12, linewidth=0,
        )  # fmt: skip
        line = thinned(one.value)
        axes.plot(line.steps, line.values, **style)
        page = matplotlib.rcParams["axes.facecolor"]
        for is_done in (True, False):
            at = (one.converged.values > 0.5) == is_done
            if at.any() and (len(at) <= 80 or not is_done):
                axes.plot(
                    one.value.steps[at], one.value.values[at], linestyle="none", marker="o",
                    markersize=2.4 if is_done else 4.2, color=style["color"],
                    markerfacecolor=style["color"] if is_done else page,
                )  # fmt: skip
    if end != "smallest":
        for limit, colour in limits.values():
            line = thinned(limit)
            axes.plot(
                line.steps, line.values, color=styles[colour]["color"], linestyle=_LIMIT_DASHES,
                marker="_" if len(line.steps) == 1 else None,
            )  # fmt: skip
    elif low < 0 < high:
        axes.axhline(0, color=matplotlib.rcParams["axes.edgecolor"], linewidth=0.6)
    axes.set_title(_PANEL_TITLES[end])
    axes.set_ylim(low, high)
    step_axis(axes)
    if end == "largest":
        axes.set_ylabel("eigenvalue (unit of the loss)")


def _value_limits(axes: Axes, values: Sequence[Any]) -> tuple[float, float]:
    """Gives an axis its scale, and returns limits that hold all values."""
    value_axis(axes, values, least=_least(values))
    finite = np.concatenate([np.ravel(each) for each in values])
    finite = finite[np.isfinite(finite)]
    if axes.get_yscale() != "linear" or not len(finite) or np.ptp(finite) == 0:
        return axes.get_ylim()
    room = 0.06 * float(np.ptp(finite))
    return float(finite.min()) - room, float(finite.max()) + room


def _least(values: Sequence[Any]) -> float | None:
    """Returns from which magnitude on values are told from zero: none is lost over six decades."""
    sizes = np.abs(np.array([number for each in values for number in each], dtype=float))
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    return float(max(sizes.min(), sizes.max() * 1e-6)) if len(sizes) else None


def _limits(end: str, curves: Sequence[_Curve]) -> dict[str, tuple[Series, str]]:
    """Returns the lines of stability, each once, with the key of its colour."""
    found: dict[str, tuple[Series, str]] = {}
    for curve in curves:
        limit = curve.measured.own_limit if end == "preconditioned" else curve.measured.limit
        if limit is None or not len(limit.finite.steps) or end not in curve.ends:
            continue
        identity = f"{limit.values.round(6).tolist()}{limit.steps.tolist()}"
        is_known = identity in found
        found[identity] = (limit, TOTAL if is_known or len(curves) == 1 else curve.key)
        if TOTAL in {c.key for c in curves}:
            found[identity] = (limit, TOTAL)
    return found


def _add_legend(
    plate: Plate,
    curves: Sequence[_Curve],
    styles: Mapping[str, dict[str, Any]],
    ends: Sequence[str],
) -> None:
    entries: list[tuple[Artist, str]] = []
    for curve in curves:
        suffix = " (weighted)" if curve.key == TOTAL and len(curves) > 1 else ""
        entries.append((Line2D([], [], **styles[curve.key]), shown(curve.name) + suffix))
    ink = matplotlib.rcParams["text.color"]
    if any(curve.measured.limit is not None for curve in curves):
        text = "limit of stability: 2/η"
        factors = {round(c.measured.factor, 3) for c in curves if math.isfinite(c.measured.factor)}
        if "preconditioned" in ends and len(factors) == 1:
            text += f", preconditioned {factors.pop():.4g}/η"
        entries.append((Line2D([], [], color=ink, linestyle=_LIMIT_DASHES), text))
    if any((one.converged.values < 0.5).any() for c in curves for one in c.ends.values()):
        hollow = Line2D(
            [], [], color=ink, linestyle="none", marker="o", markersize=4.2,
            markerfacecolor=matplotlib.rcParams["axes.facecolor"],
        )  # fmt: skip
        entries.append((hollow, "not converged"))
    legend(plate, entries)


def _reading(curve: _Curve) -> str:
    words = f"The largest of {plain(curve.name, 60)} "
    words += from_to(curve.ends["largest"].value) if "largest" in curve.ends else "is not known"
    smallest = curve.ends.get("smallest")
    if smallest is not None:
        known = smallest.value.finite
        if len(known.values):
            at = int(known.values.argmin())
            words += (
                f", the smallest is {number(float(known.values[at]))} at the least "
                f"(step {int(known.steps[at]):,})"
            )
    return words + "."


def _limits_in_words(curves: Sequence[_Curve]) -> str:
    """Returns sentences on how often the totals are beyond the limits."""
    words = ""
    for curve in curves:
        is_total = curve.key == TOTAL or TOTAL not in {c.key for c in curves}
        pairs = (
            ("largest", curve.measured.limit, "the limit of gradient descent, 2/η"),
            ("preconditioned", curve.measured.own_limit, "the optimizer's own limit"),
        )
        for end, limit, what in pairs:
            if not is_total or limit is None or end not in curve.ends:
                continue
            one = curve.ends[end].value.finite
            at = np.searchsorted(limit.steps, one.steps, side="right") - 1
            known = (at >= 0) & np.isfinite(one.values)
            if not known.any():
                continue
            ratios = one.values[known] / limit.values[at[known]]
            number_above = int((ratios > 1).sum())
            which = "preconditioned largest" if end == "preconditioned" else "largest"
            words += (
                f" The {which} of {plain(curve.name, 40)} is above {what}, at {number_above} of "
                f"{len(ratios)} measurement{'s' if len(ratios) > 1 else ''}, and "
                f"{number(float(ratios.max()))} times it at most."
            )
    return words


def _not_converged(measured: Mapping[str, _Measured]) -> str:
    rows = pd.concat([each.eigenvalues for each in measured.values()])
    bad = int((~rows["converged"].astype(bool)).sum())
    return f" {bad} of {len(rows)} values had not converged (not filled)." if bad else ""
