"""The networks of the reference experiments: a plain one and the paper's gated one.

They take points (..., inputs) as they are and standardise them inside. Their random numbers come
from a generator of their own. All that they do has a rule in `derivatives`, so they can be
differentiated in their inputs, under `torch.func.functional_call` and in compiled code as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, Self, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..diagnostics.errors import ArgumentError
from .formulation import Problem
from .seeds import generator_of

Transform = Callable[[Tensor, Tensor], Tensor]
"""From points and outputs to outputs that meet conditions of a problem, whatever they were."""


class MLP(nn.Module):
    """A network of linear layers with tanh between them, started as in the paper.

    Weights are normally distributed with variance 2 / (fan in + fan out), biases are zero.

    Args:
        inputs: number of coordinates.
        hidden: widths of the hidden layers.
        outputs: number of outputs.
        mean: of each coordinate, which is subtracted; zero if it is left out.
        deviation: of each coordinate, by which it is divided then; one if it is left out.
        fourier: replaces the standardised coordinates by that many cosines and as many sines of
            them (Tancik et al., NeurIPS 2020).
        fourier_scale: standard deviation of the frequencies.
        transform: applied to points and outputs in the end: hard boundary conditions, such as
            `lambda x, u: x * (1 - x) * u`.
        seed: of the random numbers; they depend on the dtype by rounding only.
        dtype: of parameters and points.
        device: of parameters and points.

    Example:
        >>> network = MLP(2, [50, 50, 50], 1)
        >>> sum(parameter.numel() for parameter in network.parameters())
        5301
    """

    mean: Tensor
    deviation: Tensor
    frequencies: Tensor | None

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        *,
        mean: Sequence[float] | None = None,
        deviation: Sequence[float] | None = None,
        fourier: int = 0,
        fourier_scale: float = 1.0,
        transform: Transform | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        features = 2 * fourier if fourier else inputs
        generator = torch.Generator().manual_seed(seed)
        widths = [features, *hidden, outputs]
        self.layers = nn.ModuleList(
            _glorot(fan_in, fan_out, generator) for fan_in, fan_out in pairwise(widths)
        )
        frequencies = None
        if fourier:
            own = generator_of("Fourier features", seed)
            frequencies = fourier_scale * torch.randn(
                fourier, inputs, generator=own, dtype=torch.float64
            )
        self.register_buffer("mean", _row(mean, inputs, 0.0))
        self.register_buffer("deviation", _row(deviation, inputs, 1.0))
        self.register_buffer("frequencies", frequencies)
        self.transform = transform
        self.to(device, dtype)

    @classmethod
    def for_problem(
        cls, problem: Problem, hidden: Sequence[int] | None = None, **options: Any
    ) -> Self:
        """Returns a network for a problem, by default as wide and deep as that of its source."""
        return cls(
            len(problem.domain.coordinates),
            problem.hidden if hidden is None else hidden,
            len(problem.outputs),
            mean=problem.domain.mean,
            deviation=problem.domain.deviation,
            **options,
        )

    def forward(self, points: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Returns the outputs at some points."""
        features = (points - self.mean) / self.deviation
        if self.frequencies is not None:
            phases = F.linear(features, self.frequencies)
            features = torch.cat([torch.cos(phases), torch.sin(phases)], dim=-1)
        outputs = self.layers[-1](self._hidden(features))
        return outputs if self.transform is None else self.transform(points, outputs)

    def _hidden(self, features: Tensor) -> Tensor:
        for layer in _linear(self.layers)[:-1]:
            features = torch.tanh(layer(features))
        return features


class GatedMLP(MLP):
    """The paper's improved architecture: every hidden layer mixes two encodings of the inputs.

    With the encodings U and V, of one layer each, a hidden layer is z U + (1 - z) V with
    z = tanh(W h + b). The paper has an additional first layer without a gate, and U and V the other
    way round; this is what its code computes, and with it the published results.

    Args:
        gate: "convex" is that formula. "early" is z U + tanh(1 - W h + b) V, which the authors'
            public code had instead from 2020-08-25 to 2021-07-27.
        *arguments: of `MLP`.
        **options: of `MLP`.

    Raises:
        ArgumentError: there are no hidden layers, they are not equally wide, or there is no such
            gate.

    Example:
        >>> network = GatedMLP(2, [50, 50, 50], 1)
        >>> sum(parameter.numel() for parameter in network.parameters())
        5601
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        *,
        gate: Literal["convex", "early"] = "convex",
        seed: int = 0,
        **options: Any,
    ) -> None:
        if len(set(hidden)) != 1:
            raise ArgumentError(
                f"Hidden layers of widths {list(hidden)} were given: those of a gated network are "
                "one or more of one width."
            )
        if gate not in ("convex", "early"):
            raise ArgumentError(f"There is no gate {gate!r}; choose 'convex' or 'early'.")
        super().__init__(inputs, hidden, outputs, seed=seed, **options)
        self.gate = gate
        generator = generator_of("encoders", seed)
        width, like = hidden[0], self.mean
        self.encoders = nn.ModuleList(
            _glorot(_linear(self.layers)[0].in_features, width, generator) for _ in range(2)
        )
        for encoder in _linear(self.encoders):
            # In the code these biases are matrices of one row, and drawn as all matrices are.
            _fill_glorot(encoder.bias, 1, width, generator)
        self.encoders.to(like.device, like.dtype)

    def _hidden(self, features: Tensor) -> Tensor:
        first, second = (torch.tanh(encoder(features)) for encoder in self.encoders)
        difference = first - second
        for layer in _linear(self.layers)[:-1]:
            if self.gate == "convex":
                # z U + (1 - z) V with one product, whose derivatives have many terms, not two.
                features = second + torch.tanh(layer(features)) * difference
            else:
                product = F.linear(features, layer.weight)
                z, rest = torch.tanh(product + layer.bias), torch.tanh(1 - product + layer.bias)
                features = z * first + rest * second
        return features


def _linear(layers: nn.ModuleList) -> list[nn.Linear]:
    return cast("list[nn.Linear]", list(layers))


def _row(values: Sequence[float] | None, count: int, default: float) -> Tensor:
    return torch.tensor([default] * count if values is None else list(values), dtype=torch.float64)


def _glorot(fan_in: int, fan_out: int, generator: torch.Generator) -> nn.Linear:
    # The ordinary constructor would draw from the global generator.
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, fan_in, fan_out, dtype=torch.float64)
    _fill_glorot(layer.weight, fan_in, fan_out, generator)
    nn.init.zeros_(layer.bias)
    return layer


def _fill_glorot(tensor: Tensor, fan_in: int, fan_out: int, generator: torch.Generator) -> None:
    nn.init.normal_(tensor, std=math.sqrt(2 / (fan_in + fan_out)), generator=generator)
