"""Combined gradients: they raise no term, and are those of the packages where these are right."""

import importlib
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from gradpath.diagnostics.directions import ConFIG, DirectionRule, TorchJDAggregator, UPGrad
from gradpath.diagnostics.errors import ArgumentError, MissingPackageError
from gradpath.diagnostics.gradients import TermGradients
from gradpath.diagnostics.layout import ParameterLayout
from gradpath.diagnostics.random_numbers import RandomState
from gradpath.diagnostics.rules import Observation
from gradpath.diagnostics.weighting import weighting

pytestmark = pytest.mark.external


def available(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


needs_conflictfree = pytest.mark.skipif(not available("conflictfree"), reason="no conflictfree")
needs_torchjd = pytest.mark.skipif(not available("torchjd"), reason="no torchjd")
needs_quadprog = pytest.mark.skipif(
    not (available("torchjd") and available("quadprog") and available("qpsolvers")),
    reason="no torchjd[quadprog_projector]",
)

STATELESS = ("AlignedMTL", "IMTLG", "MGDA", "PCGrad")
RULES = [
    pytest.param(ConFIG(), marks=needs_conflictfree, id="ConFIG"),
    pytest.param(UPGrad(), marks=needs_quadprog, id="UPGrad"),
    *(pytest.param(TorchJDAggregator(name=name), marks=needs_torchjd, id=name)
      for name in STATELESS),
]  # fmt: skip


@st.composite
def gradients(draw: st.DrawFn, decades: int = 3) -> Tensor:
    """Two to five gradients of 6 to 30 entries that point anywhere and differ in length."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    terms, entries = draw(st.integers(2, 5)), draw(st.integers(6, 30))
    rows = torch.randn(terms, entries, generator=generator, dtype=torch.float64)
    rows[1:] += draw(st.floats(-2, 2)) * rows[0]
    exponents = draw(st.lists(st.integers(-decades, decades), min_size=terms, max_size=terms))
    return rows * 10.0 ** torch.tensor(exponents, dtype=torch.float64)[:, None]


def cosines(grads: Tensor, direction: Tensor) -> Tensor:
    return torch.cosine_similarity(grads, direction[None], dim=1, eps=0)


@needs_conflictfree
@given(gradients())
def test_config_stands_at_equal_angles_to_all_gradients(grads: Tensor) -> None:
    direction = ConFIG().direction(grads)
    angles = cosines(grads, direction)
    torch.testing.assert_close(angles, angles[:1].expand_as(angles), rtol=1e-6, atol=1e-9)
    assert angles.min() > 0
    # Its length is the sum of the projections of all gradients.
    length = direction.norm()
    torch.testing.assert_close(length, (grads @ direction).sum() / length)


@needs_quadprog
@given(gradients())
def test_upgrad_raises_no_term(grads: Tensor) -> None:
    direction = UPGrad().direction(grads)
    assert cosines(grads, direction).min() > -1e-6


@needs_quadprog
def test_upgrad_of_gradients_that_agree_is_their_mean() -> None:
    grads = torch.tensor([[1.0, 0, 0], [2, 1000, 0], [1, 0, 1e-3]], dtype=torch.float64)
    torch.testing.assert_close(UPGrad().direction(grads), grads.mean(0))


@needs_quadprog
def test_upgrad_projects_each_gradient_off_the_other() -> None:
    # By hand: g_1 to (0.5, 0.5), its part along the edge of the half-plane of g_2; g_2 likewise.
    grads = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    expected = torch.tensor([[0.5, 0.5], [0.0, 1.0]]).double().mean(0)
    torch.testing.assert_close(UPGrad().direction(grads), expected)


@needs_conflictfree
@settings(max_examples=30)
@given(gradients(decades=1))
def test_config_is_that_of_its_authors(grads: Tensor) -> None:
    theirs = importlib.import_module("conflictfree.grad_operator").ConFIG_update(grads.float())
    torch.testing.assert_close(ConFIG().direction(grads).float(), theirs, rtol=1e-2, atol=1e-3)


@needs_quadprog
@settings(max_examples=30)
@given(gradients(decades=0))
def test_upgrad_is_that_of_its_authors_within_their_regularisation(grads: Tensor) -> None:
    theirs = importlib.import_module("torchjd.aggregation").UPGrad()(grads)
    difference = (UPGrad().direction(grads) - theirs).norm()
    assert difference < 0.02 * grads.norm(dim=1).max()


@needs_torchjd
@pytest.mark.parametrize("name", STATELESS)
def test_aggregators_are_those_of_torchjd(name: str) -> None:
    grads = torch.randn(3, 20, dtype=torch.float64)
    grads[1] -= grads[0]
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)  # PCGrad's order; ours has the seed 0 at step 0
        theirs = getattr(importlib.import_module("torchjd.aggregation"), name)()(grads)
    torch.testing.assert_close(TorchJDAggregator(name=name).direction(grads), theirs)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e30])
def test_small_and_large_gradients_are_combined_alike(rule: DirectionRule, scale: float) -> None:
    grads = torch.randn(3, 20)
    grads[1] -= 2 * grads[0]
    torch.testing.assert_close(
        rule.direction(grads * scale) / scale, rule.direction(grads), rtol=1e-4, atol=1e-5
    )


@needs_quadprog
@pytest.mark.parametrize(("ratio", "scale"), [(100.0, 1.0), (1e4, 1.0), (10.0, 1e-5)])
def test_where_torchjd_conflicts_with_the_weaker_term_upgrad_does_not(
    ratio: float, scale: float
) -> None:
    """The residual a hundred times the boundary, or both small: what PINNs have."""
    grads = scale * torch.randn(2, 50, dtype=torch.float64)
    grads[1] -= 0.8 * grads[0]
    grads[0] *= ratio
    theirs = importlib.import_module("torchjd.aggregation").UPGrad()(grads)
    assert cosines(grads, theirs).min() < -0.1
    assert cosines(grads, UPGrad().direction(grads)).min() > -1e-6


@needs_conflictfree
@pytest.mark.slow
def test_config_works_with_many_parameters_where_its_authors_solver_gives_up() -> None:
    grads = torch.randn(2, 20_000_000)
    grads[1] -= 0.5 * grads[0]
    direction = ConFIG().direction(grads)
    found = (grads @ direction) / (grads.norm(dim=1) * direction.norm())
    assert found[0] == pytest.approx(found[1].item(), rel=1e-3)
    assert found[0] > 0.4


@pytest.mark.parametrize("rule", RULES)
def test_one_gradient_alone_is_the_direction(rule: DirectionRule) -> None:
    grads = torch.tensor([[3.0, -4.0]], dtype=torch.float64)
    torch.testing.assert_close(rule.direction(grads), grads[0])


@pytest.mark.parametrize("rule", RULES)
def test_a_term_without_gradient_takes_no_part(rule: DirectionRule) -> None:
    grads = torch.randn(3, 9, dtype=torch.float64)
    grads[1] = 0
    torch.testing.assert_close(rule.direction(grads), rule.direction(grads[[0, 2]]))
    assert torch.equal(rule.direction(torch.zeros(2, 9)), torch.zeros(9))


@pytest.mark.parametrize("rule", RULES)
def test_a_gradient_that_is_not_finite_is_not_hidden(rule: DirectionRule) -> None:
    grads = torch.randn(2, 9)
    grads[1, 3] = torch.nan
    assert rule.direction(grads).isnan()[3]


@needs_conflictfree
def test_gradients_that_cancel_leave_config_nowhere_to_go() -> None:
    g = torch.randn(9, dtype=torch.float64)
    direction = ConFIG().direction(torch.stack([g, -2 * g]))
    assert direction.abs().max() < 1e-12


@needs_conflictfree
def test_linearly_dependent_gradients_are_no_trouble_for_config() -> None:
    g, h = torch.randn(2, 9, dtype=torch.float64)
    direction = ConFIG().direction(torch.stack([g, 5 * g, h]))
    angles = cosines(torch.stack([g, h]), direction)
    torch.testing.assert_close(angles[0], angles[1])


@pytest.mark.parametrize("rule", RULES)
def test_the_weights_are_the_coefficients_of_the_direction(rule: DirectionRule) -> None:
    layout = ParameterLayout.of(nn.Linear(3, 2))
    grads = TermGradients.of(torch.randn(3, layout.size, dtype=torch.float64), ("a", "b", "c"))
    seen = Observation(0, grads, layout, [1.0] * 3)
    weights = rule.next_state(weighting("siam").state, seen).weights
    combined = sum(weight * row for weight, row in zip(weights.values(), grads, strict=True))
    torch.testing.assert_close(combined, rule.direction(grads))


@needs_torchjd
def test_nothing_is_drawn_from_the_generator_of_the_user() -> None:
    grads = torch.randn(4, 9)
    state = torch.get_rng_state()
    first = TorchJDAggregator(name="PCGrad", seed=1).direction(grads)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(5)
    assert torch.equal(first, TorchJDAggregator(name="PCGrad", seed=1).direction(grads))


@pytest.mark.parametrize(
    ("name", "mend"),
    [
        ("config", "pip install conflictfree"),
        ("upgrad", r"pip install 'torchjd\[quadprog_projector\]'"),
        ("mgda", "pip install torchjd"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    name: str, mend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(module: str) -> Any:
        raise ModuleNotFoundError(f"No module named {module!r}")

    monkeypatch.setattr("gradpath.diagnostics.directions.import_module", fail)
    rule = weighting(name).rule
    assert isinstance(rule, DirectionRule)
    with pytest.raises(MissingPackageError, match=mend):
        rule.direction(torch.randn(2, 5))


@needs_quadprog
def test_a_package_that_draws_when_it_is_imported_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As JAX does, which the solvers of torchjd import where it is installed."""

    def draw(module: str) -> Any:
        for generator in (np.random.random, random.random, lambda: torch.rand(1)):
            generator()
        return importlib.import_module(module)

    monkeypatch.setattr("gradpath.diagnostics.directions.import_module", draw)
    before = RandomState.of_process()
    UPGrad().direction(torch.randn(2, 5, generator=torch.Generator().manual_seed(0)))
    after = RandomState.of_process()
    assert after.python == before.python
    assert torch.equal(after.torch, before.torch)
    assert np.array_equal(after.numpy[1], before.numpy[1])
    assert after.numpy[2] == before.numpy[2]


@needs_torchjd
def test_a_missing_solver_is_named_as_well() -> None:
    if available("quadprog"):
        pytest.skip("the solver is there")
    with pytest.raises(MissingPackageError, match=r"torchjd\[quadprog_projector\]"):
        UPGrad().direction(torch.randn(2, 5))


@needs_torchjd
def test_what_torchjd_does_not_offer_is_refused() -> None:
    with pytest.raises(ArgumentError, match="choose one of AlignedMTL, CAGrad"):
        TorchJDAggregator(name="NashMTL")
    with pytest.raises(ArgumentError, match="options"):
        TorchJDAggregator(name="MGDA", options={"c": 0.5}).direction(torch.randn(2, 5))
