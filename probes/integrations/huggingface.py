"""Trainer of Hugging Face, and loops with Accelerate.

A `Trainer` calls nobody between the forward and the backward pass. The terms are read from the
graph, with the names that the model's own code has for them; most models have one, and then layers,
stiffness and stability are what a run is about. A loop with Accelerate needs no callback:
`with Probe(model, "runs/a"):` sees `accelerator.backward(loss)`.
"""

from __future__ import annotations

import os
from typing import Any

from torch import nn

from ..probe import Probe
from .missing import missing

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise missing("transformers", "huggingface", error) from error


class ProbeCallback(TrainerCallback):
    """Probes `Trainer(..., callbacks=[ProbeCallback("runs/a")]).train()`.

    Args:
        run: the folder of the run.
        **options: of `Probe`.
    """

    def __init__(self, run: str | os.PathLike[str], **options: Any) -> None:
        self.probe: Probe | None = None
        self._run, self._options = run, options

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Attaches the probe."""
        if self.probe is None:
            self.probe = Probe(model, self._run, **self._options)
        self.probe.attach()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Detaches the probe; it goes on with the run at the next `train`."""
        if self.probe is not None:
            self.probe.detach()
