"""Weights that would balance two terms, each as one published rule has it.

The rules stand in `weighting.py` and work on gradients. Here the weight at which each of them would
settle is computed from recorded statistics, on the assumption that they stay what they are: what a
rule that multiplies the gradient by its own weight settles at is the square root of the ratio (see
`annealing.py`). Rules that need more than statistics by layer are left out: the losses' history
(ReLoBRaLo, dual balancing), parameters that a term does not reach (PINNacle, PhysicsNeMo), or the
gradients themselves (ConFIG, UPGrad and others).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..measurements import Measurements, late
from .pulls import ratio


def balancing_weights(seen: Measurements, weak: str, strong: str) -> dict[str, float]:
    """Returns by the names of `PRESETS` the weight of one term when that of another is 1.

    The medians over the second half of the training. `strong` takes the place of the residual in
    the rules that have one. A rule whose statistics were not recorded, or that would divide by
    zero, is left out.
    """
    largest, mean = seen.of_network("gradient_max"), seen.of_network("gradient_mean")
    norms, traces = seen.of_network("gradient_norm"), seen.of_network("kernel_trace")
    annealed = _ratio(largest, strong, mean, weak)
    matrices = seen.in_layers("gradient_max_weights", strong)
    means = seen.in_layers("gradient_mean_weights", weak)
    found = {
        "siam": np.sqrt(ratio(matrices.max(axis=1), means.mean(axis=1))),
        # A layer in which the term has no gradient says nothing about its weight.
        "repo_cavity": np.sqrt(ratio(matrices, means.where(means > 0)).max(axis=1)),
        "arxiv_v1": annealed,
        "neuralpde": annealed,
        "relative_balancing": _ratio(mean, strong, mean, weak),
        "jaxpi_grad_norm": _ratio(norms, strong, norms, weak),
        "expert_guide": _ratio(norms, strong, norms, weak),
        "ntk": _ratio(traces, strong, traces, weak),
    }
    medians = {rule: float(late(series.dropna()).median()) for rule, series in found.items()}
    return {rule: value for rule, value in medians.items() if np.isfinite(value) and value > 0}


def _ratio(above: pd.DataFrame, strong: str, below: pd.DataFrame, weak: str) -> pd.Series:
    if strong not in above or weak not in below:
        return pd.Series(dtype="float64")
    return ratio(above[strong], below[weak])
