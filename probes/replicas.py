"""Averages over the processes of data-parallel training.

`DistributedDataParallel` gives each process a share of the batch and averages the gradients. What
is taken from the graph of one process is that of its share, so it is averaged in the same way; the
collective operations wait for all processes, which therefore measure at the same steps and in the
same order. One of them writes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ..diagnostics.errors import GradpathError
from ..diagnostics.gradients import TermGradients
from ..diagnostics.instances import alive
from ..diagnostics.operators import SymmetricOperator

Result = TypeVar("Result")


class Replicas:
    """The processes that train copies of one model; a single one where nothing is distributed."""

    def __init__(self, wrapper: DistributedDataParallel | None = None) -> None:
        self.count = 1 if wrapper is None else distributed.get_world_size()
        self._wrapper = None if wrapper is None else weakref.ref(wrapper)
        self._device = torch.device("cpu")
        if wrapper is not None and distributed.get_backend() == "nccl":
            # NCCL takes tensors on a GPU alone, gloo those in memory.
            self._device = next(wrapper.parameters()).device

    @classmethod
    def of(cls, models: Iterable[nn.Module]) -> Replicas:
        """Returns the processes that share the gradients of the models."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        ids = {id(p) for model in models for p in model.parameters()}
        for wrapper in alive(DistributedDataParallel):
            if any(id(parameter) in ids for parameter in wrapper.parameters()):
                return cls(wrapper)
        return cls()

    @property
    def averages_gradients(self) -> bool:
        """Whether `.grad` will be the mean of all processes: not so under `no_sync()`."""
        wrapper = None if self._wrapper is None else self._wrapper()
        return wrapper is None or bool(wrapper.require_backward_grad_sync)

    def mean(self, tensor: Tensor) -> Tensor:
        """Returns the mean of a tensor over all processes; of the same tensor in one process."""
        if self.count == 1:
            return tensor
        total = tensor.detach().clone()
        distributed.all_reduce(total)
        return total.div_(self.count)

    def mean_of_rows(self, gradients: TermGradients) -> TermGradients:
        """Returns the mean of the gradients of the terms over all processes."""
        if self.count == 1:
            return gradients
        mean = self.mean(gradients.as_subclass(Tensor))
        return TermGradients.of(mean, gradients.terms, gradients.unreached)

    def means(self, values: list[float]) -> list[float]:
        """Returns the mean of each number over all processes."""
        if self.count == 1 or not values:
            return values
        numbers = torch.tensor(values, dtype=torch.float64, device=self._device)
        return self.mean(numbers).tolist()

    def agree(self, decision: bool) -> bool:
        """Returns what the writing process has decided."""
        if self.count == 1:
            return decision
        flag = torch.tensor([float(decision)], device=self._device)
        distributed.broadcast(flag, src=0)
        return bool(flag.item())

    def together(self, work: Callable[[], Result]) -> Result:
        """Does something on every process, and raises on all of them where it failed on one.

        Raises:
            GradpathError: the work of another process failed.
        """
        if self.count == 1:
            return work()
        error: Exception | None = None
        try:
            result = work()
        except Exception as raised:
            error = raised
        failed = torch.tensor([float(error is not None)], device=self._device)
        distributed.all_reduce(failed)
        if error is not None:
            raise error
        if failed.item():
            raise GradpathError("The measurement failed in another process of this training.")
        return result

    def averaged(self, operator: SymmetricOperator) -> SymmetricOperator:
        """Returns the operator whose products are the means of those of all processes."""
        return operator if self.count == 1 else _Averaged(operator, self)


class _Averaged(SymmetricOperator):
    def __init__(self, operator: SymmetricOperator, replicas: Replicas) -> None:
        self.operator = operator
        self.size = operator.size
        self.dtype = operator.dtype
        self.device = operator.device
        self.exact = operator.exact
        self.method = f"{operator.method}, mean of {replicas.count} processes"
        self._replicas = replicas

    def matvec(self, vector: Tensor) -> Tensor:
        return self._replicas.mean(self.operator.matvec(vector))
