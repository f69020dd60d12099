"""Does the solution get from where it is given to where it is asked for?

Where a solution is carried along in time, an equation that is satisfied late before it is right
early says nothing: it has been solved from wrong values. The residual and the error, by time, show
that (Wang, Sankaran, Perdikaris, arXiv 2203.07404).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..findings import Finding
from ..measurements import Measurements
from . import grids
from .course import FAILED_ERROR, error
from .outcome import Outcome, Question
from .words import number

# The expert's guide has 32 (arXiv 2308.08468); with fewer, each holds enough points to be a mean.
CHUNKS = 10
# Between the first and the last chunk.
GROWS = 3.0
LATER_FIRST = 3.0

QUESTION = Question(
    "propagation in time",
    f"an error above {FAILED_ERROR:g} that grows at least {GROWS:g}-fold from the first to the "
    f"last of {CHUNKS} chunks of time warns; fails where the residual meanwhile falls "
    f"{LATER_FIRST:g}-fold",
    "plain_pinn_diagnosis",
)
_SOURCE = (
    "Wang, Sankaran, Perdikaris, arXiv 2203.07404; Krishnapriyan et al., NeurIPS 2021, "
    "arXiv 2109.01050"
)


def propagation(seen: Measurements) -> Outcome:
    """Looks at residual and error by chunks of time."""
    if seen.coordinates is None:
        return QUESTION.not_measured(
            "it is not known which coordinate is time; give the run the metadata "
            'coordinates=["t", "x"] and fields with a grid (the instrument `Fields`)'
        )
    if "t" not in seen.coordinates:
        return QUESTION.not_measured("the problem has no coordinate t")
    axis = seen.coordinates.index("t")
    residual, errors, step = _residual_by_time(seen, axis), _error_by_time(seen, axis), None
    if residual is None and errors is None:
        return QUESTION.not_measured(
            "no fields `residual` or `error` were recorded; the instrument `Fields` does"
        )
    texts = []
    if residual is not None:
        texts.append(
            f"the mean square of the residual goes from {number(residual[0])} in the first tenth "
            f"of the time to {number(residual[-1])} in the last"
        )
    if errors is None:
        return QUESTION.answered(texts[0] + "; the error is not known")
    texts.append(f"the relative error from {number(errors[0])} to {number(errors[-1])}")
    text = ", ".join(texts)
    failed = error(seen) >= FAILED_ERROR
    grows = errors[-1] >= GROWS * errors[0]
    if not (failed and grows):
        return QUESTION.answered(text)
    falls = residual is not None and residual[0] >= LATER_FIRST * residual[-1]
    step = next(iter(grids.last(seen, "error").values())).step
    finding = Finding(
        "GP611",
        "fail" if falls else "warn",
        f"The error grows with time, from {number(errors[0])} of the solution to "
        f"{number(errors[-1])}"
        + (
            f", while the mean square of the residual falls from {number(residual[0])} to "
            f"{number(residual[-1])}"
            if falls and residual is not None
            else ""
        )
        + f" (first and last of {CHUNKS} chunks, step {step:,}).",
        {
            "step": step,
            "error_by_time": [float(each) for each in errors],
            "residual_by_time": None if residual is None else [float(each) for each in residual],
            "batch": "evaluation grid",
            "statistic": "relative L2 error and mean squared residual in equal chunks of t",
        },
        (
            "Causal weights: weigh the residual of each chunk by exp(-eps * sum of the losses of "
            "the chunks before it), with eps = 1 and 32 chunks to begin with.",
            "March in time: train on the first tenth, and start the next one from what was found.",
            "Raise the coefficient that makes the problem hard while training (curriculum).",
        ),
        _SOURCE,
        "What is known at the start does not arrive at later times; there the equation is "
        "satisfied by something else, and a small residual says nothing about the error.",
        "plain_pinn_diagnosis",
    )
    return QUESTION.answered(text, [finding])


def _residual_by_time(seen: Measurements, axis: int) -> NDArray[np.float64] | None:
    fields = grids.last(seen, "residual")
    known = [
        _means(each, axis, (each.values**2).sum(axis=1))
        for each in fields.values()
        if axis < each.points.shape[1]
    ]
    return np.sum(known, axis=0) if known else None


def _error_by_time(seen: Measurements, axis: int) -> NDArray[np.float64] | None:
    both = grids.error_and_solution(seen)
    if both is None or axis >= both[0].points.shape[1]:
        return None
    sampled, solution = both
    above = _means(sampled, axis, (sampled.values**2).sum(axis=1))
    below = _means(sampled, axis, (solution**2).sum(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        shares: NDArray[np.float64] = np.sqrt(above / below)
    return shares if all(map(math.isfinite, shares)) else None


def _means(sampled: grids.Sampled, axis: int, values: NDArray[np.float64]) -> NDArray[np.float64]:
    times = sampled.points[:, axis]
    begun, ended = times.min(), times.max()
    chunk = np.minimum((times - begun) / max(ended - begun, 1e-300) * CHUNKS, CHUNKS - 1).astype(
        int
    )
    counts = np.bincount(chunk, minlength=CHUNKS)
    sums = np.bincount(chunk, weights=values, minlength=CHUNKS)
    with np.errstate(invalid="ignore"):
        means: NDArray[np.float64] = sums / counts
    return means
