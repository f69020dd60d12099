"""From a run, or a folder of runs, to a file that a person reads."""

from __future__ import annotations

import os
from pathlib import Path

from ..probes.store import Run
from .writing import target_of, write


def report(
    run: Run | str | os.PathLike[str],
    path: str | os.PathLike[str],
) -> Path:
    """Writes the report of a run: its verdict, what was found, and the evidence.

    Args:
        run: or its folder; of any loop, and also one that is still being written.
        path: of the file: .html for one page that needs nothing else, .pdf for the same on paper.
            A report that is there is replaced, any other file is not.

    Returns:
        where the report is.

    Raises:
        StoreError: there is no such run, or it cannot be read.
        ReportError: the suffix is unknown, the folder is missing, or the file cannot be written.

    Example:
        >>> import tempfile
        >>> from gradpath.probes import RunWriter, Scalar
        >>> folder = tempfile.TemporaryDirectory()
        >>> with RunWriter(f"{folder.name}/run") as writer:
        ...     writer.record(0, [Scalar("loss", 2.5, "total")])
        >>> report(f"{folder.name}/run", f"{folder.name}/run.html").stat().st_size < 200_000
        True
        >>> folder.cleanup()
    """
    from .run_report import run_content

    target = target_of(path)
    found = run if isinstance(run, Run) else Run(run)
    return write(run_content(found), target)


def compare(
    folder: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    rows: str = "model",
    columns: str = "complexity",
) -> Path:
    """Writes a comparison of the runs in a folder, such as those of a sweep.

    Args:
        folder: searched for runs at any depth.
        path: of the file, as for `report`.
        rows: the key of the runs' metadata that tells the rows apart; "run" for one row a run.
        columns: the key that tells the columns apart.

    Returns:
        where the comparison is.

    Raises:
        StoreError: there is no such folder.
        ArgumentError: there is no run, or the keys do not tell the runs apart.
        ReportError: as for `report`.
    """
    from .comparison import compare_runs
    from .comparison_report import comparison_content

    target = target_of(path)
    return write(comparison_content(compare_runs(folder, rows=rows, columns=columns)), target)
