"""A run as event files for TensorBoard.

A tag is the name of a measurement, then what tells it apart: `loss/residual`,
`gradient/residual/net.0`. TensorBoard makes a group of what comes before the first slash.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch.utils.tensorboard import SummaryWriter

from ..diagnostics.histograms import GradientHistogram
from .export_tables import eigenvalues, encoded_histograms, scalars
from .records import TRAINING_BATCH
from .store import Run


def write_events(run: Run, folder: Path) -> None:
    """Writes scalars, eigenvalues with their intervals, histograms, and what is said in words.

    Of a histogram, TensorBoard gets the finite entries. It has no place for fields and costs.
    """
    timeline = run.timeline()
    times = dict(zip(timeline["step"], timeline["time"].map(pd.Timestamp.timestamp), strict=True))
    with SummaryWriter(str(folder)) as writer:
        for row in scalars(run).to_dict("records"):
            _add_scalar(writer, _tag(row), row["value"], row["step"], times)
        for row in eigenvalues(run).to_dict("records"):
            for name in ("value", "lower", "upper"):
                tag = f"{_tag(row)}/{row['end']}{'' if name == 'value' else f' ({name} bound)'}"
                _add_scalar(writer, tag, row[name], row["step"], times)
        for row in encoded_histograms(run).to_dict("records"):
            _add_histogram(writer, row, times)
        for row in run.events().to_dict("records"):
            source = f" ({row['source']})" if row["source"] else ""
            step = 0 if pd.isna(row["step"]) else int(row["step"])
            writer.add_text("events", f"{row['text']}{source}", step, row["time"].timestamp())
        for finding in run.findings:
            advice = "".join(f"\n* {each}" for each in finding.advice)
            text = f"{finding.code} {finding.severity}: {finding.verdict}\n{advice}"
            writer.add_text("findings", text)
        writer.add_text("run", json.dumps(run.metadata, indent=2).replace("\n", "\n    "))


def _add_scalar(
    writer: SummaryWriter, tag: str, value: float, step: int, times: dict[int, float]
) -> None:
    # TensorBoard holds single precision; what is beyond it becomes infinite.
    with np.errstate(over="ignore"):
        writer.add_scalar(tag, np.float32(value), step, times.get(step))


def _add_histogram(writer: SummaryWriter, row: dict[Any, Any], times: dict[int, float]) -> None:
    counts, edges = GradientHistogram.from_bytes(row["data"]).to_numpy()
    if not counts.any():
        return
    centres = edges[:-1] / 2 + edges[1:] / 2
    with np.errstate(over="ignore"):
        squares = float(counts @ centres**2)
    writer.add_histogram_raw(
        _tag(row),
        min=float(edges[0]),
        max=float(edges[-1]),
        num=int(counts.sum()),
        sum=float(counts @ centres),
        sum_squares=squares,
        # A bucket is given by its upper edge alone: an empty one tells where the first one begins.
        bucket_limits=edges.tolist(),
        bucket_counts=[0, *counts.tolist()],
        global_step=row["step"],
        walltime=times.get(row["step"]),
    )


def _tag(row: dict[Any, Any]) -> str:
    batch = "" if row["batch"] == TRAINING_BATCH else row["batch"]
    names = (row["name"], row["part"], row["term"], row["layer"], batch)
    return "/".join(name.replace("/", "|") for name in names if name)
