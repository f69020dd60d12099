"""`gradpath paper`: two figures of Wang, Teng and Perdikaris, from trainings of our own.

What they show is a table of studies. What has been trained before, there or in a folder that is
given, is not trained again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from ..diagnostics.errors import GradpathError
from ..experiments.reproduction import reproduction
from ..experiments.slots import SlotExecutor
from ..experiments.sweep_grid import Member, Sweep
from ..experiments.sweep_member import member_status
from ..experiments.sweeps import SweepResult, run_sweep
from ..probes.store import Run
from ..reports.figures import Plate, gradient_histograms, stiffness
from .terminal import console, plain

Figures = Literal["histograms", "eigenvalues"]

_FORMATS = ("png", "svg", "pdf")
_DOTS_PER_INCH = 200


class _Trained(NamedTuple):
    problem: str
    model: str
    complexity: float


class _Study(NamedTuple):
    problem: str
    models: tuple[str, ...]
    complexities: tuple[float, ...]


Runs = Mapping[_Trained, Run]


class PaperFigureError(GradpathError):
    """A training that a figure of the paper needs has failed."""


def draw_paper_figures(
    figures: Figures, preset: str, folder: str | None, searched: Sequence[str]
) -> None:
    """Trains what is missing, writes the figures and says where they are.

    Args:
        figures: which.
        preset: how long each is trained.
        folder: of the figures, with the runs below it.
        searched: folders with runs that are taken if they are the right ones and have finished.

    Raises:
        GradpathError: a training has failed, or the folder holds something else.
    """
    place = Path(folder or f"runs/paper-{preset}")
    studies, draw = _FIGURES[figures]
    runs: dict[_Trained, Run] = {}
    for study in studies:
        runs |= _runs(study, preset, place, [Path(each) for each in searched])
    place.mkdir(parents=True, exist_ok=True)
    printed = console()
    for name, plate in draw(runs).items():
        for suffix in _FORMATS:
            plate.savefig(place / f"{name}.{suffix}", dpi=_DOTS_PER_INCH)
        printed.print(plain(f"{place / name}.png, .svg, .pdf"), soft_wrap=True)
        printed.print(plain(plate.caption), soft_wrap=True)


def _histograms(runs: Runs) -> dict[str, Plate]:
    return {
        f"histograms_{each.problem}_{each.complexity:g}_{each.model}": gradient_histograms(
            run, style="paper"
        )
        for each, run in runs.items()
    }


def _eigenvalues(runs: Runs) -> dict[str, Plate]:
    simple, hard, gated = (
        _Trained("helmholtz", model, a2) for model, a2 in [("M1", 1), ("M1", 4), ("M3", 4)]
    )
    return {
        "eigenvalues_complexity": stiffness([runs[simple], runs[hard]]),
        "eigenvalues_models": stiffness([runs[hard], runs[gated]]),
    }


_FIGURES: Mapping[Figures, tuple[Sequence[_Study], Callable[[Runs], dict[str, Plate]]]] = {
    "histograms": (
        (_Study("helmholtz", ("M1", "M2"), (4,)), _Study("poisson", ("M1",), (1, 2, 4))),
        _histograms,
    ),
    "eigenvalues": (
        (_Study("helmholtz", ("M1",), (1, 4)), _Study("helmholtz", ("M3",), (4,))),
        _eigenvalues,
    ),
}


def _runs(study: _Study, preset: str, place: Path, searched: Sequence[Path]) -> Runs:
    """Returns finished runs of a study, trained if one of them is nowhere."""
    sweep = reproduction(
        study.problem, preset, models=study.models, complexities=study.complexities, seeds=1
    )
    found = {member: _finished(member, [place, *searched]) for member in sweep.members}
    if None in found.values():
        # As a whole: what is there of it decides about the declaration otherwise, and an
        # interrupted training would not be found again.
        names = (study.problem, *study.models, *(f"{value:g}" for value in study.complexities))
        result = _trained(sweep, place / "runs" / "_".join(names))
        for each in result.failed:
            raise PaperFigureError(f"{each.member.name} has failed: {each.error}")
        found = {each.member: Run(each.folder) for each in result.members}
    return {
        _Trained(study.problem, member.model, float(member.complexity or 0)): run
        for member, run in found.items()
        if run is not None
    }


def _trained(sweep: Sweep, folder: Path) -> SweepResult:
    # One thread each, also for a single member: more cost these networks more than they give.
    executor = SlotExecutor(threads=1)
    try:
        result = run_sweep(sweep, folder, executor=executor, resume=True)
    except BaseException:
        executor.kill()
        raise
    executor.shutdown()
    return result


def _finished(member: Member, folders: Sequence[Path]) -> Run | None:
    for folder in folders:
        for path in folder.rglob(member.name):
            if member_status(path) == "finished":
                return Run(path)
    return None
