"""Can the measurements be relied on?"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from ..findings import Finding
from ..measurements import Measurements
from .outcome import Outcome, Question
from .words import listed, number, plural, steps_of

# Some one in twenty does not converge within its products where the two ends nearly tie.
UNCONVERGED = 0.2
# Relative to the gradient that the backward pass left. float32 gives 1e-7, bfloat16 some 1e-2.
MISMATCH = 1e-3
GROSS_MISMATCH = 0.1
_LOOKED_AT = ("hessian", "preconditioned_hessian", "tangent_kernel")

QUESTION = Question(
    "measurement",
    f"an instrument that failed, more than {UNCONVERGED:.0%} of the eigenvalues of an operator "
    f"not converged, or terms that do not add up to the gradient within {MISMATCH:g} warn; "
    f"{GROSS_MISMATCH:g} fails",
    "probing_cost",
)
_SOURCE = "observed by gradpath"


def measurement(seen: Measurements) -> Outcome:
    """Asks what is missing, failed, not converged, or does not add up."""
    findings = [*_mismatch(seen), *_off(seen), *_unconverged(seen), *_missing(seen)]
    checks = seen.of_run("self_check").dropna()
    off, missing = _texts(seen, ("instrument_off", "probe_off")), _texts(seen, ("missing",))
    if not findings and not seen.terms:
        return QUESTION.not_measured("no term of a loss was seen, and nothing was measured of one")
    text = (
        f"{plural(len(off), 'instrument') if off else 'no instrument'} failed, "
        f"{plural(len(missing), 'thing') if missing else 'nothing that was due'} could not be "
        "measured"
    )
    if len(checks):
        largest = float(checks.max())
        within = f"within {number(largest)}" if largest else "exactly"
        text += f", terms add up to the gradient {within}"
    return QUESTION.answered(text, findings)


def _mismatch(seen: Measurements) -> Iterator[Finding]:
    checks = seen.of_run("self_check").dropna()
    if not len(checks) or not float(checks.median()) > MISMATCH:
        return
    worst = float(checks.median())
    yield Finding(
        "GP704",
        "fail" if worst > GROSS_MISMATCH else "warn",
        f"The terms do not add up: their weighted gradients differ from what the backward pass "
        f"left by {number(worst)} of it (median of {plural(len(checks), 'step')}).",
        {
            "mismatch": worst,
            "worst": float(checks.max()),
            "steps": steps_of(checks),
            "statistic": "self_check",
        },
        (
            "Name the terms and the total yourself with probe.watch({...}, total=loss).",
            "Look for a part of the loss that has a backward pass of its own, for hooks that "
            "change gradients, or for arithmetic in bfloat16, which explains 0.01.",
        ),
        _SOURCE,
        "A part of the loss was not seen, or was seen with a wrong weight: what is said about "
        "terms may miss it.",
    )  # fmt: skip


def _off(seen: Measurements) -> Iterator[Finding]:
    for step, source, text in _events(seen, ("instrument_off", "probe_off")):
        yield Finding(
            "GP702",
            "warn",
            f"From step {step:,} on {source or 'an instrument'} measured nothing: {text}"
            if step is not None
            else text,
            {"step": step, "instrument": source},
            ("Run with strict=True to see the error where it arises.",),
            _SOURCE,
            "Checks that need it go by what was measured before.",
        )


def _unconverged(seen: Measurements) -> Iterator[Finding]:
    for operator in _LOOKED_AT:
        found = seen.spectra(operator)
        if found.empty:
            continue
        wrong = found[~found["converged"].astype(bool)]
        share = len(wrong) / len(found)
        if share > UNCONVERGED:
            yield Finding(
                "GP701",
                "warn",
                f"{len(wrong)} of {plural(len(found), 'eigenvalue')} of the "
                f"{operator.replace('_', ' ')} did not converge "
                f"({listed(wrong['term'].unique())}).",
                {"operator": operator, "share": share,
                 "steps": [int(step) for step in wrong["step"].unique()[:20]]},
                (
                    "Give the instrument more products: Stiffness(max_products=400).",
                    "Trust the intervals, which hold all the same.",
                ),
                _SOURCE,
                "The values are bounds from inside the spectrum: its true ends are further out.",
                "stiffness",
            )  # fmt: skip


def _missing(seen: Measurements) -> Iterator[Finding]:
    texts = _texts(seen, ("missing",))
    if texts:
        yield Finding(
            "GP703",
            "note",
            f"{plural(len(texts), 'measurement')} could not be taken: {texts[0]}"
            + ("" if len(texts) == 1 else f" ({len(texts) - 1} more in the events)"),
            {"reasons": texts[:20]},
            ("See the events of the run for the reasons.",),
            _SOURCE,
        )


def _texts(seen: Measurements, kinds: tuple[str, ...]) -> list[str]:
    return list(dict.fromkeys(text for _, _, text in _events(seen, kinds)))


def _events(seen: Measurements, kinds: tuple[str, ...]) -> Iterator[tuple[int | None, str, str]]:
    events = seen.events
    for step, source, text in events.loc[
        events["kind"].isin(kinds), ["step", "source", "text"]
    ].itertuples(index=False):
        yield (None if pd.isna(step) else int(step)), str(source), str(text)
