"""Are all numbers finite?"""

from __future__ import annotations

import math

import numpy as np

from ..findings import Finding
from ..measurements import WHOLE, Measurements
from .outcome import Outcome, Question
from .words import name, plural

QUESTION = Question(
    "finite numbers",
    "one loss or gradient that is NaN or infinite fails: it makes all parameters so",
    "losses",
)
_RECORDED = ("GP401", "GP402")


def finite_numbers(seen: Measurements) -> Outcome:
    """Looks for the first loss or gradient that is not finite, and where it was."""
    findings = sorted(_found(seen), key=lambda finding: int(finding.evidence["step"]))
    if findings:
        step = findings[0].evidence["step"]
        return QUESTION.answered(f"not finite from step {step:,} on", findings)
    losses, gradients = seen.scalar("loss"), seen.scalar("gradient_not_finite")
    if losses.empty and gradients.empty:
        return QUESTION.not_measured("no losses were recorded; the instrument `losses` does")
    return QUESTION.answered(
        f"all {plural(len(losses), 'recorded loss').replace('losss', 'losses')} are finite"
        + ("" if gradients.empty else f", and the gradients at "
           f"{plural(gradients['step'].nunique(), 'step')}")
    )  # fmt: skip


def first_not_finite(seen: Measurements) -> int | None:
    """Returns the step from which nothing can be trusted."""
    return min((int(finding.evidence["step"]) for finding in _found(seen)), default=None)


def _found(seen: Measurements) -> list[Finding]:
    """Returns what was recorded, and what was not finite before that."""
    recorded = [
        each
        for each in seen.recorded
        if each.code in _RECORDED and isinstance(each.evidence.get("step"), int)
    ]
    known = min((each.evidence["step"] for each in recorded), default=math.inf)
    others = [each for each in (_in_gradients(seen), _in_losses(seen)) if each is not None]
    earlier = [each for each in others if each.evidence["step"] < known]
    first = min(earlier, key=lambda each: int(each.evidence["step"]), default=None)
    return recorded if first is None else [first, *recorded]


def _in_losses(seen: Measurements) -> Finding | None:
    losses = seen.scalar("loss")
    bad = losses[~np.isfinite(losses["value"])]
    if bad.empty:
        return None
    step, term, value = bad.iloc[0][["step", "term", "value"]]
    return _finding(int(step), f"the loss of {name(term)} is {value}", term, "")


def _in_gradients(seen: Measurements) -> Finding | None:
    counts = seen.scalar("gradient_not_finite")
    bad = counts[(counts["value"] > 0) & (counts["layer"] != WHOLE)]
    if bad.empty:
        return None
    step, term, layer, value = bad.iloc[0][["step", "term", "layer", "value"]]
    entries = plural(int(value), "entry").replace("entrys", "entries")
    text = f"{entries} of the gradient of {name(term)} in layer {name(layer)} are not finite"
    return _finding(int(step), text, term, layer)


def _finding(step: int, what: str, term: str, layer: str) -> Finding:
    return Finding(
        "GP403",
        "fail",
        f"At step {step:,}, first, {what}.",
        {"step": step, "term": term, "layer": layer},
        (
            "Look at the steps before: a weight, the learning rate or a gradient that grew.",
            "Lower the learning rate, or clip the gradients.",
            "Check the term for a division by zero, a logarithm or a root at zero: a root has an "
            "infinite slope there, which makes the gradient NaN while the loss is finite.",
        ),
        "observed by gradpath",
        "Nothing from this step on was used for the other checks.",
        "losses",
    )
