"""Sets of instruments by name: how much is measured, and how often."""

from __future__ import annotations

from collections.abc import Sequence

from ...diagnostics.errors import ArgumentError
from ..schedules import every, log_spaced, within_budget
from .alignment import Alignment
from .base import Instrument
from .descent import Descent
from .gradient_histograms import GradientHistograms
from .gradient_statistics import GradientStatistics
from .imbalance import Imbalance
from .losses import Losses
from .spectrum import Spectrum
from .stability import Stability
from .stiffness import Stiffness
from .updates import Updates


def light(seed: int = 0) -> list[Instrument]:
    """Returns losses, and what the gradients of the terms show, without histograms or curvature."""
    return [Losses(), GradientStatistics(), Imbalance(), Alignment()]


def standard(seed: int = 0) -> list[Instrument]:
    """Returns the light set, histograms, updates, stiffness and stability.

    Meant to be left on: on a small network it takes about a twentieth of the time.
    """
    return [
        *light(seed),
        GradientHistograms(),
        Updates(),
        Stiffness(seed=seed),
        Stability(seed=seed),
    ]


def full(seed: int = 0) -> list[Instrument]:
    """Returns all that needs nothing but the training loop, measured more often.

    On a small network it takes less than a quarter of the time.
    """
    return [
        Losses(within_budget(0.035, every(5))),
        GradientStatistics(every(20)),
        Imbalance(every(20)),
        Alignment(every(20)),
        GradientHistograms(every(20)),
        Updates(every(20)),
        Stiffness(within_budget(0.035, log_spaced(16)), seed=seed),
        Stability(within_budget(0.01, log_spaced(16)), seed=seed),
        Spectrum(within_budget(0.03, log_spaced(2)), seed=seed),
        Descent(within_budget(0.01, log_spaced(4))),
    ]


PRESETS = {"light": light, "standard": standard, "full": full}


def instruments_of(wanted: str | Sequence[Instrument | str], seed: int) -> list[Instrument]:
    """Returns the instruments of a preset, or those of a list of presets and instruments.

    Raises:
        ArgumentError: there is no preset of that name.
    """
    found: list[Instrument] = []
    for one in [wanted] if isinstance(wanted, str) else wanted:
        if not isinstance(one, str):
            found.append(one)
        elif one in PRESETS:
            found += PRESETS[one](seed)
        else:
            raise ArgumentError(
                f"There is no set of instruments {one!r}: choose one of {', '.join(PRESETS)}."
            )
    return found
