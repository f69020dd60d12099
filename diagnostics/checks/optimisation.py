"""Has the training come to an end, and if it stands still, at a place where it may?"""

from __future__ import annotations

import math
from typing import Any

from ..findings import Finding
from ..measurements import TOTAL, Measurements, late
from . import pulls
from .course import LEARNED, STALLED, STILL_FALLING, improvement, late_improvement, neglected
from .outcome import Outcome, Question
from .words import listed, number, steps_of

# Of the gradient with which the training began. Where it is smaller, a loss that stands still is at
# a stationary point, whatever its value.
LARGE = 0.1

QUESTION = Question(
    "under-optimised",
    f"the total loss has stalled (less than a factor of {STALLED:g} over the second half) before "
    f"it fell by {LEARNED:g}, with a gradient above {LARGE:g} of the first one; a loss that still "
    f"falls by {STILL_FALLING:g} is noted",
    "losses",
)
_RATHORE = (
    "Rathore et al., ICML 2024, arXiv 2402.01868, section 7 (L-BFGS stops with a gradient left)"
)


def under_optimised(seen: Measurements) -> Outcome:
    """Looks at the total loss over the second half, and at the gradient that is left."""
    losses = late(seen.of_term("loss", TOTAL))
    falls = late_improvement(seen)
    if math.isnan(falls):
        return QUESTION.not_measured(
            "too few records of a total loss above zero to tell a plateau from chance; `losses` "
            "records it"
        )
    gradient = _gradient_left(seen)
    text = f"the total loss fell by a factor of {number(falls)} over the second half"
    if not math.isnan(gradient):
        text += f", the gradient is {number(gradient)} times the first one"
    evidence: dict[str, Any] = {
        "falls_late_by": falls,
        "fell_by": _known(improvement(seen, TOTAL)),
        "gradient_over_first": _known(gradient),
        "steps": steps_of(losses),
        "batch": seen.batch("loss"),
        "statistic": "medians of the first and the last third of the second half",
    }
    if falls >= STILL_FALLING:
        return QUESTION.answered(text, [_falling(falls, evidence)])
    stands = falls < STALLED and improvement(seen, TOTAL) < LEARNED and gradient > LARGE
    return QUESTION.answered(text, [_plateau(seen, falls, gradient, evidence)] if stands else [])


def _gradient_left(seen: Measurements) -> float:
    """Returns the norm of the total gradient late in the training over that at its beginning."""
    norms = pulls.of_terms(seen).sum(axis=1, min_count=1)
    left = seen.of_run("cancellation")
    totals = norms if len(seen.terms) == 1 else (norms * left)
    totals = totals.dropna()
    if len(totals) < 2 or not totals.iloc[0] > 0:
        return math.nan
    return float(late(totals).median() / totals.iloc[0])


def _falling(falls: float, evidence: dict[str, Any]) -> Finding:
    return Finding(
        "GP332",
        "note",
        f"The training has not come to its end: over the second half the total loss fell by a "
        f"factor of {number(falls)}.",
        evidence,
        ("Train on, before anything else is changed.",),
        "observed by gradpath",
        "More steps would lower the loss further.",
        "losses",
    )


def _plateau(
    seen: Measurements, falls: float, gradient: float, evidence: dict[str, Any]
) -> Finding:
    left = neglected(seen)
    which = (
        f" {listed(left)} {'has' if len(left) == 1 else 'have'} hardly been learned."
        if left
        else ""
    )
    return Finding(
        "GP331",
        "warn",
        f"The loss stands still where the gradient is large: it fell by a factor of "
        f"{number(falls)} over the second half, and the gradient is {number(gradient)} times "
        f"the first one.{which}",
        evidence,
        (
            "Lower the learning rate by ten for some hundred steps: a loss that then falls was "
            "bouncing between steep walls.",
            "Follow by L-BFGS or another second-order method, in float64; restart it if it stops.",
            "Measure on fixed points (probe.on_batch), to tell bouncing from the scatter of "
            "batches.",
        ),
        _RATHORE,
        "The optimizer is held up by curvature, by noise, or by terms that cancel; this is no "
        "minimum.",
        "losses",
    )


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
