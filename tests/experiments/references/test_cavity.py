"""The cavity's reference: refined, against published numbers, and in its own equations."""

import numpy as np
import pytest
import torch
from torch import Tensor

from gradpath.diagnostics.errors import ArgumentError
from gradpath.experiments import partials, problem
from gradpath.experiments.references.cavity import CavityFlow, cavity_flow
from gradpath.experiments.references.cavity_corners import corner_pressure, corner_streamfunction

# u at x = 1/2, Re = 100: Ghia, Ghia, Shin, J. Comput. Phys. 48 (1982), table 1. (The v of their
# table 2 is 3 % off: its minimum -0.24533 is -0.2538030 by spectral methods, this one included.)
GHIA_Y = [1, 0.9766, 0.9688, 0.9609, 0.9531, 0.8516, 0.7344, 0.6172, 0.5, 0.4531, 0.2813, 0.1719,
          0.1016, 0.0703, 0.0625, 0.0547, 0]  # fmt: skip
GHIA_U = [1, 0.84123, 0.78871, 0.73722, 0.68717, 0.23151, 0.00332, -0.13641, -0.20581, -0.21090,
          -0.15662, -0.10150, -0.06434, -0.04775, -0.04192, -0.03717, 0]  # fmt: skip


@pytest.fixture(scope="module")
def flow() -> CavityFlow:
    return cavity_flow(100.0)


def line(fixed: str, count: int = 4001) -> Tensor:
    """Points on the vertical ("x") or horizontal ("y") line through the centre."""
    along, half = torch.linspace(0, 1, count), torch.full((count,), 0.5)
    points = torch.stack([half, along] if fixed == "x" else [along, half], dim=-1)
    return points.double()


def test_the_centre_line_agrees_with_ghia(flow: CavityFlow) -> None:
    points = torch.tensor([[0.5, y] for y in GHIA_Y], dtype=torch.float64)
    found, expected = flow.velocity(points)[0].numpy(), np.array(GHIA_U)
    assert np.linalg.norm(found - expected) < 0.01 * np.linalg.norm(expected)
    assert np.abs(found - expected).max() < 0.006


def test_extreme_velocities_are_those_of_spectral_methods(flow: CavityFlow) -> None:
    """Grid-converged values, which codes for incompressible flow compare with."""
    u, v = flow.velocity(line("x"))[0], flow.velocity(line("y"))[1]
    assert float(u.min()) == pytest.approx(-0.2140424, abs=2e-6)
    assert float(v.max()) == pytest.approx(0.1795728, abs=2e-6)
    assert float(v.min()) == pytest.approx(-0.2538030, abs=2e-6)


def test_refinement_gives_the_error_that_the_problem_states(flow: CavityFlow) -> None:
    points = problem("cavity").evaluation_points()
    fine, used, coarse = (
        torch.stack(solution.velocity(points))
        for solution in (cavity_flow(100.0, 48), flow, cavity_flow(100.0, 32))
    )
    assert float((used - fine).norm() / fine.norm()) < problem("cavity").solution_error
    # Eight degrees more make it three times as accurate and better, so again those after 48.
    assert float((coarse - fine).norm() / (used - fine).norm()) > 3


@pytest.mark.parametrize("reynolds", [10.0, 100.0, 400.0])
def test_walls_stand_and_the_lid_slides(reynolds: float) -> None:
    case = problem("cavity_streamfunction", reynolds=reynolds)
    batch = case.sampler(300, dtype=torch.float64).draw(torch.Generator().manual_seed(0))
    (psi,) = case.partials(case.solution, batch["walls"], "psi")
    residuals = case.residuals(case.solution, batch)
    assert float(psi.abs().max()) < 1e-9
    assert float(residuals["boundary_u"].abs().max()) < 1e-9
    assert float(residuals["boundary_v"].abs().max()) < 1e-9


@pytest.mark.parametrize(("reynolds", "bound"), [(10.0, 5e-4), (100.0, 3e-3), (400.0, 2e-2)])
def test_momentum_is_conserved_away_from_the_walls(reynolds: float, bound: float) -> None:
    case = problem("cavity_streamfunction", reynolds=reynolds)
    inside = 0.2 + 0.6 * torch.rand(1, 500, 2, dtype=torch.float64)
    batch = {"interior": inside, "walls": torch.rand(4, 1, 2, dtype=torch.float64)}
    residuals = case.residuals(case.solution, batch)
    (p_x,) = case.partials(case.solution, inside, "p_x")
    for term in ("residual_u", "residual_v"):
        assert float(residuals[term].abs().max()) < bound < 0.1 * float(p_x.abs().max())


