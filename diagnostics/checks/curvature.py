"""How stiff is the loss, which term makes it so, and does curvature point downwards?"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from ..findings import Finding
from ..measurements import TOTAL, Measurements
from . import pulls
from .course import failure
from .outcome import Outcome, Question
from .words import name, number

# From where it began, the largest eigenvalue grows in every training on a hard problem: in the
# Helmholtz runs by 640 (M3) to 2,500 (M1) within 3,000 steps, also where they end well.
GREW = 100.0
# Of the largest eigenvalue of the weighted sum.
OWNS = 0.9
OTHERS_BELOW = 0.1

STIFFNESS = Question(
    "stiffness",
    f"a largest eigenvalue that grew by {GREW:g}, or one term that alone has {OWNS:.0%} of it, is "
    "noted, since it is so in good trainings as well; it warns where the training has failed",
    "stiffness",
)
SADDLE = Question(
    "negative curvature",
    "a smallest eigenvalue larger in magnitude than the largest, at the last measurement after the "
    "start",
    "stiffness",
)
_NOT_RECORDED = "no eigenvalues were recorded; the instrument `stiffness` does"
_RATHORE = "Rathore et al., ICML 2024, arXiv 2402.01868"
_PAPER = "Wang, Teng, Perdikaris, SIAM J. Sci. Comput. 43(5), A3055 (2021), section 2.4"


def stiffness(seen: Measurements) -> Outcome:
    """Asks how the largest eigenvalue has grown, and whose it is."""
    ends = seen.ends("hessian")
    if ends.empty:
        return STIFFNESS.not_measured(_NOT_RECORDED)
    first, last = ends.iloc[0], ends.iloc[-1]
    text = (
        f"the Hessian's spectrum reaches at least from {number(last['smallest'])} to "
        f"{number(last['largest'])} at step {ends.index[-1]:,}"
    )
    grew = float(last["largest"] / first["largest"]) if first["largest"] > 0 else math.nan
    if len(ends) > 1 and not math.isnan(grew):
        text += f"; the largest eigenvalue is {number(grew)} times that of step {ends.index[0]:,}"
    findings = [_grown(seen, ends, grew)] if len(ends) > 1 and grew >= GREW else []
    owner = _owner(seen, ends)
    if owner is not None:
        findings.append(owner)
    return STIFFNESS.answered(text, findings)


def negative_curvature(seen: Measurements) -> Outcome:
    """Asks whether the loss bends down more than up where the training stands."""
    ends = seen.ends("hessian")
    if ends.empty:
        return SADDLE.not_measured(_NOT_RECORDED)
    step, last = int(ends.index[-1]), ends.iloc[-1]
    largest, smallest = float(last["largest"]), float(last["smallest"])
    least = float(last["smallest_lower"])
    text = f"smallest eigenvalue {number(smallest)}, largest {number(largest)} at step {step:,}"
    if least < -max(largest, 0.0) <= smallest:
        return SADDLE.not_measured(
            f"{text}: the interval of the smallest reaches down to {number(least)}, so that it is "
            "not known which is the larger in magnitude"
        )
    if least < 0 < smallest:
        text += f"; the interval of the smallest reaches down to {number(least)}"
    if step == 0:
        return SADDLE.answered(f"{text}, where every training begins at a saddle")
    if -smallest <= max(largest, 0.0) or smallest == 0:
        return SADDLE.answered(text)
    finding = Finding(
        "GP303",
        "warn",
        f"Negative curvature dominates: the smallest eigenvalue is {number(smallest)}, the largest "
        f"{number(largest)} at step {step:,}.",
        _evidence(seen, ends, step) | {"smallest": smallest, "largest": largest},
        (
            "Train on before anything else: saddles are common early, and gradient descent leaves "
            "them.",
            "If it stays so, compare with another learning rate: noise of larger steps helps to "
            "leave a saddle.",
            "Do not use a method that takes the Hessian for positive (Newton, L-BFGS without a "
            "line search) from here.",
        ),
        "Dauphin et al., NeurIPS 2014, arXiv 1406.2572",
        "The training is near a saddle rather than in a valley.",
        "stiffness",
    )
    return SADDLE.answered(text, [finding])


def _grown(seen: Measurements, ends: pd.DataFrame, grew: float) -> Finding:
    failed = failure(seen)
    first, last = ends.iloc[0], ends.iloc[-1]
    return Finding(
        "GP301",
        "warn" if failed else "note",
        f"The largest eigenvalue of the loss grew {number(grew)}-fold, from "
        f"{number(first['largest'])} at step {ends.index[0]:,} to {number(last['largest'])} at "
        f"step {ends.index[-1]:,}.",
        _evidence(seen, ends, int(ends.index[-1]))
        | {"factor": grew, "first": float(first["largest"]), "last": float(last["largest"])},
        (
            "Follow Adam by L-BFGS or another second-order method: it lowered the largest "
            "eigenvalue that the step sees by a thousand and more.",
            "Lower the learning rate towards the end, if it is constant.",
            "Compare with a network that has multiplicative gates (M3): in the paper its largest "
            "eigenvalue is a third.",
        ),
        f"{_PAPER}; {_RATHORE}",
        "Directions of small curvature are learned slowly, since the large one limits the step."
        + (f" That {failed} may be due to it." if failed else ""),
        "stiffness",
    )


def _owner(seen: Measurements, ends: pd.DataFrame) -> Finding | None:
    """Returns the finding that one term has nearly all of the largest eigenvalue."""
    step = int(ends.index[-1])
    total = float(ends["largest"].iloc[-1])
    weights = pulls.weights(seen, pd.Index([step])).iloc[0]
    own = {}
    for term in seen.terms:
        found = seen.ends("hessian", term)
        if step in found.index:
            largest = found["largest"][found.index == step]
            own[term] = float(largest.iloc[-1]) * float(weights[term])
    # What a network begins with says nothing about the training.
    if step == 0 or len(own) < 2 or not total > 0:
        return None
    owner = max(own, key=lambda term: own[term])
    others = max(value for term, value in own.items() if term != owner)
    if own[owner] < OWNS * total or others > OTHERS_BELOW * total:
        return None
    failed = failure(seen)
    return Finding(
        "GP302",
        "warn" if failed else "note",
        f"{name(owner)} alone makes the loss stiff: its weighted Hessian has a largest eigenvalue "
        f"of {number(own[owner])}, the total {number(total)}, and no other term more than "
        f"{number(others)} (step {step:,}).",
        _evidence(seen, ends, step) | {"term": owner, "weighted": own, TOTAL: total},
        (
            f"Precondition {name(owner)} or change its scale: derivatives of high order make the "
            "largest eigenvalues.",
            "Follow Adam by L-BFGS or another second-order method.",
        ),
        _RATHORE + ", section 5: the residual is the worst conditioned term",
        "The other terms are learned at a step length that this one dictates.",
        "stiffness",
    )


def _evidence(seen: Measurements, ends: pd.DataFrame, step: int) -> dict[str, Any]:
    found = seen.spectra("hessian")
    row = ends[ends.index == step].iloc[-1]
    return {
        "step": step,
        "interval_of_largest": [float(row["largest_lower"]), float(row["largest_upper"])],
        "interval_of_smallest": [float(row["smallest_lower"]), float(row["smallest_upper"])],
        "converged": bool(row["converged"]),
        "batch": _batch(found, step),
        "statistic": "ends of the spectrum of the weighted loss's Hessian",
    }


def _batch(found: pd.DataFrame, step: int) -> str:
    if "batch" not in found:
        return "training"
    return str(found.loc[found["step"] == step, "batch"].iloc[0])
