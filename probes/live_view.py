"""What a run looks like now: the newest of everything that a person who waits for it wants to see.

Only what is in the run counts. What nobody has measured is None or empty, never zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from .following import Followed
from .records import TRAINING_BATCH, Finding
from .store import Run

# The speed of the last minute or, where steps are recorded more rarely, between the last two.
_SPEED_OVER_SECONDS = 60.0

# The limit that each operator's largest eigenvalue is held against, by the name of its scalar.
_LIMITS = {
    "hessian": "stability_limit",
    "preconditioned_hessian": "preconditioned_stability_limit",
}


@dataclass(frozen=True)
class TermView:
    """One term of the loss, or under the name "total" the weighted sum."""

    part: str
    term: str
    losses: tuple[float, ...]  # all that were recorded, in the order of steps
    weight: float | None
    gradient_norm: float | None
    max_to_mean: float | None  # the paper's ratio, over the whole network


@dataclass(frozen=True)
class SharpnessView:
    """The largest eigenvalue of a Hessian, and what the optimizer can stand."""

    part: str
    operator: str
    step: int
    value: float
    lower: float
    upper: float
    limit: float | None

    @property
    def standing(self) -> str:
        """Returns "below" or "above" the limit, "around" where the interval holds it, or ""."""
        if self.limit is None or math.isnan(self.limit):
            return ""
        if self.upper < self.limit:
            return "below"
        return "above" if self.lower > self.limit else "around"


@dataclass(frozen=True)
class EventView:
    """Something that happened."""

    step: int | None
    kind: str
    text: str
    source: str


@dataclass(frozen=True)
class LiveView:
    """A run at one moment."""

    folder: str
    status: str
    error: str | None
    step: int | None  # the last that was recorded
    elapsed: float | None  # seconds
    steps_per_second: float | None
    probe_share: float | None  # of the time so far, what the measurements took
    learning_rates: dict[str, float]  # by part
    alignment: float | None
    terms: tuple[TermView, ...]
    sharpness: tuple[SharpnessView, ...]
    findings: tuple[Finding, ...]
    events: tuple[EventView, ...]


def live_view(run: Run | Followed) -> LiveView:
    """Returns what a run looks like now; it may be written meanwhile.

    Args:
        run: `Followed` where it is looked at again and again.

    Raises:
        StoreError: the run has become unreadable.

    Example:
        >>> import tempfile
        >>> from gradpath.probes import Run, RunWriter, Scalar
        >>> folder = tempfile.TemporaryDirectory()
        >>> with RunWriter(folder.name) as writer:
        ...     writer.record(7, [Scalar("loss", 2.5, term="residual")])
        >>> view = live_view(Run(folder.name))
        >>> view.step, view.terms[0].losses, view.terms[0].weight
        (7, (2.5,), None)
        >>> folder.cleanup()
    """
    status, error = run.status, run.metadata.get("error")
    events = run.events()
    timeline = _with_part(run.timeline())
    return LiveView(
        folder=str(run.folder),
        status=status,
        error=None if error is None else str(error),
        step=None if timeline.empty else int(timeline["step"].max()),
        elapsed=None if timeline.empty else float(timeline["elapsed"].max()),
        steps_per_second=_speed(timeline),
        probe_share=_share(run, timeline),
        learning_rates={part: value for (part, _), value in _newest(run, "learning_rate").items()},
        alignment=next(iter(_newest(run, "alignment").values()), None),
        terms=_terms(run),
        sharpness=tuple(found for operator in _LIMITS for found in _sharpness(run, operator)),
        findings=run.findings,
        events=_events(events),
    )


def _speed(timeline: pd.DataFrame) -> float | None:
    if timeline.empty:
        return None
    part = timeline.sort_values("elapsed")["part"].iloc[-1]
    steps = timeline[timeline["part"] == part].sort_values("elapsed")
    recent = steps[steps["elapsed"] >= steps["elapsed"].iloc[-1] - _SPEED_OVER_SECONDS]
    recent = steps.tail(max(2, len(recent)))
    seconds = float(recent["elapsed"].iloc[-1] - recent["elapsed"].iloc[0])
    number = int(recent["step"].iloc[-1] - recent["step"].iloc[0])
    return number / seconds if seconds > 0 and number > 0 else None


def _share(run: Run | Followed, timeline: pd.DataFrame) -> float | None:
    costs = run.cost()
    if costs.empty or timeline.empty:
        return None
    # A run may begin only when its first step has been measured.
    first = timeline.sort_values("elapsed").iloc[0]
    seconds_of_first = float(costs.loc[costs["step"] == first["step"], "seconds"].sum())
    before = max(0.0, seconds_of_first - float(first["elapsed"]))
    elapsed = float(timeline["elapsed"].max()) + before
    return float(costs["seconds"].sum()) / elapsed if elapsed > 0 else None


def _terms(run: Run | Followed) -> tuple[TermView, ...]:
    losses = _of_network(run, "loss")
    weights = _newest(run, "weight")
    norms = _newest(run, "gradient_norm")
    ratios = _newest(run, "max_to_mean")
    histories = {
        (str(part), str(term)): tuple(of_term["value"])
        for (part, term), of_term in losses.groupby(["part", "term"], sort=False)
    }
    names = dict.fromkeys([*histories, *weights, *norms, *ratios])
    return tuple(
        TermView(
            *name,
            losses=histories.get(name, ()),
            weight=weights.get(name),
            gradient_norm=norms.get(name),
            max_to_mean=ratios.get(name),
        )
        # The sum below its terms, as on paper.
        for name in sorted(names, key=lambda name: (name[0], name[1] == "total"))
    )


def _sharpness(run: Run | Followed, operator: str) -> list[SharpnessView]:
    found = _with_part(run.eigenvalues(operator))
    found = found[
        (found["end"] == "largest")
        & (found["term"] == "total")
        & (found["layer"] == "all")
        & (found["batch"] == TRAINING_BATCH)
    ]
    limits = {part: limit for (part, _), limit in _newest(run, _LIMITS[operator]).items()}
    return [
        SharpnessView(
            part=row["part"],
            operator=operator,
            limit=limits.get(row["part"]),
            **{name: row[name] for name in ("step", "value", "lower", "upper")},
        )
        for row in found.groupby("part", sort=False).tail(1).to_dict("records")
    ]


def _events(events: pd.DataFrame) -> tuple[EventView, ...]:
    return tuple(
        EventView(None if pd.isna(step) else int(step), kind, text, source)
        for step, kind, text, source in events[["step", "kind", "text", "source"]].itertuples(
            index=False
        )
    )


def _newest(run: Run | Followed, name: str) -> dict[tuple[str, str], float]:
    """Returns the last value of a scalar of the whole network, by part and term."""
    frame = _of_network(run, name).groupby(["part", "term"], sort=False).tail(1)
    return {
        (part, term): value
        for part, term, value in frame[["part", "term", "value"]].itertuples(index=False)
    }


def _of_network(run: Run | Followed, name: str) -> pd.DataFrame:
    frame = _with_part(run.scalars(name))
    if "batch" in frame:
        frame = frame[frame["batch"] == TRAINING_BATCH]
    return frame[frame["layer"].isin(["", "all"])]


def _with_part(frame: pd.DataFrame) -> pd.DataFrame:
    return frame if "part" in frame else frame.assign(part="")
