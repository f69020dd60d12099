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

from .decompositions import DECOMPOSITIONS

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

    def traced(*arguments: Any) -> Any:  # make_fx counts the self of a method as an argument
        return function(*arguments)

    try:
        with warnings.catch_warnings():
            # PyTorch's compiler uses parts of PyTorch that PyTorch warns of.
            warnings.simplefilter("ignore")
            optimised = _optimised(traced, tuple(map(_copied, arguments)))
    except Exception as error:  # whatever the compiler, the linker or a traced function raises
        _warn(what, f"{type(error).__name__}: {_reason(error)}")
        return function, False

    def call(*arguments: Any) -> Any:
        # The graph holds the derivatives; autograd has nothing to add.
        with torch.no_grad():
            return optimised(*arguments)

    return call, True


def _optimised(function: Function, arguments: tuple[Any, ...]) -> Function:
    graph = make_fx(function, decomposition_table=DECOMPOSITIONS)(*arguments)
    # Autograd leaves checks behind that return no tensors, which torch.compile refuses.
    graph.graph.eliminate_dead_code()
    graph.recompile()
    # Else Python calls the kernels one by one, which takes a tenth of a step.
    optimised: Function = torch.compile(
        graph, fullgraph=True, dynamic=False, options={"cpp_wrapper": True}
    )
    with torch.no_grad():
        optimised(*arguments)
    return optimised


def _copied(argument: Any) -> Any:
    """Returns tensors of their own: one that is given twice would be traced as one argument."""
    if isinstance(argument, dict):
        return {name: _copied(value) for name, value in argument.items()}
    return argument.clone()


def _reason(error: Exception) -> str:
    """Returns what the compiler's pages of text are about."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if not line.endswith("raised:")), "no reason given")


def _warn(what: str, reason: str) -> None:
    warnings.warn(
        f"gradpath: {what} runs uncompiled, several times slower, because {reason}.",
        CompilationWarning,
        stacklevel=3,
    )
