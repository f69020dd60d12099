"""`gradpath export`: a run as files for other programs."""

from __future__ import annotations

from ..probes.export import export
from ..probes.store import Run
from .terminal import console, plain


def export_run(folder: str, to: str, output: str | None) -> None:
    """Exports a run and says where to.

    Raises:
        GradpathError: there is no such run, or the files cannot be written.
    """
    run = Run(folder)
    written = export(run, to, output or f"{run.folder.name}-{to}")
    text = f"{plain(str(run.folder))} is in {plain(str(written))}."
    console().print(text, soft_wrap=True)
