"""An observer changes nothing: every loop ends in the same bits with and without a probe."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from gradpath.probes import Probe, Run
from gradpath.probes.schedules import every
from tests.probes.final_state import differences, state_of
from tests.probes.loops import COMPILED, LOOPS, Expected

STEPS = 200
FEW = 12
EVERY = 3

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="torch.compile needs a C++ compiler",
)
ALL = {**LOOPS, **COMPILED}
# PyTorch's own compiler uses what PyTorch has deprecated.
COMPILING = [
    needs_compiler,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]
CASES = [pytest.param(name, marks=COMPILING if name in COMPILED else []) for name in ALL]


@pytest.fixture(autouse=True)
def _warm() -> None:
    # The first optimizer and the first compiled code of a process set up what stays: not ours.
    parameter = torch.nn.Parameter(torch.ones(1))
    torch.optim.Adam([parameter]).zero_grad()


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_200_steps_with_every_instrument_end_in_the_same_bits(name: str, tmp_path: Path) -> None:
    loop, _ = ALL[name]
    without = state_of(loop(STEPS))
    with Probe(None, tmp_path / "run", instruments="full", strict=True):
        trained = loop(STEPS)
    assert differences(without, state_of(trained)) == []
    assert Run(tmp_path / "run").steps[0] == 0


@pytest.fixture(params=CASES)
def watched(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Run, Expected]:
    loop, expected = ALL[request.param]
    probe = Probe(None, tmp_path / "run", instruments="full", schedule=every(EVERY), strict=True)
    with probe:
        loop(FEW)
    return Run(tmp_path / "run"), expected


def test_a_probe_finds_what_is_in_the_loop(watched: tuple[Run, Expected]) -> None:
    run, expected = watched
    assert run.status == "finished"
    weights, timeline = run.scalars("weight"), run.timeline()
    assert set(run.parts) == set(expected.terms)
    for part, terms in expected.terms.items():
        own = weights if "part" not in weights else weights[weights["part"] == part]
        steps = timeline if "part" not in timeline else timeline[timeline["part"] == part]
        assert tuple(dict.fromkeys(own["term"])) == terms
        due = range(0, expected.steps(FEW), EVERY)
        assert list(steps["step"]) == [step for step in due if not expected.skipped(step)]
    for term, weight in expected.weights.items():
        found = weights.loc[weights["term"] == term, "value"]
        assert found.tolist() == pytest.approx([weight] * len(found), rel=1e-5)
    assert bool(len(run.histograms())) == expected.has_histograms
    assert bool(len(run.eigenvalues())) == expected.has_curvature
    if expected.adds_up:
        assert run.scalars("self_check")["value"].max() < 1e-5
    # What is not there has a reason.
    missing = run.events().query("kind == 'missing'")
    if not expected.has_curvature:
        assert "stiffness" in set(missing["source"])
