"""A report as a typeset PDF.

Typst reads the content as data, so that no name can become markup; the template is always the same
text. The result is tagged for readers that speak, and follows PDF/UA-1 where all characters have a
glyph. The fonts are those that come with Typst: the same bytes on every machine.
"""

from __future__ import annotations

import json
import unicodedata
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typst

from ..content import Block, Content, Gap, Paragraph, Picture, Section, legible
from ..evidence_words import in_words
from ..html import GENERATOR
from ..tables import Table

_TEMPLATE = Path(__file__).parent / "report.typ"

# Rows of a table beyond these are left to the HTML page and to the export.
_MOST_ROWS = 120

# Characters of cells that keep to one line, and from which on columns are no wider.
_SHORT, _LONG = 24, 200


class GlyphWarning(UserWarning):
    """A PDF shows a box where its fonts lack a character, and so does not follow PDF/UA-1."""


def render_pdf(content: Content) -> bytes:
    """Returns the PDF of a report.

    Warns:
        GlyphWarning: the fonts lack a character of a name; it is a box then, and the file a tagged
            PDF that does not claim to follow PDF/UA-1.
    """
    files = {"main.typ": _TEMPLATE.read_bytes()}
    for number, picture in enumerate(content.pictures):
        files[f"figure-{number}.svg"] = picture.svg
    data = json.dumps(_data(content))
    try:
        return _compiled(files, data, content.timestamp, "ua-1")
    except typst.TypstError as error:
        if "could not be displayed" not in f"{error} {getattr(error, 'diagnostic', '')}":
            raise
    warnings.warn(
        "The fonts of the PDF lack a character of a name or text: a box stands for it, and the "
        "file does not follow PDF/UA-1; the HTML report shows it.",
        GlyphWarning,
        stacklevel=2,
    )
    return _compiled(files, data, content.timestamp, None)


def _compiled(files: dict[str, bytes], data: str, timestamp: int, standard: str | None) -> bytes:
    # The package's types do not know that the source may come as files by name.
    compiled: bytes = typst.compile(  # type: ignore[call-overload]
        files,
        format="pdf",
        sys_inputs={"data": data},
        ignore_system_fonts=True,
        timestamp=timestamp,
        pdf_standards=standard,
    )
    return compiled


def _data(content: Content) -> Any:
    """Returns the content as the template reads it."""
    numbers = {id(picture): number for number, picture in enumerate(content.pictures)}
    return _clean(
        {
            "generator": GENERATOR,
            "title": content.title,
            "subject": content.subject,
            "facts": content.facts,
            "verdict": content.verdict,
            "checks": [asdict(check) for check in content.checks],
            "findings": [
                asdict(finding) | {"evidence": in_words(finding.evidence)}
                for finding in content.findings
            ],
            "evidence": content.evidence,
            "sections": [_section(section, numbers) for section in content.sections],
            "provenance": [_table(table) for table in content.provenance],
            "references": content.references,
        }
    )


def _section(section: Section, numbers: dict[int, int]) -> dict[str, Any]:
    blocks = [found for block in section.blocks if (found := _block(block, numbers))]
    return {"title": section.title, "blocks": blocks}


def _block(block: Block, numbers: dict[int, int]) -> dict[str, Any] | None:
    """Returns a block, or None for what only a page with a script can show."""
    if isinstance(block, Paragraph):
        return {"kind": "paragraph", "text": block.text}
    if isinstance(block, Gap):
        return {"kind": "gap", "name": block.name, "reason": block.reason, "error": block.is_error}
    if isinstance(block, Table):
        return {"kind": "table", **_table(block)}
    if isinstance(block, Picture):
        return {
            "kind": "picture",
            "name": block.name,
            "file": f"figure-{numbers[id(block)]}.svg",
            "title": block.title,
            "caption": block.caption,
            "alternative": block.alternative,
            "width": block.size[0],
        }
    return None


def _table(table: Table) -> dict[str, Any]:
    left_out = len(table.rows) - _MOST_ROWS
    note = f"{table.note} {left_out:,} more rows are left out here." if left_out > 0 else table.note
    return {
        "title": table.title,
        "note": note.strip(),
        "columns": [
            {"name": each.name, "number": each.is_number, "share": share}
            for each, share in zip(table.columns, _shares(table), strict=True)
        ],
        "rows": [
            [{"text": cell.text, "tone": cell.tone} for cell in row]
            for row in table.rows[:_MOST_ROWS]
        ],
    }


def _shares(table: Table) -> list[float]:
    """Returns what each column takes of the room that others leave; 0 for just what it needs."""
    lengths = [
        max(len(column.name), *(len(row[at].text) for row in table.rows), 0)
        for at, column in enumerate(table.columns)
    ]
    return [
        0.0 if column.is_number or length <= _SHORT else min(length, _LONG) ** 0.5
        for column, length in zip(table.columns, lengths, strict=True)
    ]


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        # Composed letters have a glyph where a letter and its accent may not.
        return unicodedata.normalize("NFC", legible(value))
    if isinstance(value, dict):
        return {name: _clean(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(each) for each in value]
    return value
