"""Derivatives of any function of tensors by nested `torch.func.jvp`: the rule where there is none.

It is exact and general but slow, and PyTorch 2.13 cannot compile it: torch.compile says
"ZeroTensors are immutable" or crashes (pytorch issue 177261).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor

from .truncation import Truncation, terms_of

Results = Callable[..., tuple[Tensor, ...]]


def nested_derivatives(
    function: Results,
    values: Sequence[Tensor],
    derivatives: Sequence[Mapping[str, Tensor]],
    truncation: Truncation,
) -> dict[str, tuple[Tensor, ...]]:
    """Returns the derivatives of every result of a function by name.

    Args:
        function: of as many tensors as there are values.
        values: where it is evaluated.
        derivatives: those of each argument by name; one that is absent is zero.
        truncation: which derivatives to compute.
    """
    found: dict[str, tuple[Tensor, ...]] = {}
    for name in truncation.names:
        # The highest derivative of an argument may be a sum of several, and enters linearly.
        highest = tuple(
            of_argument.get(name, torch.zeros_like(value))
            for value, of_argument in zip(values, derivatives, strict=True)
        )
        total: tuple[Tensor, ...] = torch.func.jvp(function, tuple(values), highest)[1]
        for sign, term in terms_of(name):
            if len(term) > 1:
                lower = _from_lower(function, values, derivatives, term, ())
                total = tuple(a + sign * b for a, b in zip(total, lower, strict=True))
        found[name] = total
    return found


def _from_lower(
    function: Results,
    values: Sequence[Tensor],
    derivatives: Sequence[Mapping[str, Tensor]],
    term: str,
    parameters: tuple[Tensor, ...],
) -> tuple[Tensor, ...]:
    """Returns what the lower derivatives of the arguments give to a derivative such as "xxy".

    With a parameter e_i for the i-th coordinate in the name, let z(e) be the argument plus, for
    every part of the coordinates but the whole, its derivative times the product of their e_i. What
    is wanted is the derivative of f(z(e)) once in every e_i, at e = 0.
    """
    if len(parameters) < len(term):
        at, direction = values[0].new_zeros(()), values[0].new_ones(())
        derivative: tuple[Tensor, ...] = torch.func.jvp(
            lambda e: _from_lower(function, values, derivatives, term, (*parameters, e)),
            (at,),
            (direction,),
        )[1]
        return derivative
    arguments = []
    for value, of_argument in zip(values, derivatives, strict=True):
        argument = value
        for size in range(1, len(term)):
            for chosen in combinations(range(len(term)), size):
                part = of_argument.get("".join(term[i] for i in chosen))
                if part is not None:
                    argument = argument + part * torch.stack([parameters[i] for i in chosen]).prod()
        arguments.append(argument)
    return function(*arguments)
