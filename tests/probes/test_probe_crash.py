"""What a probe has reported as recorded is in the run, whenever the training is killed."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gradpath.probes import Run
from tests.package import ROOT

TRAINING = ROOT / "tests" / "probes" / "training_process.py"


def train_and_kill(folder: Path, pause: float) -> list[int]:
    """Kills a training some seconds after its first step; returns the steps that it reported."""
    process = subprocess.Popen(
        [sys.executable, TRAINING, folder],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    time.sleep(pause)
    assert process.poll() is None, "the training ended before it was killed"
    process.send_signal(signal.SIGKILL)
    output, _ = process.communicate()
    lines = (first + output).splitlines(keepends=True)
    return [int(line) for line in lines if line.endswith("\n")]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("times", [int(os.environ.get("GRADPATH_KILLS", "10"))])
def test_no_reported_step_is_lost_by_kill_9(times: int, tmp_path: Path) -> None:
    """`make test-kills` makes it a hundred, which takes five minutes."""
    moments = random.Random(0)
    for attempt in range(times):
        folder = tmp_path / str(attempt)
        reported = train_and_kill(folder, moments.random() * 0.3)
        run = Run(folder)
        assert run.status == "lost"
        assert set(reported) <= set(run.steps)
        # One more may have been committed before it could be reported.
        assert len(run.steps) <= len(reported) + 1
        losses = run.scalars("loss").groupby("step").size()
        assert set(losses) == {3}
        with sqlite3.connect(folder / "run.db") as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()
