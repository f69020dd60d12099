"""Letting a gradient flow into `.grad` of the parameters, as a backward pass would.

A backward pass of the leaves alone does it, and everybody who listens there sees it:
hooks, DistributedDataParallel. Where nobody listens, adding is all that it comes to, which takes a
fifth of the time for a small network.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn
from torch._utils import _unflatten_dense_tensors

from .hooks import are_unhooked
from .layout import ParameterLayout


def accumulate(layout: ParameterLayout, gradient: Float[Tensor, " params"]) -> bool:
    """Adds a gradient to what the parameters have in `.grad`, with all that follows from it.

    Args:
        layout: the parameters.
        gradient: flat, as the layout says.

    Returns:
        whether nobody else had a hand in it, or could keep the vector.
    """
    # A mode of the user's would see nothing of what autograd does either.
    with torch._C.DisableTorchFunction():
        if _nobody_listens(layout):
            add_unheard(layout, gradient)
            return True
        parts = layout.unflatten(gradient)
    torch.autograd.backward(list(layout.parameters), [parts[slot.name] for slot in layout.slots])
    return False


@torch.no_grad()
def add_unheard(layout: ParameterLayout, gradient: Float[Tensor, " params"]) -> None:
    """Does what `accumulate` does where nobody listens."""
    # Copies: a part of the vector would lie at another place in memory, and BLAS round otherwise
    # where the user multiplies it.
    pieces = _unflatten_dense_tensors(gradient, layout.parameters)
    for parameter, piece in zip(layout.parameters, pieces, strict=True):
        if parameter.grad is None:
            parameter.grad = piece.clone()
        else:
            parameter.grad.add_(piece)


def _nobody_listens(layout: ParameterLayout) -> bool:
    # What averages gradients over processes may hang on the leaves in C++, where it does not show.
    if distributed.is_available() and distributed.is_initialized():
        return False
    if not all(_is_simple(parameter, layout) for parameter in layout.parameters):
        return False
    return are_unhooked(layout.parameters)


def _is_simple(parameter: Tensor, layout: ParameterLayout) -> bool:
    """Whether a piece of a flat gradient, and what is in `.grad`, are what autograd would make."""
    if type(parameter) not in (nn.Parameter, Tensor) or not parameter.requires_grad:
        return False
    if parameter.dtype != layout.dtype or parameter.device != layout.device:
        return False
    known = parameter.grad
    if known is not None and (known.requires_grad or known.layout != torch.strided):
        return False
    return parameter.layout == torch.strided and parameter.is_contiguous()
