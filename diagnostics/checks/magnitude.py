"""Do the gradients of all terms count, or does one of them drown the others?

What is compared is what the optimizer adds up: weight times gradient. The ratio of norms decides;
the ratio of the paper, max|g| / mean|g|, is given beside it, and is larger, since the largest entry
of any gradient is some ten to a hundred times its mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from ..findings import Finding
from ..measurements import Measurements, late
from . import pulls
from .course import (
    LEARNED,
    NOT_LEARNED,
    STILL_FALLING,
    failure,
    improvement,
    late_improvement,
)
from .outcome import Outcome, Question
from .remedies import balancing_weights
from .words import listed_layers, name, number, span, steps_of

# Twice what the authors' own rule leaves on their Helmholtz example, where M2 rests at 10 (error
# 1 %) and M4 at 8 (0.4 %); their baseline M1 (28 %) stands at 28.
IMBALANCED = 20.0
# "Not imbalance" is said only well below that: a term with a fifth of the other's gradient counts.
BALANCED = 5.0
# Of the measurements from some step on: it is there that the imbalance began.
MOSTLY = 0.5

QUESTION = Question(
    "magnitude imbalance",
    f"weighted gradient norms apart by a factor of {IMBALANCED:g} (twice what the paper's own rule "
    f"leaves on its example), unless the smaller one belongs to a term whose loss has fallen by "
    f"{LEARNED:g}; fails where it has not even fallen by {NOT_LEARNED:g}",
    "imbalance",
)
_LESS_WEIGHT = (
    "Look at how the weights are computed, or train once with constant ones: the gradients alone "
    "are not so far apart."
)
_PAPER = (
    "Wang, Teng, Perdikaris, SIAM J. Sci. Comput. 43(5), A3055 (2021), sections 2.3-2.4; weights "
    "by the rules in gradpath.diagnostics.weighting.PRESETS"
)
_KRI = "Krishnapriyan et al., NeurIPS 2021, arXiv 2109.01050, fig. E.1; Wang et al. 2308.08468"


def magnitude_imbalance(seen: Measurements) -> Outcome:
    """Compares weighted gradient norms late in the training, term by term."""
    if len(seen.terms) == 1:
        return QUESTION.answered("the loss has a single term")
    norms = pulls.of_terms(seen)
    recent = late(norms)
    medians = recent.median()
    known = medians[medians > 0]
    if len(known) < 2:
        return QUESTION.not_measured(
            "gradients and weights of two terms are not known; `gradient_statistics` and `losses` "
            "record them"
        )
    strong, weakest = str(known.idxmax()), str(known.idxmin())
    factor = float(known.max() / known.min())
    findings = [*_vanishing(seen, norms, known, strong)]
    if not findings and factor <= BALANCED:
        findings += _not_imbalance(seen, recent, factor)
    text = (
        f"{name(strong)} pulls {number(factor)} times as hard as {name(weakest)} "
        f"({span(recent.index)})"
    )
    return QUESTION.answered(text, findings)


def _vanishing(
    seen: Measurements, norms: pd.DataFrame, medians: pd.Series, strong: str
) -> Iterator[Finding]:
    for term, median in medians.sort_values().items():
        factor = float(medians[strong] / median)
        learned = improvement(seen, str(term))
        if factor < IMBALANCED or learned >= LEARNED:
            continue
        yield _finding(seen, norms, str(term), strong, factor, learned)


def _finding(
    seen: Measurements, norms: pd.DataFrame, weak: str, strong: str, factor: float, learned: float
) -> Finding:
    apart = pulls.ratio(norms[strong], norms[weak]).dropna()
    recent = late(apart)
    since = _since(apart)
    layers = _layers(seen, weak, strong)
    worst = [layer for layer, value in layers.items() if value >= IMBALANCED]
    weights = balancing_weights(seen, weak, strong)
    present = _present(seen, weak, strong)
    largest, means = seen.of_network("gradient_max"), seen.of_network("gradient_mean")
    paper = (
        float(late(pulls.ratio(largest[strong], means[weak])).median()) / present
        if strong in largest and weak in means and present > 0
        else math.nan
    )
    failed = failure(seen)
    grave = len(recent) > 1 and (learned < NOT_LEARNED or bool(failed))
    where = f" in {listed_layers(worst)}" if 0 < len(worst) < len(layers) else " in all layers"
    losses = _course(seen, weak, strong)
    reading = (
        f"{name(weak)} has hardly a say in the steps, and "
        f"{'may be' if math.isnan(learned) else 'is'} left behind."
        if not failed
        else f"That {failed} goes with {name(weak)} having hardly a say in the steps: imbalance "
        "is a likely cause. Balanced weights would show it."
    )
    if factor * present < IMBALANCED:
        reading += (
            f" The weights make it so: without them {name(strong)} pulls "
            f"{number(factor * present)} times as hard."
        )
    return Finding(
        "GP101",
        "fail" if grave else "warn",
        f"The weighted gradient of {name(weak)} is {number(factor)} times smaller than that of "
        f"{name(strong)}{where if layers else ''} ({span(recent.index)}; mostly so since "
        f"step {since:,}){losses}.",
        {
            "term": weak,
            "reference": strong,
            "factor": factor,
            "quartiles": recent.quantile([0.25, 0.5, 0.75]).tolist(),
            "layers": layers,
            "since_step": since,
            "paper_ratio_weighted": None if math.isnan(paper) else paper,
            "unweighted_factor": factor * present,
            "weight": present,
            "balancing_weights": weights,
            "loss_fell_by": None if math.isnan(learned) else learned,
            "steps": steps_of(recent),
            "batch": seen.batch("gradient_norm"),
            "statistic": "weight times gradient_norm, median over the second half",
        },
        _advice(weak, strong, weights, present, factor * present < IMBALANCED),
        _PAPER,
        reading,
        "imbalance",
    )


def _course(seen: Measurements, weak: str, strong: str) -> str:
    """Returns by how much the losses have changed, "" where that of the weak term is not known."""
    changes = {term: improvement(seen, term) for term in (weak, strong)}
    if math.isnan(changes[weak]):
        return ""
    known = [
        f"of {name(term)} has {'fallen' if change >= 1 else 'risen'} by a factor of "
        f"{number(change if change >= 1 else 1 / change)}"
        for term, change in changes.items()
        if not math.isnan(change)
    ]
    return f"; since the start the loss {', that '.join(known)}"


def _advice(
    weak: str, strong: str, weights: dict[str, float], present: float, by_weights: bool
) -> tuple[str, ...]:
    advice = []
    if weights:
        rules: dict[str, list[str]] = {}
        for rule, value in sorted(weights.items(), key=lambda each: each[1]):
            rules.setdefault(number(value), []).append(rule)
        each = ", ".join(f"{value} ({', '.join(names)})" for value, names in rules.items())
        advice.append(
            f"Weigh {name(weak)} more: with {name(strong)} at 1 its weight is {number(present)}, "
            f'and published rules would settle at {each}. Let one of them run (weights="siam" '
            "in probe.backward), rather than fix a number: the ratio changes as the training goes."
        )
    else:
        advice.append(f"Weigh {name(weak)} more, about {number(present)} times what it is now.")
    return (
        *([_LESS_WEIGHT] if by_weights else []),
        *advice,
        f"Build {name(weak)} into the network if it is a boundary or initial condition, so that it "
        "needs no term (hard constraints).",
        "Make the equation free of units, so that its coefficients are of order one.",
    )


def _not_imbalance(seen: Measurements, recent: pd.DataFrame, factor: float) -> list[Finding]:
    failed = failure(seen)
    # What still falls has not failed yet.
    if not failed or late_improvement(seen) >= STILL_FALLING:
        return []
    return [
        Finding(
            "GP102",
            "warn",
            f"This is not imbalance: {failed}, and the weighted gradients of all terms are within "
            f"a factor of {number(factor)} ({span(recent.index)}).",
            {
                "factor": factor,
                "norms": {str(term): float(value) for term, value in recent.median().items()},
                "steps": steps_of(recent),
                "batch": seen.batch("gradient_norm"),
                "statistic": "weight times gradient_norm, median over the second half",
            },
            (
                "Look at the checks of propagation, spectral bias, conflict and step size first.",
                "Where the solution is carried along in time, try causal weights, or train on a "
                "short time first and lengthen it.",
                "Make the coefficient that makes the problem hard smaller, and raise it while "
                "training (curriculum).",
                "Do not expect much of other weights: for convection with beta = 30 the error was "
                "1.69 to 0.98 whatever the weight.",
            ),
            _KRI,
            "Weights are unlikely to help.",
            "imbalance",
        )
    ]


def _layers(seen: Measurements, weak: str, strong: str) -> dict[str, float]:
    """Returns the ratio of weighted norms in every layer, late in the training."""
    apart = pulls.ratio(pulls.in_layers(seen, strong), pulls.in_layers(seen, weak))
    medians = late(apart).median()
    return {str(layer): float(value) for layer, value in medians.items() if np.isfinite(value)}


def _present(seen: Measurements, weak: str, strong: str) -> float:
    """Returns the weight of one term over that of the other, late in the training."""
    norms = pulls.of_terms(seen)
    given = late(pulls.weights(seen, norms.index))
    return float(pulls.ratio(given[weak], given[strong]).median())


def _since(apart: pd.Series) -> int:
    """Returns the first step at which the ratio is large, and is so mostly from there on."""
    above = (apart >= IMBALANCED).to_numpy()
    mostly = np.cumsum(above[::-1])[::-1] / np.arange(len(above), 0, -1) >= MOSTLY
    begun = np.flatnonzero(above & mostly)
    return int(apart.index[begun[0] if len(begun) else -1])
