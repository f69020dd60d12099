"""Problems by name, and what it takes to add one."""

import sys
from dataclasses import fields
from pathlib import Path

import pytest

from gradpath.diagnostics.errors import ArgumentError
from gradpath.experiments import PROBLEMS, Problem, problem, problems, registry

ADDED = """
from dataclasses import dataclass
from typing import ClassVar

from ..derivatives import Field
from ..domains import Batch, Box, Region
from ..formulation import Complexity, Problem


@dataclass(frozen=True)
class Decay(Problem):
    name: ClassVar = "decay"
    equation: ClassVar = "u_t = -rate u"
    domain: ClassVar = Box(t=(0.0, 1.0))
    regions: ClassVar = {"interior": Region((domain,)), "initial": Region((domain.at(t=0.0),))}
    terms: ClassVar = ("residual", "initial")
    complexity: ClassVar = Complexity("rate", (1, 10), "the solution decays faster")
    hidden: ClassVar = (20, 20)
    counts: ClassVar = (100,)

    rate: float = 1.0

    def residuals(self, field: Field, batch: Batch):
        u, u_t = self.partials(field, batch["interior"], "u u_t")
        (start,) = self.partials(field, batch["initial"], "u")
        return {"residual": u_t + self.rate * u, "initial": start - 1}

    def exact(self, points):
        return ((-self.rate * points[..., 0]).exp(),)
"""


def test_the_problems_of_the_reference_experiments_are_there() -> None:
    assert set(PROBLEMS) == set(
        "poisson helmholtz klein_gordon burgers cavity cavity_streamfunction convection reaction"
        " wave allen_cahn allen_cahn_fixed kovasznay".split()
    )


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_complexity_parameter_can_be_set(name: str) -> None:
    complexity = PROBLEMS[name].complexity
    assert complexity.parameter in [parameter.name for parameter in fields(PROBLEMS[name])]
    for value in complexity.values:
        harder = problem(name, **{complexity.parameter: value})
        assert getattr(harder, complexity.parameter) == value
    assert problem(name) == problem(name)
    assert hash(problem(name)) == hash(problem(name))


@pytest.mark.parametrize("name", PROBLEMS)
def test_published_errors_name_their_source_and_parameters_that_there_are(name: str) -> None:
    for published in PROBLEMS[name].published:
        assert 0 < published.error < 10
        assert published.source
        problem(name, **published.parameters)


def test_the_papers_numbers_are_those_of_its_tables() -> None:
    helmholtz = PROBLEMS["helmholtz"].published
    found = [
        (p.model, p.error, p.deviation)
        for p in helmholtz
        if p.hidden == (50, 50, 50) and "SIAM" in p.source
    ]
    assert found == [
        ("M1", 1.94e-1, 3.91e-2),
        ("M2", 1.44e-2, 6.37e-3),
        ("M3", 2.12e-2, 4.32e-3),
        ("M4", 3.30e-3, 4.29e-4),
    ]
    assert len(helmholtz) == 9 * 4 * 2 + 3 * 4


@pytest.mark.parametrize(
    ("name", "parameters", "model", "hidden", "errors"),
    [
        ("helmholtz", {}, "M1", [50] * 3, [1.06e-1, 1.94e-1]),
        ("helmholtz", {"k": 3}, "M4", [50] * 5, [3.57e-3]),
        ("helmholtz", {"a2": 1}, "M1", [50] * 3, []),
        ("helmholtz", {}, "M1", [20] * 3, []),
        ("helmholtz", {}, "M3+config", [50] * 3, []),
        ("poisson", {"C": 8}, "M1", [50] * 5, [1.30e-2]),
        ("cavity", {}, "M2", [50] * 5, [7.48e-1]),
    ],
)
def test_published_errors_are_found_for_the_same_problem_model_and_network_alone(
    name: str, parameters: dict[str, float], model: str, hidden: list[int], errors: list[float]
) -> None:
    found = problem(name, **parameters).published_for(model, hidden)
    assert [each.error for each in found] == errors


def test_an_unknown_problem_or_parameter_is_named_with_the_choices() -> None:
    with pytest.raises(ArgumentError, match=r"no problem 'stokes'.*helmholtz"):
        problem("stokes")
    with pytest.raises(ArgumentError, match="no parameter 'a3'; it has a1, a2, k"):
        problem("helmholtz", a3=2)


def test_one_file_adds_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "decay.py").write_text(ADDED)
    monkeypatch.setattr(problems, "__path__", [*problems.__path__, str(tmp_path)])
    found = registry._found()
    monkeypatch.delitem(sys.modules, "gradpath.experiments.problems.decay")
    assert set(found) - set(PROBLEMS) == {"decay"}
    decay: Problem = found["decay"]()
    assert decay.error(decay.solution) < 1e-6
