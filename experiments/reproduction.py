"""The main job: the models of the paper on a problem, trained, compared and reported in one folder.

How much is trained is a preset, and what a preset means for a problem is a table. Pages are written
when all is trained, each by itself: one that cannot be written costs no other, and no run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, Future, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..diagnostics.errors import ArgumentError
from ..probes.errors import StoreError, described
from ..probes.run_json import DOCUMENT
from .formulation import Problem
from .measuring import SHORT
from .registry import problem as make_problem
from .slots import SlotExecutor, available_cores
from .sweep_file import read_declaration
from .sweep_grid import Sweep
from .sweep_progress import SweepProgress
from .sweeps import SweepResult, run_sweep

Kind = Literal["comparison", "report"]

FORMATS = ("html", "pdf")


@dataclass(frozen=True)
class Preset:
    """How much is trained where nothing else is said."""

    steps: int
    seeds: int
    options: Mapping[str, Any]  # of each training
    # Of a problem: the models, and the values of its complexity parameter.
    grid: Callable[[Problem], tuple[tuple[str, ...], tuple[float, ...]]]


_MODELS = ("M1", "M2", "M3", "M4")

# What the paper trains where it is not all models on the problem as it is by default.
_OF_THE_PAPER: Mapping[str, tuple[tuple[str, ...], tuple[float, ...]]] = {
    "poisson": (("M1",), (1, 2, 4, 8, 16)),
}


def _as_published(problem: Problem) -> tuple[tuple[str, ...], tuple[float, ...]]:
    return _OF_THE_PAPER.get(problem.name, (_MODELS, (_complexity(problem),)))


def _easy_and_hard(problem: Problem) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Returns what shows in a short training how a problem grows harder."""
    easiest, usual = problem.complexity.values[0], _complexity(problem)
    return _MODELS, (usual,) if easiest == usual else (easiest, usual)


def _complexity(problem: Problem) -> float:
    value: float = getattr(problem, problem.complexity.parameter)
    return value


PRESETS: Mapping[str, Preset] = {
    "quick": Preset(steps=2_000, seeds=1, options={"instruments": SHORT}, grid=_easy_and_hard),
    "paper": Preset(steps=40_000, seeds=5, options={}, grid=_as_published),
}
"""Presets by name: a first look within minutes, and what the paper's tables are made of."""


def reproduction(
    problem: str,
    preset: str = "quick",
    *,
    models: Iterable[str] | None = None,
    complexities: Iterable[float] | None = None,
    seeds: int | Iterable[int] | None = None,
    steps: int | None = None,
) -> Sweep:
    """Returns the sweep that a preset declares for a problem.

    Args:
        problem: a key of `PROBLEMS`.
        preset: a key of `PRESETS`.
        models: others than those of the preset; so are the further arguments.
        complexities: values of the problem's complexity parameter.
        seeds: their number, or the seeds themselves.
        steps: of each training.

    Raises:
        ArgumentError: there is no such preset, or `Sweep` says what is wrong.

    Example:
        >>> sweep = reproduction("helmholtz", "paper")
        >>> sweep == Sweep("helmholtz", models=["M1", "M2", "M3", "M4"], complexities=[4],
        ...                seeds=5, steps=40_000)
        True
    """
    if preset not in PRESETS:
        raise ArgumentError(f"There is no preset {preset!r}; choose one of {', '.join(PRESETS)}.")
    chosen = PRESETS[preset]
    usual_models, usual_complexities = chosen.grid(make_problem(problem))
    return Sweep(
        problem,
        models=usual_models if models is None else models,
        complexities=usual_complexities if complexities is None else complexities,
        seeds=chosen.seeds if seeds is None else seeds,
        steps=chosen.steps if steps is None else steps,
        options=chosen.options,
    )


@dataclass(frozen=True)
class Page:
    """A page about a sweep, or about a run of it."""

    kind: Kind
    path: Path
    error: str | None  # why it could not be written


@dataclass(frozen=True)
class Reproduction:
    """What became of the trainings, and the pages about them."""

    sweep: SweepResult
    pages: tuple[Page, ...]


PageProgress = Callable[[int, int, Page | None], object]
"""Is told how many pages there are of how many, and which is new."""


def reproduce(
    sweep: Sweep,
    folder: str | os.PathLike[str],
    *,
    executor: Executor | None = None,
    workers: int | None = None,
    resume: bool = False,
    progress: Callable[[SweepProgress], object] | None = None,
    page_progress: PageProgress | None = None,
) -> Reproduction:
    """Trains a sweep, and writes a comparison and a report of each run, as HTML and as PDF.

    The comparison is `comparison.html` and `comparison.pdf` in the folder; a report is
    `report.html` and `report.pdf` in the folder of its run. Pages that are there are written anew.

    Args:
        sweep: what to train.
        folder: of the sweep.
        executor: where to train; pages are written by processes of this machine in any case.
        workers: how many processes, by default one for each core.
        resume: whether a sweep that is in the folder is continued.
        progress: of the trainings, as of `run_sweep`.
        page_progress: is told of every page.

    Raises:
        ArgumentError: as `run_sweep` does.
        StoreError: as `run_sweep` does.
    """
    if not resume and read_declaration(Path(folder)) is not None:
        raise StoreError(
            f"There is a sweep in {os.fspath(folder)} already; resume it (--resume), or give "
            "another folder."
        )
    result = run_sweep(
        sweep, folder, executor=executor, workers=workers, resume=resume, progress=progress
    )
    return Reproduction(result, write_pages(result, workers=workers, progress=page_progress))


def write_pages(
    result: SweepResult, *, workers: int | None = None, progress: PageProgress | None = None
) -> tuple[Page, ...]:
    """Writes the comparison of a sweep and the reports of its runs, several at once.

    Args:
        result: of the sweep.
        workers: how many processes, by default one for each core.
        progress: is told of every page.
    """
    # The longest first.
    wanted: list[tuple[Kind, Path, Path]] = [
        ("comparison", result.folder, result.folder / f"comparison.{suffix}") for suffix in FORMATS
    ]
    wanted += [
        ("report", member.folder, member.folder / f"report.{suffix}")
        for member in result.members
        if (member.folder / DOCUMENT).exists()
        for suffix in FORMATS
    ]
    pages: dict[Path, Page] = {}
    tell = progress or (lambda done, total, page: None)
    tell(0, len(wanted), None)
    executor = SlotExecutor(min(workers or available_cores(), len(wanted)))
    try:
        futures: dict[Future[str | None], tuple[Kind, Path]] = {
            executor.submit(write_page, kind, source, path): (kind, path)
            for kind, source, path in wanted
        }
        for future in as_completed(futures):
            kind, path = futures[future]
            died = future.exception()
            error = future.result() if died is None else described(died)
            pages[path] = Page(kind, path, error)
            tell(len(pages), len(wanted), pages[path])
    except BaseException:
        executor.kill()
        raise
    executor.shutdown()
    return tuple(pages[path] for _, _, path in wanted)


def write_page(kind: Kind, source: Path, path: Path) -> str | None:
    """Writes a page, and returns why that was not possible; None where it was."""
    from .. import reports

    write = reports.compare if kind == "comparison" else reports.report
    try:
        write(source, path)
    except Exception as error:
        return described(error)
    return None
