"""The probe of `gradpath run`: on everything that a script trains."""

from __future__ import annotations

import os
from pathlib import Path

from .probe import Probe
from .recorder import writes
from .store import Run


class Session:
    """A probe on all that the process trains, from now to its end.

    Args:
        folder: of the run; made at the first backward pass.
        instruments: the set of instruments.
        script: that is run, for the run's description.
    """

    def __init__(self, folder: str | os.PathLike[str], instruments: str, script: str) -> None:
        self._folder = Path(folder)
        self._error: BaseException | None = None
        self._probe = Probe(
            None, folder, instruments=instruments, metadata={"script": script}
        ).attach()

    def finish(self) -> None:
        """Ends the run well."""
        self._probe.detach()

    def fail(self, error: BaseException) -> None:
        """Ends the run with what ended the script."""
        self._error = error
        self._probe.__exit__(type(error), error, None)

    def summary(self) -> str | None:
        """Returns in one line what was recorded, and what to do with it."""
        if not writes(has_begun=False):
            return None  # the first process says it
        failure = self._probe.failure
        if failure is not None:
            return f"Nothing more was recorded: {failure}"
        if not self._folder.exists():
            if self._error is not None:
                return "Nothing was recorded: the script ended before its first backward pass."
            return (
                "No backward pass was seen, so nothing was recorded; a loop that takes its "
                "gradients with torch.autograd.grad can use probe.watch({...}, total=loss)."
            )
        run = Run(self._folder)
        steps, terms = run.steps, run.terms
        named = ", ".join(terms) if len(terms) <= 6 else f"{', '.join(terms[:6])}, ..."
        return (
            f"{_counted(len(steps), 'step')} with {_counted(len(terms), 'loss term')} ({named}) "
            f"{'is' if len(steps) == 1 else 'are'} recorded in {self._folder}; "
            f"see `gradpath watch {self._folder} --once`."
        )


def start_session(
    folder: str | os.PathLike[str], *, instruments: str = "standard", script: str = ""
) -> Session:
    """Puts a probe on everything that this process trains from now on.

    Raises:
        ArgumentError: there is no such set of instruments.
    """
    return Session(folder, instruments, script)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
