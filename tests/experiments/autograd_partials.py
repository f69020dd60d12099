"""Partial derivatives as a user of PyTorch would take them: nested calls of autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def autograd_partials(
    field: Callable[[Tensor], Tensor],
    points: Tensor,
    wanted: str,
    *,
    coordinates: Sequence[str],
    outputs: Sequence[str],
) -> tuple[Tensor, ...]:
    """What `partials` returns, one derivative after the other."""
    x = points.detach().clone().requires_grad_()
    values = field(x)
    found = []
    for name in wanted.split():
        total = torch.zeros(points.shape[:-1], dtype=points.dtype)
        for part in name.replace("-", "+-").split("+"):
            output, _, letters = part.removeprefix("-").partition("_")
            derivative = values[..., list(outputs).index(output)]
            for letter in letters:
                derivative = _derivative(derivative, x)[..., list(coordinates).index(letter)]
            total = total - derivative if part[0] == "-" else total + derivative
        found.append(total)
    return tuple(found)


def _derivative(values: Tensor, x: Tensor) -> Tensor:
    if not values.requires_grad:
        return torch.zeros_like(x)
    (gradient,) = torch.autograd.grad(
        values.sum(), x, create_graph=True, materialize_grads=True, allow_unused=True
    )
    return gradient
