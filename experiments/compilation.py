"""Compiling a function of tensors that differentiates inside, or telling why it cannot be.

The function is first traced to a plain graph of tensor operations, derivatives taken, and that is
compiled. So several gradients of one forward pass share it: `torch.func.grad` of each term inside
of `torch.compile` would compute the forward pass anew for each, and only the operations that the
compiler recognises as the same are joined again. Tracing also runs no Python at a step.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import make_fx

Function = Callable[..., Any]

# In the order in which `torch._inductor` looks for one.
_COMPILERS = ("g++", "clang++", "c++")


class CompilationWarning(UserWarning):
    """Something runs uncompiled that was meant to be compiled."""


def has_compiler() -> bool:
    """Whether there is a C++ compiler, without which nothing can be compiled for a CPU."""
    named = os.environ.get("CXX")
    return any(shutil.which(name) for name in ([named] if named else _COMPILERS))


def compiled(function: Function, arguments: tuple[Any, ...], *, what: str) -> tuple[Function, bool]:
    """Returns a function compiled for arguments of these shapes, and whether it is.

    Where it cannot be compiled the function itself is returned, and one line says so.

    Args:
        function: of tensors and dictionaries of them, alone: what else it reads is taken as it is
            now, and it must not change it.
        arguments: to trace it with.
        what: it does, for the warning.
    """
    if not has_compiler():
        _warn(what, "there is no C++ compiler; install g++")
        return function, False
    try:
        graph = make_fx(function)(*arguments)
        # Autograd leaves checks behind that return no tensors, which torch.compile refuses.
        graph.graph.eliminate_dead_code()
        graph.recompile()
        optimised = torch.compile(graph, fullgraph=True, dynamic=False)
        with torch.no_grad():
            optimised(*arguments)
    except Exception as error:  # whatever the compiler, the linker or a traced function raises
        reason = str(error).strip().partition("\n")[0]
        _warn(what, f"{type(error).__name__}: {reason}")
        return function, False

    def call(*arguments: Any) -> Any:
        # The graph holds the derivatives; autograd has nothing to add.
        with torch.no_grad():
            return optimised(*arguments)

    return call, True


def _warn(what: str, reason: str) -> None:
    warnings.warn(
        f"gradpath: {what} runs uncompiled, several times slower, because {reason}.",
        CompilationWarning,
        stacklevel=3,
    )
