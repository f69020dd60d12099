"""How hard each term pulls on the parameters: the norm of its gradient times its weight.

Gradients are recorded as they stand, and weights apart, often at other steps. A weight holds until
the next one is recorded.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import pandas as pd

from ..measurements import Measurements

_Frame = TypeVar("_Frame", pd.DataFrame, pd.Series)


def weights(seen: Measurements, steps: pd.Index) -> pd.DataFrame:
    """Returns the weight of every term at some steps; 1 where no weight was ever recorded."""
    known = seen.of_network("weight").reindex(columns=list(seen.terms))
    if known.empty:
        return pd.DataFrame(1.0, index=steps, columns=list(seen.terms))
    filled = known.reindex(known.index.union(steps)).ffill().bfill()
    return filled.loc[steps].abs()


def of_terms(seen: Measurements) -> pd.DataFrame:
    """Returns weight times norm of the gradient, in the whole network: steps down, terms across."""
    norms = seen.of_network("gradient_norm")
    norms = norms[[term for term in seen.terms if term in norms]]
    return norms * weights(seen, norms.index)[norms.columns]


def in_layers(seen: Measurements, term: str) -> pd.DataFrame:
    """Returns weight times norm of the gradient of one term: steps down, layers across."""
    norms = seen.in_layers("gradient_norm", term)
    return norms.mul(weights(seen, norms.index)[term], axis=0)


def ratio(one: _Frame, other: _Frame) -> _Frame:
    """Returns one over the other; infinite over zero, NaN for 0 / 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return one / other
