"""Residuals of incompressible flow, in both formulations, on an exact solution of the equations."""

import math

import pytest
import torch
from torch import Tensor

from gradpath.experiments import Field, problem


def decay(reynolds: float) -> float:
    return reynolds / 2 - math.sqrt(reynolds**2 / 4 + 4 * math.pi**2)


@pytest.mark.parametrize("reynolds", [10.0, 100.0, 400.0])
def test_kovasznays_flow_solves_the_equations_of_the_cavity(reynolds: float) -> None:
    case = problem("cavity", reynolds=reynolds)
    batch = case.sampler(2000, dtype=torch.float64).draw(torch.Generator().manual_seed(0))
    residuals = case.residuals(problem("kovasznay", reynolds=reynolds).solution, batch)
    for term in ("residual_u", "residual_v", "residual_c"):
        assert float(residuals[term].abs().max()) < 1e-13


@pytest.mark.parametrize("reynolds", [10.0, 100.0, 400.0])
def test_and_its_streamfunction_those_with_a_streamfunction(reynolds: float) -> None:
    c = decay(reynolds)

    def field(points: Tensor) -> Tensor:
        x, y = points.unbind(-1)
        psi = y - torch.exp(c * x) * torch.sin(2 * math.pi * y) / (2 * math.pi)
        return torch.stack([psi, (1 - torch.exp(2 * c * x)) / 2], dim=-1)

    case = problem("cavity_streamfunction", reynolds=reynolds)
    batch = case.sampler(2000, dtype=torch.float64).draw(torch.Generator().manual_seed(0))
    residuals = case.residuals(field, batch)
    for term in ("residual_u", "residual_v"):
        assert float(residuals[term].abs().max()) < 1e-12
    velocity = problem("kovasznay", reynolds=reynolds).exact(batch["walls"])
    lid = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)[:, None]
    assert torch.allclose(residuals["boundary_u"], velocity[0] - lid, atol=1e-13)
    assert torch.allclose(residuals["boundary_v"], velocity[1], atol=1e-13)


@pytest.mark.parametrize("name", ["cavity", "cavity_streamfunction"])
def test_the_lid_slides_and_the_other_walls_stand(name: str) -> None:
    case = problem(name)
    batch = case.sampler(dtype=torch.float64).draw(torch.Generator().manual_seed(0))
    at_rest = case.residuals(lambda p: torch.zeros(*p.shape[:-1], len(case.outputs)), batch)
    assert (at_rest["boundary_u"][3] == -1).all()
    assert (batch["walls"][3, :, 1] == 1).all()
    assert not at_rest["boundary_u"][:3].any()
    assert not at_rest["boundary_v"].any()


def test_errors_are_measured_without_the_ends_of_the_lid() -> None:
    points = problem("cavity").evaluation_points()
    assert len(points) == 101**2 - 2
    assert [1.0, 1.0] not in points.tolist()
    assert torch.equal(points, problem("cavity_streamfunction").evaluation_points())


def shifted(field: Field, pressure: Tensor) -> Field:
    return lambda points: pressure - field(points)


def test_both_formulations_measure_the_same_speed() -> None:
    """The error of rest is that of the whole flow; pressure and sign of velocity do not matter."""
    velocity, stream = problem("cavity"), problem("cavity_streamfunction")
    for case in (velocity, stream):
        pressure = torch.tensor([0.0] * (len(case.outputs) - 1) + [7.0])
        assert case.error(lambda p: torch.zeros(len(p), 3)) == pytest.approx(1.0)
        assert case.error(shifted(case.solution, pressure), dtype=torch.float64) < 1e-12
    u, v, _ = velocity.exact(velocity.evaluation_points())
    speed = stream.observed(stream.solution, stream.evaluation_points())
    assert torch.allclose(torch.hypot(u, v), speed, atol=1e-12)
