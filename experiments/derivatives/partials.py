"""Partial derivatives of a field by their names, so that a residual reads like its equation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from ...diagnostics.errors import ArgumentError
from .jets import Jet
from .truncation import Truncation, terms_of

Field = Callable[[Tensor], Tensor]
"""A function from points (..., coordinates) to values (..., outputs): a network, a solution."""


def partials(
    field: Field,
    points: Float[Tensor, "*batch coordinates"],
    wanted: str,
    *,
    coordinates: Sequence[str],
    outputs: Sequence[str],
) -> tuple[Float[Tensor, "*batch"], ...]:
    """Returns outputs of a field and their partial derivatives, in the order of their names.

    The field is called once, with its points as a `Jet`: whatever it is made of, gradients in its
    parameters, `torch.func` and `torch.compile(fullgraph=True)` work on what comes back.

    Args:
        field: from points to outputs, written in PyTorch and without a call of autograd.
        points: one coordinate a column.
        wanted: names apart by spaces. "u" is an output, "u_xxy" a derivative, and "u_xx+u_yy" the
            sum of two, which is cheaper than both.
        coordinates: a letter each.
        outputs: names of the columns of the field's values.

    Raises:
        ArgumentError: a name is none of an output and its derivatives.

    Example:
        >>> points = torch.tensor([[2.0, 3.0]])
        >>> u, u_x, laplacian = partials(
        ...     lambda points: points[..., :1] ** 3 * points[..., 1:] ** 2,
        ...     points, "u u_x u_xx+u_yy", coordinates="xy", outputs=["u"])
        >>> u, u_x, laplacian
        (tensor([72.]), tensor([108.]), tensor([124.]))
    """
    # torch.compile does not look into a cache, and runs this once anyway.
    plan = _plan if torch.compiler.is_compiling() else _remembered_plan
    asked, truncation = plan(wanted, tuple(coordinates), tuple(outputs))
    if not truncation.names:
        values = field(points)
        return tuple(values[..., output] for output, _ in asked)
    jet: Tensor | Jet = field(cast(Tensor, _at(points, coordinates, truncation)))
    if not isinstance(jet, Jet):  # a field that does not depend on its points
        jet = Jet(jet, {}, truncation)
    zero = torch.zeros_like(jet.value)
    return tuple(
        (jet.derivatives.get(name, zero) if name else jet.value)[..., output]
        for output, name in asked
    )


def _at(points: Tensor, coordinates: Sequence[str], truncation: Truncation) -> Jet:
    """Returns the points with their own derivatives: the unit vectors, and zero from there on."""
    units = torch.eye(len(coordinates), dtype=points.dtype, device=points.device)
    derivatives: dict[str, Tensor] = {}
    for name in truncation.names:
        first = [
            sign * units[list(coordinates).index(term)]
            for sign, term in terms_of(name)
            if len(term) == 1
        ]
        if first:
            derivatives[name] = torch.stack(first).sum(0).expand(points.shape)
    return Jet(points, derivatives, truncation)


def _plan(
    wanted: str, coordinates: tuple[str, ...], outputs: tuple[str, ...]
) -> tuple[list[tuple[int, str]], Truncation]:
    asked = [_parse(name, coordinates, outputs) for name in wanted.split()]
    return asked, Truncation(derivative for _, derivative in asked if derivative)


_remembered_plan = lru_cache(maxsize=256)(_plan)


def _parse(name: str, coordinates: tuple[str, ...], outputs: tuple[str, ...]) -> tuple[int, str]:
    """Returns the column of an output and the derivative of it: "u_yx-u_yy" is "xy-yy" of u."""
    output = name.partition("_")[0]
    derivative = ""
    for part in name.replace("-", "+-").split("+"):
        of_output, _, letters = part.removeprefix("-").partition("_")
        derivative += ("-" if part.startswith("-") else "+") + "".join(sorted(letters))
        is_known = output in outputs and all(letter in coordinates for letter in letters)
        if of_output != output or not is_known or not (letters or part == name):
            raise ArgumentError(
                f"{name!r} is no output ({', '.join(outputs)}), derivative of one in "
                f"{', '.join(coordinates)}, or sum of derivatives of one."
            )
    return outputs.index(output), derivative.removeprefix("+")
