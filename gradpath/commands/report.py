"""`gradpath report`: what is wrong with a run, and the evidence, as a file to read."""

from __future__ import annotations

from pathlib import Path

from ..probes.store import Run
from ..reports.reporting import report
from .terminal import console, plain


def report_run(folder: str, output: str | None) -> None:
    """Writes the report of a run, and says where it is.

    Raises:
        GradpathError: there is no such run, or the file cannot be written.
    """
    run = Run(folder)
    written = report(run, output or Path(f"{run.folder.name}.html"))
    text = f"The report of {plain(str(run.folder))} is {plain(str(written))}."
    console().print(text, soft_wrap=True)
