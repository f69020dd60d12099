"""What can go wrong with a run on disk, each as one sentence with the cause and the mend."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

from ..diagnostics.errors import GradpathError


class StoreError(GradpathError):
    """A run cannot be read or written: no run, in use, damaged, newer, or the disk will not."""


def explained(error: sqlite3.Error | OSError, folder: Path) -> StoreError:
    """Returns what an error of SQLite or of the operating system means for a run."""
    if isinstance(error, OSError):
        cause = errno.errorcode.get(error.errno or 0, "")
    else:
        # Extended codes refine a plain one: SQLITE_IOERR_WRITE, SQLITE_READONLY_DIRECTORY.
        cause = "_".join(getattr(error, "sqlite_errorname", "").split("_")[:2])
    sentence = _SENTENCES.get(cause)
    if sentence is None:
        detail = getattr(error, "sqlite_errorname", type(error).__name__)
        return StoreError(
            f"Run {folder} met an error of the file system or of SQLite ({detail}: {error}); "
            "what was recorded before it is safe; see to the disk, or give another folder."
        )
    return StoreError(sentence.format(folder=folder))


def described(error: BaseException) -> str:
    """Returns an error in one line; those of our own are sentences and need no name."""
    text = str(error)
    if isinstance(error, GradpathError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


_FULL = (
    "The disk that holds run {folder} is full: make room there; what was recorded before is safe "
    "and `resume=True` continues the run."
)
_TOO_LARGE = (
    "A file of run {folder} cannot grow: the disk failed, or a limit on the size of files "
    "(`ulimit -f`) was met; lift it, or give another folder; what was recorded before is safe."
)
_READ_ONLY = (
    "Run {folder} cannot be written or recovered there: its folder or its files are read-only for "
    "you; change their permissions, or copy the folder to a place where you may write."
)
_IN_USE = (
    "Run {folder} is held by another program that has its run.db open for writing: close that "
    "program and try again."
)
_DAMAGED = (
    "Run {folder} cannot be read: its run.db is damaged or no database of gradpath; restore it "
    "from a copy (`sqlite3 run.db .recover` may save a part)."
)
_MISSING = (
    "A file or a folder of run {folder} is missing, and cannot be made there: give the folder of a "
    "run, or one where a run can be begun."
)
_NO_LOCKS = (
    "Run {folder} cannot be written: its file system has no file locks, so that two processes "
    "could mix their records; write the run to a local disk and copy it when it is finished."
)

_SENTENCES = {
    "SQLITE_FULL": _FULL,
    "ENOSPC": _FULL,
    "EDQUOT": _FULL,
    "SQLITE_IOERR": _TOO_LARGE,
    "EFBIG": _TOO_LARGE,
    "SQLITE_READONLY": _READ_ONLY,
    "SQLITE_CANTOPEN": _READ_ONLY,
    "EACCES": _READ_ONLY,
    "EPERM": _READ_ONLY,
    "EROFS": _READ_ONLY,
    "SQLITE_BUSY": _IN_USE,
    "SQLITE_LOCKED": _IN_USE,
    "SQLITE_NOTADB": _DAMAGED,
    "SQLITE_CORRUPT": _DAMAGED,
    "SQLITE_ERROR": _DAMAGED,  # such as "no such table"
    "ENOENT": _MISSING,
    "ENOLCK": _NO_LOCKS,
    "ENOTSUP": _NO_LOCKS,
    "ENOSYS": _NO_LOCKS,
}
