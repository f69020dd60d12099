"""Putting a report where the user wants it: as a whole or not at all.

The suffix says what it becomes. A file that is there is replaced if it is a report itself, as when
a run has gone on; anything else is left alone.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ..diagnostics.errors import GradpathError
from .content import Content
from .html import GENERATOR

SUFFIXES = (".html", ".htm", ".pdf")

# Both renderings name their origin near one of the ends of the file.
_NEAR = 100_000


class ReportError(GradpathError):
    """A report cannot be written to that place."""


def target_of(path: str | os.PathLike[str]) -> Path:
    """Returns where a report goes, once it is clear that it may; called before any work is done.

    Raises:
        ReportError: the suffix is unknown, the folder is missing, or another file is there.
    """
    target = Path(path)
    if target.suffix.lower() not in SUFFIXES:
        raise ReportError(
            f"A report is written as .html or .pdf, not as {target.suffix or target.name!r}: "
            f"give a file name that ends so, such as {target.stem or 'report'}.html."
        )
    if not target.parent.is_dir():
        raise ReportError(f"There is no folder {target.parent} for the report: make it first.")
    if target.is_dir() or (target.exists() and not _is_report(target)):
        raise ReportError(
            f"There is something at {target} that is no report of gradpath: give another name."
        )
    return target


def write(content: Content, target: Path) -> Path:
    """Writes a report, and returns where it is.

    Raises:
        ReportError: the file cannot be written.
    """
    data = _rendered(content, target.suffix.lower())
    try:
        handle, draft = tempfile.mkstemp(prefix=f".{target.name[:60]}-", dir=target.parent)
    except OSError as error:
        raise _unwritable(target, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(draft, 0o666 & ~_umask())
        os.replace(draft, target)
    except OSError as error:
        raise _unwritable(target, error) from error
    finally:
        Path(draft).unlink(missing_ok=True)
    return target


def _rendered(content: Content, suffix: str) -> bytes:
    if suffix == ".pdf":
        from .pdf import render_pdf

        return render_pdf(content)
    from .html import render_html

    return render_html(content)


def _unwritable(target: Path, error: OSError) -> ReportError:
    return ReportError(
        f"The report {target} cannot be written ({error.strerror or error}): give another place."
    )


def _is_report(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(_NEAR)
            file.seek(max(0, path.stat().st_size - _NEAR))
            return GENERATOR.encode() in start + file.read()
    except OSError:
        return False


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
