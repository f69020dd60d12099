"""What waits in this process to be measured, for who reads the run in the same process."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Protocol


class Settling(Protocol):
    """A backlog of steps."""

    folder: Path

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        ...

    def settle(self) -> None:
        """Measures and commits all that waits."""
        ...


_living: weakref.WeakSet[Settling] = weakref.WeakSet()


def register(backlog: Settling) -> None:
    """Lets a backlog be found as long as it lives."""
    _living.add(backlog)


def settle(folder: Path) -> None:
    """Measures and commits what waits for a run, if this process writes it."""
    for backlog in list(_living):
        if not backlog.is_empty and backlog.folder.absolute() == folder:
            backlog.settle()
