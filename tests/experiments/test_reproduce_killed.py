"""`gradpath reproduce` killed in the middle, and begun again with --resume."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gradpath.experiments import Sweep
from gradpath.experiments.checkpoints import CHECKPOINT
from gradpath.experiments.sweeps import sweep_state
from gradpath.experiments.training import CHECKPOINT_EVERY
from gradpath.probes import Run
from tests.experiments.sweep_works import wait_until

SWEEP = Sweep(
    "poisson",
    models=["M1", "M2"],
    steps=1500,
    options={"hidden": [6, 6], "points": 16, "instruments": "light"},
)
DECLARED = """
problem = "poisson"
models = ["M1", "M2"]
steps = 1500

[options]
hidden = [6, 6]
points = 16
instruments = "light"
"""


def has_taken(folder: Path, steps: int) -> bool:
    return (folder / CHECKPOINT).exists() and any(step > steps for step in Run(folder).steps)


def records(folder: Path) -> dict[str, bytes]:
    """What a run holds, without the pages about it."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.is_file() and not path.name.startswith("report.")
    }


@pytest.mark.slow
def test_a_killed_command_goes_on_and_repeats_nothing_that_was_finished(tmp_path: Path) -> None:
    folder, declaration = tmp_path / "s", tmp_path / "s.toml"
    declaration.write_text(DECLARED)
    command = [
        sys.executable, "-m", "gradpath", "reproduce", str(declaration), "--workers", "1",
        "--out", str(folder),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished, killed = (folder / member.name for member in SWEEP.members)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as process:
        try:
            wait_until(lambda: has_taken(killed, CHECKPOINT_EVERY), seconds=120)
        finally:
            process.send_signal(signal.SIGKILL)
    # Its worker ends with it.
    wait_until(lambda: not sweep_state(folder).members("running"))
    state = sweep_state(folder)
    assert state.sweep == SWEEP
    assert [folder / each.name for each in state.members("finished")] == [finished]
    reached, before = Run(killed).steps[-1], records(finished)

    subprocess.run([*command, "--resume"], check=True, stdout=subprocess.DEVNULL, env=environment)
    assert sweep_state(folder).counts == {"finished": 2}
    assert records(finished) == before
    (resumed,) = Run(killed).events().query("kind == 'resumed'")["step"]
    assert reached - CHECKPOINT_EVERY <= resumed <= reached + 1
    assert not Run(killed).scalars("loss").duplicated(["step", "term"]).any()
    assert Run(killed).steps[-1] == SWEEP.steps
    assert len([*folder.glob("*/report.*")]) == 2 * len(SWEEP.members)
    assert {each.suffix for each in folder.glob("comparison.*")} == {".html", ".pdf"}
