"""Runs and contents that reports have to cope with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from gradpath.diagnostics.findings import Check, Finding
from gradpath.diagnostics.histograms import GradientHistogram
from gradpath.probes import HistogramRecord, Run, RunWriter, Scalar
from gradpath.probes.records import Record
from gradpath.reports.content import Content, Gap, Paragraph, Picture, Section
from gradpath.reports.histogram_panels import histogram_panels
from gradpath.reports.tables import Cell, Column, Table, number_cell

HOSTILE = {
    "script": "<script>document.title='taken'</script>",
    "image": "<img src=x onerror=\"document.title='taken'\">",
    "end of style": "</style></script><h1 id=taken>",
    "quotes": "\"'><b>`${1}",
    "typst": '#panic("x") $x$ *b* @ref [#read("/etc/passwd")]',
    "jinja": "{{ 7 * 7 }}{% raw %}",
    "direction": "abc\u202edef\u2066",
    "surrogate": "half \ud800 of a character",
    "control": "bell \x07 and \x00",
    "long": "w" * 10_000,
}

SVG = (
    b"<svg xmlns='http://www.w3.org/2000/svg' width='100pt' height='50pt' viewBox='0 0 100 50'>"
    b"<rect width='100' height='50' fill='#0068b5'/></svg>"
)


def content_of(name: str) -> Content:
    """Returns a content in which everything is called by one name."""
    return Content(
        title=f"Title {name}",
        subject="Report of a run",
        facts=(("status", name),),
        verdict=f"Verdict {name}",
        checks=(
            Check(name, "fail", name, name, name, ("GP101",), "losses"),
            Check("noise", "not measured", "no gradients", "1", "", (), "missing"),
        ),
        findings=(Finding("GP101", "fail", name, {"factor": 28.6, "layer": name}, (name,), name,
                          name, "losses"),),
        sections=(
            Section(
                "losses",
                name,
                (
                    Paragraph(name),
                    Picture("losses", name, name, name, SVG, (2.0, 1.0)),
                    Gap("missing", name),
                    Gap("broken", name, is_error=True),
                    Table(
                        name,
                        (Column(name, name), Column("number", is_number=True)),
                        tuple((Cell(name, name), number_cell(x)) for x in (10.0, 9.0, None, 2e-9)),
                        name,
                    ),
                ),
            ),
        ),
        provenance=(),
        references=(name,),
    )  # fmt: skip


def write_histograms(
    folder: Path, terms: tuple[str, ...], layers: tuple[str, ...], steps: tuple[int, ...]
) -> Run:
    """Returns a run whose gradients shrink as it goes on, each term by a power of its own."""
    generator = torch.Generator().manual_seed(0)
    with RunWriter(folder) as writer:
        for step in steps:
            found: list[Record] = []
            for number, term in enumerate(terms):
                found.append(Scalar("weight", 10.0**number, term))
                found.append(Scalar("loss", float(np.exp(-step / 50)), term))
                for layer in layers:
                    entries = torch.randn(200, generator=generator) * 10.0 ** (-step / 50 - number)
                    entries[:3] = 0
                    found.append(HistogramRecord(GradientHistogram.of(entries), term, layer))
            writer.record(step, found)
    return Run(folder)


def with_panels(runs: dict[str, Run]) -> Content:
    content = content_of("plain")
    section = Section("gradients", "Gradients", (histogram_panels(runs),))
    return Content(**{**vars(content), "sections": (*content.sections, section)})
