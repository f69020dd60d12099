"""Where the numbers of a report come from: what was trained, on what, at what cost.

Whoever doubts a number finds here what it takes to measure it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..probes.store import Run
from .tables import MISSING, Cell, Column, Table, listed, number, number_cell, percent
from .theme import plain

_LONGEST = 300

# What other rows say, in words of their own.
_SAID = {
    "status", "started", "ended", "error", "command", "folder", "host", "platform", "pid",
    "versions", "git", "loss_expression", "layers", "optimizers", "final_losses", "final_weights",
    "published",
}  # fmt: skip


def provenance(run: Run) -> tuple[Table, ...]:
    """Returns what is known of how a run came about, what it cost, and what happened in it."""
    return tuple(table for table in (_origin(run), _costs(run), _events(run)) if table.rows)


def training_seconds(run: Run) -> float | None:
    """Returns how long the recorded part of a run took; None where no step is recorded."""
    timeline = run.timeline()
    return None if timeline.empty else float(timeline["elapsed"].max())


def _origin(run: Run) -> Table:
    metadata = run.metadata
    steps = run.steps
    rows: dict[str, str] = {"status": _status(run, metadata)}
    if metadata.get("error"):
        rows["error"] = str(metadata["error"])
    rows["recorded steps"] = (
        f"{steps[0]:,} to {steps[-1]:,}, {len(steps):,} of them" if steps else "none"
    )
    rows["loss"] = str(metadata.get("loss_expression") or " + ".join(map(plain, run.terms)) or "-")
    rows |= _of_terms(run)
    rows["self-check"] = _self_check(run)
    rows["batch"] = _batches(run)
    if metadata.get("optimizers"):
        rows["optimizer"] = listed([str(each) for each in metadata["optimizers"]])
    rows |= {
        name.replace("_", " "): _in_words(value)
        for name, value in metadata.items()
        if name not in _SAID and value is not None and value != ""
    }
    rows["run"] = str(run.folder)
    rows["command"] = _in_words(metadata.get("command", "-"))
    machine = [str(metadata[name]) for name in ("host", "platform") if metadata.get(name)]
    rows["machine"] = ", ".join(machine) or "-"
    rows["versions"] = _in_words(metadata.get("versions", {}))
    git = metadata.get("git") or {}
    if git.get("commit"):
        rows["commit"] = _in_words(git)
    cells = tuple((Cell(name, name), _cut(text)) for name, text in rows.items())
    return Table("Where the numbers come from", (Column("what"), Column("value")), cells)


def _status(run: Run, metadata: Mapping[str, Any]) -> str:
    status = run.status
    words = {
        "running": "still running: everything here is up to the last recorded step",
        "lost": "lost: its process was killed, or this is a copy of a run that was still written",
    }.get(status, status)
    span = [str(metadata[name]) for name in ("started", "ended") if metadata.get(name)]
    return f"{words} ({' to '.join(span)})" if span else words


def _of_terms(run: Run) -> dict[str, str]:
    """Returns the weights that the terms had, first and last."""
    weights = run.scalars("weight")
    found = []
    for term, group in weights.groupby("term", sort=False):
        first, last = (number(float(group["value"].iloc[at])) for at in (0, -1))
        course = first if first == last else f"{first} to {last}"
        found.append(f"{plain(str(term))} {course}")
    return {"weights": "; ".join(found)} if found else {}


def _self_check(run: Run) -> str:
    checks = run.scalars("self_check")["value"].to_numpy(dtype=float)
    if not len(checks):
        return f"{MISSING}: gradients of terms were not compared with that of the whole loss"
    known = checks[np.isfinite(checks)]
    if not len(known):
        return "never a finite number"
    unknown = len(checks) - len(known)
    note = f"; {unknown:,} more are not finite" if unknown else ""
    return (
        f"at most {number(float(known.max()))} over {len(known):,} steps: relative difference of "
        f"the weighted sum of the terms' gradients and of the gradient that was used{note}"
    )


def _batches(run: Run) -> str:
    frame = run.scalars("loss")
    batches = frame["batch"].unique().tolist() if "batch" in frame else ["training"]
    names = [
        "that of the training step" if batch == "training" else f"fixed: {plain(batch)}"
        for batch in batches
    ]
    return listed(names)


def _costs(run: Run) -> Table:
    cost = run.cost()
    whole = training_seconds(run)
    columns = (
        Column("instrument"),
        Column("times", "How often it measured.", is_number=True),
        Column("seconds", "In all.", is_number=True),
        Column("share", "Of the time of the recorded run.", is_number=True),
    )
    grouped = cost.groupby("instrument")["seconds"].agg(["count", "sum"])
    rows = []
    grouped = grouped[grouped["sum"] > 0]
    for name, times, seconds in grouped.sort_values("sum", ascending=False).itertuples():
        rows.append((Cell(plain(str(name)), str(name)), Cell(f"{times:,}", times),
                     number_cell(seconds), _share(seconds, whole)))  # fmt: skip
    if rows:
        seconds = float(grouped["sum"].sum())
        rows.append((Cell("all", "all"), Cell("", None), number_cell(seconds),
                     _share(seconds, whole)))  # fmt: skip
    return Table("What measuring cost", columns, tuple(rows))


def _share(seconds: float, whole: float | None) -> Cell:
    if not whole:
        return Cell("-", None)
    return Cell(percent(seconds / whole), seconds / whole)


def _events(run: Run) -> Table:
    events = run.events()
    columns = (Column("step", is_number=True), Column("what"), Column("in words"))
    rows = []
    for (kind, text, source), group in events.groupby(["kind", "text", "source"], sort=False):
        at = _step(group["step"].iloc[0])
        times = f" ({len(group):,} times)" if len(group) > 1 else ""
        name = f"{kind}, {plain(str(source))}" if source else str(kind)
        rows.append((at, Cell(name.replace("_", " "), name), _cut(f"{text}{times}")))
    return Table("What happened, and what could not be measured", columns, tuple(rows[:100]))


def _step(step: Any) -> Cell:
    return Cell("", None) if pd.isna(step) else Cell(f"{int(step):,}", int(step))


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_in_words(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return " ".join(_in_words(each) for each in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value, 4) if isinstance(value, float) else str(value)


def _cut(text: str) -> Cell:
    return Cell(plain(text, _LONGEST), text)
