"""What runs are compared by: one number each, read from what was recorded.

Gradients at one step depend on the batch of that step, so what is said of the end is a median over
the last tenth of the training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ...probes.store import Run

LATE = 0.9
"""What was recorded from this share of the training on is late."""

LOSS_OF = "loss of "


@dataclass(frozen=True)
class Quantity:
    """One number of a run."""

    name: str  # as it stands on an axis, without its unit
    unit: str  # "" for a pure number
    meaning: str  # a sentence
    lower_is_better: bool = False  # whether a small one is what training is for

    @property
    def label(self) -> str:
        """Name and unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


QUANTITIES: Mapping[str, Quantity] = {
    "error": Quantity(
        "relative L2 error", "", "Of the trained network, on the evaluation grid.", True
    ),
    "loss": Quantity(
        "sum of the unweighted losses", "", "Of all terms; median over the last tenth.", True
    ),
    "sharpness": Quantity(
        "largest Hessian eigenvalue at the end",
        "",
        "Of the weighted loss, at the last step where it was measured.",
    ),
    "sharpness_start": Quantity(
        "largest Hessian eigenvalue at the start", "", "At the first step where it was measured."
    ),
    "sharpness_max": Quantity(
        "maximum of the largest Hessian eigenvalue", "", "Over all steps where it was measured."
    ),
    "unconverged": Quantity(
        "eigenvalues that did not converge",
        "%",
        "Of the largest ones of the weighted loss; the true ones are larger than those.",
    ),
    "stiffness_ratio": Quantity(
        "stiffness ratio between terms",
        "",
        "Largest Hessian eigenvalue of the stiffest unweighted term over that of the least stiff "
        "one, at the last step where they were measured.",
    ),
    "imbalance": Quantity(
        "imbalance max|g_ref| / mean|g_i|",
        "",
        "The paper's ratio of unweighted gradients of the whole network, of the term where it is "
        "largest; median over the last tenth.",
    ),
    "weighted_imbalance": Quantity(
        "imbalance of the weighted terms",
        "",
        "The same with each gradient times its weight, as the optimizer gets it.",
    ),
    "norm_ratio": Quantity(
        "ratio of gradient norms",
        "",
        "Norm of the reference term's gradient over that of the other term, unweighted, of the "
        "term where it is largest; median over the last tenth.",
    ),
    "weighted_norm_ratio": Quantity(
        "ratio of weighted gradient norms", "", "The same with each gradient times its weight."
    ),
    "reference_gradient": Quantity(
        "max|g_ref|",
        "",
        "Largest entry of the unweighted gradient of the reference term (the residual, where there "
        "is one); median over the last tenth.",
    ),
    "reference_gradient_start": Quantity(
        "max|g_ref| at the start", "", "The same at the first step where it was measured."
    ),
    "milliseconds": Quantity(
        "time per step", "ms", "Of training, without what measuring took; compiling not counted."
    ),
    "measuring": Quantity("time for measuring", "%", "Share of the time of all steps."),
}
"""What is known of runs, by the key that functions of this package take."""


def quantity_of(key: str) -> Quantity:
    """Returns the quantity of a key, also of the loss of a term."""
    if key.startswith(LOSS_OF):
        return Quantity(key, "", "Unweighted; median over the last tenth.", True)
    return QUANTITIES[key]


def numbers_of(run: Run) -> dict[str, float]:
    """Returns what is known of a run, by key; what was not measured is not there.

    Of a run of several parts, it is that of the first.
    """
    document, part = run.metadata, run.parts[0] if run.parts else ""
    found: dict[str, float] = {}
    for read in (_error, _losses, _sharpness, _imbalance, _reference_gradient, _times):
        found |= read(run, document, part)
    return {key: number for key, number in found.items() if not math.isnan(number)}


Reader = Callable[[Run, Mapping[str, Any], str], dict[str, float]]


def _error(run: Run, document: Mapping[str, Any], part: str) -> dict[str, float]:
    known = document.get("final_error")
    if isinstance(known, int | float) and not isinstance(known, bool):
        return {"error": float(known)}
    recorded = _scalars(run, "relative_error", part)
    # A training that was stopped has no error of a trained network.
    if recorded.empty or run.status != "finished":
        return {}
    return {"error": float(recorded["value"].iloc[-1])}


