"""The derivative of a loss with respect to the parts of its expression, and so the terms' weights.

The nodes of the linear top are called one by one, as the backward pass would call them. To use
`torch.autograd.grad` would be wrong: in `loss = residual + residual.sqrt()`, or in
`loss = lam * boundary + lam`, it also follows the ways to `residual` and `lam` that lead through
the other terms, so that what it returns is no weight. It would be slower, too: a node that is
called runs no hooks, and none need be silenced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from .expression import Expression, dtype, inputs_of, operation, shape
from .graph_errors import explain


@dataclass(frozen=True, eq=False)
class Adjoints:
    """The derivative of a loss with respect to each part of its expression."""

    parts: dict[GradientEdge, Tensor]  # expanded edges and leaves, but for those without effect
    factors: dict[GradientEdge, Tensor]  # learnable weights


def adjoints(expression: Expression, seed: Tensor) -> Adjoints | None:
    """Returns d loss / d part; None where a write into a slice turns out not to be linear.

    Args:
        expression: the expanded top of the loss.
        seed: the gradient with respect to the loss itself, of its shape.

    Raises:
        GraphError: the graph has been freed or changed in place.
    """
    parts = {expression.root: seed}
    factors: dict[GradientEdge, Tensor] = {}
    for edge in _downwards(expression):
        if edge not in parts:
            continue
        children, sources = expression.inputs[edge], inputs_of(edge.node)
        if len(children) == 1 and children != sources:
            # Taken out of a stack again: the expression leads straight to the member.
            _add(parts, children[0], parts[edge])
            continue
        grads = backward_of(edge, parts[edge])
        if any(grad is not None and grad.requires_grad for grad in grads):
            return None
        for child, source, grad in zip(children, sources, grads, strict=True):
            _add(factors if child is None else parts, source, grad)
    return Adjoints(parts, factors)


def backward_of(edge: GradientEdge, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Returns <grad, d tensor / d input> for each input of the node that computed a tensor.

    Not yet summed to the shape of the input where that was broadcast. A result requires a gradient
    itself where a write into a slice was not linear.

    Raises:
        GraphError: the graph has been freed or changed in place.
    """
    outputs: list[Tensor | None] = [None] * len(edge.node._input_metadata)
    outputs[edge.output_nr] = grad
    node: Any = edge.node
    with torch.set_grad_enabled(operation(node) == "CopySlices"):
        try:
            grads = node(*outputs)
        except RuntimeError as error:
            raise explain(error) or error from error
    return grads if isinstance(grads, tuple) else (grads,)


def _downwards(expression: Expression) -> Iterator[GradientEdge]:
    """Yields the expanded edges, each after all that are computed from it."""
    uses = Counter(child for children in expression.inputs.values() for child in children)
    waiting = [expression.root] if expression.root in expression.inputs else []
    while waiting:
        edge = waiting.pop()
        yield edge
        for child in expression.inputs[edge]:
            uses[child] -= 1
            if child in expression.inputs and uses[child] == 0:
                waiting.append(child)


def _add(sums: dict[GradientEdge, Tensor], edge: GradientEdge | None, grad: Tensor | None) -> None:
    if edge is None or grad is None:
        return
    # A node leaves it to the engine to undo broadcasting and type promotion.
    if grad.shape != shape(edge):
        grad = grad.sum_to_size(shape(edge))
    grad = grad.to(dtype(edge))
    sums[edge] = sums[edge] + grad if edge in sums else grad
