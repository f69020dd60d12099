"""Reading a run that is being written again and again, each time only what is new.

A training goes forward, so whatever has come since is at the last step that was seen or after it.
Only a resumed run begins again at an earlier step, of which an event tells, and then all is read
anew; so it is when the parts of the run get other names.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import pandas as pd

from .records import TRAINING_BATCH, Finding
from .store import Run

# A diagnosis takes longer the longer the run, so it is made anew when there is as much more.
_GROWTH = 1.1


class Followed:
    """A run as `Run` shows it, whose earlier steps are read once.

    The frames have all columns, also `part` and `batch` where nothing is told apart by them.

    Args:
        run: that is written meanwhile.

    Raises:
        StoreError: the run has become unreadable.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._known: dict[Hashable, pd.DataFrame] = {}
        self._revision: tuple[object, ...] = ()
        self._findings: tuple[Finding, ...] = ()
        self._diagnosed: tuple[object, ...] = ()  # when that was found
        self._recorded = 0  # steps, then

    @property
    def folder(self) -> Path:
        """Where the run is."""
        return self._run.folder

    @property
    def status(self) -> str:
        """As of `Run`."""
        return self._run.status

    @property
    def metadata(self) -> dict[str, Any]:
        """As of `Run`."""
        return self._run.metadata

    @property
    def findings(self) -> tuple[Finding, ...]:
        """As of `Run`, though the diagnosis, which reads the whole run, may be a tenth behind."""
        recorded = len(self.timeline())
        moment = (self._revision, self.status, len(self._run.recorded_findings()))
        if moment != self._diagnosed or recorded >= _GROWTH * self._recorded:
            self._findings = self._run.findings
            self._diagnosed, self._recorded = moment, recorded
        return self._findings

    def events(self) -> pd.DataFrame:
        """As of `Run`; read whole, for there are few. Whoever follows a run asks for them first."""
        events = self._run.events()
        revision = (self._run.parts, int((events["kind"] == "resumed").sum()))
        if revision != self._revision:
            self._known.clear()
            self._revision = revision
        return events

    def timeline(self) -> pd.DataFrame:
        """As of `Run`."""
        return self._up_to_date("timeline", lambda since: self._run.timeline(since=since))

    def cost(self) -> pd.DataFrame:
        """As of `Run`."""
        return self._up_to_date("cost", lambda since: self._run.cost(since=since))

    def scalars(self, name: str) -> pd.DataFrame:
        """As of `Run`."""
        return self._up_to_date(
            ("scalars", name), lambda since: self._run.scalars(name, since=since)
        )

    def eigenvalues(self, operator: str) -> pd.DataFrame:
        """As of `Run`."""
        return self._up_to_date(
            ("eigenvalues", operator), lambda since: self._run.eigenvalues(operator, since=since)
        )

    def _up_to_date(self, key: Hashable, read: Callable[[int], pd.DataFrame]) -> pd.DataFrame:
        known = self._known.get(key)
        if known is None or known.empty:
            found = _complete(read(0))
        else:
            # The last step may get more; and of several parts, one may be behind.
            since = int(known.groupby("part")["step"].max().min())
            new = _complete(read(since))[known.columns]
            found = pd.concat([known[known["step"] < since], new], ignore_index=True)
        self._known[key] = found
        return found


def _complete(frame: pd.DataFrame) -> pd.DataFrame:
    usual = {"part": "", "batch": TRAINING_BATCH}
    return frame.assign(**{name: value for name, value in usual.items() if name not in frame})
