"""Is what satisfies the loss the solution, and does the solution satisfy the loss?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..findings import Finding
from ..measurements import TOTAL, Measurements
from . import grids
from .course import FAILED_ERROR, LEARNED, error, improvement, neglected
from .outcome import Outcome, Question
from .words import listed, name, number

# Of the solution's own standard deviation. A network that has found the zero solution, or any
# constant, has next to none.
TRIVIAL = 0.1
# Of the first residual of the network. In float64 a residual that is coded as the solution has it
# leaves 1e-12 and less (measured for twelve problems); a wrong sign or factor leaves 0.1 and more.
WRONG_RESIDUAL = 1e-6

SOLUTION = Question(
    "trivial or wrong solution",
    f"a relative error of {FAILED_ERROR:g} or more warns; it fails where the total loss has fallen "
    f"by {LEARNED:g} all the same",
    "solution_fields",
)
SELF_CHECK = Question(
    "residual self-check",
    f"the exact solution leaves a residual above {WRONG_RESIDUAL:g} of the network's first one",
)
_SOURCE = "i207M/PINNacle issue 12, lululxvi/deepxde issues 321 and 356 (low loss, wrong solution)"


def wrong_solution(seen: Measurements) -> Outcome:
    """Compares how far the loss has fallen with the error."""
    known = error(seen)
    if math.isnan(known):
        return SOLUTION.not_measured(
            "the solution is not known; record a scalar `relative_error`, and fields `prediction` "
            "and `error` with the instrument `Fields`"
        )
    errors = seen.of_run("relative_error")
    step = int(errors.index[-1])
    fell = improvement(seen, TOTAL)
    text = f"the relative error is {number(known)} at step {step:,}"
    if not math.isnan(fell):
        text += f", the total loss has fallen by a factor of {number(fell)}"
    if known < FAILED_ERROR:
        return SOLUTION.answered(text)
    evidence: dict[str, Any] = {
        "relative_error": known,
        "loss_fell_by": None if math.isnan(fell) else fell,
        "terms_fell_by": {term: improvement(seen, term) for term in seen.terms},
        "step": step,
        "batch": "evaluation grid",
        "statistic": "relative L2 error",
    }
    spread = _spread(seen)
    if spread is not None and spread <= TRIVIAL:
        return SOLUTION.answered(text, [_trivial(known, spread, step, evidence)])
    return SOLUTION.answered(text, [_wrong(seen, known, fell, step, evidence)])


def residual_self_check(seen: Measurements) -> Outcome:
    """Asks whether the exact solution satisfies the equation as it is coded."""
    residuals = seen.of_network("solution_residual")
    shares = {}
    for term in residuals.columns:
        first = seen.of_term("loss", str(term))
        left = residuals[term].dropna()
        if len(first) and len(left) and float(first.iloc[0]) > 0:
            shares[str(term)] = float(left.abs().max()) / math.sqrt(float(first.iloc[0]))
    if not shares:
        return SELF_CHECK.not_measured(
            "it was not recorded what the residual of the exact solution is; put the solution into "
            "the residual and record the largest magnitude as a scalar `solution_residual`"
        )
    worst = max(shares, key=lambda term: shares[term])
    text = (
        f"the exact solution leaves {number(shares[worst])} of the first residual ({name(worst)})"
    )
    wrong = [term for term, share in shares.items() if not share <= WRONG_RESIDUAL]
    if not wrong:
        return SELF_CHECK.answered(text)
    finding = Finding(
        "GP603",
        "fail",
        f"The exact solution does not satisfy {listed(wrong)}: it leaves "
        f"{number(shares[worst])} of the residual that the network began with.",
        {"terms": shares, "batch": "evaluation grid",
         "statistic": "largest residual of the solution over the root of the first loss"},
        (
            "Correct the code of the residual before anything else: a sign, a factor, the order of "
            "the inputs.",
            "Differentiate u_x and u_y separately: the derivative of their sum mixes u_xy into the "
            "Laplacian.",
        ),
        "prateekbhustali/Physics-Informed-Neural-Networks issues 2 and 4 (mixed derivatives)",
        "The network cannot find the solution with this loss.",
    )  # fmt: skip
    return SELF_CHECK.answered(text, [finding])


def _spread(seen: Measurements) -> float | None:
    """Returns the standard deviation of the prediction over that of the solution."""
    both = grids.error_and_solution(seen)
    if both is None:
        return None
    sampled, solution = both
    whole = float(np.sqrt(solution.var(axis=0).sum()))
    predicted = float(np.sqrt((solution + sampled.values).var(axis=0).sum()))
    return predicted / whole if whole > 0 else None


def _trivial(known: float, spread: float, step: int, evidence: dict[str, Any]) -> Finding:
    return Finding(
        "GP602",
        "fail",
        f"The network has learned next to a constant: its values spread {number(spread)} times as "
        f"far as the solution's, and the relative error is {number(known)} (step {step:,}).",
        evidence | {"spread_over_solutions": spread},
        (
            "Check that something in the loss forbids the trivial solution: initial or boundary "
            "values that are not zero, a source term, data.",
            "Weigh that term more, or build it into the network.",
            "Check the code of the equation, its source term above all.",
        ),
        _SOURCE,
        "A constant seems to satisfy what counts in the loss.",
        "solution_fields",
    )


def _wrong(
    seen: Measurements, known: float, fell: float, step: int, evidence: dict[str, Any]
) -> Finding:
    left = neglected(seen)
    if not fell >= LEARNED:
        return Finding(
            "GP604",
            "warn",
            f"The problem is not solved: the relative error is {number(known)} at step {step:,}.",
            evidence,
            ("Train on, if the loss still falls; else see the other checks for why it does not.",),
            "observed by gradpath",
            "",
            "solution_fields",
        )
    reading = (
        f"What has fallen is the loss of other terms: {listed(left)} is left."
        if left
        else "A wrong solution satisfies the terms to this accuracy, or they say too little where "
        "the error is."
    )
    neglect = (f"Weigh {listed(left)} more: see the check of magnitude imbalance.",) if left else ()
    return Finding(
        "GP601",
        "fail",
        f"The loss is low and the solution wrong: the total loss has fallen by a factor of "
        f"{number(fell)}, and the relative error is {number(known)} at step {step:,}.",
        evidence,
        (
            *neglect,
            "Look where the error is, and where the residual: a region without points, or one that "
            "boundary and initial values do not reach.",
            "Check the code of the equation and of the conditions against the exact solution.",
            "Add data, where there is any.",
        ),
        _SOURCE,
        reading,
        "solution_fields",
    )
