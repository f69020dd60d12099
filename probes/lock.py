"""One writer a run: a lock that the operating system releases, however the writer ends.

The lock is on the file run.lock, not on run.db: SQLite has locks of its own there, and on POSIX a
process that closes any handle of a file loses them. The file also names the writer, for the one
who finds it locked. It stays when the writer has gone; only the lock says that there is one.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

from .errors import StoreError, explained

LOCK = "run.lock"

# Whoever asks whether there is a writer holds the lock for microseconds.
_ATTEMPTS = 20
_PAUSE_SECONDS = 0.02

# Who completes a run after a kill holds it for longer: a writer waits for that.
_ATTEMPTS_THEN = 500

# The steps that wait to be measured (`waiting.py`). Who completes a run has a lock on this file as
# well, from before it has the other one until after.
WAITING = "run.waiting"

if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: int, shared: bool = False) -> bool:
        # A lock on Windows keeps others from reading, so it lies behind the text. It has no shared
        # ones: two who ask at once may take each other for a writer.
        os.lseek(file, 1 << 20, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True
else:
    import fcntl

    def _try_lock(file: int, shared: bool = False) -> bool:
        # flock, not lockf: it also tells two writers of one process apart, and is not lost when
        # somebody in this process opens and closes the file, as copying the folder does.
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


class WriterLock:
    """The lock of a run's writer, held from its making until `release`.

    A forked process inherits it and has to call `release` at once: the lock is free only when the
    last process that has it lets go.

    Raises:
        StoreError: another writer holds it, or the file system has no locks.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if not self._acquire(folder):
                    raise StoreError(
                        f"Run {folder} is being written by {_writer(folder)}: give this training "
                        "another folder, or end the other one first."
                    )
                os.lseek(self._file, 0, os.SEEK_SET)
                os.truncate(self._file, 0)
                os.write(self._file, f"process {os.getpid()} on {socket.gethostname()}".encode())
            except BaseException:
                os.close(self._file)
                raise
            # Also when nobody called `release` before the writer was thrown away.
            self._close = weakref.finalize(self, os.close, self._file)
        except OSError as error:
            raise explained(error, folder) from error

    def release(self) -> None:
        """Closes the file, which releases the lock."""
        self._close()

    def _acquire(self, folder: Path) -> bool:
        for attempt in range(_ATTEMPTS_THEN):
            if _try_lock(self._file):
                return True
            if attempt >= _ATTEMPTS and not _is_locked(folder / WAITING):
                return False
            time.sleep(_PAUSE_SECONDS)
        return False


@contextlib.contextmanager
def completing(folder: Path) -> Iterator[int]:
    """Says that whoever has the run's lock inside of the block completes it after a kill.

    Yields:
        the handle of the file of steps that wait.

    Raises:
        StoreError: another process does, nothing waits any more, or it cannot be written there.
    """
    try:
        file = os.open(folder / WAITING, os.O_RDWR)
    except OSError as error:
        raise explained(error, folder) from error
    try:
        for _ in range(_ATTEMPTS):
            if _try_lock(file):
                break
            time.sleep(_PAUSE_SECONDS)
        else:
            raise StoreError(f"Run {folder} is being completed by another process: try again.")
        yield file
    finally:
        os.close(file)


def has_writer(folder: Path) -> bool:
    """Whether a process is alive that writes the run, and not only completes it after a kill."""
    # Twice: it may have been completed between one look and the other.
    return all(_is_locked(folder / LOCK) and not _is_locked(folder / WAITING) for _ in range(2))


def _is_locked(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _try_lock(file, shared=True)
    except OSError:
        return False
    finally:
        os.close(file)


def _writer(folder: Path) -> str:
    with contextlib.suppress(OSError):
        name = (folder / LOCK).read_text()
        if name:
            return name
    return "another process"
