"""Fields on the points of a grid: which point stands where."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..measurements import Measurements

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sampled:
    """A field at points."""

    step: int
    values: Array  # (points, quantities)
    points: Array  # (points, coordinates)


def last(seen: Measurements, name: str) -> dict[str, Sampled]:
    """Returns the last field of a name for each term, where it has values at points of a grid."""
    found = {}
    for row in seen.last_fields(name).to_dict("records"):
        values, grid = row["values"], row["grid"]
        if values is None or grid is None or np.ndim(grid) == 0:
            continue
        points = np.asarray(grid, dtype=float)
        points = points.reshape(len(points), -1)
        if len(values) and np.size(values) % len(points) == 0:
            flat = np.asarray(values, dtype=float).reshape(len(points), -1)
            if np.isfinite(flat).all():
                found[str(row["term"])] = Sampled(int(row["step"]), flat, points)
    return found


def error_and_solution(seen: Measurements) -> tuple[Sampled, Array] | None:
    """Returns the last error, and the solution at its points, where both are known.

    The solution is the prediction minus the error.
    """
    errors, predictions = last(seen, "error"), last(seen, "prediction")
    for term, error in errors.items():
        prediction = predictions.get(term)
        if prediction is not None and prediction.values.shape == error.values.shape:
            return error, prediction.values - error.values
    return None


def as_box(sampled: Sampled, values: Array) -> Array | None:
    """Returns values as an array with one axis a coordinate; None unless the grid is regular.

    Args:
        sampled: whose points are meant.
        values: (points, quantities).

    Returns:
        An array (n_1, ..., n_d, quantities).
    """
    axes = [np.unique(column, return_inverse=True) for column in sampled.points.T]
    shape = tuple(len(axis) for axis, _ in axes)
    if int(np.prod(shape)) != len(values) or min(shape) < 2:
        return None
    for axis, _ in axes:
        gaps = np.diff(axis)
        if not np.allclose(gaps, gaps[0], rtol=1e-3):
            return None
    box = np.full((*shape, values.shape[1]), np.nan)
    box[tuple(places for _, places in axes)] = values
    return None if np.isnan(box).any() else box
