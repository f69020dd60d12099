"""A run as event files for TensorBoard, with tags as a sink would give them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from torch.utils.tensorboard import SummaryWriter

from ..diagnostics.histograms import GradientHistogram
from .export_tables import eigenvalues, encoded_histograms, scalars
from .sinks.tags import tag
from .sinks.tensorboard import raw, single
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
                bound = "" if name == "value" else f" ({name} bound)"
                _add_scalar(
                    writer, f"{_tag(row)}/{row['end']}{bound}", row[name], row["step"], times
                )
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
    writer: SummaryWriter, name: str, value: float, step: int, times: dict[int, float]
) -> None:
    writer.add_scalar(name, single(value), step, times.get(step))


def _add_histogram(writer: SummaryWriter, row: dict[Any, Any], times: dict[int, float]) -> None:
    if bins := raw(GradientHistogram.from_bytes(row["data"])):
        writer.add_histogram_raw(
            _tag(row), **bins, global_step=row["step"], walltime=times.get(row["step"])
        )


def _tag(row: dict[Any, Any]) -> str:
    return tag(row["name"], row["part"], row["term"], row["layer"], row["batch"])
