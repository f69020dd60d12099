"""Where a training stands, in one file that is replaced as a whole.

Whoever reads it finds the old one or the new one, however the process that wrote it ended.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..diagnostics.errors import ArgumentError

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """All that the steps from `step` on depend on.

    Attributes:
        trained: what is trained, by name; a checkpoint of something else is refused.
        step: the number of the step to be taken next.
        state: of the optimizer before that step, as it saves itself.
        weights: what the rule of the weights remembers; None where there is none.
        generator: the state of the generator that draws the points.
        seconds: that the steps before have taken.
        evaluations: of the losses that they have taken.
    """

    trained: Mapping[str, Any]
    step: int
    state: Any
    weights: Mapping[str, Any] | None
    generator: Tensor
    seconds: float
    evaluations: int

    def save(self, folder: Path) -> None:
        """Replaces the checkpoint of a run."""
        saved = {
            "trained": dict(self.trained),
            "step": self.step,
            "state": self.state,
            "weights": self.weights,
            "generator": self.generator,
            "seconds": self.seconds,
            "evaluations": self.evaluations,
        }
        # Not synchronised with the disk, which takes longer than all steps since the last one: it
        # outlives its process, as the run's own records do, not a failure of power.
        new = folder / f"{CHECKPOINT}.new"
        torch.save(saved, new)
        os.replace(new, folder / CHECKPOINT)

    @classmethod
    def load(cls, folder: Path, trained: Mapping[str, Any]) -> Checkpoint | None:
        """Returns the checkpoint of a run; None where there is none yet.

        Raises:
            ArgumentError: it is that of something else.
        """
        path = folder / CHECKPOINT
        if not path.exists():
            return None
        saved: dict[str, Any] = torch.load(path, weights_only=True)
        for name, value in trained.items():
            if saved["trained"].get(name) != value:
                raise ArgumentError(
                    f"The run in {folder} has {name} {saved['trained'].get(name)!r}, not "
                    f"{value!r}: give another folder, or what it was begun with."
                )
        return cls(
            saved["trained"],
            saved["step"],
            saved["state"],
            saved["weights"],
            saved["generator"],
            saved["seconds"],
            # Those of before there were other optimizers are of Adam, with one evaluation a step.
            saved.get("evaluations", saved["step"]),
        )
