"""Does what one batch says differ more from the next batch than from the truth?

Noise alone is no defect: late in a good training one batch's gradient is mostly noise, and the
optimizer averages it. It is one where a training has failed, or stands still.
"""

from __future__ import annotations

import math

import numpy as np

from ..findings import Finding
from ..measurements import TOTAL, Measurements, late
from .course import LEARNED, STALLED, failure, improvement, late_improvement
from .outcome import Outcome, Question
from .words import name, number, plural, span, steps_of

# Of the noise of one batch's gradient over its mean. Adam's moving average takes ten batches
# together, which divides the noise by some 4.
NOISY = 4.0
# Standard deviation of the logarithm of a loss between neighbouring records: a factor of 1.6.
# Batches of 128 points give 0.15 (Helmholtz).
SCATTER = 0.5
_FEWEST_RECORDS = 12

QUESTION = Question(
    "noise",
    f"one batch's gradient is {NOISY:g} times as much noise as signal, where the training has "
    f"failed; or neighbouring losses scatter by more than {SCATTER:g} in their logarithm while the "
    "loss has stalled",
    "losses",
)
_SOURCE = (
    "observed by gradpath; amirgholami/PyHessian issue 5 (159 to 1587 over ten batches of 128); "
    "norm test of Byrd et al., Math. Program. 134 (2012)"
)


def noise(seen: Measurements) -> Outcome:
    """Looks at gradients on several batches where they were taken, else at the losses' scatter."""
    ratios = {
        term: float(late(found).median())
        for term in (*seen.terms, TOTAL)
        if len(found := seen.of_term("gradient_noise", term))
    }
    if ratios:
        return _of_gradients(seen, ratios)
    losses = seen.of_term("loss", TOTAL)
    recent = late(losses)
    if len(recent) < _FEWEST_RECORDS or not (recent > 0).all():
        return QUESTION.not_measured(
            "gradients were not taken on several batches of one step, and too few losses above "
            "zero were recorded for their scatter"
        )
    jumps = np.diff(np.log(recent.to_numpy()))
    scatter = float(1.4826 * np.median(np.abs(jumps - np.median(jumps))) / math.sqrt(2))
    text = (
        f"neighbouring records of the total loss scatter by {number(scatter)} in their logarithm "
        f"({plural(len(recent), 'record')}); gradients on several batches were not taken"
    )
    falls = late_improvement(seen)
    stands = falls < STALLED and not improvement(seen, TOTAL) >= LEARNED
    if scatter < SCATTER or not stands:
        return QUESTION.answered(text)
    finding = Finding(
        "GP621",
        "warn",
        f"The loss scatters more than it falls: neighbouring records differ by a factor of "
        f"{number(math.exp(scatter))} (one standard deviation), and over the second half it fell "
        f"by a factor of {number(falls)}.",
        {
            "scatter_of_log": scatter,
            "falls_late_by": falls,
            "steps": steps_of(recent),
            "batch": seen.batch("loss"),
            "statistic": "median absolute deviation of differences of the logarithm",
        },
        _ADVICE,
        _SOURCE,
        "Batches may be too small, or steps too long: either makes a loss jump. On fixed points "
        "only the second does.",
        "losses",
    )
    return QUESTION.answered(text, [finding])


_ADVICE = (
    "Take ten times as many points a batch for some hundred steps, at the same learning rate.",
    "Measure on fixed points (probe.on_batch), to tell batches from long steps.",
    "Lower the learning rate towards the end.",
)


def _of_gradients(seen: Measurements, ratios: dict[str, float]) -> Outcome:
    term = max(ratios, key=lambda each: ratios[each])
    recent = late(seen.of_term("gradient_noise", term))
    text = (
        f"from batch to batch the gradient of {name(term)} varies {number(ratios[term])} times as "
        f"much as it is long ({span(recent.index)})"
    )
    failed = failure(seen)
    if ratios[term] < NOISY or not failed:
        return QUESTION.answered(text)
    finding = Finding(
        "GP622",
        "warn",
        f"Batches say more about themselves than about the loss: from one to the next the gradient "
        f"of {name(term)} varies {number(ratios[term])} times as much as it is long "
        f"({span(recent.index)}).",
        {
            "noise_over_signal": ratios,
            "steps": steps_of(recent),
            "batch": "several of the training's",
            "statistic": "standard deviation over batches over the norm of the mean",
        },
        _ADVICE,
        _SOURCE,
        f"That {failed} may be due to it.",
        "losses",
    )
    return QUESTION.answered(text, [finding])
