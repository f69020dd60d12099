"""What is compiled instead of some operations is the same to rounding."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from gradpath.experiments import model, problem
from gradpath.experiments.decompositions import DECOMPOSITIONS
from gradpath.experiments.training_step import FlatLosses

ATEN = torch.ops.aten
FLOAT32_ROUNDING = torch.finfo(torch.float32).eps


def normal(*shape: int) -> Tensor:
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.double
    )


def replaced(function: Callable[..., Tensor], *arguments: Tensor) -> tuple[Tensor, set[object]]:
    """Returns the result, and the operations that gave it."""
    graph = make_fx(function, decomposition_table=DECOMPOSITIONS)(*arguments)
    return graph(*arguments), {node.target for node in graph.graph.nodes}


PRODUCTS = {
    "gradient of the first layer": (normal(300, 20).t(), normal(300, 2), True),
    "gradient of a layer that is not so narrow": (normal(300, 20).t(), normal(300, 9), False),
    "outer product": (normal(30, 1), normal(1, 20), True),
    "hidden layer": (normal(300, 20), normal(20, 20), False),
    "one output": (normal(300, 20), normal(20, 1), False),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_is_the_same_in_its_form(name: str) -> None:
    a, b, is_replaced = PRODUCTS[name]
    result, operations = replaced(torch.mm, a, b)
    torch.testing.assert_close(result, a @ b, rtol=1e-12, atol=1e-12)
    assert bool(operations & {ATEN.t.default, ATEN.mul.Tensor}) == is_replaced


def test_a_bias_is_added_and_a_scaled_one_is_left_to_the_library() -> None:
    bias, a, b = normal(4), normal(6, 3), normal(3, 4)
    result, operations = replaced(torch.addmm, bias, a, b)
    torch.testing.assert_close(result, a @ b + bias)
    assert ATEN.addmm.default not in operations
    result, operations = replaced(lambda *given: torch.addmm(*given, beta=2, alpha=3), bias, a, b)
    torch.testing.assert_close(result, 3 * (a @ b) + 2 * bias)
    assert ATEN.addmm.default in operations


def test_tanh_is_exact_to_the_rounding_of_one() -> None:
    x = torch.cat([torch.linspace(-12, 12, 10_001), torch.linspace(-1e-3, 1e-3, 1001)])
    result, operations = replaced(torch.tanh, x)
    assert ATEN.tanh.default not in operations
    assert (result.double() - torch.tanh(x.double())).abs().max() < 2 * FLOAT32_ROUNDING


def test_tanh_of_what_is_too_large_is_one_and_of_no_number_is_none() -> None:
    result, _ = replaced(
        torch.tanh, torch.tensor([-math.inf, -1e30, 0.0, 1e30, math.inf, math.nan])
    )
    assert result[:-1].tolist() == [-1.0, -1.0, 0.0, 1.0, 1.0]
    assert result[-1].isnan()


def test_a_step_of_a_network_has_none_of_the_slow_forms() -> None:
    """Its gradients too, whatever autograd makes them of."""
    posed = problem("helmholtz")
    losses = FlatLosses(posed, model("M1").network(posed))
    batch = posed.sampler(128).draw(torch.Generator().manual_seed(0))

    def gradient(point: Tensor) -> Tensor:
        leaf = point.detach().requires_grad_()
        return torch.autograd.grad(sum(losses(leaf, batch).values(), torch.zeros(())), leaf)[0]

    _, operations = replaced(gradient, losses.layout.flatten())
    assert ATEN.mm.default in operations
    assert not operations & {ATEN.addmm.default, ATEN.tanh.default}
