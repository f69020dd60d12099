"""The step that an optimizer is about to take, before it takes it."""

from __future__ import annotations

import copy
import inspect

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from ..diagnostics.layout import ParameterLayout
from ..diagnostics.random_numbers import RandomState, random_numbers
from .snapshot import NotMeasurableError


def planned_update(optimizer: Optimizer, layout: ParameterLayout) -> Tensor:
    """Returns what the next step will add to the parameters, given `.grad` as it is.

    A copy of the optimizer takes the step on copies of the parameters; its hooks do not run.

    Raises:
        NotMeasurableError: the optimizer is none of PyTorch's, whose copies might do anything, or
            needs a closure.
    """
    if not type(optimizer).__module__.startswith("torch.optim") or isinstance(optimizer, LBFGS):
        raise NotMeasurableError(
            f"The step of {type(optimizer).__name__} cannot be known before it is taken."
        )
    originals = [p for group in optimizer.param_groups for p in group["params"]]
    with torch.no_grad():
        copies = [p.detach().clone().requires_grad_(p.requires_grad) for p in originals]
        for original, other in zip(originals, copies, strict=True):
            other.grad = None if original.grad is None else original.grad.detach().clone()
        # The memo gives each parameter its copy wherever the optimizer refers to it.
        memo = {id(original): other for original, other in zip(originals, copies, strict=True)}
        rehearsal: Optimizer = type(optimizer).__new__(type(optimizer))
        rehearsal.__setstate__(copy.deepcopy(optimizer.__getstate__(), memo))
        with random_numbers(RandomState.of_process()):
            inspect.unwrap(type(optimizer).step)(rehearsal)
    place = {id(original): other for original, other in zip(originals, copies, strict=True)}
    moved = [place.get(id(parameter), parameter) for parameter in layout.parameters]
    return layout.flatten(moved).sub_(layout.flatten())
