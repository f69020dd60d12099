"""What the commands that print have in common: text that nobody wrote for a terminal, and numbers.

Names of terms, errors and paths come from programs. They are shown as text, whatever is in them:
markup of rich, control characters, characters that the terminal's encoding lacks.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from io import TextIOWrapper

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text


def console() -> Console:
    """Returns a console on stdout that takes text for text."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return Console(markup=False, emoji=False, highlight=False)


def plain(text: str) -> str:
    r"""Returns a text in one line, with what would steer a terminal or break the line spelled out.

    Example:
        >>> print(plain("boundary\x1b[2J\n"))
        boundary\x1b[2J\n
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def cell(text: str, style: str = "") -> Text:
    """Returns what a table shows of a text; rich reads markup in a plain string."""
    return Text(plain(text), style)


def number(value: float | None, digits: int = 3) -> str:
    """Returns so many significant digits, or a whole number; nothing for what was not measured.

    Example:
        >>> number(0.01234), number(12345.6), number(1234567.0)
        ('0.0123', '12346', '1.23e+06')
    """
    if value is None:
        return ""
    return f"{value:.0f}" if 10**digits <= abs(value) < 1e6 else f"{value:.{digits}g}"


def duration(seconds: float | None) -> str:
    """Returns "12 s" or, from a minute on, hours, minutes and seconds.

    Example:
        >>> duration(12.3), duration(3 * 3600 + 62)
        ('12 s', '3:01:02')
    """
    if seconds is None or not math.isfinite(seconds):
        return ""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Returns rows as lines with their columns below each other, however long that makes them."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            text + " " * (width - cell_len(text)) for text, width in zip(row, widths, strict=True)
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
