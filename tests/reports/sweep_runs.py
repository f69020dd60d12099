"""Small runs of a sweep, written with numbers that are known."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from matplotlib.collections import Collection
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from gradpath import Run
from gradpath.diagnostics import GradientHistogram
from gradpath.probes import (
    EigenvalueRecord,
    Field,
    HistogramRecord,
    RunWriter,
    Scalar,
    ScalarTable,
)

STEPS = (0, 50, 100)
Values = NDArray[np.float64]

TERMS = ("residual", "boundary")


def write_member(
    folder: Path,
    *,
    model: str = "M1",
    complexity: float | None = 4,
    seed: int | None = 0,
    error: float | None = 0.1,
    sharpness: Mapping[str, float] | None = None,  # by term, at the end; half of it at the start
    ratio: float = 100.0,
    weight: float = 1.0,
    gradient: float = 1.0,
    failed: str | None = None,
    **metadata: Any,
) -> Path:
    """Writes a run with two terms; at the first step everything is half of what it is later."""
    described: dict[str, Any] = {"problem": "helmholtz", "model": model, "final_error": error}
    if complexity is not None:
        described |= {"complexity": complexity, "complexity_parameter": "a2"}
    if seed is not None:
        described["seed"] = seed
    known = (
        {"residual": 100.0, "boundary": 10.0, "total": 101.0} if sharpness is None else sharpness
    )
    writer = RunWriter(folder, metadata=described | metadata)
    for step in STEPS:
        scale = 0.5 if step == 0 else 1.0
        table = np.array([[[scale * ratio]], [[scale * ratio / 10]]])
        writer.record(
            step,
            [
                *(Scalar("loss", scale * (1 + place), term) for place, term in enumerate(TERMS)),
                Scalar("loss", scale * 3, "total"),
                Scalar("weight", 1.0, "residual"),
                Scalar("weight", weight, "boundary"),
                ScalarTable(("max_to_mean", "norm_ratio"), table, ("boundary",), ("all",)),
                *(Scalar("gradient_max", scale * gradient, term, "all") for term in TERMS),
                *(eigenvalue(scale * value, term) for term, value in known.items()),
                *(
                    HistogramRecord(
                        GradientHistogram.of(torch.full((20,), size * gradient)), term, "layers.0"
                    )
                    for term, size in zip(TERMS, (1.0, 1e-3), strict=True)
                ),
            ],
        )
    if failed is None:
        writer.finish()
    else:
        writer.fail(failed)
    return folder


def eigenvalue(value: float, term: str, converged: bool = True) -> EigenvalueRecord:
    found = SimpleNamespace(
        value=value, lower=value, upper=value, residual=0.0, products=4, converged=converged,
        status="Converged.",
    )  # fmt: skip
    return EigenvalueRecord(found, "largest", term)


def write_fields(folder: Path, grid: np.ndarray, fields: Mapping[str, Any], **metadata: Any) -> Run:
    """Writes a run with fields on a grid at one step; a pair is (term, values)."""
    with RunWriter(folder, metadata=metadata) as writer:
        records = []
        for name, values in fields.items():
            term, array = values if isinstance(values, tuple) else ("", values)
            records.append(Field(name, array, grid, term))
        writer.record(10, records)
    return Run(folder)


def x_of(line: Line2D) -> Values:
    """The places of a drawn line."""
    return np.asarray(line.get_xdata(), dtype=float)


def y_of(line: Line2D) -> Values:
    """Its values."""
    return np.asarray(line.get_ydata(), dtype=float)


def outline_of(band: Collection) -> Values:
    """The corners of a filled band: a row each."""
    return np.asarray(band.get_paths()[0].vertices, dtype=float)


def declare(folder: Path, **axes: Any) -> None:
    """Writes the declaration of a sweep, as `run_sweep` does."""
    content = {"problem": "helmholtz", "steps": 100, "parameters": {}, "options": {}} | axes
    (folder / "sweep.json").write_text(json.dumps(content))
