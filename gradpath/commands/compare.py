"""`gradpath compare`: the runs of a folder side by side, as a file to read."""

from __future__ import annotations

from pathlib import Path

from ..reports.reporting import compare
from .terminal import console, plain


def compare_runs(folder: str, output: str | None, rows: str, columns: str) -> None:
    """Writes the comparison of the runs in a folder, and says where it is.

    Raises:
        GradpathError: there are no such runs, or the file cannot be written.
    """
    name = Path(folder).absolute().name or "runs"
    written = compare(folder, output or Path(f"{name}.html"), rows=rows, columns=columns)
    text = f"The comparison of the runs in {plain(folder)} is {plain(str(written))}."
    console().print(text, soft_wrap=True)
