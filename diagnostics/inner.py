"""Inner products of long vectors, accumulated in double precision.

A sum of 1e6 float32 products that nearly cancel keeps few correct digits. Every quantity that is
such a sum (the predicted change of a loss, the entries of a kernel, the small matrices behind a
trace estimate) is accumulated here, piece by piece, so that no long float64 copy is ever held.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

# Two float64 pieces of a million entries a row are 16 MB a row: long enough for BLAS.
_ENTRIES = 2**20


def inner_products(
    rows: Float[Tensor, "a n"], others: Float[Tensor, "b n"]
) -> Float[Tensor, "a b"]:
    """Returns the inner product of every row with every other row, in float64 on the CPU.

    Example:
        >>> inner_products(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [1.0, 0.0]]))
        tensor([[11.,  1.]], dtype=torch.float64)
    """
    length = max(1, _ENTRIES // max(1, rows.shape[0], others.shape[0]))
    total = torch.zeros(rows.shape[0], others.shape[0], dtype=torch.float64, device="cpu")
    for start in range(0, rows.shape[1], length):
        piece = slice(start, start + length)
        total += (_double(rows[:, piece]) @ _double(others[:, piece]).mT).cpu()
    return total


def _double(tensor: Tensor) -> Tensor:
    # Apple's GPUs have no double precision.
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).detach().double()
