"""Taylor-mode differentiation: a function's value and its partial derivatives, carried along.

A residual needs a few derivatives of a network in its inputs, such as u, u_xx and u_yy, and then
the gradient of all that in the parameters. A `Jet` is a tensor that carries its derivatives with
it: every operation is applied to the value and, by the chain rule of higher order, to each of them
(Griewank, Walther, "Evaluating Derivatives", 2nd ed. 2008, ch. 13). What comes out is a forward
pass like any other, so gradients, Hessian products, `torch.func` and `torch.compile` see nothing
special. Two things make it quick on a network: a linear layer is one matrix product for all the
derivatives, and a sum such as u_xx + u_yy is carried as one ("forward Laplacian", Li et al. 2023,
arXiv 2307.08214; for any linear operator Dangel et al. 2025, arXiv 2505.13644).

Nested `torch.func.jvp` would give the same numbers, five times slower in eager mode and not at all
in compiled code. It serves for the functions that have no rule here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ...diagnostics.errors import ArgumentError
from .elementary import ELEMENTARY, Elementary, power
from .nested import nested_derivatives
from .truncation import Truncation


class Jet:
    """A tensor with some of its partial derivatives; PyTorch's functions take it for a tensor.

    Args:
        value: the tensor.
        derivatives: tensors of the same shape by name. One that is absent is zero.
        truncation: the derivatives to carry.
    """

    def __init__(
        self, value: Tensor, derivatives: Mapping[str, Tensor], truncation: Truncation
    ) -> None:
        self.value = value
        self.derivatives = derivatives
        self.truncation = truncation

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Applies a function of PyTorch's to arguments among which is a jet."""
        return _apply(function, args, kwargs or {})

    @property
    def shape(self) -> torch.Size:
        """The shape of the value."""
        return self.value.shape

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the value."""
        return self.value.dtype

    @property
    def device(self) -> torch.device:
        """The device of the value."""
        return self.value.device

    @property
    def ndim(self) -> int:
        """The number of dimensions of the value."""
        return self.value.ndim

    @property
    def mT(self) -> Jet:  # noqa: N802
        """The transpose of the last two dimensions."""
        return _each(lambda stream: stream.mT, self)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Returns a method of tensors."""
        method = getattr(Tensor, name)
        if not callable(method):
            raise AttributeError(f"The attribute {name!r} of a tensor has no derivatives here.")
        return lambda *args, **kwargs: _apply(method, (self, *args), kwargs)

    def __getitem__(self, index: Any) -> Jet:
        return _each(lambda stream: stream[index], self)

    def __len__(self) -> int:
        return len(self.value)

    def __neg__(self) -> Jet:
        return _each(torch.neg, self)

    def __add__(self, other: Any) -> Jet:
        return _add(self, other)

    def __sub__(self, other: Any) -> Jet:
        return _subtract(self, other)

    def __rsub__(self, other: Any) -> Jet:
        return _subtract(other, self)

    def __mul__(self, other: Any) -> Jet:
        return _multiply(self, other)

    def __truediv__(self, other: Any) -> Jet:
        return _divide(self, other)

    def __rtruediv__(self, other: Any) -> Jet:
        return _divide(other, self)

    def __pow__(self, exponent: Any) -> Any:
        return _power(self, exponent)

    def __rpow__(self, base: Any) -> Any:
        return _power(base, self)

    def __matmul__(self, other: Any) -> Any:
        return _matmul(self, other)

    def __abs__(self) -> Any:
        return _nested(torch.abs, (self,), {})

    def __lt__(self, other: Any) -> Tensor:
        return torch.lt(self.value, _value(other))

    def __gt__(self, other: Any) -> Tensor:
        return torch.gt(self.value, _value(other))

    __radd__ = __add__
    __rmul__ = __mul__


def _value(operand: Any) -> Any:
    return operand.value if isinstance(operand, Jet) else operand


