"""Processes under torchrun, started anew where PyTorch itself aborts one that has done its work.

A thread of gloo that lets go of a tensor while Python shuts down ends the process by an abort
(pytorch/pytorch#190489). On a busy machine a script without gradpath did so in 7 of 60 runs. With a
barrier at the end, as our scripts have it, it was seen once, under an attached probe.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

TORCHRUN = (
    sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
)  # fmt: skip

_ABORTED = "terminate called without an active exception"


def run(
    command: Sequence[str], made: Path, environment: Mapping[str, str], cwd: Path | None = None
) -> None:
    """Runs a command, which makes a folder, until nothing was aborted; at most three times."""
    for _ in range(3):
        found = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240
        )
        if _ABORTED not in found.stderr:
            break
        shutil.rmtree(made, ignore_errors=True)
    assert found.returncode == 0, found.stderr
