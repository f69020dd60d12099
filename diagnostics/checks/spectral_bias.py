"""Are coarse features learned, and fine ones not?

Error and solution on a regular grid are split into bands of spatial frequency, as PINNacle does
(NeurIPS 2024), and the error of each band is taken relative to what the solution has there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..findings import Finding
from ..measurements import Measurements
from . import grids
from .outcome import Outcome, Question
from .words import number

# Periods over the width of the domain; PINNacle's bands.
BANDS = {"low": (0, 5), "middle": (5, 13), "high": (13, np.inf)}
# A band with less of the solution's energy is leakage of the others rather than a feature.
CARRIES = 0.01
LEARNED_BAND = 0.3
FLAT_BAND = 0.7

Array = NDArray[np.float64]

QUESTION = Question(
    "spectral bias",
    f"a band of higher frequency that has at least {CARRIES:.0%} of the solution's energy, with a "
    f"relative error above {FLAT_BAND:g}, beside a lower band below {LEARNED_BAND:g}",
    "solution_fields",
)
_SOURCE = (
    "Rahaman et al., ICML 2019, arXiv 1806.08734; Tancik et al., NeurIPS 2020, arXiv 2006.10739; "
    "bands of PINNacle, NeurIPS 2024"
)


def spectral_bias(seen: Measurements) -> Outcome:
    """Compares the errors of bands of frequency."""
    both = grids.error_and_solution(seen)
    if both is None:
        return QUESTION.not_measured(
            "the solution is not known; fields `prediction` and `error` on a regular grid show it"
        )
    sampled, solution = both
    errors, exact = grids.as_box(sampled, sampled.values), grids.as_box(sampled, solution)
    if errors is None or exact is None:
        return QUESTION.not_measured("the points of the fields are no regular grid")
    shares = _errors_by_band(errors, exact)
    if not shares:
        return QUESTION.not_measured("the solution is zero or constant")
    bands = ", ".join(f"{band} {number(share)}" for band, share in shares.items())
    text = f"relative error of the bands at step {sampled.step:,}, edges faded out: {bands}"
    names = list(shares)
    flat = [band for at, band in enumerate(names)
            if shares[band] >= FLAT_BAND
            and any(shares[lower] <= LEARNED_BAND for lower in names[:at])]  # fmt: skip
    if not flat:
        return QUESTION.answered(text)
    finding = Finding(
        "GP612",
        "warn",
        f"Fine features are not learned: {bands.replace(', ', ' of the band, ')} of the band "
        f"(relative error at step {sampled.step:,}).",
        {
            "step": sampled.step,
            "error_by_band": shares,
            "periods_over_the_domain": {band: [low, None if high == np.inf else high]
                                        for band, (low, high) in BANDS.items()},
            "batch": "evaluation grid",
            "statistic": "norms of the Fourier coefficients of error and solution, Hann window",
        },
        (
            "Random Fourier features of the inputs, with a scale of the frequencies that are "
            "missing.",
            "An activation of sines, or a shorter domain.",
            "Train longer before that, if the loss still falls: high frequencies come last.",
        ),
        _SOURCE,
        "The network learns low frequencies first, and has not got further.",
        "solution_fields",
    )  # fmt: skip
    return QUESTION.answered(text, [finding])


def _errors_by_band(errors: Array, exact: Array) -> dict[str, float]:
    above, below = _energies(errors), _energies(exact)
    total = sum(below.values())
    return {
        band: float(np.sqrt(above[band] / below[band]))
        for band in BANDS
        if total > 0 and below[band] >= CARRIES * total
    }


def _energies(box: Array) -> dict[str, float]:
    """Returns the energy of an array (n_1, ..., n_d, quantities) in each band."""
    shape = box.shape[:-1]
    axes = tuple(range(len(shape)))
    windowed = box.copy()
    frequencies = np.zeros(shape)
    for axis, count in enumerate(shape):
        along = [1] * len(shape)
        along[axis] = count
        # Without a window the jump between the two ends of a domain that is no period of the
        # solution would put energy into every band.
        windowed *= np.hanning(count + 2)[1:-1].reshape(*along, 1)
        frequencies = frequencies + (np.fft.fftfreq(count, 1 / count) ** 2).reshape(along)
    energy = (np.abs(np.fft.fftn(windowed, axes=axes)) ** 2).sum(axis=-1)
    periods = np.round(np.sqrt(frequencies))
    return {
        band: float(energy[(periods >= low) & (periods < high)].sum())
        for band, (low, high) in BANDS.items()
    }
