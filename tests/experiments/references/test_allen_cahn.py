"""Both references of Allen-Cahn: refined, and against finite differences in space."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from gradpath.diagnostics.errors import ArgumentError
from gradpath.experiments import partials, problem
from gradpath.experiments.references.allen_cahn import (
    AllenCahnSolution,
    fixed_solution,
    periodic_solution,
)


def on_grid(solution: AllenCahnSolution, times: int = 21, places: int = 257) -> np.ndarray:
    t, x = np.meshgrid(np.linspace(0, 1, times), np.linspace(-1, 1, places), indexing="ij")
    return solution(torch.from_numpy(t), torch.from_numpy(x)).numpy()


def difference(a: AllenCahnSolution, b: AllenCahnSolution) -> float:
    return float(np.linalg.norm(on_grid(a) - on_grid(b)) / np.linalg.norm(on_grid(b)))


def test_the_periodic_reference_is_as_accurate_as_the_problem_says() -> None:
    fine = periodic_solution(1e-4)
    # The error falls with the square of the number of places, so that of 2,048 is a third of its
    # difference to 1,024.
    assert difference(periodic_solution(1e-4, 1024), fine) / 3 < 1.2e-6
    assert problem("allen_cahn").solution_error == 1e-6


def test_the_fixed_reference_is_as_accurate_as_the_problem_says() -> None:
    assert difference(fixed_solution(1e-3, 320), fixed_solution(1e-3)) < 1e-6
    # The error falls by an order and more from 320 to 384.
    assert problem("allen_cahn_fixed").solution_error == 1e-7


@pytest.mark.parametrize(
    ("solve", "diffusivity", "is_periodic", "tolerance"),
    [(periodic_solution, 1e-2, True, 1e-3), (fixed_solution, 1e-2, False, 1e-3)],
)
def test_finite_differences_come_to_the_same(
    solve: Callable[[float], AllenCahnSolution],
    diffusivity: float,
    is_periodic: bool,
    tolerance: float,
) -> None:
    count = 256
    x = np.linspace(-1, 1, count + 1)

    def slope(_: float, u: np.ndarray) -> np.ndarray:
        left, right = np.roll(u, 1), np.roll(u, -1)
        if is_periodic:  # the last place is the first one again
            left[0], right[-1] = u[-2], u[1]
        change = diffusivity * (left - 2 * u + right) * (count / 2) ** 2 + 5 * (u - u**3)
        if not is_periodic:
            change[[0, -1]] = 0.0
        return change

    times = np.linspace(0, 1, 21)
    start = x**2 * np.cos(np.pi * x)
    found = solve_ivp(slope, (0, 1), start, "LSODA", times, rtol=1e-7, atol=1e-9, lband=2, uband=2)
    expected = on_grid(solve(diffusivity))
    # Banded solvers leave out the corner of the periodic Jacobian, which costs them steps only.
    assert np.linalg.norm(found.y.T - expected) / np.linalg.norm(expected) < tolerance


@pytest.mark.parametrize("solve", [periodic_solution, fixed_solution])
def test_solutions_start_right_stay_even_and_between_the_wells(
    solve: Callable[[float], AllenCahnSolution],
) -> None:
    u = on_grid(solve(1e-3))
    x = np.linspace(-1, 1, 257)
    np.testing.assert_allclose(u[0], x**2 * np.cos(np.pi * x), atol=1e-7)
    np.testing.assert_allclose(u, u[:, ::-1], atol=1e-9)
    assert np.abs(u).max() < 1 + 1e-6
    if solve is fixed_solution:
        np.testing.assert_allclose(u[:, [0, -1]], -1, atol=1e-9)


def test_the_two_problems_of_the_name_differ() -> None:
    """As much as the data that is published with them do, 4.6e-2."""
    data = problem("allen_cahn").exact, problem("allen_cahn_fixed").exact
    points = problem("allen_cahn").evaluation_points()
    (periodic,), (fixed,) = (exact(points) for exact in data)
    assert float((periodic - fixed).norm() / periodic.norm()) == pytest.approx(0.046, abs=0.001)


def test_derivatives_of_values_on_a_grid_are_refused() -> None:
    case = problem("allen_cahn")
    with pytest.raises(ArgumentError, match="values, no derivatives"):
        case.partials(case.solution, torch.rand(3, 2), "u_x")


def front(points: torch.Tensor, diffusivity: float) -> torch.Tensor:
    """A front from 1 to 0 that moves with constant speed, a solution on the whole line."""
    t, x = points.unbind(-1)
    steepness = (5 / (2 * diffusivity)) ** 0.5
    speed = 3 * (5 * diffusivity / 2) ** 0.5
    return torch.sigmoid(-steepness * (x - speed * t))[..., None]


@pytest.mark.parametrize("name", ["allen_cahn", "allen_cahn_fixed"])
@pytest.mark.parametrize("diffusivity", [1e-1, 1e-2, 1e-3])
def test_a_travelling_front_solves_the_equation(name: str, diffusivity: float) -> None:
    case = problem(name, diffusivity=diffusivity)
    batch = case.sampler(2000, dtype=torch.float64).draw(torch.Generator().manual_seed(0))
    residual = case.residuals(lambda p: front(p, diffusivity), batch)["residual"]
    (u_t,) = partials(
        lambda p: front(p, diffusivity), batch["interior"], "u_t", coordinates="tx", outputs=["u"]
    )
    assert float(residual.abs().max()) < 1e-12 < 0.1 < float(u_t.abs().max())


def test_conditions_of_the_references_hold() -> None:
    for name in ("allen_cahn", "allen_cahn_fixed"):
        case = problem(name)
        batch = case.sampler(500, dtype=torch.float64).draw(torch.Generator().manual_seed(0))
        (u,) = case.partials(case.solution, batch["boundary"], "u")
        ends = u[0] - u[1] if name == "allen_cahn" else u + 1
        assert float(ends.abs().max()) < 1e-9
