"""What the reference problems are known for is what their diagnosis says."""

from pathlib import Path

import pytest

from gradpath.diagnostics.findings import Diagnosis
from gradpath.experiments import problem, train
from gradpath.probes import Run
from tests.diagnostics.diagnosed import check, codes, finding

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for name, model, steps, parameters in [
        ("helmholtz", "M1", 250, {}),
        ("convection", "M1", 300, {"beta": 30}),
    ]:
        place: Path = folder / name
        train(
            problem(name, **parameters),
            model,
            place,
            steps=steps,
            hidden=(20, 20, 20),
            points=64,
            compile=False,
            instruments="light",
        )
        found[name] = Run(place)
    return found


@pytest.fixture(scope="module")
def helmholtz(runs: dict[str, Run]) -> Diagnosis:
    return runs["helmholtz"].diagnosis()


@pytest.fixture(scope="module")
def convection(runs: dict[str, Run]) -> Diagnosis:
    return runs["convection"].diagnosis()


def test_on_helmholtz_the_residual_drowns_the_boundary(helmholtz: Diagnosis) -> None:
    one = finding(helmholtz, "GP101")
    assert (one.evidence["term"], one.evidence["reference"]) == ("boundary", "residual")
    assert one.evidence["factor"] > 20
    assert one.evidence["balancing_weights"]["siam"] > 5
    assert "GP102" not in codes(helmholtz)


def test_convection_is_not_a_matter_of_imbalance(convection: Diagnosis) -> None:
    """The gradients of all terms are of like size, and the error is one (Krishnapriyan et al.)."""
    assert "GP101" not in codes(convection)
    one = finding(convection, "GP102")
    assert one.evidence["factor"] < 5
    assert "This is not imbalance" in convection.verdict
    assert any("causal" in advice for advice in one.advice)


def test_their_residuals_are_coded_as_their_solutions_have_them(
    helmholtz: Diagnosis, convection: Diagnosis
) -> None:
    for found in (helmholtz, convection):
        assert check(found, "residual self-check").status == "ok"


def test_time_is_known_where_there_is_one(helmholtz: Diagnosis, convection: Diagnosis) -> None:
    asked = check(helmholtz, "propagation in time")
    assert asked.number == "the problem has no coordinate t"
    assert "residual goes from" in check(convection, "propagation in time").number


def test_noise_is_measured_on_batches_of_one_step(runs: dict[str, Run]) -> None:
    noise = runs["helmholtz"].scalars("gradient_noise")
    assert set(noise["term"]) == {"residual", "boundary", "total"}
    assert (noise["value"] > 0).all()
    assert "from batch to batch" in check(runs["helmholtz"].diagnosis(), "noise").number


def test_the_residual_is_recorded_on_the_grid_of_the_error(runs: dict[str, Run]) -> None:
    run = runs["convection"]
    assert run.field_steps("residual") == run.field_steps("error")
    residual, error = (run.fields(name, run.steps[-1]).iloc[0] for name in ("residual", "error"))
    assert residual["term"] == "residual"
    assert residual["values"].shape == error["values"].shape
    assert run.metadata["coordinates"] == ["t", "x"]
