"""The report of one run: what there is to say of it, from whosever loop it comes.

Which figures there are stands in one table. Those that the run has no data for leave a line that
says which instrument would record it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from inspect import signature
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..probes.store import Run
from . import figures
from .content import Block, Content, Gap, Paragraph, Section
from .downloads import downloads
from .figures.plate import NotMeasuredError
from .histogram_panels import histogram_panels
from .pictures import picture
from .provenance import provenance, training_seconds
from .references import references
from .tables import listed, number
from .theme import plain

_MOST_PARTS = 3

# Sections, each with what a reader has to know and with the figures, by their functions' names.
_SECTIONS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    (
        "losses",
        "Losses and weights",
        "A loss that falls says nothing of the others: look at each term, at the weight that it "
        "has, and at what the optimizer made of the step that was predicted for it.",
        ("losses", "weights", "predicted_change"),
    ),
    (
        "gradients",
        "Gradients, layer by layer",
        "Terms train together where their gradients have similar widths. One whose histogram "
        "stays narrow around zero beside another's hardly takes part in the steps.",
        ("gradient_histograms", "histograms_over_time", "imbalance", "alignment"),
    ),
    (
        "stiffness",
        "Stiffness and stability",
        "The largest eigenvalue of the Hessian limits the step size. A term with a much larger one "
        "than the others is what makes the loss stiff.",
        ("stiffness", "spectral_density", "sorted_spectrum"),
    ),
    (
        "steps",
        "Steps taken",
        "How far the parameters moved, as a whole and in each layer.",
        ("update_sizes",),
    ),
    (
        "solution",
        "Solution",
        "What the network says beside what is known to be true. Only runs that record fields can "
        "show it.",
        ("solution_fields", "profiles", "streamlines", "plain_pinn_diagnosis"),
    ),
    ("cost", "What measuring cost", "", ("probing_cost",)),
)


def run_content(run: Run) -> Content:
    """Returns what a report says of a run."""
    diagnosis = run.diagnosis()
    sections = tuple(_section(run, *each) for each in _SECTIONS)
    return Content(
        title=title_of(run),
        subject="Report of a run",
        facts=_facts(run),
        verdict=f"{_ending(run)}{diagnosis.verdict}",
        checks=diagnosis.checks,
        findings=diagnosis.findings,
        sections=sections,
        provenance=provenance(run),
        references=references(diagnosis),
        downloads=downloads(run, diagnosis),
        timestamp=_timestamp(run),
    )


def title_of(run: Run) -> str:
    """Returns what a run is called: what it was described with, else its folder."""
    metadata = run.metadata
    problem, model = metadata.get("problem"), metadata.get("model")
    if not isinstance(problem, str) or not isinstance(model, str):
        return plain(run.folder.name)
    words = [problem.replace("_", " ").title(), model]
    if "complexity" in metadata:
        parameter = metadata.get("complexity_parameter", "complexity")
        words.append(f"{parameter} = {metadata['complexity']}")
    if "seed" in metadata:
        words.append(f"seed {metadata['seed']}")
    return plain(", ".join(words), 120)


def _ending(run: Run) -> str:
    """Returns a sentence on a run that has not come to its end, which no check knows; else ""."""
    if run.status == "running":
        return "The run is still going on, and this is of its recorded steps so far. "
    if run.status == "lost":
        return (
            "The run has no end: its process was killed, or this is a copy of a run that was still "
            "being written. "
        )
    if run.status != "failed":
        return ""
    error = str(run.metadata.get("error") or "").strip()
    words = f" ({plain(error.splitlines()[0], 300)})" if error else ""
    return f"The run ended with an error{words}; what was found is of the steps before. "


def _section(run: Run, name: str, title: str, intro: str, names: tuple[str, ...]) -> Section:
    blocks: list[Block] = [Paragraph(intro)] if intro else []
    if name == "gradients":
        blocks += _panels(run)
    for each in names:
        blocks += _pictures(run, each)
    return Section(name, title, tuple(blocks))


def _panels(run: Run) -> list[Block]:
    try:
        panels = histogram_panels({title_of(run): run})
    except NotMeasuredError:
        return []  # which the figure of histograms says as well
    return [panels]


def _pictures(run: Run, name: str) -> list[Block]:
    """Returns a figure, or one for each part of a run that tells several models apart."""
    parts = run.parts
    if len(parts) < 2:
        return [picture(name, partial(_drawn, name, run))]
    if "part" not in signature(getattr(figures, name)).parameters:
        return [picture(name, partial(_drawn, name, run))]  # it shows them all
    found: list[Block] = []
    for at, part in enumerate(parts[:_MOST_PARTS]):
        drawn = picture(
            name if at == 0 else f"{name}-{at + 1}",
            partial(_drawn, name, run, part=part),
            f" ({plain(part)})",
        )
        if not (isinstance(drawn, Gap) and found and not drawn.is_error):
            found.append(drawn)
    return found


def _drawn(name: str, run: Run, **arguments: Any) -> Figure:
    figure: Figure = getattr(figures, name)(run, **arguments)
    return figure


def _facts(run: Run) -> tuple[tuple[str, str], ...]:
    metadata = run.metadata
    steps, terms = run.steps, run.terms
    facts = [("status", run.status)]
    facts.append(("last step", f"{steps[-1]:,}" if steps else "none recorded"))
    seconds = training_seconds(run)
    if seconds is not None:
        facts.append(("time", _duration(seconds)))
    if terms:
        names = [plain(term, 24) for term in terms]
        shown = names if len(names) <= 4 else [*names[:3], f"{len(names) - 3} more"]
        facts.append(("terms", listed(shown)))
    if run.layers:
        facts.append(("layers", f"{len(run.layers):,}"))
    facts += [(name, text) for name, text in _last_numbers(run, metadata)]
    return tuple(facts)


def _last_numbers(run: Run, metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = []
    losses = run.scalars("loss")
    total = losses[losses["term"] == "total"]
    if not total.empty:
        found.append(("last total loss", number(float(total["value"].iloc[-1]))))
    error = metadata.get("final_error")
    if isinstance(error, int | float):
        found.append(("relative L2 error", number(float(error))))
    return found


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{number(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _timestamp(run: Run) -> int:
    """Returns when the last step was recorded, in seconds since 1970."""
    times = run.timeline()["time"]
    if times.empty:
        return 0
    return int(np.datetime64(pd.Timestamp(times.iloc[-1]).tz_localize(None), "s").astype(int))
