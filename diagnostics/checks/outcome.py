"""What a check returns: a row of the verdict table, and the findings that say more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..findings import Check, Finding, Status

# A note is no alarm: it changes no status.
_STATUS_OF: dict[str, Status] = {"fail": "fail", "warn": "warn", "note": "ok"}
_GRAVEST: tuple[Status, ...] = ("fail", "warn", "ok")


@dataclass(frozen=True)
class Outcome:
    """A row of the verdict table, and the findings that say more."""

    check: Check
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Question:
    """What a check asks, the same for every run."""

    name: str
    threshold: str
    figure: str = ""

    def answered(self, number: str, findings: Sequence[Finding] = ()) -> Outcome:
        """Returns the answer: as grave as the gravest finding, with its first advice."""
        statuses = [_status(finding) for finding in findings]
        status: Status = min(statuses, key=_GRAVEST.index, default="ok")
        gravest = next((each for each in findings if _status(each) == status), None)
        advice = gravest.advice if gravest is not None and status != "ok" else ()
        check = Check(
            self.name,
            status,
            number,
            self.threshold,
            next(iter(advice), ""),
            tuple(dict.fromkeys(each.code for each in findings)),
            self.figure,
        )
        return Outcome(check, tuple(findings))

    def not_measured(self, why: str) -> Outcome:
        """Returns that there is no answer, and why."""
        return Outcome(Check(self.name, "not measured", why, self.threshold, "", (), self.figure))


def _status(finding: Finding) -> Status:
    # A user's own finding, recorded by an instrument, may have a severity of another name.
    return _STATUS_OF.get(finding.severity, "warn")
