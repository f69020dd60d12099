"""Consecutive training steps that are measured together.

Calls of numpy and of the database take as long as their work on the gradients of a small network.
For a stretch of steps each is made once. What it holds are plain numbers: neither model nor graph.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ..diagnostics.histograms_of_steps import tables_of_steps
from ..diagnostics.layout import ParameterLayout
from ..diagnostics.statistics import GradientStatistics, statistics_of_steps
from .records import Stamp

Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Stretch:
    """What some steps of one part show, side by side.

    Attributes:
        part: which of several models or optimizers; "" where there is one.
        stamps: of the steps.
        layout: of the parameters; the names and places in it are all that is needed.
        terms: the names of the loss terms, the same at all steps.
        scattered: the names of the terms of which there are values at points.
        gradients: unweighted.
        losses: the unweighted value of each term.
        weights: the effective weight of each term.
        loss: what was differentiated.
        learning_rate: of the first group of the optimizer.
        deviations: of the terms with values at points, over their points.
        self_check: how far the weighted gradients of the terms are from `.grad`; NaN: unchecked.
        seconds: spent on each before it waited.
    """

    part: str
    stamps: Sequence[Stamp]
    layout: ParameterLayout
    terms: tuple[str, ...]
    scattered: tuple[str, ...]
    gradients: Float[Tensor, "steps terms params"]
    losses: Float[Numbers, "steps terms"]
    weights: Float[Numbers, "steps terms"]
    loss: Float[Numbers, " steps"]
    learning_rate: Float[Numbers, " steps"]
    deviations: Float[Numbers, "steps scattered"]
    self_check: Float[Numbers, " steps"]
    seconds: Float[Numbers, " steps"]

    def without(self, steps: Collection[int]) -> Stretch:
        """Returns the same without the steps of some numbers."""
        kept = [place for place, stamp in enumerate(self.stamps) if stamp.step not in steps]
        if len(kept) == len(self.stamps):
            return self
        by_step = (
            *("gradients", "losses", "weights", "loss", "learning_rate", "deviations"),
            *("self_check", "seconds"),
        )
        chosen = {name: getattr(self, name)[kept] for name in by_step}
        return replace(self, stamps=[self.stamps[place] for place in kept], **chosen)

    @cached_property
    def statistics(self) -> GradientStatistics:
        """Magnitudes and angles of the gradients, by layer, once for all instruments."""
        return statistics_of_steps(self.gradients, self.terms, self.layout)

    @cached_property
    def histograms(self) -> list[bytes]:
        """Those of all terms and layers of each step, as `decode_table` reads them."""
        widths = [layer.stop - layer.start for layer in self.layout.slices.values()]
        return tables_of_steps(self.gradients, widths)
