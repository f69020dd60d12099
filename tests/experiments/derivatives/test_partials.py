"""Partial derivatives against nested autograd and closed forms, of functions and of networks."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor
from torch.func import functional_call, grad, jacrev, jvp

from gradpath.diagnostics.errors import ArgumentError
from gradpath.experiments import MLP, GatedMLP, partials
from gradpath.experiments.derivatives import Jet
from tests.experiments.autograd_partials import autograd_partials
from tests.experiments.functions import (
    FUNCTIONS,
    PRODUCTS_BY_OPERATOR,
    WITH_RULES,
    WITHOUT_RULES,
    Function,
)

# PyTorch's own use of torch.jit, when forward-mode differentiation is first asked for.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")

NAMES = "u u_x u_y u_xx u_xy u_yy u_xxx u_xxy u_xyy u_yyy"
SUMS = "u_xx+u_yy u_xx-u_yy u_xxy+u_yyy u_xxx+u_xyy u_yyy-u_xxy-u_x"
Derive = Callable[..., tuple[Tensor, ...]]

NETWORKS = {
    "mlp": MLP(2, [20, 20], 2, dtype=torch.float64, mean=[0.1, -0.2], deviation=[0.5, 0.7]),
    "gated": GatedMLP(2, [20, 20], 2, dtype=torch.float64),
    "early gate": GatedMLP(2, [20, 20], 2, dtype=torch.float64, gate="early"),
    "fourier": MLP(2, [20], 2, dtype=torch.float64, fourier=7),
    "hard conditions": MLP(
        2, [20], 2, dtype=torch.float64, transform=lambda x, u: x[..., :1] * (1 - x[..., :1]) * u
    ),
}


def random_points(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return 1.8 * torch.rand(*shape, 2, dtype=dtype) - 0.9


def assert_same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], names: str) -> None:
    for name, a, b in zip(names.split(), found, expected, strict=True):
        a, b = a.detach(), b.detach()
        assert a.shape == b.shape, name
        assert float((a - b).abs().max() / (1 + b.abs().max())) < 1e-11, name


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_derivative_up_to_third_order(name: str) -> None:
    points = random_points(5)
    for wanted in (NAMES, SUMS):
        found = partials(FUNCTIONS[name], points, wanted, coordinates="xy", outputs=["u"])
        expected = autograd_partials(
            FUNCTIONS[name], points, wanted, coordinates="xy", outputs=["u"]
        )
        assert_same(found, expected, wanted)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_derivative_of_a_network(name: str) -> None:
    points = random_points(3, 4)  # any number of dimensions may stand before the coordinates
    wanted = "u u_x u_xx+u_yy v_xy v u_yyy v_xxy+v_yyy"
    found = partials(NETWORKS[name], points, wanted, coordinates="xy", outputs=["u", "v"])
    expected = autograd_partials(
        NETWORKS[name], points, wanted, coordinates="xy", outputs=["u", "v"]
    )
    assert_same(found, expected, wanted)


@given(
    derivatives=st.lists(
        st.lists(st.text("txy", min_size=1, max_size=4), min_size=1, max_size=3),
        min_size=1,
        max_size=3,
    ),
    seed=st.integers(0, 1000),
)
def test_any_derivatives_and_sums_of_them_at_once(derivatives: list[list[str]], seed: int) -> None:
    network = MLP(3, [4, 4], 1, dtype=torch.float64, seed=seed)
    points = torch.rand(2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    wanted = " ".join(
        "".join(f"{'-+'[i % 2]}u_{letters}" for i, letters in enumerate(terms, start=1))[1:]
        for terms in derivatives
    )
    found = partials(network, points, wanted, coordinates="txy", outputs=["u"])
    expected = autograd_partials(network, points, wanted, coordinates="txy", outputs=["u"])
    assert_same(found, expected, wanted)


@given(a=st.floats(-3, 3), b=st.floats(-3, 3))
def test_plane_waves_have_the_derivatives_of_plane_waves(a: float, b: float) -> None:
    points = torch.rand(4, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def wave(p: Tensor) -> Tensor:
        x, y = p.unbind(-1)
        return torch.sin(a * x + b * y)[..., None]

    laplacian, mixed = partials(wave, points, "u_xx+u_yy u_xxy", coordinates="xy", outputs="u")
    phase = a * points[:, 0] + b * points[:, 1]
    assert torch.allclose(laplacian, -(a * a + b * b) * torch.sin(phase), atol=1e-13)
    assert torch.allclose(mixed, -a * a * b * torch.cos(phase), atol=1e-13)


def test_values_alone_take_a_plain_call_of_the_field() -> None:
    seen: list[type] = []

    def field(points: Tensor) -> Tensor:
        seen.append(type(points))
        return points

    points = random_points(3)
    v, u = partials(field, points, "v u", coordinates="xy", outputs=["u", "v"])
    assert seen == [Tensor]
    assert torch.equal(torch.stack([u, v], dim=-1), points)


def test_the_field_is_called_once_whatever_is_wanted() -> None:
    seen: list[type] = []

    def field(points: Tensor) -> Tensor:
        seen.append(type(points))
        return torch.sin(points)

    partials(field, random_points(3), NAMES + " " + SUMS, coordinates="xy", outputs=["u", "v"])
    assert seen == [Jet]


def test_a_field_that_ignores_its_points_has_zero_derivatives() -> None:
    u, u_xy = partials(
        lambda _: torch.ones(3, 1), random_points(3), "u u_xy", coordinates="xy", outputs=["u"]
    )
    assert torch.equal(u, torch.ones(3))
    assert torch.equal(u_xy, torch.zeros(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_is_that_of_the_points(dtype: torch.dtype) -> None:
    network = MLP(2, [30, 30], 1, dtype=dtype)
    found = partials(network, random_points(9, dtype=dtype), NAMES, coordinates="xy", outputs="u")
    assert {derivative.dtype for derivative in found} == {dtype}


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_in_the_parameters(name: str) -> None:
    network, points = NETWORKS[name], random_points(6)

    def loss(parameters: dict[str, Tensor], derive: Derive = partials) -> Tensor:
        u, laplacian, mixed = derive(
            lambda x: functional_call(network, parameters, (x,)),
            points,
            "u u_xx+u_yy v_xyy",
            coordinates="xy",
            outputs=["u", "v"],
        )
        return (laplacian + u - mixed).square().mean()

    parameters = {key: value.detach() for key, value in network.named_parameters()}
    found = grad(loss)(parameters)
    live = {key: value.clone().requires_grad_() for key, value in parameters.items()}
    expected = torch.autograd.grad(
        loss(live, autograd_partials), list(live.values()), create_graph=True
    )
    # A Hessian product, forward over reverse here and reverse over reverse there.
    product = jvp(grad(loss), (parameters,), (parameters,))[1]
    along = [
        (gradient * direction).sum()
        for gradient, direction in zip(expected, parameters.values(), strict=True)
    ]
    second = torch.autograd.grad(torch.stack(along).sum(), list(live.values()))
    for key, gradient, vector in zip(parameters, expected, second, strict=True):
        assert torch.allclose(found[key], gradient, rtol=1e-9, atol=1e-10), key
        assert torch.allclose(product[key], vector, rtol=1e-8, atol=1e-8), key


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_through_any_function(name: str) -> None:
    points = random_points(4)

    def derivatives(scale: Tensor, derive: Derive = partials) -> Tensor:
        return torch.stack(
            derive(
                lambda p: FUNCTIONS[name](scale * p),
                points,
                "u_xx+u_yy u_x u_xy",
                coordinates="xy",
                outputs=["u"],
            )
        )

    scale = torch.tensor([0.8, 0.9], dtype=torch.float64)
    found = jacrev(derivatives)(scale)
    expected = torch.autograd.functional.jacobian(
        lambda s: derivatives(s, autograd_partials), scale
    )
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", WITH_RULES)
def test_functions_with_rules_compile_without_a_graph_break(name: str) -> None:
    def step(scale: Tensor, points: Tensor) -> Tensor:
        def loss(scale: Tensor) -> Tensor:
            return torch.stack(
                partials(
                    lambda p: WITH_RULES[name](scale * p),
                    points,
                    "u u_xx+u_yy u_xy",
                    coordinates="xy",
                    outputs=["u"],
                )
            ).square().sum()  # fmt: skip

        return grad(loss)(scale)

    torch._dynamo.reset()
    # What is at stake is the graph. To compile it to C++ would take half a minute each.
    compiled = torch.compile(step, fullgraph=True, backend="eager")
    scale, points = torch.tensor([0.8, 0.9], dtype=torch.float64), random_points(4)
    assert torch.allclose(compiled(scale, points), step(scale, points), rtol=1e-10)


@pytest.mark.parametrize("name", PRODUCTS_BY_OPERATOR)
def test_a_product_that_the_compiler_mistakes_is_refused(name: str) -> None:
    @torch.compile(fullgraph=True, backend="eager")
    def derivative(points: Tensor) -> tuple[Tensor, ...]:
        return partials(PRODUCTS_BY_OPERATOR[name], points, "u_x", coordinates="xy", outputs=["u"])

    with pytest.raises(Exception, match="mistakes jet @ matrix"):
        derivative(random_points(3))


def test_what_cannot_be_compiled_is_named() -> None:
    @torch.compile(fullgraph=True, backend="eager")
    def derivative(points: Tensor) -> tuple[Tensor, ...]:
        return partials(WITHOUT_RULES["erf"], points, "u_x", coordinates="xy", outputs=["u"])

    with pytest.raises(Exception, match="cannot take the derivatives of 'erf'"):
        derivative(random_points(3))


@pytest.mark.parametrize("wanted", ["w", "u_z", "u_x+v_x", "u+u_x", "w_x", "u_x+", "+u_x"])
def test_a_name_that_says_nothing_is_refused(wanted: str) -> None:
    with pytest.raises(ArgumentError, match="is no output"):
        partials(torch.sin, random_points(3), wanted, coordinates="xy", outputs=["u", "v"])


@pytest.mark.parametrize(
    "function",
    [lambda p: p.mul_(2), lambda p: torch.sin_(p), lambda p: torch.ones(3, 2).add_(p)],
)
def test_functions_in_place_are_refused(function: Function) -> None:
    points = random_points(3)
    before = points.clone()
    with pytest.raises(ArgumentError, match="in place"):
        partials(function, points, "u_x", coordinates="xy", outputs=["u", "v"])
    assert torch.equal(points, before)


def test_assignment_is_refused() -> None:
    def field(points: Tensor) -> Tensor:
        values = torch.zeros(3, 1, dtype=torch.float64)
        values[:, :] = points[:, :1]
        return values

    with pytest.raises(ArgumentError, match="in place"):
        partials(field, random_points(3), "u_x", coordinates="xy", outputs=["u"])
