"""Few numbers and what may be said of them: spread, paired ratios, ranks, powers.

Errors, eigenvalues and ratios of gradients are positive and differ by powers of ten, so that they
are compared by ratio. Medians, because one seed in five may end somewhere else altogether.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
CONFIDENT = f"{100 * CONFIDENCE:.0f} %"

_RESAMPLES = 10_000
_SEED = 20_211_001

# A two-sided sign test of n pairs, all of one sign, has p = 2^(1 - n): below 5 % from 6 pairs on.
ENOUGH_PAIRS = 6


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of the numbers of some seeds; NaN where there are none."""

    count: int
    median: float
    lower: float  # first quartile
    upper: float  # third quartile
    least: float
    most: float


@dataclass(frozen=True)
class PairedRatio:
    """By what factor a group differs from the baseline, pair by pair.

    Example:
        >>> paired_ratio({0: 2.0, 1: 3.0, 2: 8.0}, {0: 1.0, 1: 1.0, 2: 2.0, 3: 5.0})
        PairedRatio(pairs=3, median=3.0, lower=2.0, upper=4.0, below=0, above=3)
    """

    pairs: int
    median: float  # of the ratios; NaN without a pair
    lower: float  # of the bootstrap interval; NaN with less than two pairs
    upper: float
    below: int  # pairs with a ratio below 1
    above: int  # and above

    @property
    def direction(self) -> int:
        """-1 where the whole interval is below 1, 1 where it is above, 0 where nothing is shown."""
        if self.upper < 1:
            return -1
        return 1 if self.lower > 1 else 0


@dataclass(frozen=True)
class PowerLaw:
    """y = factor * x^exponent, fitted to the logarithms by least squares.

    Example:
        >>> law = power_law([1, 2, 4, 8], [3, 12, 48, 192])
        >>> round(law.exponent, 6), round(law.factor, 6), round(law.upper - law.lower, 6)
        (2.0, 3.0, 0.0)
    """

    exponent: float
    factor: float
    lower: float  # of Student's interval of the exponent; NaN where two values of x are all
    upper: float
    count: int  # of points

    @property
    def is_shown(self) -> bool:
        """Whether the interval leaves out the exponent 0, which is no dependence."""
        return self.lower > 0 or self.upper < 0

    def at(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns y on the fitted line."""
        found: NDArray[np.float64] = self.factor * x**self.exponent
        return found


def spread(numbers: Sequence[float]) -> Spread:
    """Returns median and quartiles of all numbers that are not NaN.

    Quartiles are interpolated between neighbours, as by `numpy.quantile`; an infinite number is the
    largest of all.
    """
    known = np.sort([number for number in numbers if not math.isnan(number)])
    if not known.size:
        return Spread(0, *(math.nan,) * 5)
    # Between two numbers of which one is infinite, none is in the middle.
    method: Literal["linear", "lower"] = "linear" if np.isfinite(known).all() else "lower"
    least, lower, median, upper, most = (
        float(np.quantile(known, q, method=method)) for q in (0.0, 0.25, 0.5, 0.75, 1.0)
    )
    return Spread(len(known), median, lower, upper, least, most)


def paired_ratio(numbers: Mapping[Any, float], baseline: Mapping[Any, float]) -> PairedRatio:
    """Returns the median of numbers / baseline over the pairs, with a bootstrap interval.

    The interval is that between percentiles of the medians of samples drawn with replacement from
    the pairs (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13), always
    with the same random numbers. It is too narrow with few pairs: with three it can be no more
    than the range of the three.

    Args:
        numbers: of a group by pair, mostly by seed.
        baseline: likewise. A pair that one of them lacks, or where one of the numbers is not
            positive and finite, is left out.
    """
    logs = np.array(
        [
            math.log(numbers[pair]) - math.log(baseline[pair])
            for pair in numbers
            if pair in baseline
            and all(0 < each < math.inf for each in (numbers[pair], baseline[pair]))
        ]
    )
    if not logs.size:
        return PairedRatio(0, math.nan, math.nan, math.nan, 0, 0)
    lower, upper = _bootstrap(logs)
    # exp(log a - log b) is not quite a / b; ratios of equal numbers are to be 1, and read as such.
    median, lower, upper = (_rounded(math.exp(each)) for each in (np.median(logs), lower, upper))
    ratios = [_rounded(each) for each in np.exp(logs)]
    below, above = sum(each < 1 for each in ratios), sum(each > 1 for each in ratios)
    return PairedRatio(len(logs), median, lower, upper, below, above)


def ranks(numbers: Sequence[float]) -> list[float]:
    """Returns the place of each number from the smallest on, from 1.

    Equal ones share the mean of their places; NaN has no place, and NaN for it.

    Example:
        >>> ranks([0.3, 0.1, float("nan"), 0.3])
        [2.5, 1.0, nan, 2.5]
    """
    known = [number for number in numbers if not math.isnan(number)]
    return [
        math.nan
        if math.isnan(number)
        else sum(each < number for each in known) + (known.count(number) + 1) / 2
        for number in numbers
    ]


def power_law(x: Sequence[float], y: Sequence[float]) -> PowerLaw | None:
    """Returns the power law through points; None where fewer than two values of x are left.

    Args:
        x: of each point. One where x or y is not positive and finite is left out.
        y: likewise.
    """
    points = [
        (math.log(a), math.log(b))
        for a, b in zip(x, y, strict=True)
        if 0 < a < math.inf and 0 < b < math.inf
    ]
    if len({a for a, _ in points}) < 2:
        return None
    from scipy.stats import t

    logs = np.array(points)
    mean_x, mean_y = logs.mean(axis=0)
    deviations = logs[:, 0] - mean_x
    scatter = float(deviations @ deviations)
    exponent = float(deviations @ (logs[:, 1] - mean_y)) / scatter
    left = logs[:, 1] - mean_y - exponent * deviations
    margin, freedom = math.nan, len(logs) - 2
    if freedom:
        error = math.sqrt(float(left @ left) / freedom / scatter)
        margin = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    factor = math.exp(mean_y - exponent * mean_x)
    return PowerLaw(exponent, factor, exponent - margin, exponent + margin, len(logs))


def _bootstrap(values: NDArray[np.float64]) -> tuple[float, float]:
    if len(values) < 2:
        return math.nan, math.nan
    chosen = np.random.default_rng(_SEED).integers(len(values), size=(_RESAMPLES, len(values)))
    medians = np.median(values[chosen], axis=1)
    lower, upper = np.quantile(medians, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)).tolist()
    return lower, upper


def _rounded(ratio: float) -> float:
    return float(f"{ratio:.12g}")
