"""Operations that the compiler makes quicker in another form, for networks of a PINN's size.

Their matrices are thin and their layers narrow, which libraries are not tuned for: without this
module a quarter of a compiled step goes to copies of biases, to tanh, and to the two products whose
result has as many columns as the problem has coordinates. All forms differ by rounding alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

# Columns of a product up to which MKL is several times quicker at its transpose, measured.
_NARROW = 8


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    # The library wants a copy of the bias in every row first. A sum is part of what comes next.
    if beta != 1 or alpha != 1:
        return NotImplemented
    return torch.mm(a, b) + bias


def _mm(a: Tensor, b: Tensor) -> Any:
    rows, inner = a.shape
    columns = b.shape[1]
    if inner == 1:
        return a * b
    # The gradient of a layer with few inputs, which is a sum over all points.
    if 1 < columns <= _NARROW < rows < inner:
        return torch.mm(b.t(), a.t()).t()
    return NotImplemented


def _tanh(x: Tensor) -> Tensor:
    """Returns tanh from the exponential function, which vectorises well.

    It is exact to the rounding of a number of magnitude one, in float32 1e-7, also near zero, where
    PyTorch's is more exact. What a network adds up around it is rounded like that anyway.
    """
    return 1 - 2 / (torch.exp(2 * x) + 1)


DECOMPOSITIONS: Mapping[Any, Callable[..., Any]] = {
    torch.ops.aten.addmm.default: _addmm,
    torch.ops.aten.mm.default: _mm,
    torch.ops.aten.tanh.default: _tanh,
}
"""By the operation, as `make_fx` takes them."""
