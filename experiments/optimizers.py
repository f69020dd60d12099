"""The optimizers of a training by name, and how each of them is interrupted and goes on.

Adam and gradient descent are part of the compiled step. SOAP and L-BFGS are optimizers as PyTorch
has them, which change parameters in place; they get the losses and gradients of a compiled step.
Either way a step is first taken, so that it can be recorded beside what was before it, and then
accepted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..diagnostics.errors import MissingPackageError
from ..diagnostics.stability import OptimizerStability
from .domains import Batch, Sampler
from .seeds import generator_of
from .training_step import AdamState, Descended, FlatLosses, Taken, TrainingStep, learning_rate

# Of the steps, before L-BFGS takes the others.
ADAM_SHARE = 0.75

# As many points as this many steps of Adam draw, drawn once: L-BFGS compares the gradients of
# neighbouring steps, which is worth nothing where they belong to different points.
LBFGS_POINTS = 8
LBFGS_HISTORY = 50
# Evaluations of a line search at most, as torch.optim.LBFGS has it for its 20 steps a call.
LBFGS_EVALUATIONS = 25


@dataclass(frozen=True)
class Setting:
    """What an optimizer is made for."""

    losses: FlatLosses
    batch: Batch  # any of a step's
    sample: Callable[[int], Sampler]  # of so many times the points of a step
    steps: int
    seed: int
    compile: bool
    initial_rate: float


class Optimizer(ABC):
    """Takes the steps of a training.

    Attributes:
        parameters: before the next step.
        evaluations: of losses and gradients, in all steps that were accepted.
        is_compiled: whether they are compiled.
    """

    parameters: Float[Tensor, " params"]
    evaluations: int = 0
    is_compiled: bool

    @abstractmethod
    def take(self, weights: Float[Tensor, " terms"], step: int, batch: Batch) -> Taken[Any]:
        """Takes the step with this number; `parameters` stay as they are."""

    @abstractmethod
    def accept(self, taken: Taken[Any]) -> None:
        """Goes on to the state after the step that was taken last."""

    @abstractmethod
    def saved(self) -> Any:
        """Returns what `torch.save` can keep of it, before a step is taken."""

    @abstractmethod
    def load(self, saved: Any) -> None:
        """Goes back to what was saved."""

    def fixed_batch(self, step: int) -> Batch | None:
        """Returns the batch of a step; None where it is to be drawn anew."""
        return None

    def learning_rate(self, step: int) -> float | None:
        """Returns that of a step; None where there is none."""
        return None

    def stability(self, taken: Taken[Any], step: int) -> OptimizerStability | None:
        """Returns the limit of a step that was taken."""
        return None


class Compiled(Optimizer):
    """Adam or gradient descent."""

    def __init__(self, setting: Setting, kind: type[Descended]) -> None:
        self._rate = setting.initial_rate
        self._kind = kind
        self._state = kind.of(setting.losses.layout.flatten())
        self._step = TrainingStep(
            setting.losses, setting.batch, kind, compile=setting.compile, initial_rate=self._rate
        )
        self.is_compiled = self._step.is_compiled

    @property
    def parameters(self) -> Float[Tensor, " params"]:  # type: ignore[override]
        """Before the next step."""
        return self._state.parameters

    def take(self, weights: Float[Tensor, " terms"], step: int, batch: Batch) -> Taken[Any]:
        """Takes the step with this number."""
        return self._step(self._state, weights, step, batch)

    def accept(self, taken: Taken[Any]) -> None:
        """Goes on."""
        self._state = taken.state
        self.evaluations += 1

    def saved(self) -> list[Tensor]:
        """Returns the tensors of the state."""
        return list(self._state.tensors)

    def load(self, saved: Any) -> None:
        """Goes back."""
        self._state = self._kind(*saved)

    def learning_rate(self, step: int) -> float:
        """Returns that of a step."""
        return learning_rate(step, self._rate)

    def stability(self, taken: Taken[Any], step: int) -> OptimizerStability:
        """Returns the limit of a step that was taken."""
        limit: OptimizerStability = taken.state.stability(step, self._rate)
        return limit


class Soap(Optimizer):
    """SOAP (Vyas et al., arXiv 2409.11321), with the learning rates of Adam.

    Its preconditioner is that of a layer's matrix, so the parameters are given apart.
    """

    def __init__(self, setting: Setting) -> None:
        try:
            from pytorch_optimizer import SOAP
        except ImportError:
            raise MissingPackageError(
                "SOAP needs the package pytorch-optimizer: pip install 'gradpath[soap]'."
            ) from None
        self._rate = setting.initial_rate
        self._layout = setting.losses.layout
        self._step = TrainingStep(setting.losses, setting.batch, Descended, compile=setting.compile)
        self.is_compiled = self._step.is_compiled
        self.parameters = self._layout.flatten()
        self._parts = {
            name: part.clone().requires_grad_()
            for name, part in self._layout.unflatten(self.parameters).items()
        }
        self._optimizer = SOAP(list(self._parts.values()), lr=self._rate, weight_decay=0.0)

    def take(self, weights: Float[Tensor, " terms"], step: int, batch: Batch) -> Taken[Any]:
        """Takes the step with this number."""
        taken = self._step(Descended(self.parameters), weights, step, batch)
        gradient = weights.to(taken.gradients.dtype) @ taken.gradients
        for name, part in self._layout.unflatten(gradient).items():
            self._parts[name].grad = part.clone()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(step, self._rate)
        self._optimizer.step()
        after = self._layout.flatten({name: part.detach() for name, part in self._parts.items()})
        return Taken(taken.losses, taken.gradients, Descended(after))

    def accept(self, taken: Taken[Any]) -> None:
        """Goes on."""
        self.parameters = taken.state.parameters
        self.evaluations += 1

    def saved(self) -> dict[str, Any]:
        """Returns parameters, and what the optimizer remembers."""
        return {"parameters": self.parameters, "optimizer": self._optimizer.state_dict()}

    def load(self, saved: Any) -> None:
        """Goes back."""
        self.parameters = saved["parameters"]
        with torch.no_grad():
            for name, part in self._layout.unflatten(self.parameters).items():
                self._parts[name].copy_(part)
        self._optimizer.load_state_dict(saved["optimizer"])

    def learning_rate(self, step: int) -> float:
        """Returns that of a step."""
        return learning_rate(step, self._rate)


class AdamThenLBFGS(Optimizer):
    """Adam, and L-BFGS with a line search by the strong Wolfe conditions for the last steps.

    A step of L-BFGS is one direction with its line search, which may evaluate the losses several
    times. All of them are on one batch.
    """

    def __init__(self, setting: Setting) -> None:
        self._adam = Compiled(setting, AdamState)
        self._losses = setting.losses
        self.switch = max(1, round(ADAM_SHARE * setting.steps))
        generator = generator_of("points of L-BFGS", setting.seed)
        self._batch = setting.sample(LBFGS_POINTS).draw(generator)
        self._step = TrainingStep(setting.losses, self._batch, Descended, compile=setting.compile)
        self.is_compiled = self._adam.is_compiled and self._step.is_compiled
        self._flat = self._adam.parameters.clone().requires_grad_()
        self._lbfgs = torch.optim.LBFGS(
            [self._flat],
            max_iter=1,
            max_eval=LBFGS_EVALUATIONS,
            tolerance_grad=0,
            tolerance_change=0,
            history_size=LBFGS_HISTORY,
            line_search_fn="strong_wolfe",
        )
        self._own: Tensor | None = None  # the parameters, from the switch on
        self._evaluated = 0

    @property
    def parameters(self) -> Float[Tensor, " params"]:  # type: ignore[override]
        """Before the next step."""
        return self._adam.parameters if self._own is None else self._own

    def fixed_batch(self, step: int) -> Batch | None:
        """Returns the batch of L-BFGS."""
        return self._batch if step >= self.switch else None

    def take(self, weights: Float[Tensor, " terms"], step: int, batch: Batch) -> Taken[Any]:
        """Takes the step with this number."""
        if step < self.switch:
            self._evaluated = 1
            return self._adam.take(weights, step, batch)
        known = {"first": self._step(Descended(self.parameters), weights, step, batch)}
        before = known["first"]
        self._evaluated = 0
        weights = weights.to(self.parameters.dtype)
        with torch.no_grad():
            self._flat.copy_(self.parameters)

        def closure() -> Tensor:
            # The search begins where the losses are known.
            found = known.pop("first", None)
            if found is None:
                found = self._step(Descended(self._flat.detach()), weights, step, batch)
            self._evaluated += 1
            self._flat.grad = weights @ found.gradients
            return weights @ found.losses

        self._lbfgs.step(closure)
        return Taken(before.losses, before.gradients, Descended(self._flat.detach().clone()))

    def accept(self, taken: Taken[Any]) -> None:
        """Goes on."""
        if isinstance(taken.state, AdamState):
            self._adam.accept(taken)
        else:
            self._own = taken.state.parameters
        self.evaluations += self._evaluated

    def saved(self) -> dict[str, Any]:
        """Returns Adam's state, and that of L-BFGS once it has begun."""
        return {
            "adam": self._adam.saved(),
            "parameters": self._own,
            "lbfgs": self._lbfgs.state_dict(),
        }

    def load(self, saved: Any) -> None:
        """Goes back."""
        self._adam.load(saved["adam"])
        self._own = saved["parameters"]
        self._lbfgs.load_state_dict(saved["lbfgs"])

    def learning_rate(self, step: int) -> float | None:
        """Returns that of a step of Adam."""
        return self._adam.learning_rate(step) if step < self.switch else None

    def stability(self, taken: Taken[Any], step: int) -> OptimizerStability | None:
        """Returns the limit of a step of Adam."""
        return self._adam.stability(taken, step) if step < self.switch else None


OPTIMIZERS: Mapping[str, Callable[[Setting], Optimizer]] = {
    "adam": lambda setting: Compiled(setting, AdamState),
    "gd": lambda setting: Compiled(setting, Descended),
    "lbfgs": AdamThenLBFGS,
    "soap": Soap,
}
"""Optimizers by the name that they have in that of a model."""
