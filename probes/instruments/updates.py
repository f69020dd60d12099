"""How far the parameters move."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from ...diagnostics.imbalance import ALL
from ..records import Record, Scalar
from ..schedules import Schedule
from ..snapshot import NotMeasurableError, Snapshot
from .base import Reads, often


@dataclass(eq=False)
class Updates:
    """The length of each step, absolute and relative, and the distance from the start, by layer.

    Keeps a copy of the parameters at the first measurement.

    Records: scalars `update_norm`, `parameter_norm` (before the step), `distance_from_start`.
    """

    schedule: Schedule = field(default_factory=often)
    name: str = "updates"
    reads: Reads = "update"
    _starts: dict[str, Tensor] = field(default_factory=dict)

    def measure(self, snapshot: Snapshot) -> Iterator[Record]:
        """Yields norms by layer and of all parameters."""
        before, update = snapshot.parameters_before, snapshot.update
        if before is None:
            raise NotMeasurableError("The parameters before the step are not known.")
        start = self._starts.setdefault(snapshot.part, before.clone())
        quantities = {"update_norm": update, "parameter_norm": before}
        if len(start) == len(before):
            quantities["distance_from_start"] = before - start
        for name, vector in quantities.items():
            norms = snapshot.layout.reduce_by_layer(vector, lambda piece: piece.norm()).tolist()
            for layer, norm in zip(snapshot.layout.layers, norms, strict=True):
                yield Scalar(name, norm, layer=layer)
            yield Scalar(name, float(vector.norm()), layer=ALL)
