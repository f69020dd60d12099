"""The networks: counted, started and gated as in the paper."""

import copy
import itertools
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from gradpath.diagnostics import ParameterLayout
from gradpath.diagnostics.errors import ArgumentError
from gradpath.experiments import MLP, GatedMLP, problem

CLASSES = [MLP, GatedMLP]


def arrays(network: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy() for name, tensor in network.state_dict().items()}


def count(network: nn.Module, kind: str) -> int:
    return sum(p.numel() for name, p in network.named_parameters() if name.endswith(kind))


def points(number: int = 6, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(number, 2, generator=torch.Generator().manual_seed(2), dtype=dtype)


def test_as_many_parameters_as_in_the_paper() -> None:
    plain, gated = MLP(2, [50, 50, 50], 1), GatedMLP(2, [50, 50, 50], 1)
    assert (count(plain, "weight"), count(plain, "bias")) == (5150, 151)
    assert ParameterLayout.of(gated).size == ParameterLayout.of(plain).size + 300
    klein_gordon = MLP.for_problem(problem("klein_gordon"))
    assert (count(klein_gordon, "weight"), count(klein_gordon, "bias")) == (10150, 251)


def test_layers_are_numbered_from_the_inputs_on() -> None:
    assert ParameterLayout.of(GatedMLP(2, [5, 5], 1)).layers == (
        "layers.0", "layers.1", "layers.2", "encoders.0", "encoders.1",
    )  # fmt: skip


@pytest.mark.parametrize("network_class", CLASSES)
def test_weights_are_glorot_normal_and_biases_zero(network_class: type[MLP]) -> None:
    network = network_class(2, [400, 400], 300)
    for layer in network.layers:
        assert isinstance(layer, nn.Linear)
        expected = math.sqrt(2 / (layer.in_features + layer.out_features))
        samples = layer.weight.numel()
        weight = layer.weight.detach()
        assert float(weight.std()) == pytest.approx(expected, rel=4 / math.sqrt(2 * samples))
        assert abs(float(weight.mean())) < 4 * expected / math.sqrt(samples)
        assert not layer.bias.any()
    # Beyond two deviations: a truncated normal distribution has none.
    weights = network.layers[1].weight.detach() / math.sqrt(2 / 800)  # type: ignore[operator]
    assert float((weights.abs() > 2).double().mean()) == pytest.approx(0.0455, rel=0.05)


def test_encoders_start_as_in_the_code_biases_included() -> None:
    encoders = list(GatedMLP(2, [2000], 1).encoders)
    for encoder in encoders:
        assert isinstance(encoder, nn.Linear)
        weight, bias = encoder.weight.detach(), encoder.bias.detach()
        assert float(weight.std()) == pytest.approx(math.sqrt(2 / 2002), rel=0.05)
        assert float(bias.std()) == pytest.approx(math.sqrt(2 / 2001), rel=0.07)
    one, other = (encoder.state_dict()["weight"] for encoder in encoders)
    assert not torch.equal(one, other)


def explicit(network: MLP, x: np.ndarray, gate: str) -> list[float]:
    """One point through loops over units."""
    a = arrays(network)
    units = [(x[k] - a["mean"][k]) / a["deviation"][k] for k in range(len(x))]

    def product(layer: str, row: int, inputs: list[float]) -> float:
        return sum(a[f"{layer}.weight"][row][k] * value for k, value in enumerate(inputs))

    def dense(layer: str, inputs: list[float]) -> list[float]:
        bias = a[f"{layer}.bias"]
        return [product(layer, row, inputs) + bias[row] for row in range(len(bias))]

    if gate != "none":
        first = [math.tanh(value) for value in dense("encoders.0", units)]
        second = [math.tanh(value) for value in dense("encoders.1", units)]
    for number in range(len(network.layers) - 1):
        layer, inputs = f"layers.{number}", units
        units = [math.tanh(value) for value in dense(layer, inputs)]
        if gate == "convex":
            units = [z * u + (1 - z) * v for z, u, v in zip(units, first, second, strict=True)]
        if gate == "early":
            bias = a[f"{layer}.bias"]
            units = [
                z * first[row]
                + math.tanh(1 - product(layer, row, inputs) + bias[row]) * second[row]
                for row, z in enumerate(units)
            ]
    return dense(f"layers.{len(network.layers) - 1}", units)


@pytest.mark.parametrize("gate", ["none", "convex", "early"])
def test_outputs_are_those_of_the_formulas(gate: Any) -> None:
    options: dict[str, Any] = {"mean": [0.5, -1.0], "deviation": [0.3, 2.0], "dtype": torch.float64}
    network = (
        MLP(2, [7, 7, 7], 3, **options)
        if gate == "none"
        else GatedMLP(2, [7, 7, 7], 3, gate=gate, **options)
    )
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    found = network(points()).detach().numpy()
    expected = [explicit(network, x, gate) for x in points().numpy()]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_fourier_features_are_cosines_and_sines_of_random_phases() -> None:
    network = MLP(2, [], 8, fourier=4, fourier_scale=3.0, dtype=torch.float64)
    assert network.frequencies is not None
    phases = points() @ network.frequencies.mT
    features = torch.cat([phases.cos(), phases.sin()], dim=-1)
    layer = network.layers[0]
    assert isinstance(layer, nn.Linear)
    assert torch.allclose(network(points()), features @ layer.weight.mT + layer.bias)
    many = MLP(2, [], 1, fourier=5000, fourier_scale=3.0).frequencies
    assert many is not None
    assert float(many.std()) == pytest.approx(3.0, rel=0.03)


def test_hard_conditions_hold_for_any_parameters() -> None:
    network = MLP(2, [9], 1, transform=lambda x, u: x[..., :1] * (1 - x[..., :1]) * u)
    ends = torch.tensor([[0.0, 0.3], [1.0, 0.8], [0.5, 0.1]])
    values = network(ends)[:, 0]
    assert (values[:2] == 0).all()
    assert values[2] != 0


@pytest.mark.parametrize("network_class", CLASSES)
def test_inputs_are_standardised_by_the_domain(network_class: type[MLP]) -> None:
    network = network_class.for_problem(problem("helmholtz"))
    assert torch.equal(network.mean, torch.zeros(2))
    assert torch.allclose(network.deviation, torch.full((2,), 0.57735))
    assert [len(layer.state_dict()["bias"]) for layer in network.layers] == [50, 50, 50, 1]
    unit = network_class.for_problem(problem("klein_gordon"), hidden=[8, 8])
    assert torch.allclose(unit.mean, torch.full((2,), 0.5))
    assert torch.allclose(unit.deviation, torch.full((2,), 0.288675))


@pytest.mark.parametrize("network_class", CLASSES)
def test_random_numbers_are_its_own(network_class: type[MLP]) -> None:
    before = torch.get_rng_state()
    one, same, other = (network_class(2, [8, 8], 1, fourier=3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(np.array_equal(a, b) for a, b in zip(arrays(one).values(), arrays(same).values(),
                                                    strict=True))  # fmt: skip
    assert not torch.equal(one.layers[0].weight, other.layers[0].weight)  # type: ignore[arg-type]


def test_one_seed_gives_the_same_layers_with_and_without_gate_and_precision() -> None:
    plain = arrays(MLP(2, [8, 8], 1, seed=4))
    gated = arrays(GatedMLP(2, [8, 8], 1, seed=4))
    double = arrays(MLP(2, [8, 8], 1, seed=4, dtype=torch.float64))
    for name, values in plain.items():
        assert np.array_equal(values, gated[name])
        assert np.array_equal(values, double[name].astype(np.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("network_class", CLASSES)
def test_it_computes_in_its_dtype(network_class: type[MLP], dtype: torch.dtype) -> None:
    network = network_class(2, [8, 8], 1, fourier=3, dtype=dtype)
    assert {tensor.dtype for tensor in network.state_dict().values()} == {dtype}
    assert network(points(dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
@pytest.mark.parametrize("network_class", CLASSES)
def test_copies_compute_the_same(network_class: type[MLP], copied: Callable[[MLP], MLP]) -> None:
    network = network_class(2, [8, 8], 1, fourier=3, dtype=torch.float64)
    assert torch.equal(copied(network)(points()), network(points()))


@pytest.mark.parametrize("network_class", CLASSES)
def test_it_is_a_pure_function_of_its_parameters(network_class: type[MLP]) -> None:
    network = network_class(2, [8, 8], 1, dtype=torch.float64)
    doubled = {name: 2 * p.detach() for name, p in network.named_parameters()}
    other = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2)
    assert torch.equal(functional_call(network, doubled, (points(),)), other(points()))


@pytest.mark.parametrize("hidden", [[], [5, 6]])
def test_a_gated_network_needs_layers_of_one_width(hidden: list[int]) -> None:
    with pytest.raises(ArgumentError, match="one or more of one width"):
        GatedMLP(2, hidden, 1)


def test_an_unknown_gate_is_refused() -> None:
    gate: Any = "late"
    with pytest.raises(ArgumentError, match="no gate 'late'"):
        GatedMLP(2, [5], 1, gate=gate)


def test_encoders_and_features_have_random_numbers_of_their_own() -> None:
    gated: Any = GatedMLP(2, [50, 50], 1, seed=3)
    first, second = gated.encoders
    tensors = [gated.layers[0].weight, first.weight, second.weight]
    for one, other in itertools.combinations(tensors, 2):
        assert not torch.equal(one, other)
    featured: Any = MLP(2, [50], 1, fourier=25, seed=3)
    assert not torch.allclose(
        featured.frequencies.flatten() / featured.frequencies.std(),
        featured.layers[0].weight.flatten()[:50] / featured.layers[0].weight.std(),
    )
