"""Loggers of Lightning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...diagnostics.histograms import GradientHistogram
from .tensorboard import TensorBoardSink


class LightningSink:
    """Logs through a logger of Lightning's; histograms where it writes for TensorBoard."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def scalars(self, step: int, values: Mapping[str, float]) -> None:  # noqa: D102
        self._logger.log_metrics(dict(values), step=step)

    def histogram(self, step: int, tag: str, histogram: GradientHistogram) -> None:  # noqa: D102
        experiment = getattr(self._logger, "experiment", None)
        if not hasattr(experiment, "add_histogram_raw"):
            raise NotImplementedError(f"{type(self._logger).__name__} takes numbers alone")
        TensorBoardSink(experiment).histogram(step, tag, histogram)

    def close(self) -> None:  # noqa: D102
        self._logger.save()
