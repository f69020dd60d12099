"""Do weights that change bring the terms together, or drive them apart?

A rule that balances gives a term with a small gradient a large weight: across terms, and from step
to step, weight falls as the norm of the gradient grows. Some published code has it the other way.
"""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pandas as pd

from ..findings import Finding
from ..measurements import Measurements, late
from . import pulls
from .outcome import Outcome, Question
from .words import name, number, span, steps_of

# d log(w_i / w_j) / d log(|g_i| / |g_j|): -1 for weights inverse to the norm, -1/2 for the rule of
# the SIAM paper at rest, 0 for weights that do not care, +1 for weights proportional to it (PINA
# 0.3.2, NeuralTangentKernelWeighting).
BACKWARDS = 0.25
# Of norms that are closer together the logarithm is too small to divide by.
APART = 2.0
# Weights that vary by less are constant but for rounding.
_VARIES = 1e-3
_FEWEST_SLOPES = 5

QUESTION = Question(
    "balancer",
    f"weights that grow with the norm of the gradient, by a power above {BACKWARDS:g} (inverse "
    "rules have -1, the SIAM rule -1/2), warn, unless they clearly fall as it grows in time",
    "weights",
)


def balancer(seen: Measurements) -> Outcome:
    """Compares weights with the norms that they are to balance."""
    if len(seen.terms) == 1:
        return QUESTION.answered("the loss has a single term")
    recorded = seen.of_network("weight").reindex(columns=list(seen.terms)).abs()
    norms = seen.of_network("gradient_norm").reindex(columns=list(seen.terms))
    if recorded.dropna(how="all").empty:
        return QUESTION.not_measured("no weights are known; the instrument `losses` records them")
    relative = recorded.div(recorded.mean(axis=1), axis=0)
    if not ((relative.max() - relative.min()) > _VARIES * relative.max()).any():
        return QUESTION.answered("there is none: the weights are constant")
    if norms.dropna(how="all").empty:
        return QUESTION.not_measured(
            "the weights change, but no gradients were recorded; `gradient_statistics` does"
        )
    weights = pulls.weights(seen, norms.index)
    powers = {
        pair: power
        for pair in combinations(seen.terms, 2)
        if not math.isnan(power := _power(weights, norms, pair))
    }
    if not powers:
        return QUESTION.answered("the weights change; all gradients have norms of like size")
    apart = {pair: abs(math.log(_ratio(norms, pair))) for pair in powers}
    pair = max(apart, key=lambda each: apart[each])
    power, slope = powers[pair], _slope(weights, norms, pair)
    text = (
        f"between {name(pair[0])} and {name(pair[1])} the weight goes as the norm of the gradient "
        f"to the power {power:.2f} ({span(late(norms).index)})"
    )
    # Over time, weights that lag behind may go either way; where they clearly fall as the norm
    # grows, the rule is an inverse one which the norms have outrun.
    if power < BACKWARDS or slope < -BACKWARDS:
        return QUESTION.answered(text)
    return QUESTION.answered(text, [_finding(seen, weights, norms, pair, power, slope)])


def _power(weights: pd.DataFrame, norms: pd.DataFrame, pair: tuple[str, str]) -> float:
    """Returns log(w_i / w_j) / log(|g_i| / |g_j|), the median of the second half."""
    one, other = pair
    with np.errstate(divide="ignore", invalid="ignore"):
        above = np.log(weights[one] / weights[other])
        below = np.log(norms[one] / norms[other])
    is_known = np.isfinite(above) & np.isfinite(below) & (np.abs(below) >= math.log(APART))
    known = late(pd.Series(is_known, index=norms.index))
    chosen = known.index[known.astype(bool)]
    if len(chosen) * 2 < len(known):
        return math.nan
    return float(np.median(above[chosen] / below[chosen]))


def _slope(weights: pd.DataFrame, norms: pd.DataFrame, pair: tuple[str, str]) -> float:
    """Returns d log(w_i / w_j) / d log(|g_i| / |g_j|) over all steps, NaN if there are too few."""
    one, other = pair
    with np.errstate(divide="ignore", invalid="ignore"):
        above = np.log(weights[one] / weights[other])
        below = np.log(norms[one] / norms[other])
    both = pd.DataFrame({"above": above, "below": below}).replace([np.inf, -np.inf], np.nan)
    both = both.dropna()
    spread = float(both["below"].var()) if len(both) >= _FEWEST_SLOPES else 0.0
    return float(both["above"].cov(both["below"])) / spread if spread > 0 else math.nan


def _ratio(norms: pd.DataFrame, pair: tuple[str, str]) -> float:
    recent = late(norms)
    return float(pulls.ratio(recent[pair[0]], recent[pair[1]]).median())


def _finding(
    seen: Measurements,
    weights: pd.DataFrame,
    norms: pd.DataFrame,
    pair: tuple[str, str],
    power: float,
    slope: float,
) -> Finding:
    recent, given = late(norms), late(weights)
    if _ratio(norms, pair) < 1:
        pair = (pair[1], pair[0])
    strong, weak = pair
    bare = _ratio(norms, pair)
    weighted = _ratio(norms * weights, pair)
    return Finding(
        "GP121",
        "warn",
        f"The weights work backwards: the gradient of {name(strong)} is {number(bare)} times "
        f"that of {name(weak)}, and {number(weighted)} times once it is weighted "
        f"({span(recent.index)}).",
        {
            "strong": strong,
            "weak": weak,
            "unweighted_factor": bare,
            "weighted_factor": weighted,
            "power_of_norm": power,
            "slope_in_time": None if math.isnan(slope) else slope,
            "weights": {str(term): float(value) for term, value in given.median().items()},
            "steps": steps_of(recent),
            "batch": seen.batch("gradient_norm"),
            "statistic": "log ratio of weights over log ratio of norms, median of the second half",
        },
        (
            "Look at how the weight is computed: a rule that balances divides by the norm of the "
            "term's own gradient (or by the trace of its kernel).",
            'Take a rule from a named source for comparison (weights="siam", '
            '"jaxpi_grad_norm", "ntk").',
            "Train once with constant weights, to see what the rule is worth.",
        ),
        "Wang, Yu, Perdikaris, arXiv 2007.14527, algorithm 1 (weights inverse to the trace); "
        "the opposite was measured of PINA 0.3.2, NeuralTangentKernelWeighting",
        "The rule amplifies the term that dominates already.",
        "weights",
    )
