"""Jets as tensors: what they say of themselves, and what does not go through `partials`."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gradpath.experiments.derivatives import Jet, Truncation


def jet(value: Tensor, **derivatives: Tensor) -> Any:
    """To a type checker a jet is no tensor, nor what a function of tensors makes of it."""
    return Jet(value, derivatives, Truncation(["xx"]))


VALUE, FIRST, SECOND = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(1)).unbind()


def test_a_jet_says_what_its_value_says() -> None:
    z = jet(VALUE.double(), x=FIRST.double())
    assert (z.shape, z.dtype, z.device, z.ndim) == ((4, 2), torch.float64, VALUE.device, 2)
    assert (z.dim(), z.size(0), z.numel()) == (2, 4, 8)


def test_an_unknown_attribute_is_missing() -> None:
    with pytest.raises(AttributeError):
        _ = jet(VALUE).no_such_method
    with pytest.raises(AttributeError, match="'grad' of a tensor has no derivatives"):
        _ = jet(VALUE).grad


def test_zero_derivatives_stay_absent() -> None:
    z = jet(VALUE, x=FIRST)
    assert set((3 * z - 1).derivatives) == {"x"}
    through_tanh: Any = torch.tanh(z)
    assert set(through_tanh.derivatives) == {"x", "xx"}
    through_layer: Any = F.linear(z, torch.ones(3, 2), torch.ones(3))
    assert set(through_layer.derivatives) == {"x"}


def test_derivatives_take_the_shape_of_a_broadcast_value() -> None:
    total = jet(VALUE[:, :1], x=FIRST[:, :1], xx=SECOND[:, :1]) + torch.ones(5, 4, 7)
    assert {stream.shape for stream in [total.value, *total.derivatives.values()]} == {(5, 4, 7)}


def test_comparisons_are_of_the_values() -> None:
    z = jet(VALUE, x=FIRST)
    assert torch.equal(z > 0, VALUE > 0)
    assert torch.equal(z < jet(-VALUE), VALUE < -VALUE)
    assert torch.equal(torch.lt(z, 0), VALUE < 0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # PyTorch's own use of torch.jit
def test_a_matrix_that_depends_on_the_coordinates() -> None:
    weight = jet(VALUE, x=FIRST, xx=SECOND)
    x = jet(FIRST, x=SECOND)
    product: Any = F.linear(x, weight, torch.ones(4))
    assert torch.allclose(product.value, FIRST @ VALUE.mT + 1, atol=1e-6)
    assert torch.allclose(product.derivatives["x"], SECOND @ VALUE.mT + FIRST @ FIRST.mT, atol=1e-5)
    second = 2 * SECOND @ FIRST.mT + FIRST @ SECOND.mT
    assert torch.allclose(product.derivatives["xx"], second, atol=1e-5)
