"""Whether the gradients of the terms pull the same way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations

from ...diagnostics.imbalance import ALL, alignment, cancellation, cosine_matrix
from ..records import Record, Scalar
from ..schedules import Schedule, every
from ..snapshot import Snapshot
from .base import Reads


@dataclass(eq=False)
class Alignment:
    """The alignment score, the cosines of all pairs of terms, and what cancels in the sum.

    Records: scalars `alignment` in every layer and in all; `cosine:<other term>` of each term with
    those after it, likewise; `cancellation`, ||sum w g|| / sum ||w g||.
    """

    schedule: Schedule = field(default_factory=lambda: every(100))
    name: str = "alignment"
    reads: Reads = "gradients"

    def measure(self, snapshot: Snapshot) -> Iterator[Record]:
        """Yields scores by layer; nothing for a single term."""
        gradients, layout = snapshot.gradients, snapshot.layout
        if len(snapshot.terms) < 2:
            return
        scores = [*alignment(gradients, layout).tolist(), alignment(gradients)]
        for layer, score in zip((*layout.layers, ALL), scores, strict=True):
            yield Scalar("alignment", score, layer=layer)
        by_layer = cosine_matrix(gradients, layout).tolist()
        matrices = [*by_layer, cosine_matrix(gradients).tolist()]
        for layer, cosines in zip((*layout.layers, ALL), matrices, strict=True):
            for i, j in combinations(range(len(snapshot.terms)), 2):
                yield Scalar(f"cosine:{snapshot.terms[j]}", cosines[i][j], snapshot.terms[i], layer)
        weights = [snapshot.weights[term] for term in snapshot.terms]
        yield Scalar("cancellation", cancellation(gradients, weights), layer=ALL)
