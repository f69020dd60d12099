"""What is wrong with a training, in words that carry their evidence.

A finding says one thing that was measured. What follows from it is kept apart, and so is what to
try, since advice is an experiment and no promise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["ok", "warn", "fail", "not measured"]


@dataclass(frozen=True)
class Finding:
    """What is wrong with a run, in words and with its evidence."""

    code: str  # "GP101"
    severity: str  # "fail", "warn", or "note" for what is no alarm
    verdict: str  # one sentence: what was measured
    evidence: Mapping[str, Any] = field(default_factory=dict)  # what JSON can hold
    advice: tuple[str, ...] = ()  # what to try, in order of expected effect
    source: str = ""
    reading: str = ""  # what is inferred from it, hedged; "" where nothing is
    figure: str = ""  # the name of the figure in `reports.figures` that shows the evidence


@dataclass(frozen=True)
class Check:
    """One question that a diagnosis answers, with the number it was decided by."""

    name: str  # a few words: "magnitude imbalance"
    status: Status
    number: str  # what was measured, in words and with its units, or why it was not
    threshold: str  # what the number was compared with, and why with that
    experiment: str  # what to do next, "" where all is well
    codes: tuple[str, ...] = ()  # of the findings that say more
    figure: str = ""  # as of a finding


@dataclass(frozen=True)
class Diagnosis:
    """All checks in a fixed order, and the findings, the gravest first."""

    verdict: str  # one or two sentences on the run as a whole
    checks: tuple[Check, ...]
    findings: tuple[Finding, ...]
