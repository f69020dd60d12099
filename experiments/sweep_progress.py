"""How far a sweep is: as numbers for a callback, and shown to a person."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from .sweep_grid import Member


@dataclass(frozen=True)
class MemberResult:
    """How a member of a sweep ended."""

    member: Member
    folder: Path
    status: str  # as of its run: "finished", "failed", "lost", "waiting", "running", "broken"
    summary: Mapping[str, Any]  # what its training returned; empty where it raised or was lost
    error: str | None
    attempts: int  # that this call made; 0 for one that had been finished before


@dataclass(frozen=True)
class SweepProgress:
    """How far a sweep is; done, running, failed and left add up to all its members."""

    done: int
    running: int
    failed: int
    left: int  # not begun
    elapsed: float  # seconds of this call
    seconds_left: float | None  # None before the first member has ended
    latest: MemberResult | None  # the member that has just ended; None if something else changed

    @property
    def total(self) -> int:
        """All members of the sweep."""
        return self.done + self.running + self.failed + self.left


Show = Callable[[SweepProgress], object]


def estimated_seconds(elapsed: float, ended: int, remaining: int) -> float | None:
    """Returns the time that is left if the others take as long as those that ended."""
    if not remaining:
        return 0.0
    return elapsed / ended * remaining if ended else None


@contextlib.contextmanager
def shown(console: Console | None = None) -> Iterator[Show]:
    """Gives what shows progress: a bar on a terminal, elsewhere a line for each member that ends.

    Both go to the standard error, so that a program's output stays its own.
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield lambda progress: _print_line(console, progress)
        return
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=None)

        def show(progress: SweepProgress) -> None:
            ended = progress.done + progress.failed
            bar.update(task, total=progress.total, completed=ended, description=_counts(progress))
            if progress.latest is not None:
                # Text: a plain string would be searched for rich's markup.
                bar.console.print(Text(_line(progress.latest)))

        yield show


def _print_line(console: Console, progress: SweepProgress) -> None:
    if progress.latest is None:
        return
    ended = progress.done + progress.failed
    line = f"{ended}/{progress.total}  {_line(progress.latest)}  ({_counts(progress)})"
    console.print(Text(line), soft_wrap=True)


def _line(result: MemberResult) -> str:
    reason = "" if result.error is None else f": {result.error.splitlines()[0]}"
    return f"{result.member.name} {result.status}{reason}"


def _counts(progress: SweepProgress) -> str:
    counts = f"{progress.done} done, {progress.running} running, {progress.failed} failed, "
    seconds = progress.seconds_left
    time_left = "" if seconds is None else f", about {_duration(seconds)} left"
    return f"{counts}{progress.left} to begin{time_left}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


class Counter:
    """Keeps count of a sweep, and tells whoever shows it when something has changed."""

    def __init__(self, show: Show, members: int, done: int) -> None:
        self._show = show
        self._members = members
        self._done = self._done_before = done
        self._failed = 0
        self._running = 0
        self._begun = time.monotonic()
        self._tell(None)

    def now_running(self, running: int) -> None:
        """Tells how many are being trained."""
        if running != self._running:
            self._running = running
            self._tell(None)

    def ended(self, result: MemberResult) -> None:
        """Tells that a member has ended."""
        self._running = max(0, self._running - 1)
        if result.status == "finished":
            self._done += 1
        else:
            self._failed += 1
        self._tell(result)

    def _tell(self, latest: MemberResult | None) -> None:
        elapsed = time.monotonic() - self._begun
        remaining = self._members - self._done - self._failed
        ended = self._done - self._done_before + self._failed
        running = min(self._running, remaining)
        self._show(
            SweepProgress(
                self._done,
                running,
                self._failed,
                remaining - running,
                elapsed,
                estimated_seconds(elapsed, ended, remaining),
                latest,
            )
        )
