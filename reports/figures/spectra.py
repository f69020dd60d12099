"""How the eigenvalues of the Hessian are distributed: estimated, or all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.lines import Line2D

from ...probes.store import Run
from ..tables import number
from ..theme import PAGE, TOTAL, plain, shown, term_lines, theme
from .drawing import MOST_TERMS, legend, signed_log_axis, value_axis
from .measured import Values, chosen, earlier, origin, step_in_words
from .plate import NotMeasuredError, Plate

_MOST_DECADES = 8
_WIDTH = 0.12  # of the Gaussian that each Ritz value is blurred with, in decades
_PER_DECADE = 16


def spectral_density(
    run: Run, step: int | None = None, *, part: str | None = None, dark: bool = False
) -> Plate:
    """Returns the share of eigenvalues of the Hessian per decade, for every term and the total.

    Stochastic Lanczos quadrature sees a share of about one over the number of parameters. Bands are
    one standard error over the random vectors, where there was more than one.

    Args:
        run: that has spectral densities.
        step: the last measurement at or before it is shown; None: the last of all.
        part: of several models; None: the first.
        dark: for a dark page.

    Raises:
        NotMeasuredError: the run has no spectral densities.
        ArgumentError: it has no such part.
    """
    missing = (
        "The run has no spectral density: the instrument Spectrum, one of the full set, records it."
    )
    rows, at = _at_step(run, "spectral_density", step, part, missing)
    # Loads torch, which no other figure needs.
    from ...diagnostics.spectrum import SpectralDensity

    densities = {
        term: SpectralDensity(values[0], values[1], math.nan, math.nan, 0, "")
        for term, values in rows.items()
        if np.isfinite(values).all()
    }
    if not densities:
        raise NotMeasuredError(
            f"The spectral density at step {at:,} is not a finite number: the loss or its second "
            "derivative was not finite there."
        )
    axis = _Decades.of([each.nodes[each.weights > 0] for each in densities.values()])
    places = np.linspace(*axis.ends, int(np.ptp(axis.ends) * _PER_DECADE) + 1)
    with theme(dark):
        styles = term_lines([*run.terms, *densities])
        plate = Plate(f"Spectral density of the Hessian, step {at:,}", PAGE)
        axes = plate.subplots()
        lowest = 1.0
        for term, each in densities.items():
            on_axis = SpectralDensity(axis.place(each.nodes), each.weights, 0.0, 0.0, 0, "")
            share, error = on_axis.smoothed(places, _WIDTH)
            lowest = min(lowest, float(each.weights[each.weights > 0].min()))
            axes.plot(axis.value(places), share, **styles[term])
            if np.isfinite(error).all():
                axes.fill_between(
                    axis.value(places), share - error, share + error,
                    color=styles[term]["color"], alpha=0.15, linewidth=0,
                )  # fmt: skip
        floor = 10.0 ** math.floor(math.log10(max(lowest, 1e-7)))
        value_axis(axes, [[floor, 3.0 / _WIDTH]])
        axes.set_ylim(floor, None)
        low, high = axis.value(np.array(axis.ends)).tolist()
        signed_log_axis(axes, "x", 10.0**axis.first, low, high, most=9)
        axes.set_xlabel("eigenvalue of the Hessian (unit of the loss)")
        axes.set_ylabel("share of eigenvalues per decade")
        legend(plate, _entries(densities, styles))
    reading = " ".join(_spread(term, each.nodes, each.weights) for term, each in densities.items())
    probes = next(iter(densities.values())).nodes.shape[0]
    how = (
        "one random vector, so its error is not known"
        if probes == 1
        else f"{probes} random vectors"
    )
    return plate.describe(
        f"Density of the Hessian's eigenvalues at {step_in_words(at, step)}, by stochastic Lanczos "
        f"quadrature with {how}; terms unweighted, blurred by {_WIDTH:g} decades. {reading}"
        f"{_bounds(run, at, part)}{_origin(run, 'spectral_density', part)}",
        f"Curves of density over a signed logarithmic axis of eigenvalues. {reading}",
    )  # fmt: skip


def sorted_spectrum(
    run: Run,
    step: int | None = None,
    *,
    terms: Sequence[str] | None = None,
    part: str | None = None,
    dark: bool = False,
) -> Plate:
    """Returns all eigenvalues of the Hessian in ascending order, for every term and the total.

    As in the figure of Wang, Teng and Perdikaris (SISC 43(5), 2021, figure 5) that shows why the
    residual stiffens the training: a symlog axis over the index.

    Args:
        run: that has exact spectra.
        step: the last measurement at or before it is shown; None: the last of all.
        terms: which, "total" for the weighted sum; None: all.
        part: of several models; None: the first.
        dark: for a dark page.

    Raises:
        NotMeasuredError: the run has no exact spectra.
        ArgumentError: it has no such part.
    """
    missing = (
        "The run has no exact spectrum of the Hessian: the instrument ExactSpectrum records it, "
        "for models of a few thousand parameters."
    )
    rows, at = _at_step(run, "hessian_eigenvalues", step, part, missing)
    found = {
        term: np.sort(np.ravel(values)) for term, values in rows.items()
        if (terms is None or term in terms) and np.isfinite(values).all()
    }  # fmt: skip
    if not found:
        raise NotMeasuredError(missing)
    with theme(dark):
        styles = term_lines([*run.terms, *found])
        plate = Plate(f"All eigenvalues of the Hessian, step {at:,}", PAGE)
        axes = plate.subplots()
        for term, values in found.items():
            kept = _kept(values)
            axes.plot(kept + 1, values[kept], **styles[term])
        largest = max(float(np.abs(values).max()) for values in found.values())
        value_axis(axes, [*found.values()], least=largest * 1e-7)
        axes.axhline(0, color=matplotlib.rcParams["axes.edgecolor"], linewidth=0.6)
        axes.set_xlabel("index in ascending order")
        axes.set_ylabel("eigenvalue (unit of the loss)")
        legend(plate, _entries(found, styles))
    reading = " ".join(
        f"{plain(term, 40).capitalize() if term == TOTAL else plain(term, 40)}: from "
        f"{number(float(values[0]))} to {number(float(values[-1]))}, "
        f"{int((values < 0).sum()):,} of {len(values):,} below zero, "
        f"{int((np.abs(values) > 0.01 * np.abs(values).max()).sum()):,} within a factor of 100 of "
        "the largest magnitude."
        for term, values in found.items()
    )
    return plate.describe(
        f"All eigenvalues of the Hessian at {step_in_words(at, step)}, terms unweighted. {reading}"
        f"{_origin(run, 'hessian_eigenvalues', part)}",
        f"Ascending curves of eigenvalues over their index. {reading}",
    )


def _at_step(
    run: Run, name: str, step: int | None, part: str | None, missing: str
) -> tuple[dict[str, Values], int]:
    """Returns the arrays of each term at a step or before it, in the order of the run's terms."""
    rows = chosen(run.fields(name), run, part, missing)
    at = earlier(rows["step"].to_list(), step)
    rows = rows[rows["step"] == at].drop_duplicates("term", keep="last")
    found = {str(t): np.asarray(v) for t, v in zip(rows["term"], rows["values"], strict=True)}
    order = [term for term in (*run.terms, TOTAL) if term in found]
    order += [term for term in found if term not in order]
    return {term: found[term] for term in order[:MOST_TERMS]}, at


