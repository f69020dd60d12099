"""`gradpath report`: what is wrong with a run, and the evidence, as a file to read."""

from __future__ import annotations

from pathlib import Path

from ..probes.run_json import DOCUMENT
from ..probes.store import Run, StoreError
from ..reports.reporting import report
from .terminal import console, plain


def report_run(folder: str, output: str | None) -> None:
    """Writes the report of a run, and says where it is.

    Raises:
        GradpathError: there is no such run, or the file cannot be written.
    """
    run = _run(folder)
    written = report(run, output or Path(f"{run.folder.name}.html"))
    text = f"The report of {plain(str(run.folder))} is {plain(str(written))}."
    console().print(text, soft_wrap=True)


def _run(folder: str) -> Run:
    """Returns a run; of a folder with several of them, says what may have been meant."""
    try:
        return Run(folder)
    except StoreError:
        inside = sorted(each.parent for each in Path(folder).glob(f"*/{DOCUMENT}"))
        if not inside or (Path(folder) / DOCUMENT).exists():
            raise
    raise StoreError(
        f"{folder} holds runs and is none itself: give one of them, such as {inside[0]}, or "
        f"compare all with `gradpath compare {folder}`."
    )
