"""What became of a training, as it is returned and as run.json says it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..probes.run_json import DOCUMENT
from ..probes.store import Run

Status = Literal["finished", "diverged"]


@dataclass(frozen=True)
class Summary:
    """What became of a training."""

    error: float  # relative L2 error on the evaluation grid; NaN after a divergence
    seconds: float  # of all steps with what was measured at them; compiling not counted
    steps: int  # that were taken
    status: Status
    folder: str  # of the run
    losses: Mapping[str, float]  # unweighted, after the last step
    weights: Mapping[str, float]  # after the last step
    is_compiled: bool  # whether the step was
    evaluations: int  # of the losses, in all steps: a step of L-BFGS takes several

    def described(self) -> dict[str, Any]:
        """Returns what run.json is to say of it."""
        return {
            "outcome": self.status,
            "final_error": _or_none(self.error),
            "training_seconds": self.seconds,
            "steps_taken": self.steps,
            "final_losses": {term: _or_none(value) for term, value in self.losses.items()},
            "final_weights": dict(self.weights),
            "is_compiled": self.is_compiled,
            "evaluations": self.evaluations,
        }

    @classmethod
    def of_run(cls, folder: Path, steps: int) -> Summary | None:
        """Returns that of a run which so many steps have nothing to add to; else None."""
        if not (folder / DOCUMENT).exists():
            return None
        known = Run(folder).metadata
        status: Any = known.get("outcome")
        taken: Any = known.get("steps_taken")
        has_all = status == "finished" and taken == steps
        # More steps would end where the others have.
        cannot_go_on = status == "diverged" and taken <= steps
        if not (has_all or cannot_go_on):
            return None
        return cls(
            _or_nan(known["final_error"]),
            known["training_seconds"],
            taken,
            status,
            str(folder),
            {term: _or_nan(value) for term, value in known["final_losses"].items()},
            known["final_weights"],
            known["is_compiled"],
            known.get("evaluations", taken),  # older runs have Adam's one a step
        )


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no NaN


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