def test_velocity_is_the_derivative_of_the_streamfunction(flow: CavityFlow) -> None:
    points = torch.rand(50, 2, dtype=torch.float64)
    case = problem("cavity")
    u, v, p = case.exact(points)
    step = torch.tensor([0.0, 1e-6], dtype=torch.float64)
    psi = flow.streamfunction
    assert torch.allclose(u, (psi(points + step) - psi(points - step)) / 2e-6, atol=1e-7)
    assert torch.allclose(-v, (psi(points + step.flip(0)) - psi(points - step.flip(0))) / 2e-6,
                          atol=1e-7)  # fmt: skip
    assert torch.equal(p, flow.pressure(points))
    assert float(flow.pressure(torch.tensor([[0.5, 0.5]], dtype=torch.float64))) == pytest.approx(
        0, abs=1e-12
    )


def test_derivatives_of_the_velocity_are_refused() -> None:
    case = problem("cavity")
    with pytest.raises(ArgumentError, match="differentiate psi"):
        case.partials(case.solution, torch.rand(3, 2), "u_x")


def test_a_flow_that_is_not_found_is_no_flow() -> None:
    with pytest.raises(ArgumentError, match="choose a smaller number"):
        cavity_flow(20_000.0, 12)


@pytest.mark.parametrize("velocity", [1.0, -1.0])
def test_next_to_the_corner_the_singular_flow_solves_the_equations(velocity: float) -> None:
    """Its residual stays bounded while each of its terms grows as the distance to the power -2."""
    reynolds = 100.0
    angles = torch.linspace(0.05, 1.5, 20, dtype=torch.float64)

    def field(points: Tensor) -> Tensor:
        x, y = points.unbind(-1)
        # The left corner has the distances x and 1 - y, the right one 1 - x and 1 - y.
        along = x if velocity > 0 else 1 - x
        psi = corner_streamfunction(along, 1 - y, velocity, reynolds)
        p = corner_pressure(along, 1 - y, velocity, reynolds)
        return torch.stack([psi[0] + psi[1], p[0] + p[1]], dim=-1)

    scaled = []
    for r in (1e-2, 1e-3, 1e-4):
        along, down = r * torch.cos(angles), r * torch.sin(angles)
        points = torch.stack([along if velocity > 0 else 1 - along, 1 - down], dim=-1)
        psi_x, psi_y, psi_xx, psi_xy, psi_yy, viscous_u, viscous_v, p_x, p_y = partials(
            field,
            points,
            "psi_x psi_y psi_xx psi_xy psi_yy psi_xxy+psi_yyy psi_xxx+psi_xyy p_x p_y",
            coordinates="xy",
            outputs=["psi", "p"],
        )
        along_x = psi_y * psi_xy - psi_x * psi_yy + p_x - viscous_u / reynolds
        along_y = psi_x * psi_xy - psi_y * psi_xx + p_y + viscous_v / reynolds
        scaled.append(float(torch.hypot(along_x, along_y).max()))
        assert float(p_x.abs().max()) > 0.01 / r**2 / reynolds
    assert max(scaled) < 3 * min(scaled) + 10


def test_the_singular_flow_slides_along_the_lid_and_stands_at_the_wall() -> None:
    r = torch.linspace(0.1, 1.0, 5, dtype=torch.float64)
    zero = torch.zeros_like(r)
    for along, down, expected in ((r, zero, -1.0), (zero, r, 0.0)):
        points = torch.stack([along, down], dim=-1)
        psi, normal = partials(
            lambda p: torch.stack(
                [sum(corner_streamfunction(p[..., 0], p[..., 1], 1.0, 50.0), torch.zeros(()))], -1
            ),
            points,
            "psi psi_y" if expected else "psi psi_x",
            coordinates="xy",
            outputs=["psi"],
        )
        assert float(psi.abs().max()) < 1e-12
        assert torch.allclose(normal, torch.full_like(r, expected), atol=1e-10)
