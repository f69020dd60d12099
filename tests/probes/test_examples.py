"""The examples run, and `gradpath run` on them without their probe records the same."""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from gradpath.probes import Run
from tests import torchrun
from tests.package import ROOT

PYTHON, GRADPATH = sys.executable, str(Path(sysconfig.get_path("scripts"), "gradpath"))
KEY = ["step", "name", "term", "layer"]

# Learning-rate annealing as one would write it without a probe.
BY_HAND = """\
    terms = {"residual": residual, "boundary": boundary}
    values = [residual.item(), boundary.item()]
    weights = balance.update(Observation(step, term_gradients(terms, layout), layout, values))
    loss = weights["residual"] * residual + weights["boundary"] * boundary
    loss.backward()
"""
SET_UP = """\
from gradpath.diagnostics import Observation, ParameterLayout, term_gradients, weighting
layout, balance, step = ParameterLayout.of(net), weighting("siam"), 0
"""


@dataclass(frozen=True)
class Example:
    """An example, the terms in it, and what takes the place of the probe where that did work."""

    terms: tuple[str, ...]
    steps: int
    instead: dict[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = (PYTHON,)


EXAMPLES = {
    "pinn": Example(("residual", "boundary"), 600),
    "annealing": Example(
        ("residual", "boundary"),
        600,
        {
            r"^probe = .*$": SET_UP,
            r"^    probe\.backward\(.*$": BY_HAND,
            r"^    optimizer\.step\(\)$": "    optimizer.step()\n    step += 1",
        },
    ),
    "two_tasks": Example(("regression", "classification"), 600),
    "lbfgs": Example(("residual", "boundary"), 320),
    "data_parallel": Example(("data", "size"), 200, command=torchrun.TORCHRUN),
}


def without_probe(source: str, instead: dict[str, str]) -> str:
    """Returns a script without the lines that say anything of a probe."""
    source = re.sub(r'\A""".*?"""', "", source, flags=re.DOTALL)
    for pattern, replacement in instead.items():
        source = re.sub(pattern, replacement, source, flags=re.MULTILINE)
    kept = [line for line in source.splitlines() if not re.search(r"\bprobe\b|\bProbe\b", line)]
    return "\n".join(kept) + "\n"


def run(command: list[str], made: Path) -> None:
    torchrun.run(command, made, os.environ | {"OMP_NUM_THREADS": "1"}, cwd=made.parent)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str, tmp_path: Path) -> None:
    example = EXAMPLES[name]
    source = (ROOT / "examples" / f"{name}.py").read_text()
    run([*example.command, str(ROOT / "examples" / f"{name}.py"), "probed"], tmp_path / "probed")
    bare = tmp_path / f"{name}.py"
    bare.write_text(without_probe(source, example.instead))
    command = [*example.command, "-m", "--", GRADPATH.rpartition("/")[2]]
    if example.command == (PYTHON,):
        command = [PYTHON, "-m", "gradpath"]
    run([*command, "run", "--run", "unedited", bare.name], tmp_path / "unedited")
    probed, unedited = Run(tmp_path / "probed"), Run(tmp_path / "unedited")
    for each in (probed, unedited):
        assert each.status == "finished"
        assert each.terms == example.terms
        assert {0, 1, 2, 10, 100, *range(0, example.steps, 200)} <= set(each.steps)
        assert each.scalars("self_check")["value"].max() < 1e-5
        assert len(each.eigenvalues()) >= 6
        assert len(each.histograms()) >= 2 * len(each.layers) * len(example.terms)
    names = ["loss", "weight", "gradient_norm", "max_to_mean", "alignment", "learning_rate"]
    frames = []
    for each in (probed, unedited):
        scalars = each.scalars()
        frames.append(scalars[scalars["name"].isin(names)].set_index(KEY)["value"])
    shared = frames[0].index.intersection(frames[1].index)
    # How often losses are measured depends on the time that a step takes.
    assert len(shared) > 0.5 * max(map(len, frames))
    tolerance = 1e-3 if name == "annealing" else 1e-6  # weights are rounded in another order
    np.testing.assert_allclose(frames[1][shared], frames[0][shared], rtol=tolerance, atol=1e-9)
