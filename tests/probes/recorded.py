"""A small run with every kind of record, known by heart.

Run as a script, it writes the run into a folder: so was `data/run_v2` made, and `data/run_v1` when
there were no tables of scalars and each number was a `Scalar`.
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch

from gradpath.diagnostics.histograms import GradientHistogram
from gradpath.diagnostics.lanczos import Eigenvalue
from gradpath.probes import (
    Cost,
    EigenvalueRecord,
    Event,
    Field,
    Finding,
    HistogramRecord,
    RunWriter,
    Scalar,
    ScalarTable,
)
from gradpath.probes.records import Record

TERMS, LAYERS, STEPS = ("residual", "boundary"), ("0", "2"), (0, 10, 20)

METADATA = {"model": "M1", "complexity": 4, "seed": 7, "layers": ["0", "2"]}

GRID = np.linspace(0, 1, 11)

FINDING = Finding(
    "GP101",
    "warning",
    "The residual drowns the boundary.",
    {"ratio": 120.0, "step": 20, "worst": math.inf},
    ("Weight the boundary.", "Try annealing."),
    "SISC 43(5)",
)


def loss(step: int, term: str) -> float:
    """The last loss of the boundary is not a number, as after a divergence."""
    if term == "boundary":
        return math.nan if step == 20 else 1 / (1 + step)
    return math.inf if step == 20 else 0.1 + step


def histogram(step: int, term: str, layer: str) -> GradientHistogram:
    size = 10 + step + len(term) + int(layer)
    return GradientHistogram.of(torch.arange(size, dtype=torch.float32) - 3)


def eigenvalue(step: int, end: str) -> Eigenvalue:
    if step == 20:
        infinite = math.inf
        return Eigenvalue(math.nan, -infinite, infinite, infinite, False, "Not finite.", 1)
    sign = 1 if end == "largest" else -1
    return Eigenvalue(sign * 5.5, sign * 5.5 - 0.1, sign * 5.5 + 0.1, 0.01, True, "Converged.", 9)


def records(step: int) -> list[Record]:
    found: list[Record] = [Scalar("learning_rate", 1e-3)]
    losses = [loss(step, term) for term in TERMS]
    if step == 10:  # read in the same way, however it is stored
        found += [Scalar("loss", value, term) for value, term in zip(losses, TERMS, strict=True)]
    else:
        found.append(ScalarTable(("loss",), np.array(losses).reshape(1, -1, 1), TERMS))
    found.append(Scalar("loss", 3.25 + step, "total"))
    found += [
        HistogramRecord(histogram(step, term, layer), term, layer)
        for term in TERMS
        for layer in LAYERS
    ]
    found += [EigenvalueRecord(eigenvalue(step, end), end) for end in ("largest", "smallest")]
    found.append(Field("u", np.float32(step) + GRID.astype(np.float32), GRID))
    found.append(Cost("stiffness", 0.5 + step))
    if step == 20:
        found += [Event("missing", "The loss is not finite.", "stiffness"), FINDING]
    return found


def write(folder: Path) -> None:
    with RunWriter(folder, metadata=METADATA) as writer:
        for step in STEPS:
            writer.record(step, records(step), evaluations=2 * step)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
