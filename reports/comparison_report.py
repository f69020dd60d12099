"""The report of a comparison: what the numbers of its runs show, in words, tables and figures."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..diagnostics.errors import GradpathError
from ..probes.store import Run
from . import figures
from .comparison import Comparison, Member
from .comparison.diagnosed import diagnoses_of
from .content import Block, Content, Download, Paragraph, Section
from .downloads import table_download, text_of
from .figures.plate import NotMeasuredError
from .histogram_panels import histogram_panels
from .pictures import picture
from .references import references
from .tables import Cell, Column, Table, listed
from .theme import plain

_MOST_COUNTS = 2_000_000  # of all histograms in the page
_MOST_RUNS = 12  # whose histograms can be told apart in a panel

# As in the report of a run: the figures, by their functions' names, some for several quantities.
_SECTIONS: tuple[tuple[str, str, str, tuple[tuple[str, ...], ...]], ...] = (
    (
        "groups",
        "Groups side by side",
        "Each mark is a run; what differs between runs of one group is the luck of their seeds, "
        "and a difference between groups that is no larger than that shows nothing.",
        (
            ("compared", "error"),
            ("compared", "imbalance"),
            ("compared", "sharpness"),
            ("error_against_sharpness",),
            ("scaling", "sharpness"),
            ("scaling", "imbalance"),
        ),
    ),
    (
        "gradients",
        "Gradients, layer by layer",
        "One run of each group. Terms train together where their gradients have similar widths.",
        (("histogram_grid",),),
    ),
    (
        "stiffness",
        "Stiffness",
        "The largest eigenvalue of the Hessian limits the step size; a small one alone is no "
        "success.",
        (("stiffness_grid",),),
    ),
)


def comparison_content(comparison: Comparison) -> Content:
    """Returns what a report says of a comparison."""
    tables = comparison.tables
    numbers = Section(
        "tables",
        "Numbers",
        (*(Paragraph(note) for note in comparison.notes), *tables),
    )
    found = Section(
        "runs",
        "Run by run",
        (
            Paragraph(
                "What the diagnosis of each run says by itself: its checks, and the gravest of its "
                "findings."
            ),
            diagnoses_of(comparison),
        ),
    )
    sections = [numbers, found, *(_section(comparison, *each) for each in _SECTIONS)]
    return Content(
        title=_title(comparison),
        subject="Comparison of runs",
        facts=_facts(comparison),
        verdict=comparison.words,
        checks=(),
        findings=(),
        sections=tuple(sections),
        provenance=(_provenance(comparison),),
        references=references(),
        downloads=_downloads(comparison),
    )


def _title(comparison: Comparison) -> str:
    keys = [comparison.row_name, *([comparison.column_name] if comparison.columns else [])]
    subject = comparison.problem.replace("_", " ").title() or "Runs"
    return plain(f"{subject} by {listed(keys)}", 120)


def _facts(comparison: Comparison) -> tuple[tuple[str, str], ...]:
    fates = Counter(member.status for member in comparison.members)
    cells = [(comparison.row_name, comparison.row_values)]
    if comparison.columns:
        cells.append((comparison.column_name, comparison.column_values))
    return (
        ("runs", f"{len(comparison.members):,}"),
        *((plain(name, 24), _values(values)) for name, values in cells),
        ("status", listed([f"{number} {status}" for status, number in fates.items()])),
        ("compared with", _value(comparison.baseline)),
    )


def _values(values: tuple[Any, ...]) -> str:
    words = [_value(each) for each in values[:6]]
    return ", ".join(words) + (f" and {len(values) - 6} more" if len(values) > 6 else "")


def _value(value: Any) -> str:
    return "none" if value is None else plain(str(value), 24)


def _section(
    comparison: Comparison, name: str, title: str, intro: str, names: tuple[tuple[str, ...], ...]
) -> Section:
    blocks: list[Block] = [Paragraph(intro)]
    if name == "gradients":
        blocks += _panels(comparison)
    blocks += [picture("-".join(each), partial(_drawn, comparison, *each)) for each in names]
    return Section(name, title, tuple(blocks))


def _drawn(comparison: Comparison, name: str, *quantity: str) -> Figure:
    figure: Figure = getattr(figures, name)(comparison, *quantity)
    return figure


def _panels(comparison: Comparison) -> list[Block]:
    """Returns the histograms of one run of each group: the first that counts."""
    chosen: dict[str, Run] = {}
    for column in comparison.column_values:
        for row in comparison.row_values:
            counting = [each for each in comparison.group(row, column) if each.counts]
            if counting and len(chosen) < _MOST_RUNS:
                words = [_value(row), *([_value(column)] if comparison.columns else [])]
                chosen.setdefault(", ".join(words), Run(counting[0].path))
    try:
        return [histogram_panels(chosen, _MOST_COUNTS)] if chosen else []
    except NotMeasuredError:
        return []  # which the figure of histograms says as well


def _provenance(comparison: Comparison) -> Table:
    columns = (Column("run"), Column("status"), Column("loss"), Column("versions"), Column("path"))
    rows = tuple(_origin(member) for member in comparison.members)
    return Table("Where the numbers come from", columns, rows)


def _origin(member: Member) -> tuple[Cell, ...]:
    loss = versions = "-"
    try:
        metadata = Run(member.path).metadata if member.path else {}
    except GradpathError:
        metadata = {}  # why it cannot be read is its status
    if metadata:
        known = metadata.get("versions") or {}
        loss = str(metadata.get("loss_expression") or " + ".join(Run(member.path).terms) or "-")
        versions = " ".join(
            f"{name} {known[name]}" for name in ("gradpath", "torch") if name in known
        )
    return (
        Cell(plain(member.name), member.name),
        Cell(plain(member.label, 160), member.label, "" if member.counts else "warn"),
        Cell(plain(loss, 120), loss),
        Cell(versions or "-", versions),
        Cell(plain(str(Path(member.path)), 160) if member.path else "-", member.path),
    )


def _downloads(comparison: Comparison) -> tuple[Download, ...]:
    return (
        Download("runs.csv", "a row is a run, with its numbers", text_of(comparison.runs)),
        Download("groups.csv", "a row is a quantity of a group", text_of(comparison.groups)),
        *(
            table_download(f"table-{number}.csv", table)
            for number, table in enumerate(comparison.tables, 1)
        ),
    )
