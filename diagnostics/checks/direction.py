"""Do the terms pull against each other, and does anything remain of their sum?

Where a training has come to rest, the gradients of all terms add up to nothing by definition, and
those of two terms are opposed. Neither is a defect by itself, but where terms are not learned.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from ..findings import Finding
from ..measurements import Measurements, late
from . import pulls
from .course import LEARNED, improvement, late_improvement
from .outcome import Outcome, Question
from .words import name, number, span, steps_of

# Below a cosine of -1/2 the sum of two gradients of one length is shorter than each of them.
CONFLICT = -0.5
# Opposed in most of the steps, not only on average.
MOSTLY = 0.75
# Of two gradients further apart in length the longer one wins at any angle: that is imbalance.
COMPARABLE = 10.0
# ||sum w g|| / sum ||w g||. In runs that train well it stands at 0.8 to 1 (Helmholtz M1 to M4), in
# a failing one with opposed terms at 0.55 (convection, beta = 30).
CANCELLED = 0.3
ALMOST_NOTHING_LEFT = 0.1

CONFLICT_QUESTION = Question(
    "conflict",
    f"a median cosine of two terms below {CONFLICT:g}, below which their sum is shorter than each, "
    f"with norms within a factor of {COMPARABLE:g}, while one of the two has not fallen by "
    f"{LEARNED:g}",
    "alignment",
)
CANCELLATION_QUESTION = Question(
    "cancellation",
    f"less than {CANCELLED:g} of the weighted gradients left in their sum warns, less than "
    f"{ALMOST_NOTHING_LEFT:g} fails, while a term has not fallen by {LEARNED:g}",
    "alignment",
)
_SOURCE = "ConFIG, ICLR 2025, arXiv 2408.11104; gradient alignment, arXiv 2502.00604"


def conflict(seen: Measurements) -> Outcome:
    """Looks for the pair of terms whose gradients are most opposed."""
    if len(seen.terms) == 1:
        return CONFLICT_QUESTION.answered("the loss has a single term")
    cosines = {
        pair: found for pair in combinations(seen.terms, 2) if len(found := cosines_of(seen, *pair))
    }
    if not cosines:
        return CONFLICT_QUESTION.not_measured(
            "no angles between gradients were recorded; the instrument `alignment` does"
        )
    medians = {pair: float(late(found).median()) for pair, found in cosines.items()}
    norms = late(pulls.of_terms(seen)).median()
    findings = [
        _opposed(seen, pair, cosines[pair], norms)
        for pair, median in sorted(medians.items(), key=lambda each: each[1])
        if median <= CONFLICT
        and float((late(cosines[pair]) < 0).mean()) >= MOSTLY
        and _are_comparable(norms, pair)
        and not _are_learned(seen, pair)
    ]
    pair = min(medians, key=lambda each: medians[each])
    recent = late(cosines[pair])
    text = (
        f"the most opposed, {name(pair[0])} and {name(pair[1])}, have a cosine of "
        f"{medians[pair]:.2f} ({span(recent.index)}), below zero in {(recent < 0).mean():.0%} "
        "of them"
    )
    return CONFLICT_QUESTION.answered(text, findings)


def cancellation(seen: Measurements) -> Outcome:
    """Asks how much of the weighted gradients is left in their sum."""
    if len(seen.terms) == 1:
        return CANCELLATION_QUESTION.answered("the loss has a single term")
    left = seen.of_run("cancellation").dropna()
    if not len(left):
        return CANCELLATION_QUESTION.not_measured(
            "it was not recorded what is left in the sum; the instrument `alignment` does"
        )
    recent = late(left)
    median = float(recent.median())
    text = f"{number(median)} of the weighted gradients is left in their sum ({span(recent.index)})"
    if median > CANCELLED or _are_learned(seen, seen.terms):
        return CANCELLATION_QUESTION.answered(text)
    grave = median <= ALMOST_NOTHING_LEFT and len(recent) > 1
    finding = Finding(
        "GP202",
        "fail" if grave else "warn",
        f"In the sum of the weighted gradients {number(median)} of their norms is left "
        f"({span(recent.index)}): the terms cancel each other.",
        {
            "left": median,
            "quartiles": recent.quantile([0.25, 0.5, 0.75]).tolist(),
            "loss_falls_late_by": _known(late_improvement(seen)),
            "steps": steps_of(recent),
            "batch": seen.batch("cancellation"),
            "statistic": "||sum w g|| / sum ||w g||, median over the second half",
        },
        (
            "Change a weight by a factor of ten for some hundred steps: if one loss falls and "
            "another rises, the training rests at a compromise that the weights define.",
            'Combine the gradients without conflict (weights="config" or "upgrad").',
            "Check that the terms can be satisfied together: data, boundary values and equation.",
        ),
        _SOURCE,
        "The training may rest between its terms, at a point where none of them is small.",
        "alignment",
    )
    return CANCELLATION_QUESTION.answered(text, [finding])


def cosines_of(seen: Measurements, one: str, other: str) -> pd.Series:
    """Returns the cosine of two terms' gradients by step, in whichever order it was recorded."""
    found = seen.of_term(f"cosine:{other}", one)
    return found if len(found) else seen.of_term(f"cosine:{one}", other)


def _opposed(
    seen: Measurements, pair: tuple[str, str], cosines: pd.Series, norms: pd.Series
) -> Finding:
    recent = late(cosines)
    one, other = pair
    return Finding(
        "GP201",
        "warn",
        f"{name(one)} and {name(other)} pull against each other: the cosine of their gradients is "
        f"{recent.median():.2f} ({span(recent.index)}), below zero in {(recent < 0).mean():.0%} of "
        "them.",
        {
            "terms": [one, other],
            "cosine_quartiles": recent.quantile([0.25, 0.5, 0.75]).tolist(),
            "share_below_zero": float((recent < 0).mean()),
            "weighted_norms": [_known(norms.get(term, np.nan)) for term in pair],
            "losses_fell_by": [_known(improvement(seen, term)) for term in pair],
            "steps": steps_of(recent),
            "batch": seen.batch(f"cosine:{other}") or seen.batch(f"cosine:{one}"),
            "statistic": "cosine of the unweighted gradients, median over the second half",
        },
        (
            "Combine the gradients without conflict, on the same points, and compare the losses "
            '(weights="config" or "upgrad" in probe.backward).',
            "Try a second-order optimizer (SOAP, L-BFGS after Adam): in arXiv 2502.00604 that "
            "aligned the gradients of ten problems.",
            "Check that both terms can be satisfied together.",
        ),
        _SOURCE,
        "A step that lowers one of them is likely to raise the other.",
        "alignment",
    )


def _are_comparable(norms: pd.Series, pair: tuple[str, str]) -> bool:
    lengths = [float(norms.get(term, np.nan)) for term in pair]
    return not min(lengths) > 0 or max(lengths) / min(lengths) <= COMPARABLE


def _are_learned(seen: Measurements, terms: tuple[str, ...]) -> bool:
    return all(improvement(seen, term) >= LEARNED for term in terms)


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
