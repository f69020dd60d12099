"""Elementary functions: each entry is the derivative of the one before it."""

from itertools import pairwise

import pytest
import torch

from gradpath.experiments.derivatives.elementary import ELEMENTARY, Elementary, power

POWERS = {str(exponent): power(exponent) for exponent in [3, 0, 1, -2, 0.5, -1.3]}


@pytest.mark.parametrize("function", [*ELEMENTARY.values(), *POWERS.values()],
                         ids=[*ELEMENTARY, *POWERS])  # fmt: skip
def test_derivatives_follow_from_each_other(function: Elementary) -> None:
    z = torch.linspace(0.2, 2.0, 7, dtype=torch.float64, requires_grad=True)
    derivatives = function(z, 5)
    assert len(derivatives) == 6
    for lower, higher in pairwise(derivatives):
        slope = torch.zeros_like(z)
        if lower is not None and lower.requires_grad:
            (slope,) = torch.autograd.grad(lower.sum(), z, retain_graph=True)
        expected = torch.zeros_like(z) if higher is None else higher
        assert torch.allclose(slope, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ELEMENTARY)
def test_the_value_is_that_of_the_function(name: str) -> None:
    z = torch.linspace(0.2, 2.0, 7, dtype=torch.float64)
    (value,) = ELEMENTARY[name](z, 0)
    assert value is not None
    assert torch.allclose(value, getattr(torch, name)(z), rtol=1e-15)


def test_tanh_has_derivatives_where_it_saturates() -> None:
    z = torch.tensor([-50.0, 0.0, 50.0])
    derivatives = ELEMENTARY["tanh"](z, 3)
    assert all(d is not None and d.isfinite().all() for d in derivatives)
