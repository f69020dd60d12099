"""A graph that is built like the one before is known again, and no other is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils.checkpoint import checkpoint

from gradpath.diagnostics.errors import NotTwiceDifferentiableError
from gradpath.diagnostics.gradients import term_gradients
from gradpath.diagnostics.layout import ParameterLayout
from gradpath.diagnostics.survey import FamiliarGraphs, Survey
from gradpath.diagnostics.terms import as_terms


@pytest.fixture
def surveyed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many nodes there were to look at, each time that a graph was looked through."""
    seen: list[int] = []
    of = Survey.of.__func__  # type: ignore[attr-defined]

    def counted(cls: type[Survey], ends: list[GradientEdge]) -> Survey:
        seen.append(len(ends))
        found: Survey = of(cls, ends)
        return found

    monkeypatch.setattr(Survey, "of", classmethod(counted))
    return seen


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1))


def edges_of(*losses: Tensor) -> list[GradientEdge]:
    return [get_gradient_edge(loss) for loss in losses]


def test_the_same_code_is_looked_at_twice(surveyed: list[int]) -> None:
    net, graphs = network(), FamiliarGraphs()
    for _ in range(10):
        y = net(torch.rand(4, 1))
        assert graphs.survey(edges_of(y.square().mean(), y.mean())).finds_nothing
    # The distance to the step before is known from the second one on.
    assert surveyed == [2, 2]
    for _ in range(20):
        y = net(torch.rand(4, 1))
        graphs.survey(edges_of(y.square().mean(), y.mean()))
    assert surveyed == [2, 2, 2]  # from time to time


@pytest.mark.parametrize(
    "other",
    [
        lambda net, x: net(x).square().mean() + net(x).mean(),
        lambda net, x: net(x).abs().mean(),
        lambda net, x: net(net(x)).square().mean(),
        lambda net, x: checkpoint(net, x.requires_grad_(), use_reentrant=True).square().mean(),
    ],
)
def test_other_code_is_looked_at(
    other: Callable[[nn.Module, Tensor], Tensor], surveyed: list[int]
) -> None:
    net, graphs = network(), FamiliarGraphs()
    for _ in range(5):
        graphs.survey(edges_of(net(torch.rand(4, 1)).square().mean()))
    before = len(surveyed)
    graphs.survey(edges_of(other(net, torch.rand(4, 1))))
    assert len(surveyed) == before + 1


def test_parameters_that_begin_to_be_hidden_are_noticed() -> None:
    net, graphs = network(), FamiliarGraphs()
    layout = ParameterLayout.of(net)

    def gradient(hides: bool) -> Tensor:
        x = torch.rand(4, 1).requires_grad_()
        y = checkpoint(net, x, use_reentrant=True) if hides else net(x)
        assert isinstance(y, Tensor)
        terms = as_terms({"data": y.square().mean()})
        survey = graphs.survey([edge for term in terms for edge in term.edges])
        return term_gradients(terms, layout, survey=survey)

    for _ in range(5):
        assert gradient(hides=False).any()
    for _ in range(5):
        with pytest.raises(NotTwiceDifferentiableError, match="reentrant"):
            gradient(hides=True)
    assert gradient(hides=False).any()


def test_what_is_unusual_is_looked_at_each_time(surveyed: list[int]) -> None:
    net, graphs = network(), FamiliarGraphs()
    for _ in range(6):
        y = checkpoint(net, torch.rand(4, 1).requires_grad_(), use_reentrant=True)
        assert isinstance(y, Tensor)
        assert not graphs.survey(edges_of(y.mean())).finds_nothing
    assert len(surveyed) == 6


def test_nothing_at_all_is_surveyed_as_well() -> None:
    assert FamiliarGraphs().survey([]).finds_nothing
