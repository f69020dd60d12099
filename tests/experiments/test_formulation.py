"""What every problem can do: residuals, losses, errors."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad

from gradpath.experiments import MLP, PROBLEMS, GatedMLP, Problem, problem
from tests.experiments.autograd_partials import autograd_partials

Step = Callable[[dict[str, Tensor], dict[str, Tensor]], dict[str, Tensor]]

CLOSED = [
    (name, value)
    for name, kind in PROBLEMS.items()
    for value in kind.complexity.values
    if kind.has_closed_form
]


def batch_of(case: Problem, points: int = 128) -> dict[str, Tensor]:
    return case.sampler(points, dtype=torch.float64).draw(torch.Generator().manual_seed(5))


def of_complexity(name: str, value: float) -> Problem:
    return problem(name, **{PROBLEMS[name].complexity.parameter: value})


@pytest.mark.parametrize(("name", "value"), CLOSED)
def test_the_exact_solution_has_no_residual(name: str, value: float) -> None:
    case = of_complexity(name, value)
    residuals = case.residuals(case.solution, batch_of(case, 3000))
    assert tuple(residuals) == case.terms
    for term, residual in residuals.items():
        assert float(residual.abs().max()) < 3e-12, term


@pytest.mark.parametrize("name", PROBLEMS)
def test_something_else_has_a_residual_in_every_term(name: str) -> None:
    case = problem(name)
    network = MLP.for_problem(case, [10], dtype=torch.float64)
    for term, residual in case.residuals(network, batch_of(case)).items():
        assert float(residual.detach().abs().max()) > 1e-3, term


@pytest.mark.parametrize("name", PROBLEMS)
def test_residuals_agree_with_nested_autograd(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = problem(name)
    network = MLP.for_problem(case, [12, 12], dtype=torch.float64)
    found = case.residuals(network, batch_of(case))
    monkeypatch.setattr("gradpath.experiments.formulation.partials", autograd_partials)
    for term, residual in case.residuals(network, batch_of(case)).items():
        scale = 1 + residual.abs().max()
        assert float(((found[term] - residual) / scale).detach().abs().max()) < 1e-12, term


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_loss_is_a_sum_of_means_of_squares(name: str) -> None:
    case = problem(name)
    network = MLP.for_problem(case, [6], dtype=torch.float64)
    with torch.no_grad():
        losses = case.losses(network, batch_of(case, 10))
        residuals = case.residuals(network, batch_of(case, 10))
    for term, residual in residuals.items():
        rows = residual.reshape(-1, residual.shape[-1]).tolist()
        expected = sum(sum(r * r for r in row) / len(row) for row in rows)
        assert float(losses[term]) == pytest.approx(expected, rel=1e-12)


def test_the_boundary_of_a_square_counts_four_edges() -> None:
    case = problem("helmholtz")
    losses = case.losses(lambda points: torch.ones_like(points[..., :1]), batch_of(case))
    assert float(losses["boundary"]) == pytest.approx(4.0)


def test_klein_gordon_has_both_initial_conditions_in_one_term() -> None:
    case = problem("klein_gordon")

    def field(points: Tensor) -> Tensor:  # u = x + 2 t + 3 has u - x = 3 and u_t = 2 at t = 0
        return points[..., 1:] + 2 * points[..., :1] + 3

    assert float(case.losses(field, batch_of(case))["initial"]) == pytest.approx(9 + 4)


def gradients_of(case: Problem, network: MLP) -> Step:
    def step(parameters: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        def loss(given: dict[str, Tensor]) -> Tensor:
            losses = case.losses(lambda points: functional_call(network, given, (points,)), batch)
            return torch.stack(list(losses.values())).sum()

        return grad(loss)(parameters)

    return step


def assert_compiled_agrees(case: Problem, network: MLP, **options: Any) -> None:
    step, batch = gradients_of(case, network), batch_of(case, 16)
    parameters = {key: value.detach() for key, value in network.named_parameters()}
    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, **options)(parameters, batch)
    for key, gradient in step(parameters, batch).items():
        assert torch.allclose(compiled[key], gradient, rtol=1e-9, atol=1e-11), key


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_step_compiles_without_a_graph_break(name: str) -> None:
    network = MLP.for_problem(problem(name), [8, 8], dtype=torch.float64)
    assert_compiled_agrees(problem(name), network, backend="eager")


@pytest.mark.parametrize(
    ("kind", "options"),
    [(GatedMLP, {}), (GatedMLP, {"gate": "early"}), (MLP, {"fourier": 4}),
     (MLP, {"transform": lambda x, u: x[..., :1] * u})],
    ids=["convex", "early", "fourier", "transform"],
)  # fmt: skip
def test_a_step_of_every_network_compiles(kind: type[MLP], options: dict[str, Any]) -> None:
    case = problem("helmholtz")
    network = kind.for_problem(case, [8, 8], dtype=torch.float64, **options)
    assert_compiled_agrees(case, network, backend="eager")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # PyTorch's own use of torch.jit
def test_a_step_compiled_to_code_has_the_gradients_of_an_eager_one() -> None:
    network = GatedMLP.for_problem(problem("helmholtz"), [20, 20], dtype=torch.float64)
    # Code that another process has compiled and cached need not be for what this one detects.
    assert_compiled_agrees(problem("helmholtz"), network, options={"fx_graph_cache": False})


@pytest.mark.parametrize("name", ["burgers", "klein_gordon", "kovasznay"])
def test_residuals_of_the_exact_solution_compile(name: str) -> None:
    case = problem(name)
    torch._dynamo.reset()
    check = torch.compile(
        lambda batch: case.residuals(case.solution, batch), fullgraph=True, backend="eager"
    )
    for residual in check(batch_of(case)).values():
        assert float(residual.abs().max()) < 3e-12


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_error_is_relative_to_the_solution(name: str) -> None:
    case = problem(name)
    assert case.error(case.solution, dtype=torch.float64) == 0.0
    if case.has_closed_form:
        assert case.error(lambda x: 1.01 * case.solution(x), dtype=torch.float64) == pytest.approx(
            0.01
        )
        single = case.error(case.solution)
        assert 0 < single < 1e-3


def test_the_error_is_a_ratio_of_vector_norms() -> None:
    case = problem("helmholtz")
    x = np.linspace(-1, 1, 100)
    exact = np.sin(math.pi * x)[:, None] * np.sin(4 * math.pi * x)
    network = MLP.for_problem(case, [5], dtype=torch.float64)
    grid = torch.from_numpy(np.stack(np.meshgrid(x, x, indexing="ij"), axis=-1))
    predicted = network(grid).detach().numpy()[..., 0]
    expected = np.sqrt(((predicted - exact) ** 2).sum() / (exact**2).sum())
    assert case.error(network, dtype=torch.float64) == pytest.approx(expected, rel=1e-12)


def test_a_network_trains_with_what_a_problem_offers() -> None:
    case = problem("poisson", C=1)
    network = MLP.for_problem(case, [20, 20])
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    sampler, generator = case.sampler(), torch.Generator().manual_seed(0)
    before = case.error(network)
    for _ in range(300):
        optimizer.zero_grad()
        torch.stack(list(case.losses(network, sampler.draw(generator)).values())).sum().backward()
        optimizer.step()
    assert case.error(network) < min(0.03, before / 10)


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_problem_says_what_it_is(name: str) -> None:
    case = problem(name)
    assert case.name == name
    assert case.equation
    assert case.complexity.effect
    assert any(term.startswith("residual") for term in case.terms)
    assert len(case.counts) == len(case.domain.coordinates)
    assert case.evaluation_points().shape[1] == len(case.domain.coordinates)
    assert case.solution(case.evaluation_points()).shape[1] == len(case.outputs)
