"""What waits in this process to be measured, for who reads the run in the same process."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Protocol


class Settling(Protocol):
    """A backlog of steps."""

    folder: str  # without symbolic links

    def settle(self) -> None:
        """Measures and commits all that waits."""
        ...


_living: weakref.WeakSet[Settling] = weakref.WeakSet()


def register(backlog: Settling) -> None:
    """Lets a backlog be found as long as it lives."""
    _living.add(backlog)


def settle(folder: Path) -> None:
    """Measures and commits what waits for a run, if this process writes it."""
    here = os.path.realpath(folder)
    for backlog in list(_living):
        if backlog.folder == here:
            backlog.settle()  # also where it is empty: another thread may be about to commit
