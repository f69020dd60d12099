"""What a tracker must be able to do to get a copy of the records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ...diagnostics.histograms import GradientHistogram


class Sink(Protocol):
    """Gets a copy of every committed step: `Probe(..., sinks=[sink])`.

    The adapters of this package wrap an object that the user has already made, and which stays the
    user's: nothing here opens or closes it. A method that a tracker has nothing for raises
    `NotImplementedError` with the reason, which is told once; any other error switches the sink off
    and leaves the training alone.
    """

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Takes numbers by tag, such as `loss/residual`: of a term or of the whole step."""
        ...

    def histogram(self, step: int, tag: str, histogram: GradientHistogram) -> None:
        """Takes the histogram of one term in one layer; `histogram.to_numpy()` is for plotting."""
        ...

    def close(self) -> None:
        """Called when the run has ended; it may be opened again and then goes on."""
        ...
