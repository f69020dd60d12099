"""The numbers that are kept of a sweep are those of its runs."""

from pathlib import Path

import pandas as pd
import pytest

from gradpath import Run
from gradpath.experiments import Sweep, run_sweep
from gradpath.experiments.results import write_results


@pytest.mark.slow
def test_files_hold_what_the_runs_hold(tmp_path: Path) -> None:
    options = {"hidden": [4], "points": 8, "compile": False}
    sweep = Sweep("poisson", models=["M1", "M2"], seeds=2, steps=3, options=options)
    result = run_sweep(sweep, tmp_path / "sweep", workers=2, progress=lambda state: None)
    assert not result.failed
    files = write_results(tmp_path / "sweep", tmp_path)
    assert [path.name for path in files] == ["sweep.csv", "sweep-eigenvalues.csv"]
    members, eigenvalues = map(pd.read_csv, files)
    errors = dict(zip(members["name"], members["error"], strict=True))
    for member in result.members:
        assert errors[member.member.name] == pytest.approx(member.summary["error"], rel=1e-4)
    first = [each for each in result.members if each.member.seed == 0]
    assert set(eigenvalues["run"]) == {each.member.name for each in first}
    for each in first:
        kept = eigenvalues[eigenvalues["run"] == each.member.name]
        recorded = Run(each.folder).eigenvalues().query("layer == 'all'")
        assert kept["value"].to_list() == pytest.approx(recorded["value"].to_list(), rel=1e-4)
