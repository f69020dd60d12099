"""Two processes that share each batch record what one would that has it all."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from gradpath.probes import Run
from tests import torchrun
from tests.package import ROOT

PROCESS = str(ROOT / "tests" / "probes" / "replica_process.py")
OBSERVED = str(ROOT / "tests" / "probes" / "replica_observed_process.py")
KEY = ["step", "name", "term", "layer"]


def train(command: Sequence[str], made: Path, *arguments: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    torchrun.run([*command, *arguments], made, environment)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["attach", "backward"])
def test_two_processes_record_what_one_does(way: str, tmp_path: Path) -> None:
    train([sys.executable], tmp_path / "one", PROCESS, str(tmp_path / "one"), way)
    train(torchrun.TORCHRUN, tmp_path / "two", PROCESS, str(tmp_path / "two"), way)
    one, two = Run(tmp_path / "one"), Run(tmp_path / "two")
    assert two.status == "finished"
    assert one.steps == two.steps == (0, 2, 4)
    first = one.scalars().set_index(KEY)["value"]
    second = two.scalars().set_index(KEY)["value"]
    assert set(first.index) == set(second.index)
    for run in (one, two):
        assert run.scalars("self_check")["value"].max() < 1e-12
    names = ["self_check"]
    first, second = first.drop(names, level="name"), second.drop(names, level="name")
    np.testing.assert_allclose(second[first.index], first, rtol=1e-6, atol=1e-12)
    pd.testing.assert_frame_equal(
        one.eigenvalues()[["step", "term", "end", "value"]],
        two.eigenvalues()[["step", "term", "end", "value"]],
        rtol=1e-4,
    )
    assert all(
        a.count == b.count
        for a, b in zip(one.histograms()["histogram"], two.histograms()["histogram"], strict=True)
    )
    parameters = [torch.load(tmp_path / name) for name in ("one.0.pt", "two.0.pt", "two.1.pt")]
    for alone, left, right in zip(*parameters, strict=True):
        assert torch.equal(left, right)
        torch.testing.assert_close(alone, left)


@pytest.mark.slow
def test_200_steps_of_two_processes_end_in_the_same_bits_with_a_probe(tmp_path: Path) -> None:
    train(torchrun.TORCHRUN, tmp_path / "run", OBSERVED, str(tmp_path))
    for rank in (0, 1):
        assert json.loads((tmp_path / f"differences.{rank}.json").read_text()) == []
    run = Run(tmp_path / "run")
    assert run.steps[0] == 0
    assert run.steps[-1] >= 180  # gradients at every 20th step; more where there was time for it
    assert len(run.eigenvalues())
    assert run.scalars("self_check")["value"].max() < 1e-5
