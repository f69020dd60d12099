"""The state that a training loop ends in, as bits that can be compared between two runs of it."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules import module as torch_module
from torch.optim import Optimizer

from tests.diagnostics.state_digest import bits
from tests.probes.loops import Trained

State = dict[str, object]


def state_of(trained: Trained) -> State:
    """Returns everything that an observer must leave as it would have been."""
    return dict(_entries(trained))


def differences(first: State, second: State) -> list[str]:
    """Returns the names of what differs."""
    names = dict.fromkeys((*first, *second))
    return [name for name in names if first.get(name) != second.get(name)]


def _entries(trained: Trained) -> Iterator[tuple[str, object]]:
    for name, model in trained.models.items():
        for path, tensor in (*model.named_parameters(), *model.named_buffers()):
            yield from _of_tensor(f"{name}.{path}", tensor)
        for path, module in model.named_modules():
            yield f"{name}.{path}: training", module.training
            yield f"{name}.{path}: attributes", tuple(vars(module))
    for name, tensor in trained.tensors.items():
        yield from _of_tensor(name, tensor)
    for number, optimizer in enumerate(trained.optimizers):
        yield from _of_optimizer(f"optimizer {number}", optimizer)
    yield "calls of hooks", tuple(trained.calls)
    yield "what the loop saw", repr(trained.seen)
    yield "random numbers of torch", bits(torch.get_rng_state())
    numpys: Any = np.random.get_state()
    yield "random numbers of numpy", (numpys[1].tobytes(), *numpys[2:])
    yield "random numbers of Python", random.getstate()
    yield from _of_process()


def _of_tensor(name: str, tensor: Tensor) -> Iterator[tuple[str, object]]:
    yield f"{name}: bits", bits(tensor)
    yield f"{name}: requires_grad", tensor.requires_grad
    yield f"{name}: gradient", None if tensor.grad is None else bits(tensor.grad)
    yield f"{name}: hooks", len(tensor._backward_hooks or ())


def _of_optimizer(name: str, optimizer: Optimizer) -> Iterator[tuple[str, object]]:
    groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    yield f"{name}: settings", repr(groups)
    yield (
        f"{name}: hooks",
        (
            len(optimizer._optimizer_step_pre_hooks),
            len(optimizer._optimizer_step_post_hooks),
        ),
    )
    for number, state in enumerate(optimizer.state.values()):
        yield f"{name}: state {number}", _plain(state)


def _plain(value: object) -> object:
    if isinstance(value, Tensor):
        return bits(value)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return repr(value)


def _of_process() -> Iterator[tuple[str, object]]:
    yield "grad mode", torch.is_grad_enabled()
    yield "autocast", torch.is_autocast_enabled("cpu")
    yield "anomaly detection", torch.is_anomaly_enabled()
    yield "default dtype", torch.get_default_dtype()
    yield "default device", torch.get_default_device()
    yield "modes", (torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack())
    yield "threads", torch.get_num_threads()
    yield "backward", (torch.Tensor.backward, torch.autograd.backward, torch.autograd.grad)
    yield "compile", torch.compile
    yield "add_param_group", Optimizer.add_param_group
    for key, value in vars(torch_module).items():
        if key.startswith("_global_") and isinstance(value, dict):
            yield f"torch.nn.modules.module.{key}", tuple(value)
    for key, value in vars(sys.modules[Optimizer.__module__]).items():
        if key.startswith("_global_optimizer") and isinstance(value, dict):
            yield f"torch.optim.optimizer.{key}", tuple(value)