def _apply(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    name = function.__name__
    if name in _RULES:
        return _RULES[name](*args, **kwargs)
    if name in ELEMENTARY:
        return _chain(ELEMENTARY[name], *args)
    if name in _EACH:
        return _each(function, *args, **kwargs)
    if name in _WITHOUT_DERIVATIVE:
        values = [_value(argument) for argument in args]
        return function(*values, **kwargs)
    return _nested(function, args, kwargs)


def _chain(function: Elementary, z: Jet) -> Jet:
    """Applies a function to each entry by Faa di Bruno's formula."""
    of_z = function(z.value, z.truncation.order)
    derivatives: dict[str, Tensor] = {}
    for name in z.truncation.names:
        terms = [(1, (name,)), *z.truncation.chain[name]]
        for coefficient, factors in terms:
            slope = of_z[len(factors)]
            if slope is not None and all(factor in z.derivatives for factor in factors):
                for factor in factors:
                    slope = slope * z.derivatives[factor]
                _accumulate(derivatives, name, coefficient, slope)
    value = of_z[0]
    assert value is not None
    return Jet(value, derivatives, z.truncation)


def _accumulate(
    derivatives: dict[str, Tensor], name: str, coefficient: int, product: Tensor
) -> None:
    term = product if coefficient == 1 else coefficient * product
    derivatives[name] = derivatives[name] + term if name in derivatives else term


def _each(function: Callable[..., Tensor], jet: Jet, *args: Any, **kwargs: Any) -> Jet:
    """Applies a linear function to the value and to each derivative."""
    derivatives = {
        name: function(stream, *args, **kwargs) for name, stream in jet.derivatives.items()
    }
    return Jet(function(jet.value, *args, **kwargs), derivatives, jet.truncation)


def _unbind(jet: Jet, dim: int = 0) -> tuple[Jet, ...]:
    return tuple(_each(torch.select, jet, dim, i) for i in range(jet.value.shape[dim]))


def _at_once(function: Callable[[Tensor], Tensor], jet: Jet) -> Jet:
    """Applies a linear function of the last dimension to the value and derivatives, stacked."""
    names = list(jet.derivatives)
    stacked = torch.stack([jet.value, *(jet.derivatives[name] for name in names)])
    value, *streams = function(stacked).unbind(0)
    return Jet(value, dict(zip(names, streams, strict=True)), jet.truncation)


def _linear(x: Any, weight: Any, bias: Any = None) -> Any:
    if isinstance(weight, Jet):
        return _nested(F.linear, (x, weight, bias), {})
    product = _at_once(lambda stacked: F.linear(stacked, weight), x)
    return product if bias is None else _add(product, bias)


def _add(a: Any, b: Any, *, alpha: float = 1) -> Jet:
    if alpha != 1:
        b = alpha * b
    value = _value(a) + _value(b)
    if not isinstance(a, Jet):
        a, b = b, a
    derivatives = dict(a.derivatives)
    if isinstance(b, Jet):
        for name, stream in b.derivatives.items():
            _accumulate(derivatives, name, 1, stream)
    # A derivative has the shape of the value, whatever the other operand was broadcast to.
    derivatives = {name: stream.expand(value.shape) for name, stream in derivatives.items()}
    return Jet(value, derivatives, a.truncation)


def _subtract(a: Any, b: Any, *, alpha: float = 1) -> Jet:
    return _add(a, b, alpha=-alpha)


def _multiply(a: Any, b: Any) -> Jet:
    if not isinstance(a, Jet):
        a, b = b, a
    if not isinstance(b, Jet):
        return _each(lambda stream: stream * b, a)
    derivatives: dict[str, Tensor] = {}
    for name in a.truncation.names:
        if name in b.derivatives:
            _accumulate(derivatives, name, 1, a.value * b.derivatives[name])
        if name in a.derivatives:
            _accumulate(derivatives, name, 1, a.derivatives[name] * b.value)
        for coefficient, (of_a, of_b) in a.truncation.product[name]:
            if of_a in a.derivatives and of_b in b.derivatives:
                product = a.derivatives[of_a] * b.derivatives[of_b]
                _accumulate(derivatives, name, coefficient, product)
    return Jet(a.value * b.value, derivatives, a.truncation)


def _divide(a: Any, b: Any) -> Jet:
    if not isinstance(b, Jet):
        return _each(lambda stream: stream / b, a)
    return _multiply(a, _chain(power(-1), b))


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, Jet) and isinstance(exponent, int | float):
        return _chain(power(exponent), base)
    return _nested(torch.pow, (base, exponent), {})


def _atan2(y: Any, x: Any) -> Jet:
    # Turned by the angle itself, the point lies on the positive x axis: what remains is arctan(w)
    # with w = 0, whose derivatives there are numbers.
    angle = torch.atan2(_value(y), _value(x))
    cos, sin = torch.cos(angle), torch.sin(angle)
    w: Jet = (y * cos - x * sin) / (x * cos + y * sin)
    one = torch.ones_like(w.value)
    at_zero = [angle, one, None, -2 * one, None]
    if w.truncation.order >= len(at_zero):
        return cast(Jet, _nested(torch.atan2, (y, x), {}))
    return _chain(lambda _, order: at_zero[: order + 1], w)


def _softmax(x: Jet, dim: int, **_: Any) -> Jet:
    weights = _chain(ELEMENTARY["exp"], x - x.value.amax(dim, keepdim=True))
    return weights / _each(torch.sum, weights, dim, keepdim=True)


