"""The table of what is recorded of other people's code, from what the tests have found."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

HEAD = """\
# What was tried, and what a run holds then

Made by `make compatibility`, which runs the scripts of `tests/external/scripts`: each in the manner
of its ecosystem, with no line of gradpath's in it. Each was run twice, plain and with `gradpath
run`, and ended both times with the same bits. Written by Python {python}, PyTorch {torch}.

| package | version | script | way in | terms and weights | histograms | spectrum | what is missing, and remarks |
|---|---|---|---|---|---|---|---|
"""  # noqa: E501

TAIL = """
Histograms: how many pairs of a term and a layer have them. Spectrum: the terms of which both ends
are measured, besides the weighted sum. How each framework is best watched,
and by which names, is told in [frameworks.md](frameworks.md). Five of the scripts, trained for
longer, are in [gallery.md](gallery.md).

PhysicsNeMo is in the table where it is installed, which `make compatibility` does not do
([why](frameworks.md#physicsnemo)).
"""


@dataclass(frozen=True)
class Outcome:
    """What one script has shown."""

    package: str
    script: str
    shows: str
    weights: dict[str, float]  # NaN where a term has none
    histograms: int  # pairs of a term and a layer that have one
    curvature: tuple[str, ...]
    reasons: tuple[str, ...]
    note: str


def write_page(outcomes: Sequence[Outcome], path: Path) -> None:
    """Writes the page; scripts in the order of packages."""
    head = HEAD.format(python=sys.version.split()[0], torch=torch.__version__)
    rows = [
        _row(each) for each in sorted(outcomes, key=lambda o: (o.package == "torch", o.package))
    ]
    path.write_text(head + "\n".join(rows) + "\n" + TAIL)


def _row(outcome: Outcome) -> str:
    weights = ", ".join(
        f"`{term}`" + ("" if weight != weight else f" {weight:.4g}")
        for term, weight in outcome.weights.items()
    )
    remarks = [reason.rstrip(".") for reason in (*outcome.reasons, outcome.note) if reason]
    absent = "; ".join(remarks)
    spectrum = ", ".join(f"`{term}`" for term in outcome.curvature) or "none"
    cells = (
        outcome.package,
        metadata.version(outcome.package),
        f"[{outcome.shows}](../tests/external/scripts/{outcome.script}.py)",
        "`gradpath run`",
        weights,
        str(outcome.histograms),
        "all" if set(outcome.curvature) == set(outcome.weights) else spectrum,
        absent or "-",
    )
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
