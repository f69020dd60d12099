"""A run as files for other programs: tables as CSV or Parquet, or what TensorBoard reads."""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..diagnostics.errors import ArgumentError, GradpathError, MissingPackageError
from .run_json import DOCUMENT
from .store import Run

FORMATS = ("csv", "parquet", "tensorboard")


class ExportError(GradpathError):
    """A run cannot be exported to that place."""


def export(run: Run, to: str, path: str | os.PathLike[str]) -> Path:
    """Writes what a run holds into a new folder, which appears when it is complete.

    Args:
        run: also one that is being written: what is in it now.
        to: "csv", "parquet" (needs pyarrow) or "tensorboard" (needs tensorboard and PyTorch).
        path: of the folder; may be an empty one.

    Returns:
        the folder.

    Raises:
        ExportError: there is something at the path, or it cannot be written.
        MissingPackageError: what the format needs is not installed.
        StoreError: the run cannot be read.

    Example:
        >>> import tempfile
        >>> from gradpath.probes import Run, RunWriter, Scalar
        >>> folder = tempfile.TemporaryDirectory()
        >>> with RunWriter(f"{folder.name}/run") as writer:
        ...     writer.record(0, [Scalar("loss", 2.5, term="residual")])
        >>> exported = export(Run(f"{folder.name}/run"), "csv", f"{folder.name}/tables")
        >>> print((exported / "scalars.csv").read_text())
        step,name,term,layer,part,batch,value
        0,loss,residual,,,training,2.5
        >>> folder.cleanup()
    """
    if to not in FORMATS:
        raise ArgumentError(f"A run is exported to {', '.join(FORMATS)}, not to {to!r}.")
    write = _writer(to)
    target = Path(path).absolute()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ExportError(f"There is something at {path} already: give the export a new folder.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{target.name}-", dir=target.parent) as draft:
            folder = Path(draft, "export")
            folder.mkdir()
            write(run, folder)
            shutil.copy(run.folder / DOCUMENT, folder)
            if target.exists():
                target.rmdir()
            folder.rename(target)
    except OSError as error:
        raise ExportError(
            f"The export to {path} failed ({error.strerror or error}): give another folder."
        ) from error
    return target


def _writer(to: str) -> Callable[[Run, Path], None]:
    """Returns what writes the files into an empty folder."""
    package = {"parquet": "pyarrow", "tensorboard": "tensorboard"}.get(to)
    if package is not None:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise MissingPackageError(
                f"Exporting to {to} needs {package}: python -m pip install 'gradpath[{to}]'."
            ) from error
    if to == "tensorboard":
        from .export_tensorboard import write_events

        return write_events
    from .export_tables import write_csv, write_parquet

    return write_csv if to == "csv" else write_parquet