def _silu(x: Jet, inplace: bool = False) -> Jet:
    return x * _chain(ELEMENTARY["sigmoid"], x)


def _joined(function: Callable[..., Tensor]) -> Callable[..., Jet]:
    """Returns the rule of a function that joins a list of tensors, some of which are jets."""

    def rule(tensors: Any, dim: int = 0) -> Jet:
        jets = [tensor for tensor in tensors if isinstance(tensor, Jet)]

        def part(tensor: Any, name: str) -> Tensor:
            if isinstance(tensor, Jet) and name in tensor.derivatives:
                return tensor.derivatives[name]
            return torch.zeros_like(_value(tensor))

        truncation = jets[0].truncation
        derivatives = {
            name: function([part(tensor, name) for tensor in tensors], dim)
            for name in truncation.names
            if any(name in jet.derivatives for jet in jets)
        }
        return Jet(function([_value(tensor) for tensor in tensors], dim), derivatives, truncation)

    return rule


def _matmul(a: Any, b: Any) -> Any:
    if not isinstance(a, Jet):
        if torch.compiler.is_compiling():
            # PyTorch 2.13 gives both operators to this function as (matrix, jet).
            raise ArgumentError(
                "torch.compile mistakes jet @ matrix for matrix @ jet: write "
                "torch.nn.functional.linear(jet, matrix.mT), or torch.matmul(jet, matrix)."
            )
        return _each(lambda stream: a @ stream, b)
    if isinstance(b, Jet):
        return _nested(torch.matmul, (a, b), {})
    # A batch of matrices would meet the dimension along which derivatives are stacked.
    return (_at_once if b.ndim <= 2 else _each)(lambda stream: stream @ b, a)


# Linear in their first argument, and applied to nothing else.
_EACH = frozenset(
    "__getitem__ neg reshape view flatten squeeze unsqueeze transpose permute movedim expand"
    " sum mean clone contiguous to float double".split()
)

_WITHOUT_DERIVATIVE = frozenset(
    "zeros_like ones_like full_like new_zeros new_ones new_full detach lt le gt ge eq ne sign floor"
    " isfinite isnan argmax argmin dim size numel is_floating_point".split()
)

_OPERATORS: Mapping[str, Callable[..., Any]] = {
    "add": _add,
    "sub": _subtract,
    "mul": _multiply,
    "div": _divide,
    "truediv": _divide,
    "pow": _power,
    "matmul": _matmul,
}

_RULES: Mapping[str, Callable[..., Any]] = {
    **_OPERATORS,
    # torch.compile turns jet - 1 into Tensor.__rsub__(1, jet), which eager code never calls.
    **{f"__r{name}__": lambda a, b, rule=rule: rule(b, a) for name, rule in _OPERATORS.items()},
    "rsub": lambda a, b: _subtract(b, a),
    "unbind": _unbind,
    "linear": _linear,
    "silu": _silu,
    "softmax": _softmax,
    "atan2": _atan2,
    "stack": _joined(torch.stack),
    "cat": _joined(torch.cat),
}


def _nested(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Applies any differentiable function of tensors, with one result or several.

    Raises:
        ArgumentError: it changes tensors in place, or cannot be compiled.
    """
    if torch.compiler.is_compiling():
        raise ArgumentError(
            f"torch.compile cannot take the derivatives of {function.__name__!r}: leave it out of "
            f"compiled code, or write it with {', '.join([*ELEMENTARY, *_RULES])}."
        )
    name = function.__name__
    if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")):
        raise ArgumentError(
            f"{name!r} changes a tensor in place: write a function of the coordinates without it."
        )
    jets: list[Jet] = []
    _replace((args, kwargs), jets.append)

    def results(*tensors: Tensor) -> tuple[Tensor, ...]:
        remaining = iter(tensors)
        plain_args, plain_kwargs = _replace((args, kwargs), lambda _: next(remaining))
        result = function(*plain_args, **plain_kwargs)
        return (result,) if isinstance(result, Tensor) else tuple(result)

    values = [jet.value for jet in jets]
    truncation = jets[0].truncation
    derivatives = nested_derivatives(results, values, [jet.derivatives for jet in jets], truncation)
    found = [
        Jet(value, {name: parts[i] for name, parts in derivatives.items()}, truncation)
        for i, value in enumerate(results(*values))
    ]
    return found[0] if len(found) == 1 else tuple(found)


def _replace(tree: Any, replacement: Callable[[Jet], Any]) -> Any:
    """Returns nested arguments with every jet replaced."""
    if isinstance(tree, Jet):
        return replacement(tree)
    if isinstance(tree, Mapping):
        return {key: _replace(value, replacement) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_replace(value, replacement) for value in tree]
    return tree
