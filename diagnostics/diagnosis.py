"""From what was measured to what is wrong: all checks in their order, and a verdict.

What can explain a failure comes before what it looks like, so that of two findings of one severity
the first is where to begin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from .checks.balancer import balancer
from .checks.curvature import negative_curvature, stiffness
from .checks.direction import cancellation, conflict
from .checks.finite import finite_numbers, first_not_finite
from .checks.inventory import term_inventory
from .checks.layers import layer_health
from .checks.magnitude import magnitude_imbalance
from .checks.measurement import measurement
from .checks.noise import noise
from .checks.optimisation import under_optimised
from .checks.outcome import Outcome
from .checks.propagation import propagation
from .checks.solution import residual_self_check, wrong_solution
from .checks.spectral_bias import spectral_bias
from .checks.step_size import predicted_descent, step_size
from .checks.words import name
from .findings import Check, Diagnosis, Finding
from .measurements import Measurements

CHECKS: tuple[Callable[[Measurements], Outcome], ...] = (
    residual_self_check,
    term_inventory,
    magnitude_imbalance,
    conflict,
    cancellation,
    balancer,
    step_size,
    predicted_descent,
    stiffness,
    negative_curvature,
    propagation,
    spectral_bias,
    layer_health,
    wrong_solution,
    under_optimised,
    noise,
    measurement,
)
"""All but the first, which decides what the others may look at: are the numbers finite?"""

# What is said besides the first finding, since most readers expect the opposite.
_NOT_IMBALANCE = "GP102"
_GRAVITY = {"fail": 0, "warn": 1, "note": 2}
_STATUS = {"fail": 0, "warn": 1, "ok": 2, "not measured": 3}


def diagnose(seen: Measurements) -> Diagnosis:
    """Returns what is wrong with a training, and what was asked to find that out.

    Example:
        >>> import pandas as pd
        >>> norms = pd.DataFrame({"step": [0, 0], "term": ["residual", "boundary"],
        ...                       "layer": "all", "value": [250.0, 1.0]})
        >>> losses = norms.assign(layer="", value=[3.0, 1.0])
        >>> scalars = {"gradient_norm": norms, "loss": losses}
        >>> found = diagnose(Measurements(("residual", "boundary"), scalars=scalars))
        >>> found.findings[0].code, found.findings[0].evidence["factor"]
        ('GP101', 250.0)
    """
    outcomes = [finite_numbers(seen)]
    wrong_from = first_not_finite(seen)
    if wrong_from is not None:
        seen = seen.before(wrong_from)
    outcomes += [check(seen) for check in CHECKS]
    return _diagnosis(outcomes, seen.recorded)


def combined(diagnoses: Mapping[str, Diagnosis]) -> Diagnosis:
    """Returns one diagnosis of several parts that were trained side by side.

    Each check has the gravest status that it has in any part, and says of which.

    Args:
        diagnoses: by the names of the parts, at least one.
    """
    if len(diagnoses) == 1:
        return next(iter(diagnoses.values()))
    checks = [
        _gravest(dict(zip(diagnoses, row, strict=True)))
        for row in zip(*(each.checks for each in diagnoses.values()), strict=True)
    ]
    findings = [
        replace(
            finding,
            verdict=f"{name(part)}: {finding.verdict}",
            evidence={"part": part, **finding.evidence},
        )
        for part, diagnosis in diagnoses.items()
        for finding in diagnosis.findings
    ]
    findings.sort(key=lambda finding: _GRAVITY.get(finding.severity, 2))
    return Diagnosis(_verdict(checks, findings), tuple(checks), tuple(findings))


def _diagnosis(outcomes: Sequence[Outcome], recorded: Sequence[Finding]) -> Diagnosis:
    findings = [*(finding for each in outcomes for finding in each.findings), *recorded]
    once = {(finding.code, finding.verdict): finding for finding in findings}
    findings = sorted(once.values(), key=lambda each: _GRAVITY.get(each.severity, 1))
    checks = [each.check for each in outcomes]
    return Diagnosis(_verdict(checks, findings), tuple(checks), tuple(findings))


def _gravest(by_part: Mapping[str, Check]) -> Check:
    part = min(by_part, key=lambda each: _STATUS[by_part[each].status])
    codes = dict.fromkeys(code for check in by_part.values() for code in check.codes)
    found = by_part[part]
    return replace(found, number=f"{name(part)}: {found.number}", codes=tuple(codes))


def _verdict(checks: Sequence[Check], findings: Sequence[Finding]) -> str:
    counts = {status: sum(check.status == status for check in checks) for status in _STATUS}
    asked = len(checks) - counts["not measured"]
    if asked == 0:
        return "Nothing was recorded that a check could go by."
    missing = counts["not measured"]
    unknown = f"; {missing} {'was' if missing == 1 else 'were'} not measured" if missing else ""
    if counts["fail"] == counts["warn"] == 0:
        passed = "the one check made is" if asked == 1 else f"all {asked} checks made are"
        return f"Nothing wrong was found: {passed} passed{unknown}."
    found = ", ".join(
        f"{counts[status]} {'fails' if counts[status] == 1 else 'fail'}" if status == "fail" else
        f"{counts[status]} {'warns' if counts[status] == 1 else 'warn'}"
        for status in ("fail", "warn") if counts[status]
    )  # fmt: skip
    told = [each for each in findings if each is findings[0] or each.code == _NOT_IMBALANCE]
    sentences = [text for each in told for text in (each.verdict, each.reading) if text]
    return " ".join([*sentences, f"Of {asked} check{'s' * (asked > 1)} made, {found}{unknown}."])