def _losses(run: Run, document: Mapping[str, Any], part: str) -> dict[str, float]:
    late = _late(_scalars(run, "loss", part))
    terms = late[~late["term"].isin(["", "total"])]
    medians = terms.groupby("term", sort=False)["value"].median()
    found = {f"{LOSS_OF}{term}": float(value) for term, value in medians.items()}
    if found:
        found["loss"] = float(terms.groupby("step")["value"].sum(min_count=1).median())
    elif not late.empty:  # a loss of one piece
        found["loss"] = float(late["value"].median())
    return found


def _sharpness(run: Run, document: Mapping[str, Any], part: str) -> dict[str, float]:
    frame = _part(run.eigenvalues(), part)
    frame = frame[(frame["layer"] == "all") & (frame["end"] == "largest")]
    if frame.empty:
        return {}
    # On other points it is another loss; the batch that was measured most has the longest history.
    frame = frame[frame["batch"] == frame["batch"].mode().iloc[0]]
    of_total = frame[frame["term"] == "total"]
    total = of_total["value"].dropna()
    found = {}
    if not total.empty:
        found = {
            "sharpness_start": float(total.iloc[0]),
            "sharpness_max": float(total.max()),
            "sharpness": float(total.iloc[-1]),
            "unconverged": 100 * float((~of_total["converged"]).mean()),
        }
    last = frame[frame["term"] != "total"].groupby("term", sort=False)["value"].last()
    if len(last) > 1 and (last > 0).all():
        found["stiffness_ratio"] = float(last.max() / last.min())
    return found


def _imbalance(run: Run, document: Mapping[str, Any], part: str) -> dict[str, float]:
    found: dict[str, float] = {}
    weights = _scalars(run, "weight", part).pivot_table(
        index="step", columns="term", values="value"
    )
    for name, key in (("max_to_mean", "imbalance"), ("norm_ratio", "norm_ratio")):
        ratios = _late(_of_network(_scalars(run, name, part))).pivot_table(
            index="step", columns="term", values="value"
        )
        if ratios.empty:
            continue
        found[key] = float(ratios.median().max())
        others = set(ratios.columns)
        reference = [term for term in weights.columns if term not in others]
        if len(reference) == 1 and others <= set(weights.columns):
            # Weights may be recorded at other steps, and hold until the next record.
            then = weights.reindex(weights.index.union(ratios.index)).ffill().loc[ratios.index]
            factors = then[list(ratios.columns)].rdiv(then[reference[0]], axis=0).abs()
            found[f"weighted_{key}"] = float((ratios * factors).median().max())
    return found


def _reference_gradient(run: Run, document: Mapping[str, Any], part: str) -> dict[str, float]:
    frame = _of_network(_scalars(run, "gradient_max", part))
    others = set(_of_network(_scalars(run, "max_to_mean", part))["term"])
    reference = [term for term in frame["term"].unique() if term not in others | {"total"}]
    if len(reference) != 1:
        return {}
    frame = frame[frame["term"] == reference[0]]
    return {
        "reference_gradient": float(_late(frame)["value"].median()),
        "reference_gradient_start": float(frame["value"].iloc[0]),
    }


def _times(run: Run, document: Mapping[str, Any], part: str) -> dict[str, float]:
    timeline, costs = run.timeline(), run.cost()
    known, steps = document.get("training_seconds"), document.get("steps_taken")
    if not isinstance(known, int | float) or not isinstance(steps, int):
        if timeline.empty:
            return {}
        known, steps = timeline["elapsed"].iloc[-1], int(timeline["step"].iloc[-1])
    measuring = float(costs["seconds"].sum())
    if steps < 1 or known <= 0:
        return {}
    return {
        "milliseconds": 1000 * max(known - measuring, 0.0) / steps,
        "measuring": 100 * min(measuring / known, 1.0),
    }


def _scalars(run: Run, name: str, part: str) -> pd.DataFrame:
    frame = _part(run.scalars(name), part)
    if "batch" in frame.columns and not frame.empty:
        frame = frame[frame["batch"] == frame["batch"].mode().iloc[0]]
    return frame


def _part(frame: pd.DataFrame, part: str) -> pd.DataFrame:
    return frame[frame["part"] == part] if "part" in frame.columns else frame


def _of_network(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["layer"] == "all"]


def _late(frame: pd.DataFrame) -> pd.DataFrame:
    return frame if frame.empty else frame[frame["step"] >= LATE * frame["step"].max()]