class _Decades:
    """A signed logarithmic axis: places in decades from zero, the linear part being one."""

    def __init__(self, first: int, ends: tuple[float, float]) -> None:
        self.first = first
        self.ends = ends

    @classmethod
    def of(cls, values: Sequence[Values]) -> _Decades:
        """Returns the axis that holds all values, over at most so many decades."""
        every = np.concatenate([np.ravel(each) for each in values])
        sizes = np.abs(every[every != 0])
        if not len(sizes):
            return cls(0, (-1.0, 1.0))
        last = math.ceil(math.log10(sizes.max()))
        first = max(math.floor(math.log10(np.quantile(sizes, 0.05))), last - _MOST_DECADES)
        axis = cls(min(first, last - 1), (0.0, 0.0))
        low, high = axis.place(np.array([min(every.min(), 0.0), max(every.max(), 0.0)]))
        axis.ends = (float(low) - 0.5, float(high) + 0.5)
        return axis

    def place(self, values: Values) -> Values:
        """Returns where values stand on the axis."""
        scaled = values / 10.0**self.first
        with np.errstate(divide="ignore", invalid="ignore"):  # at zero
            outer = np.sign(scaled) * (np.log10(np.abs(scaled)) + 1)
        return np.where(np.abs(scaled) <= 1, scaled, outer)

    def value(self, places: Values) -> Values:
        """Returns what stands at places of the axis."""
        outer = np.sign(places) * 10.0 ** (np.abs(places) - 1)
        return np.where(np.abs(places) <= 1, places, outer) * 10.0**self.first


def _kept(values: Values, most: int = 600) -> Any:
    """Returns the indices of eigenvalues to draw: the outermost all, others evenly."""
    if len(values) <= most:
        return np.arange(len(values))
    even = np.linspace(0, len(values) - 1, most - 200).round().astype(int)
    ends = np.arange(100)
    return np.unique(np.concatenate([ends, even, len(values) - 1 - ends]))


def _entries(
    found: Mapping[str, Any], styles: Mapping[str, dict[str, Any]]
) -> list[tuple[Artist, str]]:
    return [
        (
            Line2D([], [], **styles[term]),
            shown(term) + (" (weighted)" if term == TOTAL else " (unweighted)"),
        )
        for term in found
    ]


def _spread(term: str, nodes: Values, weights: Values) -> str:
    used = nodes[weights > 0]
    below = float(weights[nodes < 0].sum() / weights.sum())
    return (
        f"{plain(term, 40).capitalize() if term == TOTAL else plain(term, 40)}: Ritz values from "
        f"{number(float(used.min()))} to {number(float(used.max()))}, {100 * below:.2g} % of the "
        "weight below zero."
    )


def _bounds(run: Run, at: int, part: str | None) -> str:
    errors = run.scalars("spectral_density_error")
    errors = errors[errors["step"] == at]
    if errors.empty:
        return ""
    worst = number(float(chosen(errors, run, part, "")["value"].max()))
    return (
        f" The Wasserstein distance to the true distributions is at most {worst}, a worst case "
        "that is usually far above the error."
    )


def _origin(run: Run, name: str, part: str | None) -> str:
    return origin(chosen(run.fields(name), run, part, ""), run)
