"""Elementary functions with their derivatives, as the chain rule of higher order wants them.

Each takes a tensor z and an order n and returns [f(z), f'(z), ..., f^(n)(z)], where None stands
for a derivative that is zero everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

Elementary = Callable[[Tensor, int], list[Tensor | None]]


def power(exponent: float) -> Elementary:
    """Returns the function z ** exponent."""

    def derivatives(z: Tensor, order: int) -> list[Tensor | None]:
        found: list[Tensor | None] = [z**exponent]
        coefficient = 1.0
        for n in range(order):
            coefficient *= exponent - n
            found.append(coefficient * z ** (exponent - n - 1) if coefficient else None)
        return found

    return derivatives


def _sin(z: Tensor, order: int) -> list[Tensor | None]:
    return _cycle(torch.sin(z), torch.cos(z), order)


def _cos(z: Tensor, order: int) -> list[Tensor | None]:
    return _cycle(torch.cos(z), -torch.sin(z), order)


def _cycle(value: Tensor, slope: Tensor, order: int) -> list[Tensor | None]:
    """Returns the derivatives of a function whose second derivative is its negative."""
    return [(value, slope, -value, -slope)[n % 4] for n in range(order + 1)]


def _exp(z: Tensor, order: int) -> list[Tensor | None]:
    return [torch.exp(z)] * (order + 1)


def _log(z: Tensor, order: int) -> list[Tensor | None]:
    return [torch.log(z), *power(-1)(z, order)][: order + 1]


def _tanh(z: Tensor, order: int) -> list[Tensor | None]:
    t = torch.tanh(z)
    return [t, *_logistic(t, 1 - t * t, [1.0, 0.0, -1.0], order)]


def _sigmoid(z: Tensor, order: int) -> list[Tensor | None]:
    s = torch.sigmoid(z)
    return [s, *_logistic(s, s * (1 - s), [0.0, 1.0, -1.0], order)]


def _logistic(t: Tensor, slope: Tensor, polynomial: list[float], order: int) -> Iterator[Tensor]:
    """Yields the derivatives of a function t(z) whose slope is a polynomial p in t itself.

    The n-th one is p(t) q_n(t) with q_1 = 1 and q_(n+1) = (p q_n)'.
    """
    factor = [1.0]
    for n in range(order):
        yield slope if n == 0 else slope * _horner(factor, t)
        product = [0.0] * (len(polynomial) + len(factor) - 1)
        for i, a in enumerate(polynomial):
            for k, b in enumerate(factor):
                product[i + k] += a * b
        factor = [k * c for k, c in enumerate(product)][1:]


def _horner(coefficients: list[float], t: Tensor) -> Tensor:
    value = torch.full_like(t, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * t + coefficient
    return value


ELEMENTARY: Mapping[str, Elementary] = {
    "sin": _sin,
    "cos": _cos,
    "exp": _exp,
    "log": _log,
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "sqrt": power(0.5),
    "rsqrt": power(-0.5),
    "square": power(2),
    "reciprocal": power(-1),
}
"""By the name that the function has in `torch`."""
