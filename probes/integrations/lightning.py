"""Lightning: terms named as `self.log` names them.

By the time of the backward pass `training_step` has returned, and its variables are gone. What it
has logged of tensors with a graph is remembered until then; where these, weighted as the loss
weighs them, add up to the loss, they are its terms. Else the terms are read from the graph, as
without this callback. So they are where `training_step` calls `loss.backward()` itself.
"""

from __future__ import annotations

import math
import os
from typing import Any

from torch import Tensor

from ...diagnostics.errors import GradpathError
from ..passes import pass_of_losses
from ..probe import Probe
from .missing import missing

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise missing("lightning", "lightning", error) from error

_TOLERANCE = 1e-2  # of the sum of the terms; sums in bfloat16 are no better


class ProbeCallback(Callback):
    """Probes `Trainer(callbacks=[ProbeCallback("runs/a")]).fit(module)`.

    Args:
        run: the folder of the run.
        **options: of `Probe`.
    """

    def __init__(self, run: str | os.PathLike[str], **options: Any) -> None:
        self.probe: Probe | None = None
        self._run, self._options = run, options
        self._logged: dict[str, Tensor] = {}
        self._are_terms: dict[tuple[str, ...], bool] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attaches the probe."""
        if self.probe is None:
            self.probe = Probe(pl_module, self._run, **self._options)
        self.probe.attach()
        self.listen(pl_module)

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Tells the probe what the terms of this loss are called."""
        logged, self._logged = self._logged, {}
        # A loss under another name is no term of it.
        logged = {name: value for name, value in logged.items() if value.grad_fn is not _root(loss)}
        names = tuple(logged)
        if names and names not in self._are_terms:
            self._are_terms[names] = _add_up(logged, loss)
        if names and self._are_terms[names] and self.probe is not None:
            self.probe.watch(logged)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Detaches the probe; it goes on with the run at the next `fit`."""
        self._end(pl_module, None)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Ends the run with what ended the training."""
        self._end(pl_module, exception)

    def listen(self, module: LightningModule) -> None:
        """Begins to remember what the module logs."""
        original = module.log

        def log(name: str, value: Any, *args: Any, **kwargs: Any) -> None:
            if isinstance(value, Tensor) and value.requires_grad and value.numel() == 1:
                self._logged[name] = value
            original(name, value, *args, **kwargs)

        vars(module)["log"] = log

    def stop_listening(self, module: LightningModule) -> None:
        """Leaves the module as it was."""
        vars(module).pop("log", None)
        self._logged.clear()

    def _end(self, module: LightningModule, error: BaseException | None) -> None:
        if self.probe is not None:
            self.stop_listening(module)
            self.probe.__exit__(None if error is None else type(error), error, None)


def _root(loss: Tensor) -> Any:
    """Returns the node of the loss as `training_step` returned it.

    Lightning divides it by the number of batches that accumulate their gradients, and multiplies
    it with the scale of mixed precision.
    """
    node: Any = loss.grad_fn
    while type(node).__name__ in ("DivBackward0", "MulBackward0"):
        inputs = [following for following, _ in node.next_functions if following is not None]
        if len(inputs) != 1:
            break
        node = inputs[0]
    return node


def _add_up(logged: dict[str, Tensor], loss: Tensor) -> bool:
    try:
        terms = pass_of_losses(logged, None, loss).terms
    except GradpathError:
        return False
    parts = [term.weight * term.value for term in terms if term.value is not None]
    size = math.fsum(map(abs, parts))
    return abs(math.fsum(parts) - loss.item()) <= _TOLERANCE * size
