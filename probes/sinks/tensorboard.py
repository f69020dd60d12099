"""TensorBoard: scalars, and histograms with bins of our own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...diagnostics.histograms import GradientHistogram


class TensorBoardSink:
    """Writes through a `SummaryWriter`, of `torch.utils.tensorboard` or of `tensorboardX`."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def scalars(self, step: int, values: Mapping[str, float]) -> None:  # noqa: D102
        for tag, value in values.items():
            self._writer.add_scalar(tag, single(value), step)

    def histogram(self, step: int, tag: str, histogram: GradientHistogram) -> None:  # noqa: D102
        if bins := raw(histogram):
            self._writer.add_histogram_raw(tag, **bins, global_step=step)

    def close(self) -> None:  # noqa: D102
        self._writer.flush()


def single(value: float) -> np.float32:
    """Returns the number as TensorBoard holds it: what single precision cannot is infinite."""
    with np.errstate(over="ignore"):
        return np.float32(value)


def raw(histogram: GradientHistogram) -> dict[str, Any]:
    """Returns what `add_histogram_raw` wants of the finite entries; nothing if there is none."""
    counts, edges = histogram.to_numpy()
    if not counts.any():
        return {}
    centres = edges[:-1] / 2 + edges[1:] / 2
    with np.errstate(over="ignore"):
        squares = float(counts @ centres**2)
    return {
        "min": float(edges[0]),
        "max": float(edges[-1]),
        "num": int(counts.sum()),
        "sum": float(counts @ centres),
        "sum_squares": squares,
        # A bucket is given by its upper edge alone: an empty one tells where the first one begins.
        "bucket_limits": edges.tolist(),
        "bucket_counts": [0, *counts.tolist()],
    }
