"""PINA: terms named after the conditions of the problem.

A solver of PINA hands the loss of each condition, unweighted and by name, to its weighting, which
returns their weighted sum. The callback reads them there. PINA trains with Lightning, so all else
is as in `lightning`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .missing import missing

try:
    import pina  # noqa: F401  # brings Lightning
    from lightning.pytorch import LightningModule, Trainer

    from . import lightning
except ImportError as error:
    raise missing("pina-mathlab", "pina", error) from error


class ProbeCallback(lightning.ProbeCallback):
    """Probes `Trainer(solver, callbacks=[ProbeCallback("runs/a")]).train()`.

    Args:
        run: the folder of the run.
        **options: of `Probe`.
    """

    def listen(self, module: LightningModule) -> None:
        """Begins to read the losses of conditions, where the solver weighs them."""
        weighting = module.weighting
        original = weighting.aggregate

        def aggregate(losses: Mapping[str, Tensor]) -> Any:
            # Validation comes here as well, with gradients switched on.
            if self.probe is not None and module.trainer.training:
                self.probe.watch({n: loss for n, loss in losses.items() if loss.requires_grad})
            return original(losses)

        vars(weighting)["aggregate"] = aggregate

    def stop_listening(self, module: LightningModule) -> None:
        """Leaves the weighting as it was."""
        vars(module.weighting).pop("aggregate", None)

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Has nothing to add: what PINA logs are the losses of conditions once more."""
