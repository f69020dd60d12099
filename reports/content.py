"""What a report says, before it is a page: one model, which HTML and PDF render.

The order is that of a reader who has to act: the verdict, the checks that it rests on, what was
found and what to try, then the evidence in sections, then where it all comes from. Renderings add
no words of their own but headings.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..diagnostics.findings import Check, Finding
from .histogram_panels import HistogramPanels
from .tables import Table

LONGEST_TEXT = 6000
"""Characters of one text that a page shows at most: nobody reads on, and pages must stay small."""


@dataclass(frozen=True)
class Paragraph:
    """Sentences of plain text."""

    text: str


@dataclass(frozen=True)
class Picture:
    """A drawn figure: with its caption, and with what stands for it where it cannot be seen."""

    name: str  # of the function that drew it, by which findings and checks refer to it
    title: str
    caption: str
    alternative: str
    svg: bytes
    size: tuple[float, float]  # width and height in inches


@dataclass(frozen=True)
class Gap:
    """What stands in the place of a figure that could not be drawn, and why it could not."""

    name: str
    reason: str
    is_error: bool = False  # a mistake of ours, rather than something that was not measured


Block = Paragraph | Picture | Gap | Table | HistogramPanels


@dataclass(frozen=True)
class Section:
    """A part of the evidence."""

    name: str  # by which links reach it: letters and hyphens
    title: str
    blocks: tuple[Block, ...]

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """What is missing from it."""
        return tuple(block for block in self.blocks if isinstance(block, Gap))


@dataclass(frozen=True)
class Download:
    """Numbers behind the report, as a file of their own."""

    file: str  # "losses.csv"
    meaning: str  # a few words: what a row is
    text: str  # of the file


@dataclass(frozen=True)
class Content:
    """A report."""

    title: str
    subject: str  # "Run", "Comparison": what kind of report it is
    facts: tuple[tuple[str, str], ...]  # a line of a few words each below the title
    verdict: str
    checks: tuple[Check, ...]
    findings: tuple[Finding, ...]
    sections: tuple[Section, ...]
    provenance: tuple[Table, ...]
    references: tuple[str, ...]
    downloads: tuple[Download, ...] = ()
    timestamp: int = 0  # of what is reported, not of the writing: the same run, the same bytes

    @property
    def blocks(self) -> Iterator[Block]:
        """All blocks of all sections, in their order."""
        return (block for section in self.sections for block in section.blocks)

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """All figures, in the order in which they are numbered."""
        return tuple(block for block in self.blocks if isinstance(block, Picture))

    @property
    def tables(self) -> tuple[Table, ...]:
        """All tables of the sections, in the order in which they are numbered."""
        return tuple(block for block in self.blocks if isinstance(block, Table))

    @property
    def evidence(self) -> dict[str, str]:
        """Returns what to call each figure in a link, by the name of its function.

        Example:
            >>> gap = Gap("stiffness", "No curvature was recorded.")
            >>> Content("a", "Run", (), "", (), (), (Section("s", "S", (gap,)),), (), ()).evidence
            {'stiffness': 'no figure'}
        """
        numbers = {picture.name: number for number, picture in enumerate(self.pictures, 1)}
        named = [block for block in self.blocks if isinstance(block, Picture | Gap)]
        return {
            block.name: (f"Figure {numbers[block.name]}" if block.name in numbers else "no figure")
            for block in named
        }


def legible(value: Any) -> str:
    r"""Returns a text as a page may show it, whatever it holds.

    Letters stay what they are. What steers the direction of text, and what is no character at
    all, is written as Python writes it. Of an overlong text the middle is left out.

    Example:
        >>> print(legible("boundary\u202e <script>\ud800"))
        boundary\u202e <script>\ud800
    """
    text = value if isinstance(value, str) else str(value)
    if len(text) > LONGEST_TEXT:
        half = LONGEST_TEXT // 2
        text = f"{text[:half]} … {text[-half:]}"
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character if _is_legible(character) else _escaped(character) for character in text
    )


def _is_legible(character: str) -> bool:
    # Control and format characters, surrogates, private and unassigned ones, line separators. The
    # zero-width joiners are part of how some scripts are spelled.
    category = unicodedata.category(character)
    is_plain = category not in {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}
    return is_plain or character in "\n\u200c\u200d"


def _escaped(character: str) -> str:
    return ascii(character)[1:-1]
