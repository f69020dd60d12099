"""Is the step within what the curvature allows, and does a step do what it was predicted to do?

What counts is the optimizer's own limit: 2 / eta for gradient descent, 38 / eta on the
preconditioned Hessian for Adam. The sharpness of a network that is trained on all its data rises to
the limit and hovers there without harm, so being close is no alarm.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from ..findings import Finding
from ..measurements import TOTAL, Measurements
from .outcome import Outcome, Question
from .words import name, number, span

# Full-batch training hovers within some 20 % of its limit (Cohen et al. 2021, figures 1 and 5).
EDGE = 0.8
BEYOND = 1.5
# Above its best value so far, by this factor, the loss is rising, and more than batches scatter it.
RISING = 10.0
# The last measurements, of which the median counts.
_LAST = 3
# Of the steps, how many may raise a term that their own slope lowers.
RAISED = 0.25
# A prediction that is closer to what happened than by half was made for the same points.
AGREES = 0.5
_FEWEST_STEPS = 4
# Of the loss itself. A float32 loss has no smaller changes.
_ROUNDING = 1e-6

STEP_SIZE = Question(
    "step size",
    f"sharpness over the optimizer's own limit: above 1 fails where the loss has risen to "
    f"{RISING:g} times its best value, above {BEYOND:g} warns in any case, from {EDGE:g} on the "
    "edge of stability is noted",
    "stiffness",
)
DESCENT = Question(
    "predicted descent",
    f"a term is raised in more than {RAISED:.0%} of the steps whose slope lowers it, on the same "
    "points before and after",
    "predicted_change",
)
_COHEN = "Cohen et al. 2021, arXiv 2103.00065; for Adam 2022, arXiv 2207.14484"


def step_size(seen: Measurements) -> Outcome:
    """Compares the sharpness that the optimizer meets with what it can stand."""
    ends = seen.ends("preconditioned_hessian")
    limits = seen.of_run("preconditioned_stability_limit")
    shares = (ends["largest"] / limits).dropna() if len(ends) else pd.Series(dtype="float64")
    shares = shares[shares > -math.inf]
    if shares.empty:
        return STEP_SIZE.not_measured(_without_limit(seen))
    share = float(shares.iloc[-_LAST:].median())
    step = int(shares.index[-1])
    rises = _rises(seen)
    row = ends[ends.index == step].iloc[-1]
    last = list(shares.index[-_LAST:])
    text = f"the sharpness that the optimizer meets is {number(share)} of its limit ({span(last)})"
    evidence: dict[str, Any] = {
        "share_of_limit": share,
        "step": step,
        "sharpness": float(row["largest"]),
        "interval": [float(row[f"largest_{end}"]) for end in ("lower", "upper")],
        "limit": float(limits[limits.index == step].iloc[-1]),
        "learning_rate": _last(seen.of_run("learning_rate")),
        "loss_over_its_best": rises,
        "converged": bool(row["converged"]),
        "batch": seen.batch("preconditioned_stability_limit"),
        "statistic": "largest eigenvalue of the preconditioned Hessian over the optimizer's limit",
    }
    is_rising = rises >= RISING
    if share > BEYOND or (share > 1 and is_rising):
        return STEP_SIZE.answered(text, [_beyond(share, step, is_rising, rises, evidence)])
    if share >= EDGE:
        return STEP_SIZE.answered(text, [_edge(share, step, evidence)])
    return STEP_SIZE.answered(text)


def predicted_descent(seen: Measurements) -> Outcome:
    """Asks whether steps raise terms that they were predicted to lower."""
    first = seen.of_network("predicted_change_first_order")
    both, actual = seen.of_network("predicted_change"), seen.of_network("actual_change")
    terms = [term for term in seen.terms if term in first and term in both and term in actual]
    if not terms:
        return DESCENT.not_measured(
            "no predictions were recorded; the instrument `descent` (in the set `full`) makes them"
        )
    batch = seen.batch("actual_change")
    texts, findings, doubtful = [], [], []
    for term in terms:
        steps = pd.DataFrame(
            {"first": first[term], "both": both[term], "actual": actual[term]}
        ).dropna()
        steps = steps[steps["first"].abs() > _ROUNDING * _last_loss(seen, term)]
        lowered = steps[steps["first"] < 0]
        if len(lowered) < _FEWEST_STEPS:
            continue
        error = ((steps["actual"] - steps["both"]).abs() / steps["both"].abs()).median()
        if batch == "training" and error > AGREES:
            doubtful.append(term)
            continue
        raised = lowered[lowered["actual"] > 0]
        share = len(raised) / len(lowered)
        texts.append(f"{name(term)} {len(raised)} of {len(lowered)} times")
        if share > RAISED:
            findings.append(_raised(term, lowered, raised, batch))
    if texts:
        return DESCENT.answered(
            f"steps whose slope lowers a term raised it: {', '.join(texts)}", findings
        )
    if doubtful:
        return DESCENT.not_measured(
            "predictions and what happened are further apart than half, on the points of the "
            "training step: they seem to be other points; measure on fixed ones (probe.on_batch)"
        )
    return DESCENT.not_measured(
        f"fewer than {_FEWEST_STEPS} steps were predicted; let `descent` measure more often"
    )


def _beyond(
    share: float, step: int, is_rising: bool, rises: float, evidence: dict[str, Any]
) -> Finding:
    loss = f", and the loss is {number(rises)} times its best value" if is_rising else ""
    return Finding(
        "GP311",
        "fail" if is_rising else "warn",
        f"The step is too long for the curvature: the sharpness is {number(share)} times what the "
        f"optimizer stands at step {step:,}{loss}.",
        evidence,
        (
            f"Divide the learning rate by {number(math.ceil(share * 2))} and compare: it is then "
            "half of the limit.",
            "Begin with a lower learning rate and raise it over some hundred steps (warm-up).",
            "Weigh the term that makes the loss stiff less, or normalise its inputs.",
        ),
        _COHEN,
        "Along the stiffest direction every step overshoots by more than the last one did."
        if is_rising
        else "Steps along the stiffest direction overshoot; the loss does not show it so far.",
        "stiffness",
    )


def _edge(share: float, step: int, evidence: dict[str, Any]) -> Finding:
    return Finding(
        "GP312",
        "note",
        f"The training is at the edge of stability: the sharpness is {number(share)} of what the "
        f"optimizer stands, at step {step:,}.",
        evidence,
        (
            "Nothing has to be done. A higher learning rate would not stay stable; a lower one "
            "lets the sharpness rise further.",
        ),
        _COHEN,
        "The learning rate decides how sharp a minimum can be.",
        "stiffness",
    )


def _raised(term: str, lowered: pd.DataFrame, raised: pd.DataFrame, batch: str) -> Finding:
    worst = raised.iloc[int(raised["actual"].argmax())]
    by_curvature = int((raised["both"] > 0).sum())
    return Finding(
        "GP321",
        "warn",
        f"Steps raise {name(term)} where its slope says that they lower it: in {len(raised)} of "
        f"{len(lowered)}, at step {worst.name:,} by {number(float(worst['actual']))} "
        f"instead of {number(float(worst['first']))}.",
        {
            "term": term,
            "raised": len(raised),
            "lowered_by_slope": len(lowered),
            "explained_by_curvature": by_curvature,
            "steps": [int(step) for step in raised.index],
            "batch": batch,
            "statistic": "predicted_change_first_order below zero, actual_change above",
        },
        (
            "Divide the learning rate by three and look whether the share falls.",
            "Look which term owns the largest eigenvalue: a smaller weight for it allows longer "
            "steps for the others.",
        ),
        "Wang, Teng, Perdikaris, SIAM J. Sci. Comput. 43(5), A3055 (2021), eq. 2.21-2.22, with the "
        "gradient of the total in the first order",
        f"In {by_curvature} of {len(raised)} of them curvature explains it: the step is too long.",
        "predicted_change",
    )


def _without_limit(seen: Measurements) -> str:
    ends, limits = seen.ends("hessian"), seen.of_run("stability_limit")
    text = (
        "the optimizer's own limit is not known; `stability` measures it for SGD, Adam, AdamW and "
        "RMSprop of torch.optim"
    )
    if len(ends) and len(limits):
        both = float(ends["largest"].iloc[-1]), float(limits.iloc[-1])
        text += (
            f". (Plain gradient descent would need {number(both[0])} to be below "
            f"{number(both[1])}.)"
        )
    return text


def _rises(seen: Measurements) -> float:
    """Returns the last total loss over the smallest that was recorded, NaN if not known."""
    losses = seen.of_term("loss", TOTAL)
    if len(losses) < 2 or not losses.min() > 0:
        return math.nan
    return float(losses.iloc[-_LAST:].median() / losses.min())


def _last(series: pd.Series) -> float | None:
    return float(series.iloc[-1]) if len(series) else None


def _last_loss(seen: Measurements, term: str) -> float:
    losses = seen.of_term("loss", term)
    return abs(float(losses.iloc[-1])) if len(losses) else 0.0
