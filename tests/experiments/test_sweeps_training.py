"""Sweeps of the reference experiments' own trainer."""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gradpath.diagnostics.errors import ArgumentError
from gradpath.experiments import Sweep, run_sweep
from gradpath.probes import Run, runs


def sweep(models: str, steps: int = 3, **options: object) -> Sweep:
    return Sweep("poisson", models=models.split(), complexities=[1], steps=steps, options=options)


@pytest.mark.slow
def test_the_models_of_the_paper_are_trained_by_default(tmp_path: Path) -> None:
    declared = sweep("M1 M4", hidden=[8, 8], points=16, compile=False, instruments="light")
    result = run_sweep(declared, tmp_path / "s", workers=2, progress=lambda _: None)
    assert [(each.status, each.error) for each in result.members] == [("finished", None)] * 2
    for each in result.members:
        assert each.summary["steps"] == 3
        assert math.isfinite(each.summary["error"])
    assert set(runs(tmp_path / "s")["model"]) == {"M1", "M4"}
    again = run_sweep(declared, tmp_path / "s", resume=True, progress=lambda _: None)
    assert [each.summary for each in again.members] == [each.summary for each in result.members]


def test_what_the_training_does_not_know_is_said_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="no option 'hiden' of a training; choose from compile"):
        run_sweep(sweep("M1", hiden=[8]), tmp_path / "s")
    with pytest.raises(ArgumentError, match="no model 'M7'"):
        run_sweep(sweep("M7"), tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_member_that_diverges_has_a_finding_and_the_others_go_on(tmp_path: Path) -> None:
    small = {"hidden": [6, 6], "points": 16, "compile": False, "instruments": "light"}
    # Adam's steps are as long as the learning rate, whatever the gradient.
    declared = sweep("M1+gd M1", steps=60, learning_rate=10.0, **small)
    with ThreadPoolExecutor(1) as executor:
        result = run_sweep(declared, tmp_path / "s", executor=executor, progress=lambda _: None)
    diverged, trained = result.members
    assert (diverged.status, trained.status) == ("failed", "finished")
    assert diverged.error is not None
    assert "Training was stopped at step" in diverged.error
    run = Run(diverged.folder)
    assert run.metadata["outcome"] == "diverged"
    (finding,) = (each for each in run.findings if each.code == "GP402")
    assert finding.evidence["step"] == run.steps[-1] < 60
    assert math.isfinite(trained.summary["error"])
