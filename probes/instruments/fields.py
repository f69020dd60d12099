"""Functions of the model on a grid, such as its prediction and its error."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...diagnostics.errors import ArgumentError
from ...diagnostics.live_graph import unnoticed_evaluation
from ...diagnostics.random_numbers import RandomState, random_numbers
from ..interception import unobserved
from ..records import Field, Record
from ..schedules import Schedule, log_spaced
from ..snapshot import Snapshot
from .base import Reads


def evaluated(compute: Callable[..., Any], snapshot: Snapshot) -> Any:
    """Returns what a function of the user's computes, without a trace in the training.

    It is called with the model if it takes an argument.
    """
    takes_model = bool(inspect.signature(compute).parameters)
    if takes_model and snapshot.model is None:
        raise ArgumentError(
            "The function wants the model, but several are watched: let it take no argument."
        )
    with unobserved(), unnoticed_evaluation(), random_numbers(RandomState.of_process()):
        return compute(snapshot.model) if takes_model else compute()


@dataclass(eq=False)
class Fields:
    """Any tensor-valued functions of the model, before the step.

    Args:
        compute: takes nothing or the model and returns tensors by name.
        grid: the points that they belong to; stored once.
        schedule: when.

    Records: fields under the names that the function gives.
    """

    compute: Callable[..., Mapping[str, Tensor]]
    grid: Any = None
    schedule: Schedule = field(default_factory=lambda: log_spaced(4))
    name: str = "fields"
    reads: Reads = "graph"

    def measure(self, snapshot: Snapshot) -> Iterator[Record]:
        """Yields one field a name."""
        grid = None if self.grid is None else _array(self.grid)
        with torch.no_grad():
            found = evaluated(self.compute, snapshot)
        if not isinstance(found, Mapping):
            raise ArgumentError(
                f"The function of the fields returned {type(found).__name__}: it must return "
                "tensors by name."
            )
        for name, values in found.items():
            yield Field(name, _array(values), grid)


def _array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
