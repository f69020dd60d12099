"""Which terms does the loss have, and does each of them take part?"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pandas as pd

from ..findings import Finding
from ..measurements import Measurements, late
from . import pulls
from .direction import cosines_of
from .outcome import Outcome, Question
from .words import name, number, plural, steps_of

# Losses and directions of two terms that are one expression agree to rounding in float32.
SAME = 1e-5
_MOST_LISTED = 6

QUESTION = Question(
    "term inventory",
    "a gradient that is exactly zero at every measurement fails; so warns a weight of zero, or two "
    f"terms whose losses and directions are equal to {SAME:g} at every measurement",
    "losses",
)
_SOURCE = "observed by gradpath"


def term_inventory(seen: Measurements) -> Outcome:
    """Lists terms, weights and shares; finds terms that take no part, or take part twice."""
    if not seen.terms:
        return QUESTION.not_measured("no term of the loss was recorded; `losses` records them")
    findings = [*_without_gradient(seen), *_weighted_by_zero(seen), *_twice(seen)]
    return QUESTION.answered(_inventory(seen), findings)


def _inventory(seen: Measurements) -> str:
    weights = seen.of_network("weight")
    loss_shares = _shares(seen.of_network("weighted_loss"), seen.terms)
    pull_shares = _shares(pulls.of_terms(seen), seen.terms)
    texts = []
    for term in seen.terms[:_MOST_LISTED]:
        known = weights[term].dropna() if term in weights else pd.Series(dtype="float64")
        parts = [f"weight {number(float(known.iloc[-1]))}"] if len(known) else []
        parts += [f"{loss_shares[term]:.0%} of the loss"] if term in loss_shares else []
        parts += [f"{pull_shares[term]:.0%} of the gradients"] if term in pull_shares else []
        texts.append(f"{name(term)}: {', '.join(parts) or 'nothing else known'}")
    if len(seen.terms) > _MOST_LISTED:
        texts.append(f"and {len(seen.terms) - _MOST_LISTED} more")
    return "; ".join(texts)


def _shares(measured: pd.DataFrame, terms: tuple[str, ...]) -> dict[str, float]:
    """Returns each term's share in the sum of magnitudes, late in the training."""
    known = late(measured.reindex(columns=[term for term in terms if term in measured])).abs()
    shares = known.div(known.sum(axis=1), axis=0).median()
    return {str(term): float(share) for term, share in shares.items() if np.isfinite(share)}


def _without_gradient(seen: Measurements) -> Iterator[Finding]:
    norms = seen.of_network("gradient_norm")
    for term in seen.terms:
        if term in norms and len(norms) and (norms[term] == 0).all():
            yield Finding(
                "GP111",
                "fail",
                f"The gradient of {name(term)} is exactly zero in all layers, at all "
                f"{plural(len(norms), 'measured step')}.",
                {"term": term, "steps": steps_of(norms), "batch": seen.batch("gradient_norm"),
                 "statistic": "gradient_norm"},
                (
                    "Look for a .detach(), a .item(), torch.no_grad() or a constant in the term: "
                    "its value reaches the loss, its gradient no parameter.",
                    "Check that the points of the term and the network belong together.",
                ),
                _SOURCE,
                "The term changes the value of the loss and nothing else.",
            )  # fmt: skip


def _weighted_by_zero(seen: Measurements) -> Iterator[Finding]:
    weights = seen.of_network("weight")
    for term in seen.terms:
        known = weights[term].dropna() if term in weights else pd.Series(dtype="float64")
        if len(known) and (known == 0).all():
            yield Finding(
                "GP112",
                "warn",
                f"The weight of {name(term)} is zero at all {plural(len(known), 'recorded step')}.",
                {"term": term, "steps": steps_of(known), "statistic": "weight"},
                ("Leave the term out if that is meant; else look where the weight is set.",),
                _SOURCE,
                "Nothing in the training asks for this term to be small.",
                "weights",
            )


def _twice(seen: Measurements) -> Iterator[Finding]:
    losses = seen.of_network("loss")
    for one, other in combinations([term for term in seen.terms if term in losses], 2):
        first, second = losses[one], losses[other]
        together = first.notna() & second.notna()
        cosines = cosines_of(seen, one, other)
        if not together.any() or not len(cosines):
            continue
        apart = (first - second).abs() > SAME * first.abs()
        if not apart[together].any() and (cosines > 1 - SAME).all():
            yield Finding(
                "GP113",
                "warn",
                f"{name(one)} and {name(other)} have equal losses and gradients of one direction "
                f"at all {plural(len(cosines), 'measured step')}.",
                {"terms": [one, other], "steps": steps_of(cosines), "largest_angle_cosine":
                 float(cosines.min()), "statistic": "loss, cosine"},
                ("Remove one of them if they are one term: together they count twice.",),
                _SOURCE,
                "They seem to be one term that is added twice.",
            )  # fmt: skip
