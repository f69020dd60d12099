"""Weights & Biases and trackio, which share one interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...diagnostics.histograms import GradientHistogram


class WandbLikeSink:
    """Logs to a run that `wandb.init` or `trackio.init` has returned.

    Args:
        run: with `log(values, step=...)`.
        histogram: `wandb.Histogram` or `trackio.Histogram`.
    """

    def __init__(self, run: Any, histogram: Callable[..., Any]) -> None:
        self._run, self._histogram = run, histogram

    def scalars(self, step: int, values: Mapping[str, float]) -> None:  # noqa: D102
        self._run.log(dict(values), step=step)

    def histogram(self, step: int, tag: str, histogram: GradientHistogram) -> None:  # noqa: D102
        counts_and_edges = histogram.to_numpy()
        if len(counts_and_edges[0]):
            self._run.log({tag: self._histogram(np_histogram=counts_and_edges)}, step=step)

    def close(self) -> None:
        """Leaves the run open, which is the user's to finish."""
