"""The numbers of trained sweeps as small CSV files, to be kept when the runs are not.

    python -m gradpath.experiments.results runs/helmholtz-paper docs/reproduction

writes `helmholtz-paper.csv`, a row a run as a comparison sees it, and
`helmholtz-paper-eigenvalues.csv`, both ends of the spectrum during each training of the first seed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pandas as pd

from ..probes.store import Run
from ..reports.comparison import Comparison, compare_runs
from ..reports.comparison.members import Member

# More digits than seeds agree in, fewer than make a file hard to read.
_DIGITS = "%.5g"


def write_results(sweep: str | os.PathLike[str], folder: str | os.PathLike[str]) -> list[Path]:
    """Writes the numbers of a sweep, and returns the files.

    Args:
        sweep: its folder.
        folder: where the files go; it must be there.

    Raises:
        StoreError: there is no such folder of runs.
        ArgumentError: there is no run in it.
    """
    comparison = compare_runs(sweep)
    name = Path(sweep).absolute().name
    frames = {name: _runs(comparison), f"{name}-eigenvalues": _eigenvalues(comparison)}
    written = []
    for stem, frame in frames.items():
        if len(frame):
            written.append(Path(folder) / f"{stem}.csv")
            frame.to_csv(written[-1], index=False, float_format=_DIGITS)
    return written


def _runs(comparison: Comparison) -> pd.DataFrame:
    # Where a run was on this machine means nothing on another.
    return comparison.runs.drop(columns=["path", "reason"]).dropna(axis="columns", how="all")


def _eigenvalues(comparison: Comparison) -> pd.DataFrame:
    counting = [member for member in comparison.members if member.counts]
    seeds = [member.described.get("seed") for member in counting]
    first = min((seed for seed in seeds if isinstance(seed, int)), default=None)
    frames = [
        _of_run(member) for member, seed in zip(counting, seeds, strict=True) if seed == first
    ]
    return pd.concat(frames) if frames else pd.DataFrame()


def _of_run(member: Member) -> pd.DataFrame:
    frame = Run(member.path).eigenvalues().query("layer == 'all'")
    columns = ["step", "term", "end", "value", "lower", "upper", "products", "converged"]
    frame = frame[columns]
    frame.insert(0, "run", member.name)
    return frame


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("Give the folder of a sweep, and the folder for the files.")
    for path in write_results(*sys.argv[1:]):
        print(path)
